"""Moments inside an outage: between which two states of a shard such a moment lies."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from drtool.errors import IntegrityError, ObjectMissing
from drtool.repository.extents import RedisShard
from drtool.repository.layout import ReplicationHistory
from drtool.repository.marks import read_mark
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory
from drtool.repository.stream_uncertain import KnownState, Uncertain, known_states, late_stretch
from drtool.repository.streambranch import descendants
from drtool.repository.streamlate import LateStretch, late_groups


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
        joins = {link.offset for link in log.links}
        for begin, names in late_groups(log.late):
            ends = [one.end for one in names if one.end is not None]
            # Before the new master was joined what had arrived is the old one's, however far that was.
            if begin not in joins and not begin <= reached <= max(ends, default=reached):
                continue
            late = late_stretch(repository, inventory, name, names=names)
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
    """The two known states around the moment; None if all that is held had arrived by then."""
    history = ReplicationHistory(inventory.source, name)
    states = known_states(repository, inventory, shard, history=history, late=late)
    if not states or (late.until is None and states[-1].moment <= moment):
        return None
    first, *marked = states[:-1]
    while True:
        earlier = max((one for one in marked if one.moment <= moment), key=_moment, default=first)
        later = min(
            (one for one in marked if one.moment >= moment), key=_moment, default=states[-1]
        )
        unread = [one for one in (earlier, later) if not _is_read(repository, history, one)]
        if not unread:
            return Uncertain(earlier=earlier, later=later, reason=late.reason)
        marked = [one for one in marked if one not in unread]


def _is_read(repository: Repository, history: ReplicationHistory, state: KnownState) -> bool:
    """Whether a mark, if it is one, authenticates: a name alone proves nothing."""
    if not state.is_mark:
        return True
    try:
        read_mark(repository, history.mark_key(state.moment, state.offset))
    except (ObjectMissing, IntegrityError):
        return False
    return True


def _moment(state: KnownState) -> datetime:
    return state.moment
