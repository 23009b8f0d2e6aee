"""How a Redis stands: snapshots, stream and receiver together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from drtool.archiving.redis_status import ShardStatus, StreamStatus, stream_status
from drtool.check.freshness import Receiving, check_loss, check_receiver
from drtool.check.state import SourceState, Topic, by_topic
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.measure import age_of, format_size
from drtool.policy.sources import RedisSource
from drtool.repository.recovery_findings import Zone, log_damage_findings, shown
from drtool.restore.redis_fetch import release_on_way
from drtool.wiring.redis_restorable import check_restorable
from drtool.wiring.state_facts import StateFacts, backup_findings, state_of


def read_stream(facts: StateFacts) -> StreamStatus:
    """The stream, seen from the usable snapshots."""
    extents = [one.redis for one in facts.usable]
    return stream_status(facts.repository, facts.name, extents, damaged=facts.damaged)


def redis_state(facts: StateFacts, source: RedisSource, *, stream: StreamStatus) -> SourceState:
    """What `status`, `check` and `redis status` show of it."""
    until = stream.recoverable_until
    rpo_now = age_of(until, facts.now)
    fix = f"Run `drtool backup {facts.name}`; see `drtool redis status {facts.name}`."
    loss = check_loss(facts.name, facts.objective, rpo_now=rpo_now, fix=fix)
    receiving = Receiving(
        what=f"stream of {facts.name}", holder=stream.receiver, trouble=stream.trouble
    )
    receive = f"Run `drtool redis receive {facts.name}`, under systemd or in a container."
    zone = facts.policy.timezone
    return replace(
        state_of(facts, source.kind),
        windows=stream.windows,
        proven_until=until,
        rpo_now=rpo_now,
        receiver=stream.receiver,
        log_seen=_seen(stream),
        found=by_topic(
            backup_findings(facts),
            (Topic.RECEIVER, check_receiver(receiving, fix=receive) if source.stream else ()),
            (Topic.LOG, log_damage_findings(facts.name, facts.damaged)),
            (Topic.LOG, stream_findings(facts.name, stream, zone=zone) if source.stream else ()),
            (Topic.RESTORE, _restore_findings(facts, source, stream)),
            (Topic.LOSS, loss),
        ),
    )


def _restore_findings(
    facts: StateFacts, source: RedisSource, stream: StreamStatus
) -> Iterator[Finding]:
    if facts.newest is not None:
        extent = facts.newest.redis
        writer = release_on_way(extent, stream.paths)
        yield from check_restorable(
            facts.name, source, extent, severity=Severity.PROBLEM, writer=writer
        )


def _seen(stream: StreamStatus) -> str:
    return ", ".join(f"{shard.name} up to {shard.end}" for shard in stream.shards) or (
        "nothing is held"
    )


def stream_findings(name: str, stream: StreamStatus, *, zone: Zone) -> Iterator[Finding]:
    """A gap that a newer snapshot has left behind is a fact about the window; one that limits the
    newest snapshot is a problem.
    """
    for shard in stream.shards:
        subject = f"stream of {name}, {shard.name}"
        if shard.recoverable_until is None:
            yield Finding(
                severity=Severity.PROBLEM,
                subject=subject,
                fact="there is no snapshot that it could be replayed on",
                fix=f"Run `drtool backup {name}`.",
                harm=Harm.UNREACHABLE,
            )
        elif not shard.is_joined:
            yield Finding(
                severity=Severity.PROBLEM,
                subject=subject,
                fact=f"it has a gap, recorded at {_last_gap(shard, zone)}, and no snapshot was taken behind"
                " it: what is received now is of no use yet",
                fix=f"Run `drtool backup {name}`.",
                harm=Harm.UNREACHABLE,
            )
        elif shard.gaps:
            count = len(shard.gaps)
            gaps = "a gap" if count == 1 else f"{count} gaps, the last of them"
            yield Finding(
                severity=Severity.NOTE,
                subject=subject,
                fact=f"it had {gaps} recorded at {_last_gap(shard, zone)}: moments between that and the"
                " next snapshot cannot be returned to",
            )

        yield from _branch_findings(subject, shard, zone)


def _branch_findings(subject: str, shard: ShardStatus, zone: Zone) -> Iterator[Finding]:
    """What failovers left behind, and stretches of which nobody knows when they were written."""
    for dead in shard.dead:
        yield Finding(
            severity=Severity.NOTE,
            subject=subject,
            fact=f"a failover seen at {shown(dead.at, zone)} lost the last"
            f" {format_size(dead.size_bytes)} of the old master: they are kept, and reached by a"
            " moment before it",
        )
    for late in shard.late:
        until = late.until.isoformat(timespec="milliseconds") if late.until else "now"
        yield Finding(
            severity=Severity.NOTE,
            subject=subject,
            fact=f"{late.reason} from {late.since.isoformat(timespec='milliseconds')} to {until}: a"
            " restore to a moment between them needs --uncertain, unless a mark was made then",
        )


def _last_gap(shard: ShardStatus, zone: Zone) -> str:
    return shown(shard.gaps[-1].at, zone)
