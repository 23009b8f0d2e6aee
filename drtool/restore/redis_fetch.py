"""One shard's snapshot and stream, written as the files that a server of Redis loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.repository import Repository
from drtool.repository.streambranch import StreamPath
from drtool.repository.streampath import read_path
from drtool.restore.redis_content import SnapshotFiles, arrivals_ms
from drtool.restore.redis_places import RedisSite
from drtool.restore.redis_plan import RedisPlan, ShardPlan
from drtool.sources.redis.aof import AofFiles, AofLayout, write_aof
from drtool.sources.redis.commands import absolute_expiries
from drtool.sources.redis.rdb import stream_database
from drtool.sources.redis.release import Product, Release, newest_release, parse_release

Part = memoryview | bytes
Told = Callable[[Iterable[Part]], Iterator[Part]]
# From this version on the stream says at which moment a key expires, and not in how long.
_SAYS_MOMENTS = (7, 0, 0)


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
    if _says_moments(one.shard):
        return read_path(repository, plan.source, one.path, end=one.until)
    arrived = arrivals_ms(repository, plan.source, one.path, end=one.until)
    return absolute_expiries(arrived, begin=one.shard.offset)


def release_of(extent: RedisExtent) -> Release:
    """The newest release among the source's servers."""
    return parse_release(Product(extent.product), extent.server_version)


def release_on_way(extent: RedisExtent, paths: Iterable[StreamPath]) -> Release:
    """The release whose server loads the snapshot and all that is replayed on it along `paths`.

    A master of a newer release that took over on the way may have written commands that an older one
    does not know, such as FUNCTION (7.0) and HPEXPIRE (7.4).
    """
    writers = {one.writer for path in paths for one in path.stretches if one.writer is not None}
    later = [parse_release(Product(product), version) for product, version in sorted(writers)]
    return newest_release([release_of(extent), *later])


def release_of_plan(plan: RedisPlan) -> Release:
    """The release whose server a restore by `plan` needs, or a later one."""
    replayed = (one.path.between(one.shard.offset, one.until) for one in plan.shards)
    return release_on_way(plan.manifest.redis, replayed)


def _says_moments(shard: RedisShard) -> bool:
    """Whether its stream is sure to be written by a server that says at which moment a key expires.

    A replica of 7.0 passes on what its master of 6.2 wrote. Once a master is of 7.0, all later ones are:
    no older server can be its replica.
    """
    return parse_release(Product.REDIS, shard.writer_version).version >= _SAYS_MOMENTS
