"""How far the change log goes along a path of timelines, and what it lacks: pure walks over an inventory.

A gap needs no record to be found (PITFALLS 19); the record that the receiver leaves only says when
and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drtool.model.wal import Lsn, TimelineHistory, WalSegment, segments_between
from drtool.model.window import LogGap
from drtool.repository.layout import EventName
from drtool.repository.log_events import MINIMAL, PARAMETERS
from drtool.repository.log_inventory import LogInventory, LogRun

MINIMAL_REASON = "it was written with wal_level = minimal and lacks changes"
# A record at which a replay stops must be there to its end: it has at most so many bytes, headers counted.
_RECORD_ROOM = 256


@dataclass(frozen=True, slots=True)
class WalSpan:
    """WAL that one timeline contributes to a replay, from `begin` up to, not including, `end`."""

    timeline: int
    begin: Lsn
    end: Lsn

    def segments(self, segment_bytes: int) -> Iterator[WalSegment]:
        """The segments that hold it, in order."""
        return segments_between(self.timeline, self.begin, self.end, segment_bytes=segment_bytes)


@dataclass(frozen=True, slots=True)
class PlacedEvent:
    """An event in the log of one timeline."""

    timeline: int
    name: EventName


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The log of a path without a hole: `spans` in order of replay, up to `end` on `timeline`.

    `missing` is the first segment after `end` that must exist, because something later does or
    because the path goes on; None where the log simply ends. `blocked` is the stretch from `end` on
    that is there and that no recovery passes: to end before it, a replay must be told to.
    """

    spans: tuple[WalSpan, ...]
    timeline: int
    end: Lsn
    missing: WalSegment | None
    beyond: Lsn | None
    blocked: LogGap | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the log goes on behind the chain."""
        return self.missing is not None or self.blocked is not None

    def up_to(self, lsn: Lsn, segment_bytes: int) -> tuple[WalSpan, ...]:
        """The spans cut after the segment that holds the byte before `lsn`.

        At the end of a chain that is blocked, after the record there: a replay that stops in front of
        a record reads it first.
        """
        if self.blocked is not None and lsn >= self.end:
            lsn = Lsn(self.end + _RECORD_ROOM)
        last = -(-lsn // segment_bytes) * segment_bytes
        cut = (WalSpan(s.timeline, s.begin, Lsn(min(s.end, last))) for s in self.spans)
        return tuple(span for span in cut if span.begin < span.end)


def walk(inventory: LogInventory, history: TimelineHistory, *, timeline: int, begin: Lsn) -> Chain:
    """Follow the path `history` from `begin` on `timeline` for as long as the log has no hole and can
    be replayed.

    A segment in which one timeline took over from another is taken from the later one where that
    has it from its first byte, as PostgreSQL itself does (PITFALLS 49).
    """
    size = inventory.segment_bytes
    path = [number for number in history.path() if number >= timeline]
    place = covered = Lsn(begin // size * size)
    spans: list[WalSpan] = []
    blocked = _blocked(inventory, history, timeline=timeline, begin=begin)
    for number in path:
        run = _run_holding(inventory, number, place)
        switch = history.end_of(number)
        wanted = None if switch is None else _handed_over(inventory, path, number, switch=switch)
        end = covered if run is None else max(covered, run.end)
        gap = next((one for one in blocked if one.timeline == number and one.begin < end), None)
        if gap is not None:
            spans.append(WalSpan(number, place, Lsn(min(end, gap.begin + _RECORD_ROOM))))
            return Chain(
                spans=tuple(spans),
                timeline=number,
                end=gap.begin,
                missing=None,
                beyond=gap.end,
                blocked=gap,
            )
        if wanted is not None and end >= wanted:
            if wanted > place:
                spans.append(WalSpan(number, place, wanted))
            place, covered = Lsn(wanted // size * size), wanted
            continue
        if run is not None:
            spans.append(WalSpan(number, place, end))
        return _ended(inventory, path, number, spans=tuple(spans), end=end)
    raise AssertionError("the last timeline of a path has no switch point")


def _run_holding(inventory: LogInventory, timeline: int, lsn: Lsn) -> LogRun | None:
    """The run that holds the segment of `lsn` from its first byte; where two meet, the later."""
    log = inventory.timelines.get(timeline)
    runs = [] if log is None else [run for run in log.runs if run.begin <= lsn < run.end]
    return runs[0] if runs else None


def _handed_over(inventory: LogInventory, path: list[int], timeline: int, *, switch: Lsn) -> Lsn:
    """Up to where `timeline` itself must be there: the next one's first segment repeats its tail."""
    size = inventory.segment_bytes
    first = Lsn(switch // size * size)
    later = path[path.index(timeline) + 1]
    return first if _run_holding(inventory, later, first) is not None else switch


def _ended(
    inventory: LogInventory,
    path: list[int],
    timeline: int,
    *,
    spans: tuple[WalSpan, ...],
    end: Lsn,
) -> Chain:
    """The chain up to `end`, and whether anything shows that the log once went on."""
    beyond: Lsn | None = None
    for number in path[path.index(timeline) :]:
        log = inventory.timelines.get(number)
        ends = [run.end for run in log.runs] + [gap.end for gap in log.gaps] if log else []
        if number == path[-1]:  # an earlier one may have gone on beyond the path
            ends += [inventory.known_ends[number]] if number in inventory.known_ends else []
        further = max((found for found in ends if found > end), default=None)
        if further is not None:
            beyond = further if beyond is None else max(beyond, further)
    goes_on = timeline != path[-1] or beyond is not None
    hole = WalSegment.holding(timeline, end, inventory.segment_bytes)
    return Chain(
        spans=spans, timeline=timeline, end=end, missing=hole if goes_on else None, beyond=beyond
    )


def find_holes(
    inventory: LogInventory, history: TimelineHistory, *, timeline: int, begin: Lsn
) -> list[LogGap]:
    """What the log lacks on one path, from `begin` on `timeline` up to the last byte that is there."""
    size = inventory.segment_bytes
    path = [number for number in history.path() if number >= timeline]
    reached = begin
    holes: list[LogGap] = []
    for place, number in enumerate(path):
        runs = _runs(inventory, number)
        switch = history.end_of(number)
        if switch is None:
            known = inventory.known_ends.get(number, reached)
            end = max([run.end for run in runs] + [known], default=reached)
        else:
            # A server takes the segment of the switch from the new timeline, if it is there.
            first = Lsn(switch // size * size)
            taken_over = any(
                run.begin <= first < run.end for run in _runs(inventory, path[place + 1])
            )
            end = first if taken_over else switch
        for run in runs:
            if run.begin > reached and reached < end:
                holes.append(LogGap(timeline=number, begin=reached, end=Lsn(min(run.begin, end))))
            reached = max(reached, run.end)
        if reached < end:
            holes.append(LogGap(timeline=number, begin=reached, end=end))
        if switch is not None:
            reached = Lsn(max(begin, switch // size * size))
    return sorted(
        [*holes, *_blocked(inventory, history, timeline=timeline, begin=begin)],
        key=lambda hole: (path.index(hole.timeline), hole.begin),
    )


def events_between(
    inventory: LogInventory, history: TimelineHistory, *, timeline: int, begin: Lsn
) -> Iterator[PlacedEvent]:
    """The events of a path from `begin` on `timeline`, in the order of replay.

    A timeline's first segment repeats what the one before wrote: that is not its own.
    """
    for number in history.path():
        log, switch = inventory.timelines.get(number), history.end_of(number)
        if number >= timeline:
            for event in log.events if log else ():
                if begin <= event.lsn and (switch is None or event.lsn < switch):
                    yield PlacedEvent(number, event)
        if switch is not None:
            begin = max(begin, switch)


def _blocked(
    inventory: LogInventory, history: TimelineHistory, *, timeline: int, begin: Lsn
) -> list[LogGap]:
    """The stretches of a path that are there and that no recovery passes.

    Each ends where the server was started with more of the WAL again, on the same timeline.
    """
    found: list[LogGap] = []
    since: tuple[int, Lsn] | None = None
    for placed in events_between(inventory, history, timeline=timeline, begin=begin):
        number, event = placed.timeline, placed.name
        if since is not None and (number != since[0] or event.kind == PARAMETERS):
            end = event.lsn if number == since[0] else _end_of(inventory, history, since[0])
            found.append(_minimal(since[0], since[1], end=end))
            since = None
        if since is None and event.kind == MINIMAL:
            since = number, event.lsn
    if since is not None:
        end = _end_of(inventory, history, since[0])
        found.append(_minimal(since[0], since[1], end=end))
    return found


def _minimal(timeline: int, begin: Lsn, *, end: Lsn) -> LogGap:
    return LogGap(timeline=timeline, begin=begin, end=max(begin, end), reason=MINIMAL_REASON)


def _end_of(inventory: LogInventory, history: TimelineHistory, timeline: int) -> Lsn:
    """Up to where a timeline is there, on this path."""
    switch = history.end_of(timeline)
    end = max([run.end for run in _runs(inventory, timeline)], default=Lsn(0))
    return end if switch is None else min(end, switch)


def _runs(inventory: LogInventory, timeline: int) -> tuple[LogRun, ...]:
    log = inventory.timelines.get(timeline)
    return log.runs if log else ()
