"""Where to begin: the end of what the repository holds, on the path that the server has taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.log_inventory import LogInventory


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPoint:
    """Stream `timeline` from `begin`, the start of a segment; up to `durable` it is stored already."""

    timeline: int
    begin: Lsn
    durable: Lsn


def segment_start(lsn: int, segment_bytes: int) -> Lsn:
    """The start of the segment that holds the byte at `lsn`."""
    return Lsn(lsn // segment_bytes * segment_bytes)


def held_ends(inventory: LogInventory, path: TimelineHistory) -> dict[int, Lsn]:
    """For each timeline of `path`, how far its last run goes; what lies beyond the fork is not ours."""
    ends: dict[int, Lsn] = {}
    for timeline in path.path():
        log = inventory.timelines.get(timeline)
        fork = path.end_of(timeline)
        runs = [run for run in log.runs if fork is None or run.begin < fork] if log else []
        if runs:
            ends[timeline] = runs[-1].end if fork is None else min(runs[-1].end, fork)
    return ends


def ends_on(path: TimelineHistory, ends: Mapping[int, Lsn]) -> dict[int, Lsn]:
    """Of `ends`, which may be those of a server that took another path, what lies on `path`."""
    found: dict[int, Lsn] = {}
    for timeline in path.path():
        end, fork = ends.get(timeline), path.end_of(timeline)
        if end is not None:
            found[timeline] = end if fork is None else min(end, fork)
    return found


def held_from(inventory: LogInventory, timeline: int, first: Lsn) -> dict[int, Lsn]:
    """How far `timeline` is held without a hole from `first` on; nothing if `first` is not held."""
    log = inventory.timelines.get(timeline)
    run = log.run_holding(first) if log else None
    return {timeline: run.end} if run else {}


def plan_start(
    ends: Mapping[int, Lsn], path: TimelineHistory, first: Lsn, *, segment_bytes: int
) -> StartPoint:
    """Where to go on after `ends`; at `first` on the newest timeline if nothing of the path is held.

    The old timeline is finished, to the last byte before the switch, before the new one is begun
    (PITFALLS 18).
    """
    timelines = path.path()
    for place in range(len(timelines) - 1, -1, -1):
        timeline = timelines[place]
        end, fork = ends.get(timeline), path.end_of(timeline)
        if end is None:
            continue
        if fork is not None and end >= fork:
            begin = segment_start(fork, segment_bytes)
            return StartPoint(timeline=timelines[place + 1], begin=begin, durable=begin)
        return StartPoint(timeline=timeline, begin=segment_start(end, segment_bytes), durable=end)
    begin = segment_start(first, segment_bytes)
    return StartPoint(timeline=path.timeline, begin=begin, durable=begin)
