"""The moments that a PostgreSQL cluster can be returned to, computed here for every screen and plan.

A backup carries a recovery from its own end for as far as the log goes from it without a gap; the
newest mark which the log reaches says up to which moment that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

from drtool.model.objective import Mark
from drtool.model.wal import Lsn, TimelineHistory
from drtool.model.window import LogGap, TimeRange, merged
from drtool.repository.backups import Manifest
from drtool.repository.damage import Damage
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage, pack_key
from drtool.repository.log_inventory import LogInventory
from drtool.repository.logpath import Chain, find_holes, walk
from drtool.repository.marks import first_mark, first_mark_at, newest_mark
from drtool.repository.repository import Repository
from drtool.repository.timelines import Timelines

# PostgreSQL counts time in microseconds.
RESOLUTION = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the log carries one backup along one path of timelines.

    `newest` is the mark with the greatest position that it reaches.
    """

    backup_id: str
    extent: PostgresExtent
    path: TimelineHistory
    chain: Chain
    newest: Mark | None

    @property
    def is_consistent(self) -> bool:
        """Whether the log reaches the backup's own end."""
        return self.chain.end >= self.extent.stop_lsn

    @property
    def latest(self) -> datetime | None:
        """The latest moment a recovery from this backup can be asked for; None where no mark tells."""
        return latest_moment(self.newest, self.extent)


def latest_moment(mark: Mark | None, extent: PostgresExtent) -> datetime | None:
    """Just before the mark, where a replay to a moment knows that it has to stop.

    A mark older than the backup's own end says nothing about how far this backup reaches.
    """
    if mark is None or mark.lsn < extent.stop_lsn:
        return None
    return mark.moment - RESOLUTION


def find_reaches(
    repository: Repository, timelines: Timelines, backups: Mapping[str, PostgresExtent]
) -> tuple[Reach, ...]:
    """Every backup along every path that it lies on; those of a path together, oldest first."""
    inventory = timelines.inventory
    ordered = sorted(backups.items(), key=lambda item: item[1].stop_lsn)
    found: list[Reach] = []
    known: dict[tuple[TimelineHistory, int, Lsn], Mark | None] = {}
    for path in timelines.paths:
        for backup_id, extent in ordered:
            if not path.holds(extent.timeline, extent.stop_lsn):
                continue
            chain = walk(inventory, path, timeline=extent.timeline, begin=extent.start_lsn)
            place = path, chain.timeline, chain.end
            if place not in known:
                known[place] = newest_reached(repository, inventory, path, chain=chain)
            found.append(Reach(backup_id, extent, path, chain, known[place]))
    return tuple(found)


def newest_reached(
    repository: Repository, inventory: LogInventory, path: TimelineHistory, *, chain: Chain
) -> Mark | None:
    """The newest mark that the chain reaches, on its last timeline or the ones before it."""
    for timeline in reversed(path.path()):
        if timeline <= chain.timeline:
            switch = path.end_of(timeline)
            most = chain.end if switch is None else min(chain.end, switch)
            lineage = Lineage(inventory.source, inventory.system_id, timeline)
            mark = newest_mark(repository, lineage, most_lsn=most)
            if mark is not None:
                return mark
    return None


def find_windows(
    repository: Repository, timelines: Timelines, reaches: Iterable[Reach]
) -> tuple[TimeRange, ...]:
    """Every moment that can be returned to, as ranges: a gap, and a branch that was left, break them."""
    breaks = {path: tuple(_breaks(repository, timelines, path)) for path in timelines.paths}
    ranges = [
        part
        for reach in reaches
        if reach.is_consistent
        for part in _parts(_began(repository, timelines, reach), reach.latest, breaks[reach.path])
    ]
    return merged(ranges)


