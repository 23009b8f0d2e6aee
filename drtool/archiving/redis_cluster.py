"""The topology of a cluster while its streams are received: which shard is whose, and who holds what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from drtool.archiving.patience import Patience
from drtool.archiving.redis_joining import Backlog, ends_of
from drtool.errors import RepositoryUnavailable
from drtool.model.progress import Noted
from drtool.policy.sources import RedisTopology
from drtool.repository.clusterlog import (
    ClusterShard,
    ClusterTopology,
    newest_topology,
    put_topology,
)
from drtool.repository.extents import RedisShard
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory
from drtool.repository.streambranch import family_of
from drtool.sources.redis.address import Login
from drtool.sources.redis.connection import connect, server_moment
from drtool.sources.redis.psync import Position
from drtool.sources.redis.shape import Shape, Shard

# A resharding goes on, hash slot by hash slot; a snapshot is worth it once it is over.
REST_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIdentity:
    """What makes a shard the same one over failovers and resharding: its servers, not its hash slots."""

    name: str
    master_id: str | None = None
    node_ids: frozenset[str] = frozenset()
    slots: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, shard: Shard, name: str) -> ShardIdentity:
        return cls(
            name=name,
            master_id=shard.master.node_id,
            node_ids=shard.node_ids,
            slots=tuple((share.first, share.last) for share in shard.slots),
        )

    def find(self, shape: Shape) -> Shard | None:
        """This shard in `shape`; None if it is no part of it any more."""
        if shape.kind is not RedisTopology.CLUSTER:
            return shape.shards[0]
        for shard in shape.shards:
            if shard.master.node_id in self.node_ids:
                return shard
        # A replica that nobody had seen yet took over.
        return next((one for one in shape.shards if self.master_id in one.node_ids), None)


def held_of(
    inventory: StreamInventory,
    snapshots: Sequence[RedisShard],
    backlog: Backlog,
    *,
    identity: ShardIdentity,
) -> tuple[list[Position], RedisShard | None]:
    """Where what is held of a shard ends, and its newest snapshot: told by the server's history.

    Where that is a new one, by the server's name in the cluster, and then by its hash slots.
    """
    names = {backlog.replid, backlog.former_replid}
    mine = {one for name in names if name in inventory.logs for one in family_of(inventory, name)}
    found = [one for one in snapshots if one.replication_id in mine | names]
    if identity.master_id is None:
        found = found or list(snapshots)
        return ends_of(inventory, inventory.logs), found[0] if found else None
    found = found or [one for one in snapshots if one.node_id in identity.node_ids]
    found = found or [one for one in snapshots if one.slots == identity.slots]
    if not mine and found:
        mine = set(family_of(inventory, found[0].replication_id))
    if not mine:
        mine = {
            name
            for name, log in inventory.logs.items()
            if {*(one.node for one in log.links), *(one.node for one in log.begins)}
            & identity.node_ids
        }
    return ends_of(inventory, mine), found[0] if found else None


class TopologyRecorder:
    """Records each topology that differs from the last, and asks for a snapshot once it is at rest.

    One thread. `snapshots` are the shards of the newest snapshot.
    """

    def __init__(
        self,
        repository: Repository,
        source: str,
        patience: Patience,
        *,
        login: Login,
        ask_for_base: Callable[[], None] | None,
        snapshots: Sequence[RedisShard],
    ) -> None:
        self._repository, self._source, self._login = repository, source, login
        self._patience, self._clock = patience, patience.clock
        self._ask_for_base = ask_for_base
        self._known = newest_topology(repository, source)
        self._seen_at: float | None = None
        self._base_slots = sorted(one.slots for one in snapshots if one.slots)
        self._changed_at = self._clock.monotonic()

    def see(self, shape: Shape, *, began: float) -> None:
        """Take in what a look that `began` then, on the monotonic clock, has found."""
        if shape.kind is not RedisTopology.CLUSTER:
            return
        shards = tuple(_shard(one) for one in shape.shards)
        with connect(shape.shards[0].master.address, self._login) as connection:
            at = server_moment(connection)
        now = self._clock.monotonic()
        since = self._known.at if self._known is not None else at
        if self._seen_at is not None:
            since = at - timedelta(seconds=now - self._seen_at)
        topology = ClusterTopology(since=min(since, at), at=at, shards=shards)
        if self._known is None or self._known.shape() != topology.shape():
            try:
                put_topology(self._repository, self._source, topology)
            except RepositoryUnavailable:
                return  # seen again at the next look, as one that came since the last that was put
            self._known, self._changed_at = topology, now
        self._seen_at = began
        self._ask_once_at_rest(topology, now)

    def _ask_once_at_rest(self, topology: ClusterTopology, now: float) -> None:
        slots = sorted(one.slots for one in topology.shards if one.slots)
        if not self._base_slots or slots == self._base_slots or not topology.is_at_rest:
            return
        if now - self._changed_at < REST_SECONDS:
            return
        self._base_slots = slots
        ask = self._ask_for_base
        what_now = f"take one with `drtool backup {self._source}`"
        if ask is not None:
            ask()
            what_now = "one is taken by itself"
        text = (
            "hash slots were moved: a master that is in no snapshot yet can be brought back only from a"
            f" new one; {what_now}"
        )
        self._patience.emit(Noted(text, "warning"))


def _shard(shard: Shard) -> ClusterShard:
    return ClusterShard(
        node_id=shard.master.node_id or "",
        replication_id=shard.master.replid or "",
        slots=tuple((share.first, share.last) for share in shard.slots),
        importing=shard.importing,
        replicas=len(shard.replicas),
    )
