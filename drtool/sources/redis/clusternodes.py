"""CLUSTER NODES read into typed values, and nodes.conf written for a cluster that is restored.

Source: Redis docs, "CLUSTER NODES", and clusterGenNodesDescription in src/cluster.c.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.keyslot import SLOTS, SlotRange, ranges_of
from drtool.sources.redis.told import address_of, whole_of

BUS_OFFSET = 10000
# Redis advises against more than a thousand.
_MOST_NODES = 5000


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """A slot that is being moved: `importing` to this node or away from it, and the other one's id."""

    slot: int
    importing: bool
    other: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """One line of CLUSTER NODES: `master_id` is None for a master."""

    node_id: str
    address: NodeAddress | None
    flags: frozenset[str]
    master_id: str | None
    epoch: int
    is_linked: bool
    slots: tuple[SlotRange, ...]
    open_slots: tuple[OpenSlot, ...]

    @property
    def is_failing(self) -> bool:
        return bool(self.flags & {"fail", "fail?", "noaddr", "handshake"})

    @property
    def is_master(self) -> bool:
        return "master" in self.flags


def parse_nodes(text: str, asked: NodeAddress) -> tuple[ClusterNode, ...]:
    """All lines of CLUSTER NODES; a node that knows no address of its own has that of `asked`.

    SourceUnavailable for a text that is none.
    """
    try:
        nodes = tuple(_parse_line(line, asked) for line in text.splitlines() if line.strip())
        told = sum(share.count for node in nodes for share in node.slots)
        if len(nodes) > _MOST_NODES or told > SLOTS:
            raise ValueError(f"{len(nodes)} nodes with {told} slots")
        return nodes
    except (ValueError, IndexError) as error:
        raise SourceUnavailable(
            f"Redis at {asked} gave a CLUSTER NODES that cannot be read: {error}",
            hint="Look at redis-cli cluster nodes there.",
        ) from error


def check_at_rest(moving: Iterable[int]) -> None:
    """SourceUnavailable if hash slots are on the move: a backup might have keys twice or not at all."""
    slots = sorted(set(moving))
    if slots:
        raise SourceUnavailable(
            f"the cluster moves {len(slots)} slots, the first is {slots[0]}",
            hint="Wait until the resharding is done, or mend it with redis-cli --cluster fix.",
        )


def check_slots(nodes: Sequence[ClusterNode]) -> None:
    """SourceUnavailable if slots are uncovered: a backup would be a smaller one."""
    missing = missing_slots(nodes)
    if missing:
        raise SourceUnsuitable(
            f"the cluster does not cover all slots: nobody holds {', '.join(map(str, missing[:5]))}",
            hint="Run redis-cli --cluster check there, and --cluster fix once you know why.",
        )


def missing_slots(nodes: Sequence[ClusterNode]) -> list[SlotRange]:
    """The slots that no master holds."""
    held = {
        slot
        for node in nodes
        for share in node.slots
        for slot in range(share.first, share.last + 1)
    }
    return list(ranges_of([slot for slot in range(SLOTS) if slot not in held]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredNode:
    """One server of a cluster that is restored; a replica names its master's place in the list."""

    address: NodeAddress
    slots: tuple[SlotRange, ...] = ()
    epoch: int = 0
    replica_of: int | None = None

    @property
    def node_id(self) -> str:
        """A name of its own, never that of the node it was copied from: the two must not meet."""
        return hashlib.sha256(f"drtool restored {self.address}".encode()).hexdigest()[:40]


def nodes_conf(nodes: Sequence[RestoredNode], *, myself: int) -> str:
    """The `nodes.conf` of node number `myself` in a cluster of `nodes`.

    With such a file in each directory the servers find each other when they start: no CLUSTER MEET,
    no ADDSLOTS. ValueError if the masters do not hold every slot once.
    """
    _check_cover(nodes)
    current = max(1, *(node.epoch for node in nodes))
    lines = [_line(nodes, number, myself) for number in range(len(nodes))]
    return "\n".join([*lines, f"vars currentEpoch {current} lastVoteEpoch 0", ""])


def _line(nodes: Sequence[RestoredNode], number: int, myself: int) -> str:
    node = nodes[number]
    flags = ["myself"] if number == myself else []
    flags.append("master" if node.replica_of is None else "slave")
    master = "-" if node.replica_of is None else nodes[node.replica_of].node_id
    epoch = node.epoch if node.replica_of is None else nodes[node.replica_of].epoch
    host, port = node.address.host, node.address.port
    words = [node.node_id, f"{host}:{port}@{port + BUS_OFFSET}", ",".join(flags), master]
    words += ["0", "0", str(epoch), "connected", *map(str, node.slots)]
    return " ".join(words)


def _check_cover(nodes: Sequence[RestoredNode]) -> None:
    count = sum(share.count for node in nodes for share in node.slots)
    held = {
        slot
        for node in nodes
        for share in node.slots
        for slot in range(share.first, share.last + 1)
    }
    if count != SLOTS or len(held) != SLOTS:
        raise ValueError(f"the masters hold {len(held)} of {SLOTS} slots, {count} with doubles")
    if any(node.slots for node in nodes if node.replica_of is not None):
        raise ValueError("a replica holds slots")
    if len({node.epoch for node in nodes if node.replica_of is None}) < sum(
        node.replica_of is None for node in nodes
    ):
        raise ValueError("two masters have the same epoch")


def _parse_line(line: str, asked: NodeAddress) -> ClusterNode:
    words = line.split()
    # 127.0.0.1:6379@16379,hostname,shard-id=...
    place = words[1].split(",")[0].split("@")[0]
    host, _, port = place.rpartition(":")
    address = None
    if port.isdecimal() and port.strip("0"):
        address = address_of(host or asked.host, port)
    return ClusterNode(
        node_id=words[0],
        address=address,
        flags=frozenset(words[2].split(",")),
        master_id=None if words[3] == "-" else words[3],
        epoch=whole_of(words[6], "epoch"),
        is_linked=words[7] == "connected" or "myself" in words[2],
        slots=tuple(SlotRange.parse(word) for word in words[8:] if not word.startswith("[")),
        open_slots=tuple(_open_slot(word) for word in words[8:] if word.startswith("[")),
    )


def _open_slot(word: str) -> OpenSlot:
    # [93->-NODE] goes away, [77-<-NODE] comes.
    importing = "-<-" in word
    slot, _, other = word.strip("[]").partition("-<-" if importing else "->-")
    return OpenSlot(whole_of(slot, "slot"), importing, other)
