"""What is held of the change log of one cluster, as its listing tells: runs, gaps, histories, events."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from drtool.errors import IntegrityError
from drtool.model.wal import Lsn, WalSegment
from drtool.repository import layout
from drtool.repository.heads import Heads
from drtool.repository.layout import EventName, Lineage, RecordedGap, SegmentPart, WholeSegment
from drtool.repository.log_events import MINIMAL, PARAMETERS, readable_events
from drtool.repository.named_runs import NamedRun, Piece, add_piece, runs_of_ours
from drtool.repository.names import parse_timeline
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES

ORIGIN = Lsn(0)


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
    `known_moments` are the newest moments of each timeline that the same tell of. `foreign` are the keys of
    objects that were looked at, since they would have changed the answer, and are none of ours.
    """

    source: str
    system_id: int
    segment_bytes: int
    timelines: dict[int, TimelineLog]
    histories: frozenset[int]
    known_ends: Mapping[int, Lsn] = field(default_factory=dict)
    known_moments: Mapping[int, datetime] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()


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
    does not count as there (PITFALLS 6), nor does one whose key is in `damaged`, nor what somebody without
    the key has added. IntegrityError for a segment of ours of another size.
    """
    prefix = layout.system_log(source, system_id)
    timelines: dict[int, TimelineLog] = {}
    heads = Heads(repository)
    for name in repository.store.list_directories(prefix):
        timeline = parse_timeline(name)
        if timeline is not None:
            lineage = Lineage(source, system_id, timeline)
            listed = _list_timeline(heads, lineage, segment_bytes, since=since, damaged=damaged)
            if listed is not None:
                timelines[timeline] = listed
    return LogInventory(
        source=source,
        system_id=system_id,
        segment_bytes=segment_bytes,
        timelines=timelines,
        histories=frozenset(_list_histories(heads, source, system_id)),
        foreign=tuple(sorted(set(heads.foreign))),
    )


def _list_histories(heads: Heads, source: str, system_id: int) -> Iterator[int]:
    """The timelines that a history file of ours tells of."""
    prefix = layout.histories(source, system_id)
    for found in heads.repository.store.list(prefix):
        timeline = layout.parse_history_name(found.key.removeprefix(prefix))
        if timeline is not None and heads.are_ours(found.key):
            yield timeline


def _list_timeline(
    heads: Heads,
    lineage: Lineage,
    segment_bytes: int,
    *,
    since: Lsn,
    damaged: Container[str],
) -> TimelineLog | None:
    """None where somebody has feigned the timeline: there are objects, and none of them is ours."""
    repository = heads.repository
    first = WalSegment.holding(lineage.timeline, since, segment_bytes).name(segment_bytes)
    named: list[NamedRun] = []
    gaps: set[RecordedGap] = set()
    events: set[EventName] = set()
    is_told_of, is_empty = False, True
    for found in repository.store.list(lineage.prefix, after=lineage.segment_key(first[:-1])):
        is_empty = False
        name = layout.parse_log_name(found.key.removeprefix(lineage.prefix))
        if found.key in damaged:
            is_told_of = is_told_of or heads.are_ours(found.key)
            continue
        if found.size_bytes < SMALLEST_SEALED_BYTES:
            continue
        match name:
            case WholeSegment() | SegmentPart():
                piece = _piece(heads, lineage, name, segment_bytes=segment_bytes, key=found.key)
                if piece is not None:
                    add_piece(named, piece)
            case RecordedGap() if name.begin < name.end and heads.are_ours(found.key):
                gaps.add(name)
            case EventName():
                events.add(name)
    spans = runs_of_ours(
        named,
        is_ours=heads.are_ours,
        pieces_of=partial(_pieces, heads, lineage, segment_bytes=segment_bytes, damaged=damaged),
    )
    believed = _believed(repository, lineage, events, is_log_there=bool(spans or gaps))
    if not (spans or gaps or believed or is_empty or is_told_of):
        return None
    return TimelineLog(
        lineage=lineage,
        runs=tuple(LogRun(lineage.timeline, Lsn(run.begin), Lsn(run.end)) for run in spans),
        gaps=tuple(sorted(gaps, key=lambda gap: (gap.begin, gap.end))),
        events=tuple(believed),
    )


def _believed(
    repository: Repository, lineage: Lineage, events: Iterable[EventName], *, is_log_there: bool
) -> list[EventName]:
    """The events in order. Those that end what can be recovered, and those that end such a stretch, are
    read, so that junk under such a name denies nothing and allows nothing; so are all where nothing else
    of the timeline is there. Others are read by whoever asks for what they say.
    """
    names = sorted(events)
    is_cut = any(name.kind == MINIMAL for name in names)
    asked = {MINIMAL, PARAMETERS} if is_cut else set()
    doubted = [name for name in names if name.kind in asked or not is_log_there]
    found = {(one.lsn, one.kind) for one in readable_events(repository, lineage, doubted)}
    doubtful = set(doubted)
    return [name for name in names if name not in doubtful or (name.lsn, name.kind) in found]


def _pieces(
    heads: Heads,
    lineage: Lineage,
    run: NamedRun,
    *,
    segment_bytes: int,
    damaged: Container[str],
) -> Iterator[Piece]:
    """What bears the name of a piece of `run`, listed again."""
    first = WalSegment.holding(lineage.timeline, Lsn(run.begin), segment_bytes).name(segment_bytes)
    for found in heads.repository.store.list(lineage.prefix, after=lineage.segment_key(first[:-1])):
        name = layout.parse_log_name(found.key.removeprefix(lineage.prefix))
        if not isinstance(name, WholeSegment | SegmentPart):
            continue
        if found.size_bytes < SMALLEST_SEALED_BYTES or found.key in damaged:
            continue
        piece = _piece(heads, lineage, name, segment_bytes=segment_bytes, key=found.key)
        if piece is not None and piece.begin > run.end:
            return
        if piece is not None and piece.begin >= run.begin:
            yield piece


def _piece(
    heads: Heads,
    lineage: Lineage,
    name: WholeSegment | SegmentPart,
    *,
    segment_bytes: int,
    key: str,
) -> Piece | None:
    """What a name says that its object holds; None for a name that no object of ours can have."""
    try:
        segment = WalSegment.parse(name.segment, segment_bytes)
    except ValueError as error:
        if not heads.are_ours(key):
            return None
        raise IntegrityError(
            f"object {key} cannot belong to a log of segments of {segment_bytes} bytes",
            hint="Was the size changed with pg_resetwal? Take a new backup; this log ends there.",
        ) from error
    low, high = (0, segment_bytes) if isinstance(name, WholeSegment) else (name.begin, name.end)
    if segment.timeline != lineage.timeline or not low < high <= segment_bytes:
        return None
    begin = segment.begin(segment_bytes)
    return Piece(begin + low, begin + high, key)
