"""Whether a stream can be replayed whose source gave commands other names: known before a restore begins."""

from __future__ import annotations

from datetime import datetime

from drtool.errors import NotRecoverable
from drtool.model.measure import format_exact
from drtool.model.target import ToTime
from drtool.repository.repository import Repository
from drtool.repository.streampath import read_arrivals
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_outage import MomentUncertain
from drtool.restore.redis_plan import RedisPlan, ShardPlan, plan_redis_restore
from drtool.sources.redis.renamed import first_renamed


def require_known_commands(plan: RedisPlan, repository: Repository) -> None:
    """NotRecoverable if what `plan` replays holds a command under a name that no restored server knows.

    The stream is read for that, and only where the snapshot, or a failover behind it, says that its source
    had renamed commands.
    """
    for one in plan.shards:
        renamed = _renamed(one)
        if not renamed or one.stream_bytes == 0:
            continue
        parts = read_arrivals(repository, plan.source, one.path, end=one.until)
        found = first_renamed(parts, begin=one.shard.offset)
        if found is None:
            continue
        before, moment = found
        backup_id = plan.manifest.backup_id
        reach = f"Use --backup {backup_id}, which replays nothing"
        nearest = _nearest(plan, repository, before)
        if nearest is not None:
            reach += f", or --to '{format_exact(nearest, plan.zone)}', before it"
        raise NotRecoverable(
            f"the stream of {one.shard.name} of source {plan.source} cannot be replayed to the moment asked"
            f" for: rename-command of the source gave {', '.join(renamed)} another name, and from"
            f" {format_exact(moment, plan.zone)} on it holds a write under one that no restored server knows",
            hint=f"{reach}. Then take rename-command out of the source's redis.conf, restart it and run"
            f" `drtool backup {plan.source}`.",
        )


def _renamed(one: ShardPlan) -> list[str]:
    """The commands that had another name where the snapshot was taken, or on a master that took over."""
    replayed = one.path.between(one.shard.offset, one.until).stretches
    return sorted({*one.shard.renamed, *(name for part in replayed for name in part.renamed)})


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
