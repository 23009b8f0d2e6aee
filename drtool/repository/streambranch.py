"""The branches of a Redis history: how it goes on over failovers, and which one was live at a moment. Pure.

A failover gives a history another replication id; what the old master had and the new one had not
received stays in the old id's log and is a dead branch. Which branch was live is told by descent and
by time, never by length: the dead one may well be the longer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

from drtool.repository.stream_inventory import StreamInventory

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a path: bytes of one replication id without a gap.

    `writer` is the product and version of the master that wrote it, where a failover recorded it,
    and `renamed` its commands of another name.
    """

    replication_id: str
    begin: int
    end: int
    writer: tuple[str, str] | None = None
    renamed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamPath:
    """Bytes from `begin` on without a gap, over one id after the other, not read from what is `damaged`."""

    begin: int
    stretches: tuple[Stretch, ...]
    damaged: frozenset[str] = frozenset()

    @property
    def end(self) -> int:
        """How far it goes; `begin` if nothing is held there."""
        return self.stretches[-1].end if self.stretches else self.begin

    @property
    def last_id(self) -> str | None:
        """The replication id at its end; None if nothing is held."""
        return self.stretches[-1].replication_id if self.stretches else None

    def shared_with(self, other: StreamPath) -> int:
        """The offset up to which both are the same bytes."""
        reached = self.begin
        for mine, theirs in zip(self.stretches, other.stretches, strict=False):
            if (mine.replication_id, mine.begin) != (theirs.replication_id, theirs.begin):
                break
            reached = min(mine.end, theirs.end)
            if mine.end != theirs.end:
                break
        return reached

    def between(self, begin: int, end: int) -> StreamPath:
        """The part of it from `begin` up to, not including, `end`."""
        parts = [
            replace(one, begin=max(one.begin, begin), end=min(one.end, end))
            for one in self.stretches
            if one.begin < end and one.end > begin
        ]
        return StreamPath(begin, tuple(parts), self.damaged)


@dataclass(frozen=True, slots=True)
class StreamChange:
    """From `at` on the shard's history was that of `replication_id`, from `offset` on."""

    at: datetime
    replication_id: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadBranch:
    """What the old master of a failover had alone: archived, and not part of what came after `at`."""

    path: StreamPath
    at: datetime
    followed_by: str

    @property
    def size_bytes(self) -> int:
        return self.path.end - self.path.begin


def find_path(
    inventory: StreamInventory,
    replication_id: str,
    *,
    begin: int,
    moment: datetime | None = None,
) -> StreamPath:
    """How the history that `replication_id` had at `begin` goes on, as far as it is held.

    Bytes that an id's own log lacks are taken from the ids whose past it shares. Of several ids that
    go on with the same past, the one counts that was live at `moment` (None: now), over all later
    failovers that lost nothing of it.
    """
    ways = _ways(inventory, replication_id, begin)
    number = len(ways) - 1
    if moment is not None:
        number = max(place for place, way in enumerate(ways) if way.at <= moment)
        while number + 1 < len(ways) and _goes_on(ways[number].path, ways[number + 1].path):
            number += 1
    return ways[number].path


def dead_branches(
    inventory: StreamInventory,
    replication_id: str,
    *,
    begin: int,
    moment: datetime | None = None,
) -> tuple[DeadBranch, ...]:
    """What failovers up to `moment` left behind of the history that goes on from `begin`, oldest first."""
    ways = [
        way for way in _ways(inventory, replication_id, begin) if moment is None or way.at <= moment
    ]
    return tuple(
        DeadBranch(path=old.path.between(parted, old.path.end), at=new.at, followed_by=new.name)
        for old, new in pairwise(ways)
        # A branch that is live again has lost nothing.
        for parted in [max(old.path.shared_with(one.path) for one in (new, ways[-1]))]
        if parted < old.path.end
    )


