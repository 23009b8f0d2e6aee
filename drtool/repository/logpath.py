"""How far the change log goes along a path of timelines, and what it lacks: pure walks over an inventory.

A gap needs no record to be found (PITFALLS 19); the record that the receiver leaves only says when
and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drtool.model.wal import Lsn, TimelineHistory, WalSegment, segments_between
from drtool.model.window import LogGap
from drtool.repository.log import LogInventory, LogRun


@dataclass(frozen=True, slots=True)
class WalSpan:
    """WAL that one timeline contributes to a replay, from `begin` up to, not including, `end`."""

    timeline: int
    begin: Lsn
    end: Lsn

    def segments(self, segment_bytes: int) -> Iterator[WalSegment]:
        """The segments that hold it, in order."""
        return segments_between(self.timeline, self.begin, self.end, segment_bytes=segment_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The log of a path without a hole: `spans` in order of replay, up to `end` on `timeline`.

    `missing` is the first segment after `end` that must exist, because something later does or
    because the path goes on; None where the log simply ends.
    """

    spans: tuple[WalSpan, ...]
    timeline: int
    end: Lsn
    missing: WalSegment | None
    beyond: Lsn | None

    def up_to(self, lsn: Lsn, segment_bytes: int) -> tuple[WalSpan, ...]:
        """The spans cut after the segment that holds the byte before `lsn`."""
        last = -(-lsn // segment_bytes) * segment_bytes
        cut = (WalSpan(s.timeline, s.begin, Lsn(min(s.end, last))) for s in self.spans)
        return tuple(span for span in cut if span.begin < span.end)


def walk(inventory: LogInventory, history: TimelineHistory, *, timeline: int, begin: Lsn) -> Chain:
    """Follow the path `history` from `begin` on `timeline` for as long as the log has no hole.

    A segment in which one timeline took over from another is taken from the later one where that
    has it from its first byte, as PostgreSQL itself does (PITFALLS 49).
    """
    size = inventory.segment_bytes
    path = [number for number in history.path() if number >= timeline]
    place = covered = Lsn(begin // size * size)
    spans: list[WalSpan] = []
    for number in path:
        run = _run_holding(inventory, number, place)
        switch = history.end_of(number)
        wanted = None if switch is None else _handed_over(inventory, path, number, switch=switch)
        end = covered if run is None else max(covered, run.end)
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
    return holes


def _runs(inventory: LogInventory, timeline: int) -> tuple[LogRun, ...]:
    log = inventory.timelines.get(timeline)
    return log.runs if log else ()
