"""What the repository holds of a Redis, as a restore needs to know it: snapshots, and how far each goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from drtool.errors import NotAuthentic, NotRecoverable
from drtool.model.measure import format_exact
from drtool.model.target import RecoveryTarget, ToBackup, ToTime
from drtool.model.window import TimeRange, UncertainSpan
from drtool.repository.backups import Manifest, name_backups, read_manifests
from drtool.repository.cluster_coverage import TopologyLog
from drtool.repository.damage import known_damage
from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.recovery_findings import Zone
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory, take_stream_inventory
from drtool.repository.stream_known import read_known
from drtool.repository.stream_missing import StreamMissing, find_missing
from drtool.repository.stream_uncertain import Uncertain, is_known, uncertain_spans
from drtool.repository.stream_windows import stream_windows
from drtool.repository.streambranch import (
    StreamPath,
    dead_branches,
    find_path,
    left_behind,
)
from drtool.repository.streamlog import StreamMoment
from drtool.repository.streampath import newest, offset_at
from drtool.restore.damage import without_damaged
from drtool.restore.redis_lost import LostAtFailover, count_lost
from drtool.restore.redis_slots import SlotOwners, look_at_slots
from drtool.restore.redis_uncertain import uncertain_at

# So many snapshots are looked at from the newest on; each costs some listings.
MOST_CANDIDATES = 5
# More than the steps of two indexes, and the way of a key from one master to the other.
MOVING_MARGIN = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReach:
    """How far the stream goes on from one shard's snapshot, along `path`.

    `uncertain` says between which states the moment asked for lies, where it lies inside an outage.
    `newest` is its end, None if nothing is held there; `wanted` the offset at the moment asked for and
    `at_latest` that at the newest moment which all shards reach, None if nothing had come by then.
    `taken_up_again` is when the stream was taken up again where this snapshot does not lead: behind a
    gap, or on a new master that had less. `lost` are the writes that failovers on the way lost.
    """

    shard: RedisShard
    path: StreamPath
    newest: StreamMoment | None
    wanted: int | None
    at_latest: int | None
    taken_up_again: datetime | None
    lost: tuple[LostAtFailover, ...] = ()
    uncertain: Uncertain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisCandidate:
    """A snapshot and the newest moment that all of its shards can be brought to from there.

    `owners` says who held which hash slots then, where that is not as in the snapshot. From
    `uncovered_since` on a master held some that is not in the snapshot.
    """

    manifest: Manifest
    latest: datetime
    reaches: tuple[ShardReach, ...]
    owners: SlotOwners | None = None
    uncovered_since: datetime | None = None

    @property
    def has_stream(self) -> bool:
        """Whether a stream follows each shard."""
        return all(one.newest is not None for one in self.reaches)

    def reaches_to(self, moment: datetime) -> bool:
        """Whether all shards can be brought to `moment`: its own moment needs no stream."""
        own = self.manifest.redis.stopped_at
        return moment == own or own <= moment <= self.latest


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFacts:
    """`candidates` are the snapshots that a restore may begin with, newest first; `zone` the reader's.
    `missing` is what something tells of and is not there.
    """

    source: str
    candidates: tuple[RedisCandidate, ...]
    window: tuple[datetime, datetime]
    damaged: tuple[str, ...]
    windows: tuple[TimeRange, ...] = ()
    uncertain: tuple[UncertainSpan, ...] = ()
    missing: tuple[StreamMissing, ...] = ()
    zone: Zone = UTC

    def told(self, moment: datetime) -> str:
        """A moment as --to takes it, and as the reader's clock shows it."""
        return format_exact(moment, self.zone)


def look_redis(
    repository: Repository, source: str, target: RecoveryTarget, *, zone: Zone = UTC
) -> RedisFacts:
    """Find what a restore to `target` may use; NotRecoverable if there is no snapshot at all."""
    manifests, errors = read_manifests(repository, source)
    every = [one.redis for one in manifests if isinstance(one.extent, RedisExtent)]
    known = read_known(repository, source)
    damage = known_damage(repository)
    manifests, passed_over = without_damaged(manifests, damage, target)
    errors = [*errors, *passed_over]
    if not manifests:
        damaged = [error for error in errors if not isinstance(error, NotAuthentic)]
        if damaged:
            raise damaged[0]
        raise NotRecoverable(
            f"source {source} has no backup in this repository",
            hint="Run `drtool status` to see what there is, and `drtool backup` to take one.",
        )
    ordered = list(reversed(manifests))  # as they were taken, whatever a clock said
    inventory = take_stream_inventory(repository, source, damaged=damage)
    newest_live = _live_first(inventory, ordered, moment=None)[0]
    topologies = TopologyLog(repository, source)
    head = look_at(repository, inventory, newest_live, topologies=topologies)
    moment = target.moment if isinstance(target, ToTime) else None
    chosen: list[RedisCandidate] = []
    fitting = _fitting(ordered, target)
    if not isinstance(target, ToBackup):
        fitting = _live_first(inventory, fitting, moment=moment)
    for manifest in fitting[:MOST_CANDIDATES]:
        is_head = manifest is newest_live and moment is None
        found = head
        if not is_head:
            found = look_at(repository, inventory, manifest, topologies=topologies, moment=moment)
        chosen.append(found)
        if moment is None or found.reaches_to(moment):
            break
    extents = [one.redis for one in ordered]
    return RedisFacts(
        source=source,
        candidates=tuple(chosen),
        window=(min(one.redis.stopped_at for one in ordered), head.latest),
        damaged=tuple(error.message for error in errors),
        windows=stream_windows(repository, inventory, extents),
        uncertain=uncertain_spans(repository, inventory, extents),
        missing=find_missing(repository, inventory, every, known=known),
        zone=zone,
    )


