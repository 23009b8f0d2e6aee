"""One shard's snapshot and stream, written as the files that a server of Redis loads."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.repository import Repository
from drtool.repository.streambranch import StreamPath
from drtool.repository.streampath import read_path
from drtool.restore.redis_commands import reader_of, refusing
from drtool.restore.redis_content import SnapshotFiles, arrivals_ms
from drtool.restore.redis_places import RedisSite
from drtool.restore.redis_plan import RedisPlan, ShardPlan
from drtool.sources.redis.aof import AofFiles, AofLayout, write_aof
from drtool.sources.redis.expiries import absolute_expiries
from drtool.sources.redis.rdb import stream_database
from drtool.sources.redis.release import Product, Release, newest_release, parse_release
from drtool.sources.redis.replicated import ReplicatedOnly

Part = memoryview | bytes
Told = Callable[[Iterable[Part]], Iterator[Part]]
# From this version on the stream says at which moment a key expires, and not in how long.
_SAYS_MOMENTS = (7, 0, 0)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the snapshot and the stream of a plan are read from.

    `of_modules` names the commands by which the modules of the copy write.
    """

    plan: RedisPlan
    files: SnapshotFiles
    repository: Repository
    of_modules: Callable[[], Container[bytes]]


@dataclass(frozen=True, slots=True)
class FetchedShard:
    """What was written, and how many scripts are to be replayed in it."""

    files: AofFiles
    scripts: int


def fetch_shard(
    one: ShardPlan,
    directory: Path,
    site: RedisSite,
    *,
    origin: Origin,
    told: Told,
) -> FetchedShard:
    """Write one shard into `directory`; all of it is durable when this returns.

    NotReplicated or NotRecoverable if its stream holds what no master replicates, before a server could
    load it.
    """
    shard = one.shard
    has_stream = one.stream_bytes > 0
    reader = reader_of(one, of_modules=origin.of_modules)
    files = write_aof(
        directory,
        told(origin.files.parts(shard.rdb)),
        told(_stream(one, reader, origin)) if has_stream else [],
        layout=AofLayout.of(site.binaries.version),
        database=stream_database(origin.files.head(shard.rdb)) if has_stream else None,
        owner=site.destination.owner,
    )
    return FetchedShard(files, reader.scripts)


def _stream(one: ShardPlan, reader: ReplicatedOnly, origin: Origin) -> Iterator[bytes]:
    """What is replayed; moments of expiry in place of spans."""
    plan, repository = origin.plan, origin.repository
    with refusing(one, plan, repository):
        if _says_moments(one.shard):
            for part in read_path(repository, plan.source, one.path, end=one.until):
                yield from reader.changed(part)
        else:
            yield from absolute_expiries(
                _checked_arrivals(reader, one, origin), begin=one.shard.offset
            )


def _checked_arrivals(
    reader: ReplicatedOnly, one: ShardPlan, origin: Origin
) -> Iterator[tuple[int, bytes]]:
    arrived = arrivals_ms(origin.repository, origin.plan.source, one.path, end=one.until)
    for moment_ms, part in arrived:
        for piece in reader.changed(part):
            yield moment_ms, piece


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
