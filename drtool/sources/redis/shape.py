"""The shape of a Redis: which servers there are, what each is, and which slots each shard holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from drtool.policy.sources import RedisTopology
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.keyslot import SlotRange


class Role(StrEnum):
    """What a server is to the others of its shard."""

    MASTER = "master"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisNode:
    """One server. `trouble` says why nobody should lean on it; None if it is well.

    `node_id` is the cluster's name for it, `offset` how far it has the history; `replid` names that of
    a master. `is_writable` is of a replica that takes writes of its own.
    """

    address: NodeAddress
    role: Role
    node_id: str | None = None
    offset: int | None = None
    replid: str | None = None
    trouble: str | None = None
    is_writable: bool = False

    @property
    def is_healthy(self) -> bool:
        return self.trouble is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One master with its replicas. `slots` is empty outside of clusters.

    `name` stays over a failover: it is that of the first slot, not of a server. `importing` are hash
    slots that are being moved to it, `migrating` those that are being moved away.
    """

    name: str
    master: RedisNode
    replicas: tuple[RedisNode, ...]
    slots: tuple[SlotRange, ...] = ()
    epoch: int | None = None
    importing: tuple[int, ...] = ()
    migrating: tuple[int, ...] = ()

    @property
    def node_ids(self) -> frozenset[str]:
        """The cluster's names for its servers; empty outside of clusters."""
        nodes = (self.master, *self.replicas)
        return frozenset(node.node_id for node in nodes if node.node_id is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All servers of one source. `epoch` is the cluster's; `replid` stands in the link's answer.

    `is_watched` is False where the policy says Sentinel, names servers, and no sentinel watches them; None
    where nobody asked or may ask.
    """

    kind: RedisTopology
    shards: tuple[Shard, ...]
    epoch: int | None = None
    group: str | None = None
    is_watched: bool | None = None

    def differs_from(self, other: Shape) -> str | None:
        """What changed since `other`, in words; None if nothing that a backup depends on did."""
        if [shard.slots for shard in self.shards] != [shard.slots for shard in other.shards]:
            return "slots were moved"
        for mine, theirs in zip(self.shards, other.shards, strict=True):
            if mine.master.address != theirs.master.address:
                return (
                    f"the master of {mine.name} changed from {theirs.master.address} to"
                    f" {mine.master.address}"
                )
        return None


def shard_name(slots: Sequence[SlotRange]) -> str:
    """How the shard with these slots is called, `slots-0`; outside of clusters it is `main`."""
    return f"slots-{slots[0].first}" if slots else "main"
