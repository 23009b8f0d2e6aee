"""Up to when the masters of a snapshot were all that held hash slots of a cluster."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import datetime

from drtool.repository.clusterlog import (
    ClusterShard,
    ClusterTopology,
    read_topology,
    topology_moments,
)
from drtool.repository.extents import RedisExtent
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory
from drtool.repository.streambranch import family_of


class TopologyLog:
    """The topologies that were recorded of a source; each is read once."""

    def __init__(self, repository: Repository, source: str) -> None:
        self._repository, self._source = repository, source
        self._moments = topology_moments(repository, source)
        self._read: dict[datetime, ClusterTopology] = {}

    def after(self, moment: datetime) -> list[datetime]:
        """When topologies were recorded later than `moment`."""
        return self._moments[bisect_right(self._moments, moment) :]

    def read(self, moment: datetime) -> ClusterTopology:
        if moment not in self._read:
            self._read[moment] = read_topology(self._repository, self._source, moment)
        return self._read[moment]


class ShardPlaces:
    """Which shard of a snapshot a master of a topology is: known by its history, or by its name."""

    def __init__(self, inventory: StreamInventory, extent: RedisExtent) -> None:
        self._of_history: dict[str, int] = {}
        self._of_node: dict[str, int] = {}
        for number, shard in enumerate(extent.shards):
            for name in family_of(inventory, shard.replication_id):
                self._of_history[name] = number
            if shard.node_id:
                self._of_node[shard.node_id] = number

    def of(self, shard: ClusterShard) -> int | None:
        found = self._of_history.get(shard.replication_id)
        return self._of_node.get(shard.node_id) if found is None else found

    def cover(self, topology: ClusterTopology) -> bool:
        """Whether every master that holds or is given hash slots is in the snapshot."""
        held = [one for one in topology.shards if one.slots or one.importing]
        return all(self.of(one) is not None for one in held)

    def uncovered_since(self, log: TopologyLog, moments: Sequence[datetime]) -> datetime | None:
        """From when on one of the topologies of `moments` has a master that is not in the snapshot.

        Masters that came stay: so the first of them is found by halving.
        """
        first = bisect_left(moments, True, key=lambda one: not self.cover(log.read(one)))
        return log.read(moments[first]).since if first < len(moments) else None


def uncovered_since(
    log: TopologyLog, inventory: StreamInventory, extent: RedisExtent
) -> datetime | None:
    """From when on a master held hash slots that the snapshot does not have; None if none does so."""
    if not any(shard.slots for shard in extent.shards):
        return None
    return ShardPlaces(inventory, extent).uncovered_since(log, log.after(extent.stopped_at))
