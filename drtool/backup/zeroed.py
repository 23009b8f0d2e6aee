"""Pages of relations that had content in the previous backup and are all zero now.

A page of zeros passes every checksum: PostgreSQL takes it for one that was never used. So it is when
a relation was truncated and has grown again since; the WAL tells. Else a disk or a file system lost it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drtool.backup.stowing import Stowed
from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.finding import Finding, Harm, Severity
from drtool.pipeline.pages import PAGE_BYTES, digest_pages
from drtool.repository.backups import Manifest
from drtool.repository.extents import PostgresExtent
from drtool.repository.log import read_history
from drtool.repository.log_inventory import take_inventory
from drtool.repository.logpath import walk
from drtool.repository.repository import Repository
from drtool.repository.wal_records import MOST_BYTES, read_records
from drtool.sources.postgres.walevents import TRUNCATION, Truncation, read_event

# The main fork of a relation, and which GiB of it: base/5/16400.1, pg_tblspc/16390/PG_15_202209061/5/16400.
_MAIN_FORK = re.compile(rb"(?:global|.+/(\d+))/(\d+)(?:\.(\d+))?$")
_BLOCKS_PER_FILE = (1 << 30) // PAGE_BYTES
# A disk that lost much is told of with so many pages; the rest is counted.
_KEPT = 1000
_SUBJECT = re.compile(r"(?P<path>.+), block (?P<block>\d+)$")
_FACT = "is all zero, and had content in backup"
_FIX = (
    "Find the object with SELECT oid::regclass FROM pg_class WHERE relfilenode = NUMBER, bring the page"
    " back from a restored copy of that backup, and look at the disk."
)


@dataclass(frozen=True, slots=True, order=True)
class PagePlace:
    """Block `block` of relation `number` of a database, in the file `path`."""

    path: bytes
    database: int
    number: int
    block: int


class ZeroedPages:
    """Collects them while the stretches of a backup come in. One thread."""

    def __init__(self, previous: Manifest | None, *, seed: int) -> None:
        self._zero = digest_pages(memoryview(bytes(PAGE_BYTES)), seed)[0]
        self._told = _told_before(previous)
        self.found: list[PagePlace] = []
        self.lasting: list[Finding] = []
        self.beyond = 0

    def look(self, stowed: Stowed) -> None:
        """Look at the next stretch: its pages, and those known at their places."""
        path = stowed.stretch.attributes.path
        told = self._told.get(path)
        known = stowed.stretch.known
        if known is None or not (stowed.pages_changed or told):
            return
        match = _MAIN_FORK.match(path)
        if match is None:
            return
        is_zero = stowed.digests == self._zero
        if not is_zero.any():
            return
        first = stowed.stretch.begin // PAGE_BYTES
        if told:
            zero = set((np.flatnonzero(is_zero) + first).tolist())
            self.lasting += [finding for block, finding in told.items() if block in zero]
        before = known.digests[: len(is_zero)]
        # What is not known of the previous backup has the complement of its digest there.
        had_content = (before != self._zero) & (before != ~self._zero)
        for page in np.flatnonzero(is_zero[: len(before)] & had_content):
            self._add(match, path, first + int(page))

    def _add(self, match: re.Match[bytes], path: bytes, page: int) -> None:
        if len(self.found) >= _KEPT:
            self.beyond += 1
            return
        block = int(match[3] or 0) * _BLOCKS_PER_FILE + page
        self.found.append(PagePlace(path, int(match[1] or 0), int(match[2]), block))


def judge_zeroed(
    pages: ZeroedPages,
    repository: Repository,
    previous: Manifest | None,
    *,
    extent: PostgresExtent,
) -> Iterator[Finding]:
    """What is wrong with pages that became zero, told by file and block; nothing of those that WAL explains.

    `extent` is that of the backup that is being taken, whose WAL is durable.
    """
    yield from pages.lasting
    if previous is None or not pages.found:
        return
    cut = _truncations(repository, previous, extent)
    if cut is None:
        severity, why = (
            Severity.WARNING,
            "whether it was truncated since, the WAL that is held does not tell",
        )
    else:
        severity, why = Severity.PROBLEM, "by the WAL it was not truncated since"
    left = [one for one in pages.found if not _is_cut(one, cut or {})]
    for one in left:
        yield Finding(
            severity=severity,
            subject=f"{one.path.decode(errors='backslashreplace')}, block {one.block}",
            fact=f"{_FACT} {previous.backup_id}: {why}",
            fix=_FIX,
            harm=Harm.DAMAGE if severity is Severity.PROBLEM else None,
        )
    if left and pages.beyond:
        yield Finding(
            severity=severity,
            subject="data directory",
            fact=f"{pages.beyond} more pages are all zero, and had content in backup {previous.backup_id}",
            fix=_FIX,
            harm=Harm.DAMAGE if severity is Severity.PROBLEM else None,
        )


def _is_cut(page: PagePlace, cut: Mapping[tuple[int, int], int]) -> bool:
    return cut.get((page.database, page.number), page.block + 1) <= page.block


def _truncations(
    repository: Repository, previous: Manifest, extent: PostgresExtent
) -> dict[tuple[int, int], int] | None:
    """The lowest block at which each relation was cut since the previous backup began; None if not known."""
    before, source = previous.postgres, previous.source
    try:
        inventory = take_inventory(
            repository,
            source,
            extent.system_id,
            segment_bytes=extent.segment_bytes,
            since=before.start_lsn,
        )
        history = read_history(repository, source, extent.system_id, timeline=extent.timeline)
        if not history.holds(before.timeline, before.stop_lsn):
            return None
        chain = walk(inventory, history, timeline=before.timeline, begin=before.start_lsn)
        spans = chain.up_to(extent.stop_lsn, extent.segment_bytes)
        size = sum(span.end - span.begin for span in spans)
        if chain.end < extent.stop_lsn or size > MOST_BYTES:
            return None
        cut: dict[tuple[int, int], int] = {}
        for record in read_records(repository, inventory, spans, kinds=[TRUNCATION]):
            event = read_event(record, major=extent.server_version // 10000)
            if isinstance(event, Truncation):
                place = event.database, event.number
                cut[place] = min(event.block, cut.get(place, event.block))
    except (ObjectMissing, IntegrityError):
        return None
    return cut


def _told_before(previous: Manifest | None) -> dict[bytes, dict[int, Finding]]:
    """What the previous backup said of such pages, by file and page: true for as long as they are zero."""
    told: dict[bytes, dict[int, Finding]] = {}
    findings: Sequence[Finding] = previous.findings if previous else ()
    for finding in findings:
        match = _SUBJECT.match(finding.subject)
        if match and finding.fact.startswith(_FACT):
            page = int(match["block"]) % _BLOCKS_PER_FILE
            told.setdefault(match["path"].encode(), {})[page] = finding
    return told
