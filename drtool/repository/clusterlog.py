"""Who held which hash slots of a Redis Cluster, and when: a part of the log, beside its streams.

A stream has the keys that come and go when hash slots are moved, and says nothing of who owns them.
The bytes are described in FORMAT.md, section 8.2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from drtool.errors import AlreadyExists
from drtool.model.strict_json import JsonObject, read_object
from drtool.repository import layout
from drtool.repository.heads import is_ours
from drtool.repository.named_runs import judged
from drtool.repository.names import own_name
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType, damaged

_STAMP = "%Y%m%dT%H%M%S.%fZ"
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterShard:
    """One master of a topology, the history that it wrote then, and the hash slots that it held.

    `importing` are hash slots that were being moved to it: some of their keys lie here already.
    """

    node_id: str
    replication_id: str
    slots: Ranges
    importing: tuple[int, ...] = ()
    replicas: int = 0

    def holds(self, slot: int) -> bool:
        return any(first <= slot <= last for first, last in self.slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTopology:
    """So it was found `at` that moment; up to `since` it had been as the topology before it says."""

    since: datetime
    at: datetime
    shards: tuple[ClusterShard, ...]

    @property
    def is_at_rest(self) -> bool:
        """Whether no hash slot was being moved."""
        return not any(shard.importing for shard in self.shards)

    def shape(self) -> frozenset[tuple[str, Ranges, tuple[int, ...]]]:
        """What makes it another topology, whatever else has changed."""
        return frozenset((one.node_id, one.slots, one.importing) for one in self.shards)


def put_topology(repository: Repository, source: str, topology: ClusterTopology) -> None:
    """Record a topology; one of the same moment that is there already stays."""
    document = {
        "since": topology.since.isoformat(),
        "at": topology.at.isoformat(),
        "shards": [
            {
                "node_id": one.node_id,
                "replication_id": one.replication_id,
                "slots": [list(pair) for pair in one.slots],
                "importing": list(one.importing),
                "replicas": one.replicas,
            }
            for one in topology.shards
        ],
    }
    try:
        repository.put(
            ObjectType.LOG, topology_key(source, topology.at), json.dumps(document).encode()
        )
    except AlreadyExists:
        return


def topology_moments(repository: Repository, source: str) -> list[datetime]:
    """When topologies were recorded, in order of time. Of each the head alone is read: anybody can make a
    name.
    """
    prefix = layout.topologies(source)
    named: dict[str, datetime] = {}
    for item in repository.store.list(prefix):
        try:
            stamp = own_name(item.key.removeprefix(prefix))
            named[item.key] = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
        except ValueError:
            continue
    return sorted({named[key] for key in judged(sorted(named), partial(is_ours, repository))})


def read_topology(repository: Repository, source: str, at: datetime) -> ClusterTopology:
    """One topology, authenticated."""
    key = topology_key(source, at)
    content = repository.get(ObjectType.LOG, key)
    try:
        document = read_object(content)
        found = ClusterTopology(
            since=document.moment("since"),
            at=document.moment("at"),
            shards=tuple(_shard(JsonObject(one)) for one in document.items("shards")),
        )
    except ValueError as error:
        raise damaged(key, f"its content is no topology ({error})") from error
    if found.at != at:
        raise damaged(key, "it tells of another moment than its name says")
    return found


def newest_topology(repository: Repository, source: str) -> ClusterTopology | None:
    """The last that was recorded; None if none was."""
    moments = topology_moments(repository, source)
    return read_topology(repository, source, moments[-1]) if moments else None


def _shard(told: JsonObject) -> ClusterShard:
    return ClusterShard(
        node_id=told.text("node_id"),
        replication_id=told.text("replication_id"),
        slots=told.pairs("slots"),
        importing=told.numbers("importing"),
        replicas=told.whole("replicas"),
    )


def topology_key(source: str, at: datetime) -> str:
    """The key of the record of that moment."""
    return f"{layout.topologies(source)}{at.astimezone(UTC):{_STAMP}}"
