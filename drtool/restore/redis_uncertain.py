"""Moments inside an outage: between which two states of a shard such a moment lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from drtool.model.objective import Mark
from drtool.repository.extents import RedisShard
from drtool.repository.layout import ReplicationHistory
from drtool.repository.marks import marks_between
from drtool.repository.repository import Repository
from drtool.repository.streambranch import StreamPath, descendants, find_path
from drtool.repository.streamlate import LateStretch, late_groups, read_group
from drtool.repository.streamlog import StreamInventory
from drtool.repository.streampath import newest


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A state of a shard: its stream along `path` up to `offset`, which it had at `moment`."""

    path: StreamPath
    offset: int
    moment: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertain:
    """What a shard held at a moment is at least `earlier` and at most `later`."""

    earlier: Edge
    later: Edge
    reason: str

    @property
    def is_exact(self) -> bool:
        """Whether both are one state: a mark was made at that moment, or nothing was written."""
        return self.earlier.path == self.later.path and self.earlier.offset >= self.later.offset


def uncertain_at(
    repository: Repository,
    inventory: StreamInventory,
    shard: RedisShard,
    *,
    moment: datetime,
    reached: int,
) -> Uncertain | None:
    """Between which states `moment` lies; None where what had arrived by then, up to `reached`, is told
    by its arrival.
    """
    for name, late in _stretches(repository, inventory, shard, moment=moment, reached=reached):
        found = _between(repository, inventory, shard, late=late, name=name, moment=moment)
        if found is not None:
            return found
    return None


def _stretches(
    repository: Repository,
    inventory: StreamInventory,
    shard: RedisShard,
    *,
    moment: datetime,
    reached: int,
) -> Iterator[tuple[str, LateStretch]]:
    for name in descendants(inventory, shard.replication_id, shard.offset):
        log = inventory.logs.get(name)
        if log is None:
            continue
        history = ReplicationHistory(inventory.source, name)
        joins = {link.offset for link in log.links}
        for begin, names in late_groups(log.late):
            ends = [one.end for one in names if one.end is not None]
            # Before the new master was joined what had arrived is the old one's, however far that was.
            if begin not in joins and not begin <= reached <= max(ends, default=reached):
                continue
            late = read_group(repository, history, names)
            if late.may_hold(moment):
                yield name, late


def _between(
    repository: Repository,
    inventory: StreamInventory,
    shard: RedisShard,
    *,
    late: LateStretch,
    name: str,
    moment: datetime,
) -> Uncertain | None:
    """The two edges, as near as marks bring them; None if all that is held had arrived by then."""
    until = late.until
    way = find_path(inventory, shard.replication_id, begin=shard.offset, moment=until)
    before = find_path(inventory, shard.replication_id, begin=shard.offset, moment=late.since)
    end = way.end if late.end is None else late.end
    if until is None:
        last = newest(repository, inventory.source, way)
        if last is None or last.moment <= moment:
            return None
        until = last.moment
    parted = before.shared_with(way)
    is_parted = parted < before.end and late.begin <= parted
    earlier = Edge(
        path=before if is_parted else way,
        offset=before.end if is_parted else max(late.begin, shard.offset),
        moment=late.since if is_parted else max(late.since, shard.taken_at),
    )
    later = Edge(path=way, offset=max(end, shard.offset), moment=until)
    history = ReplicationHistory(inventory.source, name)
    for mark in marks_between(repository, history, late.since, end=until):
        if not late.begin <= mark.lsn <= end:
            continue
        if mark.moment <= moment:
            earlier = _at(way, mark)
        if mark.moment >= moment:
            later = _at(way, mark)
            break
    return Uncertain(earlier=earlier, later=later, reason=late.reason)


def _at(path: StreamPath, mark: Mark) -> Edge:
    return Edge(path=path, offset=mark.lsn, moment=mark.moment)
