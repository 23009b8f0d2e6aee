"""What is wrong with a cluster as a whole: hash slots without a master, or being moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.clusternodes import ClusterNode, missing_slots, parse_nodes
from drtool.sources.redis.connection import connect
from drtool.sources.redis.topology import look_at, open_slots


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The nodes as one of them knows them, and the hash slots that any master says are being moved."""

    nodes: tuple[ClusterNode, ...]
    moving: tuple[int, ...]

    @property
    def seen(self) -> str:
        """In a few words."""
        masters = [node for node in self.nodes if node.is_master and node.slots]
        held = sum(share.count for node in masters for share in node.slots)
        return f"{held:,} of 16,384 are held by {counted(len(masters), 'master')}"


def read_cluster(seeds: Sequence[NodeAddress], login: Login) -> ClusterView:
    """What the first of `seeds` that answers knows, and what each master says of its own hash slots.

    A master that cannot be asked is left out: a look at that server says so. SourceUnavailable if none
    of `seeds` answers.
    """
    nodes = _read_nodes(seeds, login)
    moving = {one.slot for node in nodes for one in node.open_slots}
    for node in nodes:
        if node.is_master and not node.is_failing and node.address is not None:
            try:
                with look_at(node.address, login) as connection:
                    moving |= {one.slot for one in open_slots(connection)}
            except SourceUnavailable:
                continue
    return ClusterView(nodes, tuple(sorted(moving)))


def check_cluster(view: ClusterView) -> list[Finding]:
    """Whether every hash slot has its master, and none is being moved."""
    missing = missing_slots(view.nodes)
    found = []
    if missing:
        shown = ", ".join(map(str, missing[:5]))
        found.append(
            Finding(
                severity=Severity.PROBLEM,
                subject="cluster",
                fact=f"no master holds the hash slots {shown}: a backup would lack them, and is refused",
                fix="Run redis-cli --cluster check there, and --cluster fix once you know why.",
            )
        )
    if view.moving:
        count, first = len(view.moving), view.moving[0]
        what = f"hash slot {first} is" if count == 1 else f"{count} hash slots are"
        more = "" if count == 1 else f", the first is {first}"
        found.append(
            Finding(
                severity=Severity.PROBLEM,
                subject="cluster",
                fact=f"{what} being moved{more}: no backup can be taken now",
                fix="Wait until the resharding is done, or end it with redis-cli --cluster fix.",
            )
        )
    return found


def check_cluster_state(address: object, told: Mapping[str, str]) -> list[Finding]:
    """What one node says in CLUSTER INFO: in a minority it serves nobody."""
    word = told.get("cluster_state", "not told")
    if word == "ok":
        return []
    return [
        Finding(
            severity=Severity.PROBLEM,
            subject=f"Redis at {address}",
            fact=f"it says cluster_state {word}",
            fix="Run redis-cli --cluster check there: slots without a master, or no quorum.",
        )
    ]


def _read_nodes(seeds: Sequence[NodeAddress], login: Login) -> tuple[ClusterNode, ...]:
    last: SourceUnavailable | None = None
    for address in seeds:
        try:
            with connect(address, login) as connection:
                return parse_nodes(connection.text("CLUSTER", "NODES"), address)
        except SourceUnavailable as error:
            last = error
    assert last is not None
    raise last
