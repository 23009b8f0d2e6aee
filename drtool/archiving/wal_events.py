"""What must be known of WAL before it is replayed, found while it is archived and put before it.

A record may begin in one segment and end in the next: where a segment is read alone, what its
neighbours have of it is read with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.wal import Lsn, WalSegment
from drtool.repository.layout import Lineage
from drtool.repository.log import read_segment
from drtool.repository.log_events import MINIMAL, PARAMETERS, RESTORE_POINT, LogEvent
from drtool.repository.repository import Repository
from drtool.sources.postgres import walevents
from drtool.sources.postgres.walevents import ParameterChange, RestorePoint, WalLevel
from drtool.sources.postgres.walheader import continued_bytes
from drtool.sources.postgres.walrecords import PAGE_BYTES, WalRecord, WalRecordScanner

# Only commits are laid out differently from version to version, and none is looked for here.
_ANY_MAJOR = 15
_KINDS = (walevents.PARAMETER_CHANGE, walevents.RESTORE_POINT)
# XLOG_PARAMETER_CHANGE and XLOG_RESTORE_POINT with all that a record may have beside them.
_LONGEST_RECORD_BYTES = 128
# Of so many pushed segments the last page is remembered.
_MOST_TAILS = 8


class EventFinder:
    """Finds events in WAL of one timeline that is given piece by piece. One thread at a time.

    Memory: a page of WAL, and a segment for a moment at the beginning.
    """

    def __init__(self, repository: Repository, lineage: Lineage, *, segment_bytes: int) -> None:
        self._repository = repository
        self._lineage = lineage
        self._segment_bytes = segment_bytes
        self._scanner = WalRecordScanner(_KINDS, segment_bytes=segment_bytes)
        self._next: Lsn | None = None

    def find(self, begin: Lsn, content: bytes | memoryview) -> list[LogEvent]:
        """The events whose records are complete with `content`, which is the WAL from `begin` on.

        At the start of a segment that does not go on from the last piece, the end of the segment
        before is read from the repository, if the record there may be one of ours.
        """
        records: list[WalRecord] = []
        if begin != self._next and 0 < continued_bytes(content) <= _LONGEST_RECORD_BYTES:
            before = Lsn(begin - PAGE_BYTES)
            records += self._scanner.feed(before, self._tail_of_segment_before(begin))
        records += self._scanner.feed(begin, content)
        self._next = Lsn(begin + len(content))
        return [event for record in records if (event := _event(record)) is not None]

    def _tail_of_segment_before(self, begin: Lsn) -> bytes:
        size = self._segment_bytes
        segment = WalSegment(self._lineage.timeline, begin // size - 1)
        return _page_of(
            self._repository, self._lineage, segment, size=size, page=slice(-PAGE_BYTES, None)
        )


class PushedEvents:
    """Finds events in whole segments, each given alone, in any order. Any thread."""

    def __init__(self) -> None:
        self._tails: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def find(
        self, repository: Repository, lineage: Lineage, segment: WalSegment, *, content: bytes
    ) -> list[LogEvent]:
        """Those whose records end in `content`, or begin there and end in the segment behind it."""
        size = len(content)
        before = WalSegment(segment.timeline, segment.number - 1)
        behind = WalSegment(segment.timeline, segment.number + 1)
        scanner = WalRecordScanner(_KINDS, segment_bytes=size)
        records: list[WalRecord] = []
        if 0 < continued_bytes(content) <= _LONGEST_RECORD_BYTES:
            tail = self._tail(lineage.segment_key(before.name(size)))
            if tail is None:
                tail = _page_of(
                    repository, lineage, before, size=size, page=slice(-PAGE_BYTES, None)
                )
            records += scanner.feed(Lsn(segment.begin(size) - PAGE_BYTES), tail)
        records += scanner.feed(segment.begin(size), content)
        if scanner.may_go_on and repository.store.stat(lineage.segment_key(behind.name(size))):
            head = _page_of(repository, lineage, behind, size=size, page=slice(0, PAGE_BYTES))
            records += scanner.feed(segment.end(size), head)
        self._remember(lineage.segment_key(segment.name(size)), content[-PAGE_BYTES:])
        return [event for record in records if (event := _event(record)) is not None]

    def _tail(self, key: str) -> bytes | None:
        with self._lock:
            return self._tails.get(key)

    def _remember(self, key: str, tail: bytes) -> None:
        with self._lock:
            self._tails[key] = tail
            self._tails.move_to_end(key)
            while len(self._tails) > _MOST_TAILS:
                self._tails.popitem(last=False)


def told_of_minimal(lsn: Lsn, timeline: int) -> str:
    """What is told when a recovery cannot pass `lsn`."""
    return (
        f"the server was started with wal_level = minimal at {lsn} of timeline {timeline}: no recovery"
        " passes it. Backups made before can be recovered to there only"
    )


def _page_of(
    repository: Repository, lineage: Lineage, segment: WalSegment, *, size: int, page: slice
) -> bytes:
    """One page of a segment of the repository; nothing where it is not there, or cannot be read.

    Then no recovery passes it either.
    """
    try:
        return read_segment(repository, lineage, segment, segment_bytes=size)[page]
    except (ObjectMissing, IntegrityError):
        return b""


def _event(record: WalRecord) -> LogEvent | None:
    found = walevents.read_event(record, major=_ANY_MAJOR)
    match found:
        case ParameterChange(wal_level=level):
            kind = MINIMAL if level is WalLevel.MINIMAL else PARAMETERS
            return LogEvent(lsn=found.begin, kind=kind, facts=dict(_settings(found)))
        case RestorePoint(name=name, moment=moment):
            facts = {"name": name, "moment": moment.isoformat()}
            return LogEvent(lsn=found.begin, kind=RESTORE_POINT, facts=facts)
    return None


def _settings(change: ParameterChange) -> Iterator[tuple[str, str]]:
    """As PostgreSQL names and writes them."""
    for name in (
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
    ):
        yield name, str(getattr(change, name))
    yield "wal_level", change.wal_level.name.lower()
    yield "track_commit_timestamp", "on" if change.track_commit_timestamp else "off"