def left_behind(
    inventory: StreamInventory,
    replication_id: str,
    *,
    begin: int,
    after: datetime,
    moment: datetime | None = None,
) -> StreamChange | None:
    """The change, later than `after`, since which the shard's history is no longer joined to `begin`.

    None if what was live at `moment` (None: now) goes on from there.
    """
    mine = descendants(inventory, replication_id, begin)
    missed: StreamChange | None = None
    for change in changes_of(inventory, replication_id):
        if change.at <= after or (moment is not None and change.at > moment):
            continue
        name = change.replication_id
        if name in mine and _walk(inventory, name, begin).end >= change.offset:
            missed = None
        else:
            missed = missed or change
    return missed


def changes_of(inventory: StreamInventory, replication_id: str) -> tuple[StreamChange, ...]:
    """Every change of the shard's history that `replication_id` belongs to, in order of time."""
    names = family_of(inventory, replication_id)
    found = []
    for name in names:
        log = inventory.logs.get(name)
        if log is not None:
            places = [(one.at, one.offset) for one in log.links]
            places += [(one.at, one.offset) for one in log.begins if one.previous is not None]
            found += [StreamChange(at, name, offset) for at, offset in places]
    return tuple(sorted(found, key=lambda one: (one.at, one.offset)))


def family_of(inventory: StreamInventory, replication_id: str) -> frozenset[str]:
    """All ids that the history of one shard ever had: joined by links, or by what came behind a gap."""
    neighbours: dict[str, set[str]] = {}
    for name, log in inventory.logs.items():
        others = {one.previous for one in log.links}
        others |= {one.previous[0] for one in log.begins if one.previous is not None}
        for other in others:
            neighbours.setdefault(name, set()).add(other)
            neighbours.setdefault(other, set()).add(name)
    found, waiting = {replication_id}, [replication_id]
    while waiting:
        more = neighbours.get(waiting.pop(), set()) - found
        found |= more
        waiting += more
    return frozenset(found)


def descendants(inventory: StreamInventory, replication_id: str, begin: int) -> list[str]:
    """`replication_id`, and all ids that have its history up to `begin` as their past."""
    found = [replication_id]
    for name in found:
        for log in inventory.logs.values():
            shares = any(one.previous == name and one.offset >= begin for one in log.links)
            if shares and log.replication_id not in found:
                found.append(log.replication_id)
    return found


@dataclass(frozen=True, slots=True)
class _Way:
    """A branch that became the live one at `at`."""

    at: datetime
    name: str
    path: StreamPath


def _ways(inventory: StreamInventory, replication_id: str, begin: int) -> list[_Way]:
    """The branches that go on from `begin`, in the order in which they became the live one."""
    names = descendants(inventory, replication_id, begin)
    paths = {name: _walk(inventory, name, begin) for name in names}
    ways = [_Way(_BEFORE_ALL, replication_id, paths[replication_id])]
    for name in names:
        log = inventory.logs.get(name)
        for link in log.links if log is not None else ():
            if link.previous in names and link.offset >= begin:
                ways.append(_Way(link.at, name, paths[name]))
    ways.sort(key=lambda way: (way.at, way.path.end))
    return ways


def _goes_on(old: StreamPath, new: StreamPath) -> bool:
    """Whether all of `old` is part of `new`."""
    return old.shared_with(new) == old.end


def _walk(inventory: StreamInventory, name: str, begin: int) -> StreamPath:
    stretches: list[Stretch] = []
    reached = begin
    while (found := _held(inventory, name, reached, seen=())) is not None:
        stretches.append(found)
        reached = found.end
    return StreamPath(begin, tuple(stretches), inventory.left_out)


def _held(
    inventory: StreamInventory, name: str, offset: int, *, seen: tuple[str, ...]
) -> Stretch | None:
    """The bytes from `offset` on of the history `name`, in its own log or in that of its past."""
    log = inventory.logs.get(name)
    if log is None or name in seen:
        return None
    run = log.run_holding(offset)
    if run is not None:
        last = max(log.links, key=lambda link: link.at, default=None)
        found = Stretch(name, offset, run.end)
        return found if last is None else replace(found, writer=last.writer, renamed=last.renamed)
    for link in log.links:
        if offset < link.offset:
            past = _held(inventory, link.previous, offset, seen=(*seen, name))
            if past is not None:
                return replace(past, end=min(past.end, link.offset))
    return None
