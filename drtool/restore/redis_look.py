"""What the repository holds of a Redis, as a restore needs to know it: snapshots, and how far each goes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drtool.errors import NotRecoverable
from drtool.model.target import RecoveryTarget, ToBackup, ToTime
from drtool.repository.backups import Manifest, read_manifests
from drtool.repository.extents import RedisShard
from drtool.repository.repository import Repository
from drtool.repository.streamlog import StreamInventory, StreamMoment, take_stream_inventory
from drtool.repository.streampath import newest, offset_at

# So many snapshots are looked at from the newest on; each costs some listings.
MOST_CANDIDATES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReach:
    """How far the stream goes on from one shard's snapshot.

    `newest` is its end, None if nothing is held there; `wanted` the offset at the moment asked for and
    `at_latest` that at the newest moment which all shards reach, None if nothing had come by then.
    `taken_up_again` is when the stream was taken up again behind a hole.
    """

    shard: RedisShard
    newest: StreamMoment | None
    wanted: int | None
    at_latest: int | None
    taken_up_again: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisCandidate:
    """A snapshot and the newest moment that all of its shards can be brought to from there."""

    manifest: Manifest
    latest: datetime
    reaches: tuple[ShardReach, ...]

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
    """`candidates` are the snapshots that a restore may begin with, newest first."""

    source: str
    candidates: tuple[RedisCandidate, ...]
    window: tuple[datetime, datetime]
    damaged: tuple[str, ...]


def look_redis(repository: Repository, source: str, target: RecoveryTarget) -> RedisFacts:
    """Find what a restore to `target` may use; NotRecoverable if there is no snapshot at all."""
    manifests, errors = read_manifests(repository, source)
    if not manifests:
        if errors:
            raise errors[0]
        raise NotRecoverable(
            f"source {source} has no backup in this repository",
            hint="Run `drtool status` to see what there is, and `drtool backup` to take one.",
        )
    ordered = sorted(manifests, key=lambda one: one.redis.stopped_at, reverse=True)
    inventory = take_stream_inventory(repository, source)
    head = look_at(repository, inventory, ordered[0])
    moment = target.moment if isinstance(target, ToTime) else None
    chosen: list[RedisCandidate] = []
    for manifest in _fitting(ordered, target)[:MOST_CANDIDATES]:
        is_head = manifest is ordered[0] and moment is None
        found = head if is_head else look_at(repository, inventory, manifest, moment=moment)
        chosen.append(found)
        if moment is None or found.reaches_to(moment):
            break
    return RedisFacts(
        source=source,
        candidates=tuple(chosen),
        window=(ordered[-1].redis.stopped_at, head.latest),
        damaged=tuple(error.message for error in errors),
    )


def _fitting(ordered: list[Manifest], target: RecoveryTarget) -> list[Manifest]:
    if isinstance(target, ToTime):
        return [one for one in ordered if one.redis.stopped_at <= target.moment]
    if isinstance(target, ToBackup):
        named = [one for one in ordered if one.backup_id == target.backup_id]
        if not named:
            raise NotRecoverable(
                f"source {ordered[0].source} has no usable backup {target.backup_id}",
                hint="Run `drtool status` to see the backups there are.",
            )
        return named
    return ordered


def look_at(
    repository: Repository,
    inventory: StreamInventory,
    manifest: Manifest,
    *,
    moment: datetime | None = None,
) -> RedisCandidate:
    """How far one snapshot goes, and where its shards stood at `moment`."""
    extent = manifest.redis
    ends = [
        newest(repository, inventory, shard.replication_id, begin=shard.offset)
        for shard in extent.shards
    ]
    moments = [end.moment for end in ends if end is not None]
    is_followed = len(moments) == len(ends)
    latest = max(min(moments), extent.stopped_at) if is_followed else extent.stopped_at
    if not is_followed:
        # Shards that have a stream are not brought further than those that have none.
        ends = [None for _ in ends]

    def reach(shard: RedisShard, end: StreamMoment | None) -> ShardReach:
        def at(asked: datetime | None) -> int | None:
            if end is None or asked is None:
                return None
            return offset_at(
                repository, inventory, shard.replication_id, begin=shard.offset, moment=asked
            )

        return ShardReach(
            shard=shard,
            newest=end,
            wanted=at(moment),
            at_latest=at(latest) if moment is None else None,
            taken_up_again=_taken_up_again(inventory, shard, after=latest),
        )

    return RedisCandidate(
        manifest=manifest,
        latest=latest,
        reaches=tuple(reach(shard, end) for shard, end in zip(extent.shards, ends, strict=True)),
    )


def _taken_up_again(
    inventory: StreamInventory, shard: RedisShard, *, after: datetime
) -> datetime | None:
    """When a log of this shard began anew, joined to nothing, after the moment that is reached."""
    begins = [
        begin.at
        for log in inventory.logs.values()
        for begin in log.begins
        if begin.shard == shard.name and begin.previous is not None and begin.at > after
    ]
    return min(begins, default=None)