def _fitting(ordered: list[Manifest], target: RecoveryTarget) -> list[Manifest]:
    if isinstance(target, ToTime):
        return [one for one in ordered if one.redis.stopped_at <= target.moment]
    if isinstance(target, ToBackup):
        named = [one for one in ordered if one.backup_id == target.backup_id]
        if not named:
            raise NotRecoverable(
                f"source {ordered[0].source} has no usable backup {target.backup_id}",
                hint=name_backups([one.backup_id for one in reversed(ordered)]),
            )
        return named
    return ordered


def _live_first(
    inventory: StreamInventory, manifests: list[Manifest], *, moment: datetime | None
) -> list[Manifest]:
    """Those that lead to the history which was live at `moment`, and then the others; each in order.

    A snapshot of what an old master had alone leads nowhere else.
    """

    def is_left(manifest: Manifest) -> bool:
        return any(
            left_behind(
                inventory,
                shard.replication_id,
                begin=shard.offset,
                after=shard.taken_at,
                moment=moment,
            )
            for shard in manifest.redis.shards
        )

    left = [is_left(manifest) for manifest in manifests]
    paired = list(zip(manifests, left, strict=True))
    return [one for one, is_dead in paired if not is_dead] + [
        one for one, is_dead in paired if is_dead
    ]


def look_at(
    repository: Repository,
    inventory: StreamInventory,
    manifest: Manifest,
    *,
    topologies: TopologyLog,
    moment: datetime | None = None,
) -> RedisCandidate:
    """How far one snapshot goes, and where its shards stood at `moment`."""
    extent = manifest.redis
    stands = [_stand(repository, inventory, shard, moment=moment) for shard in extent.shards]
    moments = [one.newest.moment for one in stands if one.newest is not None]
    is_followed = len(moments) == len(stands)
    latest = max(min(moments), extent.stopped_at) if is_followed else extent.stopped_at
    if not is_followed:
        # Shards that have a stream are not brought further than those that have none.
        stands = [replace(one, newest=None, wanted=None, uncertain=None) for one in stands]
    slots = look_at_slots(topologies, inventory, manifest, moment=moment or latest)
    if slots.uncovered_since is not None:
        latest = max(min(latest, slots.uncovered_since), extent.stopped_at)
        if moment is None:
            owners = look_at_slots(topologies, inventory, manifest, moment=latest).owners
            slots = replace(slots, owners=owners)
    if moment is not None and slots.owners is not None:
        targets = {slots.owners.sources[slot] for slot in slots.owners.moving}
        stands = [
            _further(repository, inventory.source, one, moment=moment) if number in targets else one
            for number, one in enumerate(stands)
        ]
    if moment is None:
        stands = [_at_latest(repository, inventory.source, one, latest=latest) for one in stands]
    return RedisCandidate(
        manifest=manifest,
        latest=latest,
        owners=slots.owners,
        uncovered_since=slots.uncovered_since,
        reaches=tuple(
            _told(repository, inventory, one, latest=latest, moment=moment) for one in stands
        ),
    )


def _stand(
    repository: Repository,
    inventory: StreamInventory,
    shard: RedisShard,
    *,
    moment: datetime | None,
) -> ShardReach:
    """One shard along the branch that was live at `moment`, and where it stood then."""
    source, name, begin = inventory.source, shard.replication_id, shard.offset
    path = find_path(inventory, name, begin=begin, moment=moment)
    end = newest(repository, source, path)
    found = ShardReach(
        shard=shard, path=path, newest=end, wanted=None, at_latest=None, taken_up_again=None
    )
    if moment is None:
        return found
    wanted = offset_at(repository, source, path, moment=moment) if end is not None else None
    reached = begin if wanted is None else wanted
    uncertain = uncertain_at(repository, inventory, shard, moment=moment, reached=reached)
    if uncertain is None:
        return replace(found, wanted=wanted)
    later = uncertain.later
    if is_known(repository, source, uncertain):
        end = newest(repository, source, later.path)
        return replace(found, path=later.path, newest=end, wanted=later.offset)
    if end is None or end.moment < later.moment:
        end = StreamMoment(later.moment, later.offset)
    return replace(found, newest=end, wanted=wanted, uncertain=uncertain)


def _further(
    repository: Repository, source: str, one: ShardReach, *, moment: datetime
) -> ShardReach:
    """A key that one master has given away must be on the other, whose index has steps of its own."""
    if one.newest is None or one.uncertain is not None:
        return one
    wanted = offset_at(repository, source, one.path, moment=moment + MOVING_MARGIN)
    return replace(one, wanted=wanted)


def _at_latest(
    repository: Repository, source: str, one: ShardReach, *, latest: datetime
) -> ShardReach:
    if one.newest is None:
        return one
    return replace(one, at_latest=offset_at(repository, source, one.path, moment=latest))


def _told(
    repository: Repository,
    inventory: StreamInventory,
    one: ShardReach,
    *,
    latest: datetime,
    moment: datetime | None,
) -> ShardReach:
    """With what was left behind on the way, and what leads on from somewhere else."""
    name, begin = one.shard.replication_id, one.shard.offset
    left = left_behind(inventory, name, begin=begin, after=latest)
    dead = dead_branches(inventory, name, begin=begin, moment=moment)
    return replace(
        one,
        taken_up_again=left.at if left else None,
        lost=count_lost(repository, inventory.source, dead),
    )