def _began(repository: Repository, timelines: Timelines, reach: Reach) -> datetime:
    """When a backup ended: as it says, or, where that lies behind all that came later, as marks do."""
    extent, latest = reach.extent, reach.latest
    if latest is None or extent.stopped_at <= latest:
        return extent.stopped_at
    inventory = timelines.inventory
    lineage = Lineage(inventory.source, inventory.system_id, extent.timeline)
    mark = first_mark_at(repository, lineage, least_lsn=extent.stop_lsn)
    return extent.stopped_at if mark is None else mark.moment


def _parts(
    begin: datetime, end: datetime | None, breaks: Sequence[TimeRange]
) -> Iterator[TimeRange]:
    """The range without what lies inside `breaks`."""
    if end is None:
        return
    for one in sorted(breaks):
        if one.end > begin and one.begin < end:
            if one.begin >= begin:
                yield TimeRange(begin, one.begin)
            begin = one.end
    if begin <= end:
        yield TimeRange(begin, end)


def _breaks(
    repository: Repository, timelines: Timelines, path: TimelineHistory
) -> Iterator[TimeRange]:
    """Time that passed on a timeline behind the point where `path` left it: a moment of it is found on
    that timeline, and not on this path.
    """
    inventory, numbers = timelines.inventory, path.path()
    for timeline, following in pairwise(numbers):
        last = timelines.newest_marks.get(timeline)
        if last is None or path.holds(timeline, Lsn(last.lsn)):
            continue
        switch = path.end_of(timeline) or Lsn(0)
        left = newest_mark(
            repository, Lineage(inventory.source, inventory.system_id, timeline), most_lsn=switch
        )
        resumed = first_mark(repository, Lineage(inventory.source, inventory.system_id, following))
        begin = left.moment if left is not None else last.moment
        end = resumed.moment if resumed is not None else last.moment
        if begin < end:
            yield TimeRange(begin, end)


def find_gaps(
    repository: Repository, inventory: LogInventory, reaches: Sequence[Reach]
) -> tuple[LogGap, ...]:
    """The gaps behind the oldest backup of each path, each told once, with the time it takes away.

    `reaches` as `find_reaches` gives them: those of the newest timeline come first.
    """
    found: dict[LogGap, LogGap] = {}
    paths = list(dict.fromkeys(reach.path for reach in reaches))
    for path in paths:
        here = [reach for reach in reaches if reach.path == path]
        first = min((reach.extent for reach in here), key=lambda extent: extent.start_lsn)
        for gap in find_holes(inventory, path, timeline=first.timeline, begin=first.start_lsn):
            known = found.get(gap)
            if known is None or known.until is None:
                behind = [reach.extent for reach in here if _is_behind(reach, gap)]
                behind += [
                    reach.extent
                    for reach in reaches
                    if reach.path == paths[0] and reach.extent.timeline > gap.timeline
                ]
                found[gap] = _timed(repository, inventory, gap, behind=behind)
    return tuple(sorted(found.values(), key=lambda gap: (gap.timeline, gap.begin)))


def _is_behind(reach: Reach, gap: LogGap) -> bool:
    """Whether a recovery from there needs nothing of the gap."""
    extent = reach.extent
    return reach.is_consistent and ((extent.timeline, extent.start_lsn) >= (gap.timeline, gap.end))


def _timed(
    repository: Repository,
    inventory: LogInventory,
    gap: LogGap,
    *,
    behind: Sequence[PostgresExtent],
) -> LogGap:
    lineage = Lineage(inventory.source, inventory.system_id, gap.timeline)
    before = newest_mark(repository, lineage, most_lsn=gap.begin)
    until = min((extent.stopped_at for extent in behind), default=None)
    return replace(gap, since=before.moment if before else None, until=until)


def damage_of(manifest: Manifest, damaged: Mapping[str, Damage]) -> list[Damage]:
    """What is known to be damaged or missing of the packs that the backup needs."""
    if not damaged:
        return []
    keys = (pack_key(pack_id) for pack_id in manifest.packs)
    return [damaged[key] for key in keys if key in damaged]
