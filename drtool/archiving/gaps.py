"""What the log of a source lacks, and how far it goes, for telling how it stands. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.model.wal import Lsn, TimelineHistory
from drtool.model.window import LogGap
from drtool.repository.log_inventory import LogInventory
from drtool.repository.logpath import find_holes, walk

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
    held = [
        number
        for number in path.path()
        if number in inventory.timelines and inventory.timelines[number].runs
    ]
    if not held:
        return []
    begin = since or inventory.timelines[held[0]].runs[0].begin
    holes = find_holes(inventory, path, timeline=held[0], begin=begin)
    return [hole for hole in holes if hole.timeline <= held[-1]]


def contiguous_end(
    inventory: LogInventory, path: TimelineHistory, *, timeline: int, begin: Lsn
) -> LogEnd:
    """How far the log goes without a hole from `begin` on `timeline`, along `path`.

    `begin` itself if nothing is held there; a timeline that is not on the path ends in itself.
    """
    followed = path if timeline in path.path() else TimelineHistory(timeline)
    chain = walk(inventory, followed, timeline=timeline, begin=begin)
    return LogEnd(chain.timeline, max(begin, chain.end))
