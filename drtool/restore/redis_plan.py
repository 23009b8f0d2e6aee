"""The decision for a Redis: which snapshot, and how far into each shard's stream. Pure but for `look`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_exact, format_size
from drtool.model.outcome import RestorePreview
from drtool.model.request import Edge
from drtool.model.target import (
    RecoveryTarget,
    ToBackup,
    ToLatest,
    ToTime,
    describe_target,
)
from drtool.model.window import TimeRange, UncertainSpan
from drtool.repository.backups import Manifest
from drtool.repository.extents import RedisShard
from drtool.repository.recovery_findings import Zone
from drtool.repository.stream_missing import StreamMissing
from drtool.repository.streambranch import StreamPath
from drtool.restore.redis_look import (
    MOVING_MARGIN,
    RedisCandidate,
    RedisFacts,
    ShardReach,
)
from drtool.restore.redis_lost import tell_lost
from drtool.restore.redis_outage import require_known, tell_uncertain
from drtool.restore.redis_slots import SlotOwners
from drtool.sources.redis.keyslot import SlotRange


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """One shard: its snapshot, and its stream along `path` up to, not including, offset `until`.

    `moment` is that of the state it comes to: the moment asked for, or an edge of an outage around it.
    """

    shard: RedisShard
    path: StreamPath
    until: int
    moment: datetime

    @property
    def stream_bytes(self) -> int:
        return self.until - self.shard.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPlan:
    """One restore, decided. `moment` is the one that all shards are brought to.

    `owners` says who held which hash slots by then; None: those that did when the snapshot was taken.
    """

    source: str
    manifest: Manifest
    target: RecoveryTarget
    moment: datetime
    shards: tuple[ShardPlan, ...]
    earliest: datetime | None
    latest: datetime | None
    windows: tuple[TimeRange, ...]
    findings: tuple[Finding, ...]
    uncertain: tuple[UncertainSpan, ...] = ()
    owners: SlotOwners | None = None
    zone: Zone = UTC
    missing: tuple[StreamMissing, ...] = ()

    @property
    def missing_span(self) -> timedelta:
        """How long before the moment asked for the writes of a shard may end."""
        return max(max(self.moment - one.moment, timedelta(0)) for one in self.shards)

    @property
    def newest_moment(self) -> datetime:
        """The moment asked for, or a later edge of an outage around it."""
        return max(self.moment, *(one.moment for one in self.shards))

    def slots_by_name(self) -> list[tuple[str, tuple[SlotRange, ...]]]:
        """The hash slots of each master at the moment; none outside of clusters."""
        held = [(one.shard.name, one.shard.slots) for one in self.shards]
        if self.owners is not None:
            held = [(f"slots-{one.slots[0][0]}", one.slots) for one in self.owners.shares]
        return [
            (name, tuple(SlotRange(first, last) for first, last in slots)) for name, slots in held
        ]

    @property
    def fetch_bytes(self) -> int:
        """Bytes of snapshots that will be written."""
        return self.manifest.sizes.read_bytes

    @property
    def stream_bytes(self) -> int:
        """Bytes of stream that will be replayed."""
        return sum(shard.stream_bytes for shard in self.shards)


def plan_redis_restore(
    facts: RedisFacts,
    target: RecoveryTarget,
    *,
    accepts_gap: bool = False,
    edge: Edge | None = None,
) -> RedisPlan:
    """Decide how to reach `target`; NotRecoverable, naming what can be reached, if it cannot be.

    A moment inside an outage of the receiver is refused, unless `edge` says which state is wanted.
    """
    findings = list(_passed_over(facts))
    match target:
        case ToTime(moment):
            chosen = _reaching(facts, moment)
            require_known(facts, moment, chosen, edge=edge)
            plans = [_at_moment(one, moment, edge) for one in chosen.reaches]
            findings += tell_uncertain(facts, moment, chosen, edge=edge)
            findings += _moving(chosen)
        case ToLatest():
            chosen = facts.candidates[0]
            moment = chosen.latest
            findings += _behind_the_end(facts, chosen, accepts_gap=accepts_gap)
            plans = [_upto(one, one.at_latest, moment) for one in chosen.reaches]
        case ToBackup():
            chosen = facts.candidates[0]
            moment = chosen.manifest.redis.stopped_at
            plans = [_upto(one, None, moment) for one in chosen.reaches]
        case _:
            raise NotRecoverable(
                f"{describe_target(target)} is no target for source {facts.source}, which is a Redis",
                hint="Use --to TIME, --to latest or --backup.",
            )
    if not isinstance(target, ToBackup):
        findings += [
            finding
            for one in chosen.reaches
            for finding in tell_lost(one.shard.name, one.lost, zone=facts.zone)
        ]
    missing = _missing(facts, chosen, target)
    findings += [one.finding(facts.source) for one in missing]
    earliest, latest = facts.window
    return RedisPlan(
        source=facts.source,
        manifest=chosen.manifest,
        target=target,
        moment=moment,
        shards=tuple(plans),
        owners=chosen.owners if not isinstance(target, ToBackup) else None,
        earliest=earliest,
        latest=latest,
        windows=facts.windows,
        uncertain=facts.uncertain,
        findings=(*findings, *chosen.manifest.findings),
        zone=facts.zone,
        missing=missing,
    )


def _missing(
    facts: RedisFacts, chosen: RedisCandidate, target: RecoveryTarget
) -> tuple[StreamMissing, ...]:
    """What is missing and a recovery from there to `target` may need; a snapshot alone needs nothing."""
    if isinstance(target, ToBackup):
        return ()
    until = target.moment if isinstance(target, ToTime) else None
    taken = chosen.manifest.redis.stopped_at
    return tuple(one for one in facts.missing if one.concerns(taken, until))


def preview_redis(plan: RedisPlan, *, destination: str, masters: int) -> RestorePreview:
    """What `--plan` shows."""
    count, size = len(plan.shards), format_size(plan.fetch_bytes)
    stream, snapshots = format_size(plan.stream_bytes), counted(count, "snapshot")
    known = plan.manifest.redis.keys
    keys = "" if known is None else f" with {counted(known, 'key')}"
    shape = "" if masters == count else f", dealt out anew to {counted(masters, 'master')}"
    return RestorePreview(
        source=plan.source,
        target=describe_target(plan.target),
        destination=destination,
        backup_id=plan.manifest.backup_id,
        backup_finished=plan.manifest.ended,
        steps=(
            f"fetch {snapshots}{keys}, {size}, of backup {plan.manifest.backup_id} into {destination}",
            f"replay {stream} of stream up to {format_exact(plan.moment, plan.zone)}{shape}",
            "load each in a private server, hold it against what was recorded, and stop it",
        ),
        fetch_bytes=plan.fetch_bytes,
        wal_bytes=plan.stream_bytes,
        recoverable_from=plan.earliest,
        recoverable_until=plan.latest,
        windows=plan.windows,
        uncertain=plan.uncertain,
        findings=plan.findings,
        kind="redis",
    )


def _upto(one: ShardReach, offset: int | None, moment: datetime) -> ShardPlan:
    """None: nothing had come after the snapshot by then."""
    begin = one.shard.offset
    until = begin if offset is None else max(offset, begin)
    return ShardPlan(shard=one.shard, path=one.path, until=until, moment=moment)


def _at_moment(one: ShardReach, moment: datetime, edge: Edge | None) -> ShardPlan:
    if one.uncertain is None or edge is None:
        return _upto(one, one.wanted, moment)
    state = one.uncertain.earlier if edge is Edge.EARLIER else one.uncertain.later
    return ShardPlan(shard=one.shard, path=state.path, until=state.offset, moment=state.moment)


def _reaching(facts: RedisFacts, moment: datetime) -> RedisCandidate:
    """The newest snapshot from before `moment` that can be brought there."""
    for candidate in facts.candidates:
        if candidate.reaches_to(moment):
            return candidate
    earliest, latest = facts.window
    if not facts.candidates:
        raise NotRecoverable(
            f"time {facts.told(moment)} lies before the first snapshot of source {facts.source}:"
            f" recoverable from {facts.told(earliest)} to {facts.told(latest)}",
            hint=f"The earliest moment is {facts.told(earliest)}: use --to with it or later.",
        )
    best = max(facts.candidates, key=lambda candidate: candidate.latest)
    further = "" if latest == best.latest else f" for {facts.told(latest)}"
    where = "" if best.has_stream else ", which no stream follows"
    if best.uncovered_since is not None:
        where = ", which lacks a master that hash slots were moved to"
    raise NotRecoverable(
        f"time {facts.told(moment)} of source {facts.source} cannot be reached: from snapshot"
        f" {best.manifest.backup_id}{where} one comes as far as {facts.told(best.latest)}",
        hint=f"Use --to '{facts.told(best.latest)}', or --to latest{further}."
        " `drtool redis receive` archives the stream that leads to any moment.",
    )


def _behind_the_end(
    facts: RedisFacts, chosen: RedisCandidate, *, accepts_gap: bool
) -> list[Finding]:
    """A stream that was taken up again behind a gap is not simply at its end (PITFALLS 40)."""
    if chosen.uncovered_since is not None and not accepts_gap:
        raise NotRecoverable(
            f"the latest moment of source {facts.source} cannot be reached: after {facts.told(chosen.latest)}"
            " hash slots were moved to a master that is in no snapshot yet",
            hint=f"Run `drtool backup {facts.source}` while the cluster lives. Else use --to"
            f" '{facts.told(chosen.latest)}', or --to latest --accept-gap to stop there knowingly.",
        )
    lost = [one for one in chosen.reaches if one.taken_up_again is not None]
    if lost and not accepts_gap:
        raise NotRecoverable(
            f"the latest moment of source {facts.source} cannot be reached: the stream of"
            f" {lost[0].shard.name} has a gap after {facts.told(chosen.latest)}, and no snapshot was taken"
            " behind it",
            hint=f"Use --to '{facts.told(chosen.latest)}', or --to latest --accept-gap to go to the gap"
            " knowingly; `drtool backup` begins anew.",
        )
    found = _given_up(facts, chosen)
    found += [
        Finding(
            severity=Severity.WARNING,
            subject=one.shard.name,
            fact=f"its stream has a gap after {facts.told(chosen.latest)}: what came later is given up",
            fix=f"Run `drtool backup {facts.source}`.",
        )
        for one in lost
    ]
    if not chosen.has_stream:
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject=f"source {facts.source}",
                fact=f"no stream follows snapshot {chosen.manifest.backup_id}: changes after it are"
                " not in the repository",
                fix="Set `stream: true` and let `drtool redis receive` run.",
            )
        )
    return found


def _moving(chosen: RedisCandidate) -> list[Finding]:
    if chosen.owners is None or not chosen.owners.moving:
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            subject="hash slots",
            fact=f"{len(chosen.owners.moving)} were being moved at that moment: the masters that they were"
            f" moved to are brought up to {MOVING_MARGIN.seconds} s further, so that no key on its way is"
            " missing",
            fix="Restore to a moment at which none was moved, if that matters.",
        )
    ]


def _given_up(facts: RedisFacts, chosen: RedisCandidate) -> list[Finding]:
    if chosen.uncovered_since is None:
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            subject=f"source {facts.source}",
            fact=f"after {facts.told(chosen.latest)} hash slots were moved to a master that is in no"
            " snapshot: what came later is given up",
            fix=f"Run `drtool backup {facts.source}`.",
        )
    ]


def _passed_over(facts: RedisFacts) -> Sequence[Finding]:
    return [
        Finding(
            severity=Severity.WARNING,
            subject=f"source {facts.source}",
            fact=f"{message}: that backup is passed over",
            fix="Run `drtool verify`, and take a new backup.",
        )
        for message in facts.damaged
    ]
