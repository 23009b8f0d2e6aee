"""Take a snapshot of a tree of files: read what changed, take over what did not, commit it last.

Threads: the caller's compares the walk with the previous snapshot; workers read, hash, pack and
seal files, each one whole; four more walk, two put full packs. Memory: (workers + 3) packs of 34 MiB
and a batch of 8 MiB a worker, some 200 MB with two; 350 bytes for each file of the previous snapshot
and 220 for each of this one; 300 for each further name of a hard-linked file, and what `SecondLook` says.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from drtool.backup.intake import WORKERS
from drtool.backup.plan import BackupPlan
from drtool.backup.previous import PreviousBackup
from drtool.backup.storing import Counted, Storing, begin_storing
from drtool.backup.tree_findings import Omissions
from drtool.backup.tree_large import PageStores
from drtool.backup.tree_place import TreeSource, checked_place, refuse_alarms
from drtool.backup.tree_reading import TreeReader, Wanted
from drtool.backup.tree_table import TreeTable
from drtool.model.finding import Finding
from drtool.model.outcome import BackupKind, BackupOutcome
from drtool.model.progress import Emit, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.pipeline.pages import REGION_BYTES
from drtool.repository.backups import Manifest
from drtool.repository.extents import FilesExtent
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository
from drtool.repository.table import RECORD_COVERS_BYTES
from drtool.repository.trees import attributes_of, compare_signs, moved_sign
from drtool.sources.files.beneath import open_tree
from drtool.sources.files.entries import Omitted, TreeEntry, TreeKind
from drtool.sources.files.guard import Alarm, ChangeCounts, judge_changes
from drtool.sources.files.second_look import Missed, SecondLook
from drtool.sources.files.sqlite import SqliteWatch
from drtool.sources.files.unchanged import is_settled
from drtool.sources.files.walk import ALL_BUT_FILES, walk_tree
from drtool.system.clock import Clock, Stopwatch
from drtool.system.stopping import go_on

PHASE = "backup"
# A worker is given this many small files, or this many bytes of them, at a time.
_FILES_A_TASK = 64
_BYTES_A_TASK = 4 << 20
_TASKS_AHEAD = 8
_TELL_EVERY = 1000
_KEPT_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Met:
    """What one run met in the tree."""

    files: int
    size_bytes: int
    files_read: int
    bytes_read: int
    random: int
    alarms: list[Alarm]
    written: tuple[Finding, ...]


def run_snapshot(
    plan: BackupPlan,
    *,
    tree: TreeSource,
    repository: Repository,
    lease: Lease,
    clock: Clock,
    emit: Emit,
) -> BackupOutcome:
    """Take the snapshot that `plan` describes and commit it.

    SourceUnsuitable, and no snapshot, if the tree looks empty, unmounted, shrunken or encrypted,
    unless that is accepted. What could not be read is a finding of severity PROBLEM.
    """
    watch, began = Stopwatch(clock), clock.now()
    with open_tree(tree.path) as root:
        place = checked_place(root, plan, tree)
        omissions = Omissions()
        emit(PhaseBegan(phase=PHASE, title="files", total=_files_before(plan), unit="objects"))
        with begin_storing(
            plan, repository, began=began, emit=emit, packers=WORKERS + 1
        ) as storing:
            stores = PageStores(
                hall=storing.hall,
                table=TreeTable(storing.assembly),
                previous=storing.previous,
                seed=repository.ring.page_seed(),
            )
            run = _Run(root, stores, omissions, horizon=_horizon(plan), emit=emit, stop=tree.stop)
            met = run.read(tree, plan, began=began)
            refuse_alarms(met.alarms, plan, tree)
            taken_until = clock.now()
            stored = storing.finish()
    emit(PhaseEnded(phase=PHASE, seconds=watch.seconds()))
    extent = FilesExtent(
        root=os.fsdecode(os.path.abspath(tree.path)),
        host=socket.gethostname(),
        taken_from=began,
        taken_until=taken_until,
        is_complete=omissions.is_complete,
        is_mount_point=place.is_mount_point,
        device=place.device,
        file_system_id=place.file_system_id,
        random_files=met.random,
    )
    manifest = storing.commit(
        stored,
        extent,
        counted=Counted(files=met.files, read_bytes=met.size_bytes),
        findings=(*tree.exclude.findings(), *omissions.findings(), *met.written),
        lease=lease,
        clock=clock,
    )
    return _outcome(manifest, storing, met, seconds=watch.seconds())


def _outcome(manifest: Manifest, storing: Storing, met: _Met, *, seconds: float) -> BackupOutcome:
    return BackupOutcome(
        source=manifest.source,
        backup_id=manifest.backup_id,
        kind=BackupKind.INCREMENTAL if storing.compared_with else BackupKind.FULL,
        began=manifest.began,
        seconds=seconds,
        files=met.files,
        read_bytes=met.size_bytes,
        stored_bytes=manifest.sizes.stored_bytes,
        reused_bytes=max(0, met.size_bytes - manifest.sizes.new_bytes),
        files_read=met.files_read,
        previous=storing.compared_with,
        findings=manifest.findings,
    )


def _files_before(plan: BackupPlan) -> int | None:
    return plan.previous.sizes.files if plan.previous else None


def _horizon(plan: BackupPlan) -> datetime | None:
    return plan.previous.files.taken_from if plan.previous else None


class _Run:
    """One pass over the tree."""

    def __init__(
        self,
        root: int,
        stores: PageStores,
        omissions: Omissions,
        *,
        horizon: datetime | None,
        emit: Emit,
        stop: threading.Event,
    ) -> None:
        self._root = root
        self._stores = stores
        self._omissions = omissions
        self._horizon_ns = int(horizon.timestamp()) * 1_000_000_000 if horizon else 0
        self._emit = emit
        self._reader = TreeReader(root, stores, omissions, stop=stop)
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="read")
        self._running: deque[Future[None]] = deque()
        self._small: list[Wanted] = []
        self._small_bytes = 0
        self._kept: list[tuple[bytes, int, bytes]] = []
        self._first_names: dict[tuple[int, int], bytes] = {}
        self._names: list[tuple[TreeEntry, bytes]] = []
        # Paths at which another file than was met stands by now, and what it shares its names with.
        self._replaced: dict[bytes, tuple[int, int] | None] = {}
        self._files = self._empty = self._seen = 0
        self._new_signs: set[int] = set()
        self._kept_bytes = self._kept_random = 0
        self._sqlite = SqliteWatch()

    def read(self, tree: TreeSource, plan: BackupPlan, *, began: datetime) -> _Met:
        """Walk, and read what changed; every entry is in the table when this returns."""
        since_ns = int(began.timestamp() * 1e9)
        again = SecondLook(
            tree.path,
            began_ns=since_ns,
            exclude=tree.exclude,
            one_file_system=tree.one_file_system,
            xattrs_of=ALL_BUT_FILES,
        )
        walk = walk_tree(
            tree.path,
            exclude=tree.exclude,
            one_file_system=tree.one_file_system,
            xattrs_of=ALL_BUT_FILES,
        )
        try:
            for item in walk:
                go_on(tree.stop, f"the snapshot of {tree.path}")
                if isinstance(item, TreeEntry):
                    again.met(item)
                    self._meet(item)
                elif isinstance(item, Omitted) and again.left_out(item):
                    self._omissions.add(item)
            self._read_all(again)
            for look in again.looks():
                self._take_missed(look, tree)
                self._read_all(again)
            go_on(tree.stop, f"the snapshot of {tree.path}")
            self._give_up(again)
            self._link_names()
            self._add_kept()
            for _, omitted in self._reader.take_vanished():
                self._omissions.add(omitted)
                self._files -= 1
        finally:
            self._threads.shutdown(cancel_futures=True)
            self._reader.close()
        written = self._sqlite.findings(self._root, since_ns=since_ns)
        return self._met(tree, plan, (*written, *again.findings()))

    def _read_all(self, again: SecondLook) -> None:
        """Until all that was met has been read; what was not there any more is to be looked for."""
        self._submit_small()
        self._wait(0)
        self._add_kept()
        for entry, omitted in self._reader.take_vanished():
            again.unread(entry.path, omitted)
            self._files -= 1
        for entry in self._reader.take_others():
            again.read_instead(entry.path, entry)
            self._replaced[entry.path] = entry.link_group

    def _take_missed(self, look: Iterator[Missed | Omitted], tree: TreeSource) -> None:
        for item in look:
            go_on(tree.stop, f"the snapshot of {tree.path}")
            if isinstance(item, Omitted):
                self._omissions.add(item)
                continue
            if item.is_in_place_of:
                self._stores.table.withdraw(item.entry.path)
                self._files -= 1
                self._replaced[item.entry.path] = item.entry.link_group
            self._meet(item.entry)

    def _give_up(self, again: SecondLook) -> None:
        """Say what was found nowhere, and forget former names of what was found under another one."""
        for omitted in again.gone():
            self._omissions.add(omitted)
        for path in again.doubled():
            self._stores.table.withdraw(path)
            self._files -= 1

    def _meet(self, entry: TreeEntry) -> None:
        self._sqlite.meet(entry)
        previous = self._stores.previous
        if entry.kind is not TreeKind.FILE:
            self._stores.table.add_plain(attributes_of(entry))
            return
        self._files += 1
        if self._files % _TELL_EVERY == 0:
            self._emit(PhaseAdvanced(phase=PHASE, done=self._files))
        if previous is not None:
            if previous.has(entry.path):
                self._seen += 1
            else:
                self._new_signs.add(moved_sign(entry))
        group = entry.link_group
        if group is not None:
            first = self._first_names.setdefault(group, entry.path)
            if first != entry.path:
                self._names.append((entry, first))
                return
        self._take(entry, previous)

    def _take(self, entry: TreeEntry, previous: PreviousBackup | None) -> None:
        """Take a file over from the previous snapshot, or have it read."""
        records = previous.records_of(entry.path) if previous else None
        was_random: bool | None = None
        if records is not None:
            is_same, was_random = compare_signs(entry, records[0])
            if is_same and is_settled(entry, horizon_ns=self._horizon_ns):
                self._kept_bytes += entry.size_bytes
                self._kept_random += was_random
                for number, encoded in enumerate(records):
                    self._kept.append((entry.path, number * RECORD_COVERS_BYTES, encoded))
                if len(self._kept) >= _KEPT_AT_ONCE:
                    self._add_kept()
                return
        if entry.size_bytes == 0:
            self._empty += 1
            self._stores.table.add_plain(attributes_of(entry))
            return
        self._want(Wanted(entry, was_random))

    def _add_kept(self) -> None:
        self._stores.table.add_all_encoded(self._kept)
        self._kept = []

    def _want(self, wanted: Wanted) -> None:
        if wanted.entry.size_bytes > REGION_BYTES:
            self._submit(partial(self._reader.read_large, wanted))
            return
        self._small.append(wanted)
        self._small_bytes += wanted.entry.size_bytes
        if len(self._small) >= _FILES_A_TASK or self._small_bytes >= _BYTES_A_TASK:
            self._submit_small()

    def _submit_small(self) -> None:
        if self._small:
            self._submit(partial(self._reader.read_small, self._small))
        self._small, self._small_bytes = [], 0

    def _submit(self, task: Callable[[], None]) -> None:
        self._wait(WORKERS + _TASKS_AHEAD)
        self._running.append(self._threads.submit(task))

    def _wait(self, most: int) -> None:
        """Until at most so many tasks are under way; raise what one of them raised."""
        while len(self._running) > most:
            self._running.popleft().result()

    def _link_names(self) -> None:
        """Further names of files that were read; one whose first name is gone is read itself."""
        lost = self._reader.omitted
        instead: dict[tuple[int, int] | None, bytes] = {}
        for entry, first in self._names:
            group = entry.link_group
            if self._replaced.get(entry.path, group) != group:
                continue
            if first not in lost and self._replaced.get(first, group) == group:
                self._stores.table.add_name(entry.path, first)
            elif group in instead:
                self._stores.table.add_name(entry.path, instead[group])
            else:
                self._take(entry, self._stores.previous)
                self._submit_small()
                self._wait(0)
                is_other = any(other.path == entry.path for other in self._reader.take_others())
                if entry.path not in lost and not is_other:
                    instead[group] = entry.path

    def _moved(self) -> int:
        """Of the files that the previous snapshot had, those that are here under a new name."""
        previous = self._stores.previous
        return previous.count_signs(self._new_signs) if previous and self._new_signs else 0

    def _met(self, tree: TreeSource, plan: BackupPlan, written: tuple[Finding, ...]) -> _Met:
        reader = self._reader
        files = self._files - reader.unreadable
        known = _files_before(plan) or 0
        # Where the previous table cannot be read, all names are new: only numbers can be compared.
        deleted = max(0, known - (self._seen if self._stores.previous else files))
        counts = ChangeCounts(
            known=known,
            deleted=deleted,
            moved=self._moved() if 100 * deleted > tree.max_delete_percent * known else 0,
            known_random=plan.previous.files.random_files if plan.previous else 0,
            changed=reader.changed,
            changed_random_before=reader.changed_random_before,
            turned_random=reader.turned_random,
            new=reader.new + self._empty,
            new_random=reader.new_random,
        )
        return _Met(
            files=files,
            size_bytes=self._kept_bytes + reader.size_bytes,
            files_read=reader.files,
            bytes_read=reader.size_bytes,
            random=self._kept_random + reader.random,
            alarms=judge_changes(counts, max_delete_percent=tree.max_delete_percent),
            written=written,
        )
