"""One shard's snapshot and stream, written as the files that a server of Redis loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drtool.repository.repository import Repository
from drtool.repository.streampath import read_path
from drtool.restore.redis_content import SnapshotFiles, arrivals_ms
from drtool.restore.redis_places import RedisSite
from drtool.restore.redis_plan import RedisPlan, ShardPlan
from drtool.sources.redis.aof import AofFiles, AofLayout, write_aof
from drtool.sources.redis.commands import absolute_expiries
from drtool.sources.redis.rdb import stream_database

Part = memoryview | bytes
Told = Callable[[Iterable[Part]], Iterator[Part]]
# From this version on the stream says at which moment a key expires, and not in how long.
_SAYS_MOMENTS = (7, 0)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the snapshot and the stream of a plan are read from."""

    plan: RedisPlan
    files: SnapshotFiles
    repository: Repository


def fetch_shard(
    one: ShardPlan,
    directory: Path,
    site: RedisSite,
    *,
    origin: Origin,
    told: Told,
) -> AofFiles:
    """Write one shard into `directory`; all of it is durable when this returns."""
    shard = one.shard
    has_stream = one.stream_bytes > 0
    return write_aof(
        directory,
        told(origin.files.parts(shard.rdb)),
        told(_stream(one, origin.plan, origin.repository)) if has_stream else [],
        layout=AofLayout.of(site.binaries.version),
        database=stream_database(origin.files.head(shard.rdb)) if has_stream else None,
        owner=site.destination.owner,
    )


def _stream(one: ShardPlan, plan: RedisPlan, repository: Repository) -> Iterable[Part]:
    if version_of(plan) >= _SAYS_MOMENTS:
        return read_path(repository, plan.source, one.path, end=one.until)
    arrived = arrivals_ms(repository, plan.source, one.path, end=one.until)
    return absolute_expiries(arrived, begin=one.shard.offset)


def version_of(plan: RedisPlan) -> tuple[int, int, int]:
    """The version of the source's servers."""
    numbers = [int(word) for word in plan.manifest.redis.server_version.split(".")[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch
