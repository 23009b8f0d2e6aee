"""What a run of the mirror has to do: the tree against what is known of the mirror, and what forbids it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from drtool.mirror.catalogue import Catalogue, Job
from drtool.mirror.entries import MirrorEntry, to_line
from drtool.mirror.entropy import SAMPLE_FILES, is_worth_a_look, with_entropy
from drtool.mirror.keys import MOST_KEY_BYTES, is_too_long, key_of
from drtool.model.finding import Finding, Severity
from drtool.sources.files.beneath import open_root
from drtool.sources.files.entries import Omission, Omitted, TreeEntry, TreeKind, shown
from drtool.sources.files.exclude import NOTHING_EXCLUDED, ExcludeRules
from drtool.sources.files.guard import (
    ENTROPY_BYTES,
    Alarm,
    AlarmKind,
    ChangeCounts,
    PlaceSigns,
    has_sentinel,
    judge_changes,
    judge_place,
    judge_sentinel,
    look_at_place,
)
from drtool.sources.files.second_look import Missed, SecondLook
from drtool.sources.files.sqlite import SqliteWatch
from drtool.sources.files.walk import ALL_BUT_FILES, WalkEnded, walk_tree
from drtool.stores.bucket import Bucket
from drtool.system.beneath import Beneath

MAX_DELETE_PERCENT = 25.0
_BATCH = 2000
# Findings told one by one; the rest are counted.
MOST_TOLD = 20
_SHIELDING = (Omission.UNREADABLE, Omission.OTHER_FILE_SYSTEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSettings:
    """The tree, and what is allowed to happen to its mirror.

    `sentinel` names a file in the root without which this is not the source. `accepts_source` takes
    another disk, or content that looks encrypted, for intended. `is_rehash` trusts no sign: every
    file is read, and every object looked for in a listing.
    """

    source: str
    root: Path
    exclude: ExcludeRules = NOTHING_EXCLUDED
    max_delete_percent: float = MAX_DELETE_PERCENT
    sentinel: str | None = None
    accepts_source: bool = False
    is_rehash: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A walk of the whole tree, counted. The work itself is in the catalogue (`jobs`, `unseen`)."""

    place: PlaceSigns
    known: int
    files: int
    size_bytes: int
    new: int
    changed: int
    touched_bytes: int
    noted: int
    deleted: int
    moved: int
    deleted_entries: int
    findings: tuple[Finding, ...]
    sqlite: SqliteWatch
    again: SecondLook

    @property
    def touched(self) -> int:
        """Files to read."""
        return self.new + self.changed

    @property
    def is_nothing_to_do(self) -> bool:
        """Whether the mirror is what the tree is."""
        return not (self.touched or self.noted or self.deleted_entries)


def survey(tree: TreeSettings, catalogue: Catalogue, *, prefix: str, since_ns: int) -> Survey:
    """Walk the tree and leave the work in the catalogue. Nothing is read of the files, nothing put.

    `prefix` is the mirror's in its bucket, for keys that would be too long; `since_ns` is now.
    """
    root = open_root(tree.root)
    try:
        place = look_at_place(root)
    finally:
        os.close(root)
    told, sqlite = Told(), SqliteWatch()
    counts: Counter[str] = Counter()
    known_files = catalogue.count()
    again = SecondLook(tree.root, began_ns=since_ns, exclude=tree.exclude, xattrs_of=ALL_BUT_FILES)
    walk = walk_tree(tree.root, exclude=tree.exclude, xattrs_of=ALL_BUT_FILES)
    for items in _batches(walk, _BATCH):
        entries = [item for item in items if isinstance(item, TreeEntry)]
        for item in items:
            if isinstance(item, Omitted) and again.left_out(item):
                _leave_out(item, catalogue, told)
        for entry in entries:
            sqlite.meet(entry)
            again.met(entry)
        _take(entries, catalogue, counts=counts, told=told, prefix=prefix)
    for look in again.looks():
        _take(_missed(look, catalogue, told), catalogue, counts=counts, told=told, prefix=prefix)
    planned = catalogue.plan_files(trusts_signs=not tree.is_rehash)
    for _path, is_file in catalogue.unseen():
        counts["deleted_entries"] += 1
        counts["deleted"] += is_file
    return Survey(
        place=place,
        known=known_files,
        files=counts["files"],
        size_bytes=counts["size_bytes"],
        new=planned.new,
        changed=planned.changed,
        touched_bytes=planned.size_bytes,
        noted=counts["noted"],
        deleted=counts["deleted"],
        moved=catalogue.moved() if counts["deleted"] and planned.new else 0,
        deleted_entries=counts["deleted_entries"],
        findings=told.findings(),
        sqlite=sqlite,
        again=again,
    )


@dataclass(frozen=True, slots=True)
class MissedWork:
    """What a further look at the tree left in the catalogue: how many jobs, and bytes to read."""

    jobs: int
    size_bytes: int


def plan_missed(
    look: Iterator[Missed | Omitted], catalogue: Catalogue, told: Told, *, prefix: str
) -> MissedWork:
    """Leave what a look found as work in the catalogue, which has no other."""
    counts: Counter[str] = Counter()
    entries = _missed(look, catalogue, told)
    files = _take(entries, catalogue, counts=counts, told=told, prefix=prefix)
    catalogue.plan([Job(entry.path, entry.size_bytes, None) for entry in files])
    return MissedWork(counts["noted"] + len(files), counts["size_bytes"])


def _missed(look: Iterator[Missed | Omitted], catalogue: Catalogue, told: Told) -> list[TreeEntry]:
    entries = []
    for found in look:
        if isinstance(found, Omitted):
            _leave_out(found, catalogue, told)
        else:
            entries.append(found.entry)
    return entries


def _leave_out(omitted: Omitted, catalogue: Catalogue, told: Told) -> None:
    told.add(omitted.finding)
    if omitted.why in _SHIELDING:
        catalogue.shield(omitted.path)


def _take(
    entries: list[TreeEntry],
    catalogue: Catalogue,
    *,
    counts: Counter[str],
    told: Told,
    prefix: str,
) -> list[TreeEntry]:
    """Count some entries, and plan to note directories and links that are not what is known of them.

    The files among them that can be in a mirror.
    """
    files = []
    others = []
    # A byte takes three letters at most.
    most = (MOST_KEY_BYTES - len(prefix.encode()) - 1) // 3
    for entry in entries:
        if entry.kind is not TreeKind.FILE:
            others.append(entry)
        elif len(entry.path) > most and is_too_long(key_of(entry.path), prefix=prefix):
            told.add(_too_long(entry.path))
            continue
        else:
            files.append(entry)
            counts["files"] += 1
            counts["size_bytes"] += entry.size_bytes
    catalogue.saw(files + others)
    known = catalogue.find([entry.path for entry in others])
    jobs = []
    for entry in others:
        line = to_line(MirrorEntry(tree=entry))
        if entry.path not in known or known[entry.path].line != line:
            jobs.append(Job(entry.path, 0, line))
    counts["noted"] += len(jobs)
    if jobs:
        catalogue.plan(jobs)
    return files


def alarms(
    tree: TreeSettings,
    found: Survey,
    catalogue: Catalogue,
    *,
    bucket: Bucket,
    before: PlaceSigns | None,
) -> list[Alarm]:
    """What forbids the run. Files are looked into only where most of them have changed."""
    root = open_root(tree.root)
    try:
        raised = [] if tree.accepts_source else judge_place(found.place, before)
        if tree.sentinel is not None:
            name = os.fsencode(tree.sentinel)
            raised += judge_sentinel(name, is_there=has_sentinel(root, name))
        counts = ChangeCounts(
            known=found.known,
            deleted=found.deleted,
            moved=found.moved,
            changed=found.changed,
            new=found.new,
        )
        # A re-hash reads all, whether it changed or not.
        if not tree.is_rehash and is_worth_a_look(counts):
            counts = _with_entropy(counts, root, catalogue, bucket=bucket)
    finally:
        os.close(root)
    raised += judge_changes(counts, max_delete_percent=tree.max_delete_percent)
    if tree.accepts_source:
        raised = [alarm for alarm in raised if alarm.kind is not AlarmKind.ENCRYPTED]
    return raised


def _with_entropy(
    counts: ChangeCounts, root: int, catalogue: Catalogue, *, bucket: Bucket
) -> ChangeCounts:
    step = max(1, (counts.changed + counts.new) // SAMPLE_FILES)
    paths = [job.path for job in catalogue.jobs(step=step) if job.line is None]
    with Beneath(root) as beneath:
        return with_entropy(
            counts,
            catalogue,
            bucket=bucket,
            paths=paths,
            head_of=lambda path: _head(beneath, path),
        )


def _head(beneath: Beneath, path: bytes) -> bytes | None:
    try:
        descriptor = beneath.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None  # the run itself will say so
    try:
        return os.pread(descriptor, ENTROPY_BYTES, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)


class Told:
    """Findings, the first twenty of each severity one by one and the rest counted."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._counts: Counter[Severity] = Counter()

    def add(self, finding: Finding) -> None:
        """Tell it, or count it."""
        self._counts[finding.severity] += 1
        if self._counts[finding.severity] <= MOST_TOLD:
            self._found.append(finding)

    def findings(self) -> tuple[Finding, ...]:
        """Those told, and for each severity how many more there were."""
        more = [
            Finding(
                severity=severity,
                subject=f"{count - MOST_TOLD} more",
                fact="like the ones before",
            )
            for severity, count in self._counts.items()
            if count > MOST_TOLD
        ]
        return (*self._found, *more)


def _too_long(path: bytes) -> Finding:
    return Finding(
        severity=Severity.PROBLEM,
        subject=shown(path),
        fact="has a path longer than the 1024 bytes that a key may have: it is not in the mirror",
        fix="Shorten it, exclude it in the policy, or rely on `drtool backup` for it.",
    )


def _batches(items: Iterable[object], size: int) -> Iterator[list[object]]:
    walk = iter(items)
    while batch := list(islice(walk, size)):
        yield [item for item in batch if not isinstance(item, WalkEnded)]
