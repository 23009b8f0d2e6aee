"""What the log lacks: computed from what is there, on the path of timelines that leads to now.

Pure: inventory and path in, gaps out. A gap needs no record to be found (PITFALLS 19); the record that
the receiver leaves only says when and why.
"""

from __future__ import annotations

from dataclasses import dataclass

from drtool.model.outcome import LogGap
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.log import LogInventory, LogRun

ORIGIN = Lsn(0)


@dataclass(frozen=True, slots=True)
class LogEnd:
    """How far the log goes without a hole: up to `lsn` of `timeline`."""

    timeline: int
    lsn: Lsn


def find_gaps(
    inventory: LogInventory, path: TimelineHistory, *, since: Lsn = ORIGIN
) -> list[LogGap]:
    """The holes between the first byte held at or after `since` and the last one, oldest first.

    With `since`, the start of the oldest backup, a hole that begins there counts too.
    """
    gaps: list[LogGap] = []
    reached = since if since else _first(inventory, path)
    for timeline in _held_path(inventory, path):
        for run in _runs(inventory, path, timeline):
            if run.end <= reached:
                continue
            if run.begin > reached:
                gaps.append(LogGap(timeline=timeline, begin=reached, end=run.begin))
            reached = run.end
        fork = path.end_of(timeline)
        if fork is not None and timeline != _newest(inventory, path):
            if reached < fork:
                gaps.append(LogGap(timeline=timeline, begin=reached, end=fork))
            reached = max(reached, fork)
    return gaps


def contiguous_end(
    inventory: LogInventory, path: TimelineHistory, *, timeline: int, begin: Lsn
) -> LogEnd:
    """How far the log goes without a hole from `begin` on `timeline`, along `path`.

    `begin` itself if nothing is held there; a timeline that is not on the path ends in itself.
    """
    reached, place = begin, timeline
    line = path.path()
    for current in line[line.index(timeline) :] if timeline in line else (timeline,):
        on_path = timeline in line
        runs = _runs(inventory, path, current) if on_path else _all_runs(inventory, current)
        run = next((run for run in runs if run.begin <= reached <= run.end), None)
        if run is None:
            break
        reached, place = max(reached, run.end), current
        fork = path.end_of(current) if on_path else None
        if fork is None or reached < fork:
            break
        reached = fork
    return LogEnd(place, reached)


def _held_path(inventory: LogInventory, path: TimelineHistory) -> list[int]:
    """The timelines of the path from the first to the last that has WAL here."""
    held = [timeline for timeline in path.path() if _runs(inventory, path, timeline)]
    return [t for t in path.path() if held and held[0] <= t <= held[-1]]


def _newest(inventory: LogInventory, path: TimelineHistory) -> int | None:
    held = _held_path(inventory, path)
    return held[-1] if held else None


def _first(inventory: LogInventory, path: TimelineHistory) -> Lsn:
    held = _held_path(inventory, path)
    return _runs(inventory, path, held[0])[0].begin if held else ORIGIN


def _runs(inventory: LogInventory, path: TimelineHistory, timeline: int) -> list[LogRun]:
    """Runs of a timeline as far as they lie on the path, cut at the fork."""
    fork = path.end_of(timeline)
    return [
        run if fork is None or run.end <= fork else LogRun(timeline, run.begin, fork)
        for run in _all_runs(inventory, timeline)
        if fork is None or run.begin < fork
    ]


def _all_runs(inventory: LogInventory, timeline: int) -> list[LogRun]:
    log = inventory.timelines.get(timeline)
    return list(log.runs) if log else []
