"""Whether what a stream holds is replayed: what a master replicates is, and nothing else.

The rest is refused before it is in a file that a server loads, and the moment before it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import datetime

from drtool.errors import DrtoolError, NotRecoverable
from drtool.model.measure import format_exact
from drtool.model.target import ToTime
from drtool.repository.repository import Repository
from drtool.repository.streampath import read_arrivals, read_path
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_outage import MomentUncertain
from drtool.restore.redis_plan import RedisPlan, ShardPlan, plan_redis_restore
from drtool.sources.redis.release import Product, parse_release
from drtool.sources.redis.replicated import NotReplicated, ReplicatedOnly

# From this version on a master replicates what a script did in place of it.
_NO_SCRIPTS = (7, 0, 0)


class _OfAnyModule:
    """Takes every name with a dot in it for a module's, until the module itself can be asked."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, bytes) and b"." in name


def require_known_commands(plan: RedisPlan, repository: Repository) -> None:
    """NotRecoverable if what `plan` replays holds a command under a name that no restored server knows.

    The stream is read for that, and only where the snapshot, or a failover behind it, says that its source
    had renamed commands; a restore looks at every one while it fetches it.
    """
    for one in plan.shards:
        if not _renamed(one) or one.stream_bytes == 0:
            continue
        reader = reader_of(one, of_modules=_OfAnyModule)
        with refusing(one, plan, repository):
            for part in read_path(repository, plan.source, one.path, end=one.until):
                reader.changed(part)


def reader_of(one: ShardPlan, *, of_modules: Callable[[], Container[bytes]]) -> ReplicatedOnly:
    """For the stream behind the snapshot of one shard."""
    return ReplicatedOnly(
        one.shard.offset, scripts_until=_scripts_until(one), of_modules=of_modules
    )


@contextmanager
def refusing(one: ShardPlan, plan: RedisPlan, repository: Repository) -> Iterator[None]:
    """What is raised where the block meets what no master replicates.

    NotReplicated at what somebody put there, NotRecoverable at a name that nobody knows: both say with which
    moment a restore comes up to it.
    """
    try:
        yield
    except NotReplicated as error:
        raise _refusal(error, one, plan=plan, repository=repository) from error


def _scripts_until(one: ShardPlan) -> int:
    """Up to which offset a master wrote that replicates scripts as they are; none does behind one that does
    not. That of an unknown version may.
    """
    writer = parse_release(Product.REDIS, one.shard.writer_version).version
    until = one.shard.offset
    for part in one.path.between(one.shard.offset, one.until).stretches:
        if part.writer is not None:
            product, version = part.writer
            writer = parse_release(Product(product), version).version
        if writer >= _NO_SCRIPTS:
            break
        until = part.end
    return until


def _refusal(
    met: NotReplicated, one: ShardPlan, *, plan: RedisPlan, repository: Repository
) -> DrtoolError:
    before, moment = _around(met.offset, one, plan=plan, repository=repository)
    way_out = f"Use --backup {plan.manifest.backup_id}, which replays nothing"
    nearest = _nearest(plan, repository, before)
    if nearest is not None:
        way_out += f", or --to '{format_exact(nearest, plan.zone)}', before it"
    stream = f"the stream of {one.shard.name} of source {plan.source}"
    if met.is_of_redis:
        found = NotReplicated(met.name, met.offset, is_of_redis=True)
        found.message = (
            f"{stream} holds {met.name} at offset {met.offset}, which had arrived by"
            f" {format_exact(moment, plan.zone)}: no master replicates that, so it is not replayed"
        )
        found.hint = (
            f"{way_out}. Somebody put it there who stood between drtool and the master, or has the key of"
            f" the repository: find out who, and run `drtool backup {plan.source}` once they are kept out."
        )
        return found
    renamed = _renamed(one)
    if renamed:
        return NotRecoverable(
            f"{stream} cannot be replayed to the moment asked for: rename-command of the source gave"
            f" {', '.join(renamed)} another name, and from {format_exact(moment, plan.zone)} on it holds a"
            " write under one that no restored server knows",
            hint=f"{way_out}. Then take rename-command out of the source's redis.conf, restart it and run"
            f" `drtool backup {plan.source}`.",
        )
    return NotRecoverable(
        f"{stream} cannot be replayed to the moment asked for: at offset {met.offset}, which had arrived by"
        f" {format_exact(moment, plan.zone)}, it holds {met.name}, which is neither a command by which Redis"
        " writes nor one of a module that the policy names",
        hint=f"{way_out}. If a module has it, name its file: `restore: {{modules: [/path/to/module.so]}}` of"
        " the source. If rename-command of the source gave it another name, take that out of its redis.conf,"
        f" restart it and run `drtool backup {plan.source}`.",
    )


def _renamed(one: ShardPlan) -> list[str]:
    """The commands that had another name where the snapshot was taken, or on a master that took over."""
    replayed = one.path.between(one.shard.offset, one.until).stretches
    return sorted({*one.shard.renamed, *(name for part in replayed for name in part.renamed)})


def _around(
    offset: int, one: ShardPlan, *, plan: RedisPlan, repository: Repository
) -> tuple[datetime | None, datetime]:
    """By when all before `offset` had arrived, as far as is known, and by when the byte at it had."""
    before, reached = None, one.path.begin
    for moment, part in read_arrivals(repository, plan.source, one.path, end=one.until):
        reached += len(part)
        if reached > offset:
            return before, moment
        before = moment
    return before, one.moment


def _nearest(plan: RedisPlan, repository: Repository, before: datetime | None) -> datetime | None:
    """The moment `before` if a restore comes to it, or the known one before it."""
    if before is None or before < plan.manifest.redis.stopped_at:
        return None
    target = ToTime(before)
    try:
        plan_redis_restore(look_redis(repository, plan.source, target), target)
    except MomentUncertain as error:
        return error.earlier
    except NotRecoverable:
        return None
    return before
