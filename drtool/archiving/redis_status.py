"""How the archived stream of a Redis stands: how far each shard goes, since when, and its gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from drtool.archiving.redis import lease_name
from drtool.archiving.redis_joining import held_ends
from drtool.model.window import TimeRange, UncertainSpan
from drtool.repository.backups import read_manifests
from drtool.repository.clusterlog import newest_topology
from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.lease import read_lease
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory, take_stream_inventory
from drtool.repository.stream_known import read_known
from drtool.repository.stream_missing import StreamMissing, find_missing
from drtool.repository.stream_uncertain import uncertain_spans
from drtool.repository.stream_windows import stream_windows
from drtool.repository.streambranch import (
    DeadBranch,
    StreamChange,
    StreamPath,
    dead_branches,
    family_of,
    find_path,
    left_behind,
)
from drtool.repository.streamlog import StreamBegin
from drtool.repository.streampath import newest


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStatus:
    """One shard. `end` is how far the stream goes from the newest snapshot without a gap.

    `recoverable_until` is when the last of that arrived, or when the snapshot was taken; None without
    a snapshot. `gaps` are where the log had to begin anew; `left` is the change since which what is
    received is not joined to the snapshot, None if it is. `dead` is what failovers since then left behind
    of the old master; `path` is the stream that is replayed on the newest snapshot.
    """

    name: str
    replication_id: str | None
    end: int | None
    recoverable_until: datetime | None
    gaps: tuple[StreamBegin, ...]
    left: StreamChange | None = None
    dead: tuple[DeadBranch, ...] = ()
    path: StreamPath | None = None

    @property
    def is_joined(self) -> bool:
        """Whether what is received now leads on from the newest snapshot."""
        return self.path is not None and self.left is None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """One source. `receiver` is who holds its lease, None if nobody does, and `trouble` what that one
    says keeps it from its work. `windows` are all moments that can be returned to, `uncertain` the spans
    in them of which nobody knows what was held. `missing` is what something tells of and is not there;
    `taken` is when the newest snapshot was, `told_until` the newest moment that marks of any history tell of.
    """

    source: str
    receiver: str | None
    shards: tuple[ShardStatus, ...]
    trouble: str | None = None
    windows: tuple[TimeRange, ...] = ()
    uncertain: tuple[UncertainSpan, ...] = ()
    missing: tuple[StreamMissing, ...] = ()
    taken: datetime | None = None
    told_until: datetime | None = None

    @property
    def lacking(self) -> tuple[StreamMissing, ...]:
        """What is missing and a recovery from the newest snapshot may need."""
        return tuple(one for one in self.missing if one.concerns(self.taken))

    @property
    def paths(self) -> tuple[StreamPath, ...]:
        """What is replayed on the newest snapshot."""
        return tuple(shard.path for shard in self.shards if shard.path is not None)

    @property
    def recoverable_until(self) -> datetime | None:
        """The newest moment that all shards reach, and of which all is held; None if one reaches none, or
        something that is known to have been archived is missing.

        What arrives while a shard is received late may have been written long before.
        """
        if self.lacking:
            return None
        moments = [shard.recoverable_until for shard in self.shards]
        known = [moment for moment in moments if moment is not None]
        lasting = [span.begin for span in self.uncertain if span.end is None]
        return min([*known, *lasting]) if known and len(known) == len(moments) else None


def stream_status(
    repository: Repository,
    source: str,
    extents: Sequence[RedisExtent] | None = None,
    *,
    every: Sequence[RedisExtent] | None = None,
    damaged: Iterable[str] = (),
) -> StreamStatus:
    """Look at what is held; bytes are not read, save one index for each end of a path.

    `extents` are those of the usable snapshots, oldest first, and `every` of the others too; None reads
    them. Objects of the log that are known to be `damaged` count as missing.
    """
    known = read_known(repository, source)
    inventory = take_stream_inventory(repository, source, damaged=damaged)
    if extents is None:
        manifests, _ = read_manifests(repository, source)
        extents = [m.redis for m in manifests if isinstance(m.extent, RedisExtent)]
    snapshots = _live_snapshot(inventory, extents)
    lease = read_lease(repository, lease_name(source))
    names = sorted({*snapshots, *_without_snapshot(repository, inventory, snapshots)})
    return StreamStatus(
        source=source,
        receiver=lease.owner if lease else None,
        trouble=lease.trouble if lease else None,
        windows=stream_windows(repository, inventory, extents),
        uncertain=uncertain_spans(repository, inventory, extents),
        missing=find_missing(repository, inventory, every or extents, known=known),
        taken=max((extent.stopped_at for extent in extents), default=None),
        told_until=max((one.reached_at for one in known.values() if one.reached_at), default=None),
        shards=tuple(
            _shard_status(repository, inventory, name, snapshot=snapshots.get(name))
            for name in names
        ),
    )


def _without_snapshot(
    repository: Repository, inventory: StreamInventory, snapshots: dict[str, RedisShard]
) -> set[str]:
    """The names of shards that are received and in no snapshot; not those that are gone.

    A shard of a snapshot may be received under another name, since hash slots were moved.
    """
    known: set[str] = set()
    for shard in snapshots.values():
        known |= family_of(inventory, shard.replication_id)
    topology = newest_topology(repository, inventory.source)
    taken = max((shard.taken_at for shard in snapshots.values()), default=None)
    if topology is not None and taken is not None and topology.at < taken:
        topology = None  # the snapshot is the newer one, and has every shard that there was
    alive = None if topology is None else {shard.replication_id for shard in topology.shards}
    found: set[str] = set()
    for name, log in inventory.logs.items():
        words = [(one.shard, one.at) for one in log.links]
        words += [(one.shard, one.at) for one in log.begins]
        is_gone = name in known or (alive is not None and name not in alive)
        found |= {label for label, at in words if not is_gone and (taken is None or at > taken)}
    return found


def _live_snapshot(
    inventory: StreamInventory, extents: Sequence[RedisExtent]
) -> dict[str, RedisShard]:
    """The newest snapshot that leads to what is received now; for want of one, the newest."""
    for extent in reversed(extents):
        if all(_left(inventory, shard) is None for shard in extent.shards):
            return {shard.name: shard for shard in extent.shards}
    return {shard.name: shard for shard in extents[-1].shards} if extents else {}


def _left(inventory: StreamInventory, shard: RedisShard) -> StreamChange | None:
    name, begin, after = shard.replication_id, shard.offset, shard.taken_at
    return left_behind(inventory, name, begin=begin, after=after)


def _shard_status(
    repository: Repository, inventory: StreamInventory, name: str, *, snapshot: RedisShard | None
) -> ShardStatus:
    mine = None if snapshot is None else family_of(inventory, snapshot.replication_id)
    gaps = [
        begin
        for log in inventory.logs.values()
        for begin in log.begins
        if begin.previous is not None
        and (begin.shard == name if mine is None else log.replication_id in mine)
    ]
    ordered = tuple(sorted(gaps, key=lambda begin: begin.at))
    ends = held_ends(inventory, name)
    if snapshot is None:
        return ShardStatus(
            name=name,
            replication_id=ends[-1].replid if ends else None,
            end=ends[-1].offset if ends else None,
            recoverable_until=None,
            gaps=ordered,
        )
    path = find_path(inventory, snapshot.replication_id, begin=snapshot.offset)
    last = newest(repository, inventory.source, path)
    return ShardStatus(
        name=name,
        replication_id=path.last_id or snapshot.replication_id,
        end=path.end,
        recoverable_until=last.moment if last else snapshot.taken_at,
        gaps=ordered,
        left=_left(inventory, snapshot),
        dead=dead_branches(inventory, snapshot.replication_id, begin=snapshot.offset),
        path=path,
    )
