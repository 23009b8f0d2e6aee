"""From where on a shard's stream is asked for: where the log ends, if the server still has that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from drtool.errors import SourceUnavailable
from drtool.repository.extents import RedisShard
from drtool.repository.stream_inventory import StreamInventory
from drtool.repository.streambranch import changes_of, find_path
from drtool.sources.redis.psync import Position, position_of
from drtool.sources.redis.told import whole_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a server can still send without a snapshot. `first` is None where it keeps nothing."""

    place: str
    replid: str
    offset: int
    first: int | None
    histlen: int = 0
    former_replid: str = ""
    former_end: int = -1
    size_bytes: int = 0

    @classmethod
    def parse(cls, place: str, told: Mapping[str, str]) -> Backlog:
        """From INFO replication; SourceUnavailable if it is not all there."""
        try:
            is_active = told["repl_backlog_active"] == "1"
            position = position_of(told["master_replid"], told["master_repl_offset"])
            return cls(
                place=place,
                replid=position.replid,
                offset=position.offset,
                first=whole_of(
                    told["repl_backlog_first_byte_offset"], "repl_backlog_first_byte_offset"
                )
                if is_active
                else None,
                histlen=whole_of(told["repl_backlog_histlen"], "repl_backlog_histlen"),
                former_replid=position_of(told["master_replid2"], "0").replid,
                former_end=whole_of(told["second_repl_offset"], "second_repl_offset"),
                size_bytes=whole_of(told["repl_backlog_size"], "repl_backlog_size"),
            )
        except KeyError as error:
            raise SourceUnavailable(
                f"{place} does not tell its replication ({error!r})",
                hint="Allow the user `+info`.",
            ) from error

    def grants(self, position: Position) -> bool:
        """Whether the server would go on from there. Source: masterTryPartialResync."""
        following = position.offset + 1
        if position.replid != self.replid:
            if position.replid != self.former_replid or following > self.former_end:
                return False
        if self.first is None:
            return False
        return self.first <= following <= self.first + self.histlen

    def has_room(self, position: Position) -> bool:
        """Whether the server would go on from there, and keeps at most a quarter of its backlog for us."""
        return self.grants(position) and 4 * (self.offset - position.offset) <= self.size_bytes

    def is_behind(self, position: Position) -> bool:
        """Whether it is of the same history and has not come so far yet: nothing is lost, only late."""
        return position.replid == self.replid and self.offset < position.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where to begin. `position` None: the server keeps no backlog, and has to send a snapshot.

    `is_new`: nothing held ends there, so the log begins anew, for this `reason`; `previous` is what
    was held until then. `is_return`: a branch that another had taken the place of is live again.
    """

    position: Position | None
    is_new: bool
    reason: str = ""
    previous: Position | None = None
    is_loss: bool = False
    is_return: bool = False


def held_ends(inventory: StreamInventory, shard: str) -> list[Position]:
    """Where what is held of a shard ends, of each of its replication ids, the lowest first."""
    names = [
        name
        for name, log in inventory.logs.items()
        if shard in {*(one.shard for one in log.links), *(one.shard for one in log.begins)}
    ]
    return ends_of(inventory, names)


def ends_of(inventory: StreamInventory, names: Iterable[str]) -> list[Position]:
    """Where what is held of some replication ids ends, the lowest first."""
    logs = [inventory.logs[name] for name in names if name in inventory.logs]
    found = [Position(log.replication_id, log.runs[-1].end) for log in logs if log.runs]
    return sorted(found, key=lambda position: position.offset)


def plan_start(
    backlog: Backlog,
    ends: Sequence[Position],
    *,
    inventory: StreamInventory,
    snapshot: RedisShard | None,
) -> Start:
    """Where a receiver begins that has just been started. Pure.

    It goes on where the log ends that the newest snapshot leads into, or at the snapshot, or at an
    older end of the log before it: so that snapshot and stream are contiguous wherever the server
    still has the bytes. Else the log begins anew, with what comes next.
    """
    held = [position for position in ends if backlog.grants(position)]
    if snapshot is not None:
        path = find_path(inventory, snapshot.replication_id, begin=snapshot.offset)
        wanted = Position(path.last_id or snapshot.replication_id, path.end)
        if path.last_id is not None and (backlog.grants(wanted) or backlog.is_behind(wanted)):
            return Start(position=wanted, is_new=False)
        parted = parting(backlog, wanted)
        if parted is not None and _is_held(inventory, parted):
            return Start(position=parted, is_new=False)
        before = [position for position in held if position.offset <= snapshot.offset]
        if before:
            return Start(position=before[-1], is_new=False)
        if path.last_id is None and backlog.grants(wanted):
            previous = ends[-1] if ends else None
            return Start(
                position=wanted, is_new=True, reason="at the newest snapshot", previous=previous
            )
    found = on_held(backlog, ends, inventory=inventory)
    if found is not None:
        return found
    last = ends[-1] if ends else None
    if last is None and snapshot is not None:
        last = Position(snapshot.replication_id, snapshot.offset)
    if last is None:
        return _now(backlog, previous=None, reason="the first time")
    return after_loss(backlog, last)


def on_held(
    backlog: Backlog, ends: Sequence[Position], *, inventory: StreamInventory
) -> Start | None:
    """The farthest place in what is held from which the server can go on, whichever branch it is of.

    None if there is none. A branch may be live again: after a failover that was taken back, or where
    the new master was lost before another replica had heard of it.
    """
    parted = [parting(backlog, one) for one in ends]
    found = [one for one in ends if backlog.grants(one)]
    found += [one for one in parted if one is not None and _is_held(inventory, one)]
    if not found:
        return None
    best = max(found, key=lambda one: one.offset)
    changes = changes_of(inventory, best.replid)
    is_return = best.replid == backlog.replid and bool(changes)
    return Start(
        position=best,
        is_new=False,
        is_return=is_return and changes[-1].replication_id != best.replid,
    )


def _is_held(inventory: StreamInventory, position: Position) -> bool:
    """Whether something that is held begins, ends or goes on there."""
    log = inventory.logs.get(position.replid)
    runs = log.runs if log is not None else ()
    return any(run.begin <= position.offset <= run.end for run in runs)


def plan_again(backlog: Backlog, held: Position) -> Start:
    """Where a receiver goes on whose link broke at `held`. Pure."""
    if backlog.grants(held) or backlog.is_behind(held):
        return Start(position=held, is_new=False)
    parted = parting(backlog, held)
    if parted is not None:
        return Start(position=parted, is_new=False)
    return after_loss(backlog, held)


def parting(backlog: Backlog, held: Position) -> Position | None:
    """Where a new master's history parted from `held`, whose end it never had; None if it did not.

    A master may die before its replica has what was archived from it: Redis has lost that, and the log
    goes on without a gap where both were the same. What came behind stays in the old history's log.
    """
    if held.replid != backlog.former_replid or held.offset < backlog.former_end:
        return None
    parted = Position(held.replid, backlog.former_end - 1)
    return parted if backlog.grants(parted) else None


def after_loss(backlog: Backlog, held: Position) -> Start:
    """A gap: what came after `held` is no longer to be had, or never was part of this history."""
    if held.replid not in (backlog.replid, backlog.former_replid):
        reason = "the server has another history: it was restarted, or its data replaced"
    elif backlog.replid != held.replid and held.offset >= backlog.former_end:
        reason = "the new master had not received all that was archived from the old one"
    else:
        reason = "the server's backlog no longer held what came next (repl-backlog-size)"
    return _now(backlog, previous=held, reason=reason)


def _now(backlog: Backlog, *, previous: Position | None, reason: str) -> Start:
    # Asking for what comes next spares the server a fork and a transfer of all its data, of which
    # nothing would be kept here.
    position = None if backlog.first is None else Position(backlog.replid, backlog.offset)
    return Start(
        position=position,
        is_new=True,
        reason=reason,
        previous=previous,
        is_loss=previous is not None,
    )
