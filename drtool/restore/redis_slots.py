"""Who held which hash slots of a cluster at a moment, by the shards of a snapshot."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from drtool.repository.backups import Manifest
from drtool.repository.cluster_coverage import ShardPlaces, TopologyLog
from drtool.repository.clusterlog import ClusterShard, ClusterTopology, Ranges
from drtool.repository.stream_inventory import StreamInventory


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShare:
    """One master of the copy: its hash slots, and how many replicas its like had."""

    slots: Ranges
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOwners:
    """Where the keys of each hash slot are taken from, where that is not as in the snapshot.

    `sources` gives for each hash slot the number of the snapshot's shard that counts. Of hash slots in
    `moving` keys may lie in other shards as well: they had not been moved yet.
    """

    shares: tuple[SlotShare, ...]
    sources: tuple[int, ...]
    moving: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLook:
    """`owners` None: as in the snapshot. `uncovered_since`: from then on it lacks a master."""

    owners: SlotOwners | None
    uncovered_since: datetime | None


def look_at_slots(
    log: TopologyLog, inventory: StreamInventory, manifest: Manifest, *, moment: datetime
) -> SlotLook:
    """Who held what at `moment`, from `manifest` on; a server is known by its history or its name."""
    extent = manifest.redis
    if not any(shard.slots for shard in extent.shards):
        return SlotLook(owners=None, uncovered_since=None)
    places = ShardPlaces(inventory, extent)
    moments = log.after(extent.stopped_at)
    number = bisect_right(moments, moment)
    before = log.read(moments[number - 1]) if number else _as_taken(manifest)
    following = log.read(moments[number]) if number < len(moments) else None
    if following is not None and following.since >= moment:
        following = None
    if not places.cover(before) or (following is not None and not places.cover(following)):
        since = places.uncovered_since(log, moments[: number + (following is not None)])
        return SlotLook(owners=None, uncovered_since=since or extent.stopped_at)
    return SlotLook(
        owners=_owners(places, before, following, manifest=manifest), uncovered_since=None
    )


def _as_taken(manifest: Manifest) -> ClusterTopology:
    extent = manifest.redis
    return ClusterTopology(
        since=extent.stopped_at,
        at=extent.stopped_at,
        shards=tuple(
            ClusterShard(
                node_id=shard.node_id,
                replication_id=shard.replication_id,
                slots=shard.slots,
                replicas=shard.replicas or 0,
            )
            for shard in extent.shards
        ),
    )


def _owners(
    places: ShardPlaces,
    before: ClusterTopology,
    following: ClusterTopology | None,
    *,
    manifest: Manifest,
) -> SlotOwners | None:
    sources = _sources(places, before)
    moving: set[int] = set()
    for topology in (before, following):
        for shard in topology.shards if topology is not None else ():
            number = places.of(shard)
            for slot in shard.importing if number is not None else ():
                moving.add(slot)
                sources[slot] = number or 0
    if following is not None:
        for slot, number in _sources(places, following).items():
            if sources.get(slot) != number and slot not in moving:
                moving.add(slot)
                sources[slot] = number
    masters = sorted((one for one in before.shards if one.slots), key=lambda one: one.slots)
    is_as_taken = [one.slots for one in masters] == [one.slots for one in manifest.redis.shards]
    if is_as_taken and not moving and [places.of(one) for one in masters] == [*range(len(masters))]:
        return None
    return SlotOwners(
        shares=tuple(SlotShare(slots=one.slots, replicas=one.replicas) for one in masters),
        sources=tuple(sources[slot] for slot in sorted(sources)),
        moving=frozenset(moving),
    )


def _sources(places: ShardPlaces, topology: ClusterTopology) -> dict[int, int]:
    return {
        slot: number
        for shard in topology.shards
        for number in [places.of(shard)]
        if number is not None
        for slot in _slots(shard.slots)
    }


def _slots(ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)
