"""How a Redis stands: snapshots, stream and receiver together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from drtool.archiving.redis_status import ShardStatus, StreamStatus, stream_status
from drtool.check.freshness import Receiving, check_loss, check_receiver
from drtool.check.state import SourceState, Topic, by_topic
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.measure import age_of, counted, format_size
from drtool.model.window import UncertainSpan
from drtool.policy.sources import RedisSource
from drtool.repository.recovery_findings import Zone, log_damage_findings, shown
from drtool.repository.streambranch import StreamChange
from drtool.restore.redis_fetch import release_on_way
from drtool.wiring.redis_restorable import check_restorable
from drtool.wiring.state_facts import StateFacts, backup_findings, state_of

# So many of the newest uncertain spans are told in words.
MOST_TOLD = 3


def read_stream(facts: StateFacts) -> StreamStatus:
    """The stream, seen from the usable snapshots."""
    extents = [one.redis for one in facts.usable]
    every = [one.redis for one in facts.manifests]
    return stream_status(facts.repository, facts.name, extents, every=every, damaged=facts.damaged)


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
        uncertain=stream.uncertain,
        proven_until=until,
        told_until=stream.told_until,
        rpo_now=rpo_now,
        receiver=stream.receiver,
        log_seen=_seen(stream),
        found=by_topic(
            backup_findings(facts),
            (Topic.RECEIVER, check_receiver(receiving, fix=receive) if source.stream else ()),
            (Topic.LOG, log_damage_findings(facts.name, facts.damaged)),
            (Topic.LOG, _missing_findings(facts.name, stream)),
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
        elif shard.left is not None:
            yield _left_finding(name, shard, shard.left, zone=zone)
        elif shard.gaps:
            count = len(shard.gaps)
            gaps = "a gap" if count == 1 else f"{counted(count, 'gap')}, the last of them"
            yield Finding(
                severity=Severity.NOTE,
                subject=subject,
                fact=f"it had {gaps} recorded at {_last_gap(shard, zone)}: moments between that and the"
                " next snapshot cannot be returned to",
            )

        yield from _branch_findings(subject, shard, zone)
    yield from _uncertain_findings(name, stream, zone)


def _missing_findings(name: str, stream: StreamStatus) -> Iterator[Finding]:
    """What a newer snapshot has left behind limits the moments before it, and nothing that comes now."""
    for one in stream.missing:
        is_needed = one.concerns(stream.taken)
        yield one.finding(name, Severity.PROBLEM if is_needed else Severity.WARNING)


def _left_finding(name: str, shard: ShardStatus, left: StreamChange, *, zone: Zone) -> Finding:
    """Why what is received now is of no use: a recorded gap, a failover, or objects that are gone."""
    begin, end = (shard.path.begin, shard.path.end) if shard.path is not None else (0, 0)
    # A server that came back empty has a gap too, and its backup is refused; from the repository alone
    # nobody can tell.
    fix = (
        f"Run `drtool check {name}`, which tells whether the source still holds its keys; if it does, run"
        f" `drtool backup {name}`."
    )
    harm = Harm.UNREACHABLE
    if any((one.at, one.offset) == (left.at, left.offset) for one in shard.gaps):
        fact = (
            f"it has a gap, recorded at {shown(left.at, zone)}, and no snapshot was taken behind it"
        )
    elif left.offset < begin:
        fact = (
            f"the newest snapshot is of a history that a failover, seen at {shown(left.at, zone)}, has"
            " ended, and no snapshot was taken since"
        )
    else:
        fact = (
            f"it is held from the newest snapshot up to offset {end} only, and goes on as"
            f" {left.replication_id} from {left.offset}, since {shown(left.at, zone)}: what lies between"
            " them is missing, or was found damaged, and no snapshot was taken behind it"
        )
        fix = f"Run `drtool backup {name}`; `drtool verify {name}` tells what is missing."
        harm = Harm.DAMAGE
    return Finding(
        severity=Severity.PROBLEM,
        subject=f"stream of {name}, {shard.name}",
        fact=f"{fact}: what is received now is of no use yet",
        fix=fix,
        harm=harm,
    )


def _branch_findings(subject: str, shard: ShardStatus, zone: Zone) -> Iterator[Finding]:
    """What failovers left behind."""
    for dead in shard.dead:
        yield Finding(
            severity=Severity.NOTE,
            subject=subject,
            fact=f"a failover seen at {shown(dead.at, zone)} lost the last"
            f" {format_size(dead.size_bytes)} of the old master: they are kept, and reached by a"
            " moment before it",
        )


def _uncertain_findings(name: str, stream: StreamStatus, zone: Zone) -> Iterator[Finding]:
    """The newest spans of which nobody knows what was held."""
    spans = stream.uncertain
    for span in spans[-MOST_TOLD:]:
        more = len(spans) - MOST_TOLD if span is spans[-1] else 0
        also = f"; there are {more} earlier ones" if more > 0 else ""
        yield Finding(
            severity=Severity.NOTE,
            subject=f"stream of {name}, {span.shard}",
            fact=f"{span.reason} {span_words(span, zone)}: a restore to a moment between them needs"
            f" --uncertain, unless a mark was made then{also}",
        )


def uncertain_words(state: SourceState) -> tuple[str, ...]:
    """The newest spans of which nobody knows what was held, as words."""
    spans = state.uncertain
    words = [f"{span.shard} {span_words(span, state.zone)}" for span in spans[-MOST_TOLD:]]
    more = len(spans) - len(words)
    return (*((f"{more} earlier spans",) if more else ()), *words)


def span_words(span: UncertainSpan, zone: Zone) -> str:
    """From when to when, in the zone that the reader is told of."""

    def told(moment: datetime) -> str:
        return moment.astimezone(zone).isoformat(sep=" ", timespec="milliseconds")

    return f"from {told(span.begin)} to {'now' if span.end is None else told(span.end)}"


def _last_gap(shard: ShardStatus, zone: Zone) -> str:
    return shown(shard.gaps[-1].at, zone)
