"""The change log: WAL segments, the growing tail in parts, timeline histories, and recorded gaps.

What is durable here may be acknowledged to the server; nothing else may.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.model.wal import MAX_SEGMENT_BYTES, Lsn, TimelineHistory, WalSegment
from drtool.repository import layout
from drtool.repository.confirmation import confirm_put
from drtool.repository.layout import EventName, Lineage, RecordedGap, SegmentPart, WholeSegment
from drtool.repository.log_events import MINIMAL, readable_events
from drtool.repository.repository import Repository
from drtool.repository.sealing import (
    SMALLEST_SEALED_BYTES,
    Compressor,
    ObjectType,
    SealedWriter,
    damaged,
    most_plain_bytes,
    most_sealed_bytes,
    new_seal,
    unseal_whole,
)

Buffer = bytes | bytearray | memoryview

ORIGIN = Lsn(0)


class OtherContent(IntegrityError):
    """Under the name of a log object stands another content than the one to be put."""


class SegmentWriter:
    """Seals one WAL segment while it grows. One thread at a time.

    Holds the sealed frames of the segment (compressed, at most the segment's size) and 1 MiB plain.
    """

    def __init__(
        self, repository: Repository, lineage: Lineage, segment: str, *, level: int = 1
    ) -> None:
        self._repository = repository
        self._key = lineage.segment_key(segment)
        seal = new_seal(repository.ring, ObjectType.LOG, self._key)
        self._writer = SealedWriter(seal, ObjectType.LOG, Compressor(level))
        self._parts: list[bytes] = []
        self._is_sealed = False

    def write(self, plain: Buffer) -> None:
        """Add the segment's next bytes."""
        self._writer.write(plain)
        self._parts += self._writer.take()

    def finish(self) -> None:
        """Put the whole segment; return once it is durable.

        If the object exists, its content is compared: equal bytes are a success (a receiver that
        died after the put comes here again), other bytes raise OtherContent (PITFALLS 3). When
        the store could not be asked, `finish` may be called again.
        """
        if not self._is_sealed:
            self._parts += self._writer.finish()
            self._is_sealed = True
        put_log_object(self._repository, self._key, self._parts)


def put_log_object(repository: Repository, key: str, parts: list[bytes]) -> None:
    """Create a sealed log object and see it there, or accept one that holds the same plain bytes.

    NotKept, which is `retryable` with the same parts, if the store acknowledges it and has it not.
    """
    store = repository.store
    try:
        store.create(key, parts)
        confirm_put(store, key, parts)
        return
    except AlreadyExists:
        pass  # what stands there is compared
    mine = unseal_whole(repository.ring, ObjectType.LOG, key, sealed=b"".join(parts))
    if read_log_object(repository, key, most_bytes=max(len(mine), 1)) != mine:
        raise OtherContent(
            f"object {key} holds other WAL than the server now sends under that name",
            hint="Two servers write one timeline (split brain, or a clone). Stop one,"
            " then run `drtool wal gaps`.",
        )


def put_part(repository: Repository, lineage: Lineage, part: SegmentPart, *, plain: Buffer) -> None:
    """Put the piece of a growing segment; return once it is durable."""
    key = lineage.part_key(part.segment, part.begin, part.end)
    if len(plain) != part.end - part.begin:
        raise ValueError(f"{key} is to hold {part.end - part.begin} bytes, not {len(plain)}")
    seal = new_seal(repository.ring, ObjectType.LOG, key)
    writer = SealedWriter(seal, ObjectType.LOG, Compressor(1))
    writer.write(plain)
    put_log_object(repository, key, writer.finish())


def put_history(
    repository: Repository, source: str, system_id: int, *, timeline: int, content: bytes
) -> None:
    """Put a timeline's history file; equal content already there is a success."""
    key = layout.history_key(source, system_id, timeline)
    seal = new_seal(repository.ring, ObjectType.LOG, key)
    writer = SealedWriter(seal, ObjectType.LOG, Compressor(1))
    writer.write(content)
    put_log_object(repository, key, writer.finish())


def read_history(
    repository: Repository, source: str, system_id: int, *, timeline: int
) -> TimelineHistory:
    """A timeline's history; timeline 1 has none and needs none. ObjectMissing if it is not there."""
    if timeline == 1:
        return TimelineHistory(1)
    key = layout.history_key(source, system_id, timeline)
    plain = read_log_object(repository, key, most_bytes=most_plain_bytes(ObjectType.LOG))
    try:
        # Reasons may be in any encoding: a restore point's name is what somebody typed.
        return TimelineHistory.parse(timeline, plain.decode(errors="replace"))
    except ValueError as error:
        raise damaged(key, str(error)) from error


def read_log_object(
    repository: Repository, key: str, *, most_bytes: int = MAX_SEGMENT_BYTES
) -> bytes:
    """The plain bytes of a segment, a part or a history, authenticated to the end; at most so many."""
    sealed = repository.store.read(key, most_bytes=most_sealed_bytes(most_bytes))
    return unseal_whole(repository.ring, ObjectType.LOG, key, sealed=sealed, most_bytes=most_bytes)


def read_segment(
    repository: Repository, lineage: Lineage, segment: WalSegment, *, segment_bytes: int
) -> bytes:
    """A whole segment; where only parts are there, they are joined and filled up with zeros.

    The whole segment is preferred to its parts (PITFALLS 49); parts behind a hole are not used, and
    the inventory shows the hole. ObjectMissing if there is neither, IntegrityError if an object has
    another length.
    """
    name = segment.name(segment_bytes)
    key = lineage.segment_key(name)
    try:
        plain = read_log_object(repository, key, most_bytes=segment_bytes)
    except ObjectMissing:
        return _join_parts(repository, lineage, name, segment_bytes=segment_bytes)
    if len(plain) != segment_bytes:
        raise damaged(key, f"it holds {len(plain)} bytes, not {segment_bytes}")
    return plain


def _join_parts(
    repository: Repository, lineage: Lineage, segment: str, *, segment_bytes: int
) -> bytes:
    joined = bytearray()
    for part in _contiguous(list_parts(repository, lineage, segment)):
        key = lineage.part_key(segment, part.begin, part.end)
        plain = read_log_object(repository, key, most_bytes=segment_bytes)
        if len(plain) != part.end - part.begin or part.end > segment_bytes:
            raise damaged(key, "it has another length")
        joined += memoryview(plain)[len(joined) - part.begin :]
    if not joined:
        raise ObjectMissing(lineage.segment_key(segment))
    return bytes(joined) + bytes(segment_bytes - len(joined))


def list_parts(repository: Repository, lineage: Lineage, segment: str) -> list[SegmentPart]:
    """All parts of one segment, by where they begin."""
    found = repository.store.list(lineage.segment_key(segment) + ".part-")
    names = (layout.parse_log_name(item.key.removeprefix(lineage.prefix)) for item in found)
    return sorted(
        (name for name in names if isinstance(name, SegmentPart)),
        key=lambda part: (part.begin, part.end),
    )


def _contiguous(parts: list[SegmentPart]) -> list[SegmentPart]:
    """Those of `parts` that carry a segment from byte 0 on without a hole, and no more than needed.

    A receiver joins many small parts into a larger one now and then: the one that reaches farthest
    is taken each time.
    """
    chosen: list[SegmentPart] = []
    best: SegmentPart | None = None
    reached = 0
    for part in parts:
        if part.begin > reached:
            if best is None or best.end < part.begin:
                break
            chosen.append(best)
            reached, best = best.end, None
        if part.end > max(reached, best.end if best else 0):
            best = part
    return [*chosen, best] if best else chosen


@dataclass(frozen=True, slots=True)
class LogRun:
    """WAL of one timeline without a hole, from `begin` up to, not including, `end`."""

    timeline: int
    begin: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineLog:
    """What is there of one timeline: runs in ascending order, gaps that were recorded, and events in
    ascending order.
    """

    lineage: Lineage
    runs: tuple[LogRun, ...]
    gaps: tuple[RecordedGap, ...]
    events: tuple[EventName, ...] = ()

    def run_holding(self, lsn: Lsn) -> LogRun | None:
        """The run that holds the byte at `lsn`, or ends there."""
        for run in self.runs:
            if run.begin <= lsn <= run.end:
                return run
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogInventory:
    """All WAL of one cluster in the repository, as its listing tells. Nothing was read yet.

    `known_ends` are positions that each timeline is known to have reached, from what else tells of
    it: marks and manifests. Where the log ends before one of them, WAL is missing.
    `known_moments` are the newest moments of each timeline that the same tell of.
    """

    source: str
    system_id: int
    segment_bytes: int
    timelines: dict[int, TimelineLog]
    histories: frozenset[int]
    known_ends: Mapping[int, Lsn] = field(default_factory=dict)
    known_moments: Mapping[int, datetime] = field(default_factory=dict)


def take_inventory(
    repository: Repository,
    source: str,
    system_id: int,
    *,
    segment_bytes: int,
    since: Lsn = ORIGIN,
    damaged: Container[str] = frozenset(),
) -> LogInventory:
    """List the log of one cluster from the segment holding `since` on.

    Memory grows with the number of holes and events, not of segments. An object too small to be a sealed one
    does not count as there (PITFALLS 6), nor does one whose key is in `damaged`. IntegrityError for
    the name of a segment of another size.
    """
    prefix = layout.system_log(source, system_id)
    timelines: dict[int, TimelineLog] = {}
    for name in repository.store.list_directories(prefix):
        if len(name) == 8:
            lineage = Lineage(source, system_id, int(name, 16))
            timelines[lineage.timeline] = _list_timeline(
                repository, lineage, segment_bytes, since=since, damaged=damaged
            )
    found = repository.store.list(layout.histories(source, system_id))
    named = (layout.parse_history_name(item.key.rpartition("/")[2]) for item in found)
    histories = {timeline for timeline in named if timeline is not None}
    return LogInventory(
        source=source,
        system_id=system_id,
        segment_bytes=segment_bytes,
        timelines=timelines,
        histories=frozenset(histories),
    )


def _list_timeline(
    repository: Repository,
    lineage: Lineage,
    segment_bytes: int,
    *,
    since: Lsn,
    damaged: Container[str],
) -> TimelineLog:
    first = WalSegment.holding(lineage.timeline, since, segment_bytes).name(segment_bytes)
    spans: list[tuple[int, int]] = []
    gaps: list[RecordedGap] = []
    events: list[EventName] = []
    for found in repository.store.list(lineage.prefix, after=lineage.segment_key(first[:-1])):
        if found.size_bytes < SMALLEST_SEALED_BYTES or found.key in damaged:
            continue
        name = layout.parse_log_name(found.key.removeprefix(lineage.prefix))
        match name:
            case WholeSegment(segment):
                begin = _segment_begin(segment, segment_bytes, key=found.key)
                _extend(spans, begin, begin + segment_bytes)
            case SegmentPart(segment, low, high):
                begin = _segment_begin(segment, segment_bytes, key=found.key)
                _extend(spans, begin + low, begin + high)
            case RecordedGap():
                gaps.append(name)
            case EventName():
                events.append(name)
    # These end what can be recovered: they are read, so that junk under such a name denies nothing.
    minimal = [name for name in events if name.kind == MINIMAL]
    believed = {event.lsn for event in readable_events(repository, lineage, minimal)}
    events = [name for name in events if name.kind != MINIMAL or name.lsn in believed]
    runs = tuple(LogRun(lineage.timeline, Lsn(low), Lsn(high)) for low, high in spans)
    return TimelineLog(lineage=lineage, runs=runs, gaps=tuple(gaps), events=tuple(events))


def _segment_begin(segment: str, segment_bytes: int, *, key: str) -> Lsn:
    try:
        return WalSegment.parse(segment, segment_bytes).begin(segment_bytes)
    except ValueError as error:
        raise IntegrityError(
            f"object {key} cannot belong to a log of segments of {segment_bytes} bytes",
            hint="Was the size changed with pg_resetwal? Take a new backup; this log ends there.",
        ) from error


def _extend(spans: list[tuple[int, int]], begin: int, end: int) -> None:
    """Add a span; spans come in order of their beginning, save that parts follow their segment."""
    if spans and begin <= spans[-1][1]:
        spans[-1] = (min(spans[-1][0], begin), max(spans[-1][1], end))
    else:
        spans.append((begin, end))
