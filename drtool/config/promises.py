"""Whether a source's schedule can keep its promise at all, said before anything is lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from drtool.model.finding import Finding, Severity
from drtool.model.measure import format_promise
from drtool.model.objective import Objective, Verdict
from drtool.model.outcome import PolicyReport, PromiseRow
from drtool.policy.policy import Policy
from drtool.policy.scalars import CronLine
from drtool.policy.secrets import file_findings
from drtool.policy.sources import (
    BucketSource,
    FilesSource,
    PostgresSource,
    RedisSource,
    SourcePolicy,
    WalMode,
)

# Schedules repeat; a leap year's worth of days, or this many runs, shows the longest pause of any
# line that people write, without minutes of counting for `* * * * *`.
MAX_RUNS = 3000
MAX_DAYS = 366 * 8
# The stream comes from a replica where there is one; one that follows well lags by seconds.
_REPLICA_LAG = timedelta(seconds=10)
_BEGIN = datetime(2024, 1, 1)  # noqa: DTZ001  # cron counts on the wall clock, which has no offset


def judge_policy(policy: Policy, path: str) -> PolicyReport:
    """For each source, whether its schedule can keep its promise."""
    rows = tuple(
        judge_source(name, source, policy=policy) for name, source in policy.sources.items()
    )
    findings = [finding for one in policy.secret_references() for finding in file_findings(one)]
    return PolicyReport(
        stack=policy.stack,
        path=path,
        timezone=policy.timezone.key,
        rows=rows,
        findings=tuple(findings),
    )


def judge_source(name: str, source: SourcePolicy, *, policy: Policy) -> PromiseRow:
    """Hold one source's schedule against its promise."""
    objective = policy.objective_of(name)
    worst_loss, explanation = _worst_loss(source, policy.timezone)
    verdict = _verdict(worst_loss, objective)
    return PromiseRow(
        source=name,
        kind=source.kind,
        objective=objective,
        worst_loss=worst_loss,
        verdict=verdict,
        explanation=f"{explanation}; {_conclusion(verdict, objective)}",
        findings=tuple(_findings(name, source, policy)),
    )


@cache
def longest_pause(line: CronLine, zone: ZoneInfo) -> timedelta | None:
    """The longest time between two runs, an hour gained when clocks go back included; None if never."""
    from croniter import CroniterBadDateError, croniter  # not for a policy without a schedule

    runs = croniter(line, _BEGIN)
    longest, before = timedelta(0), None
    for _ in range(MAX_RUNS):
        try:
            moment: datetime = runs.get_next(datetime)
        except CroniterBadDateError:
            return None
        if before is not None:
            longest = max(longest, moment - before)
        before = moment
        if moment - _BEGIN > timedelta(days=MAX_DAYS):
            break
    # Lines that run every hour or more often are run by elapsed time, the others by the wall clock.
    return longest if longest <= timedelta(hours=1) else longest + _clock_change(zone)


def _clock_change(zone: ZoneInfo) -> timedelta:
    """By how much the offset of a zone varies over a year."""
    offsets = [
        (_BEGIN + timedelta(days=7 * week)).replace(tzinfo=zone).utcoffset() for week in range(53)
    ]
    known = [offset for offset in offsets if offset is not None]
    return max(known) - min(known)


def _worst_loss(source: SourcePolicy, zone: ZoneInfo) -> tuple[timedelta | None, str]:
    match source:
        case PostgresSource(wal=wal) if wal.mode is WalMode.STREAM:
            loss = wal.flush + wal.heartbeat
            return loss, (
                f"WAL is streamed: a change is durable within {format_promise(wal.flush)} and a mark is"
                f" made every {format_promise(wal.heartbeat)}, so at most {format_promise(loss)} is lost"
            )
        case PostgresSource():
            return None, (
                "WAL is pushed a segment at a time, and how long a segment waits is the server's"
                " archive_timeout, which the policy does not know"
            )
        case RedisSource(stream=True, flush=flush):
            loss = flush + _REPLICA_LAG
            return loss, (
                "the replication stream is archived between snapshots: a change is durable within"
                f" {format_promise(flush)} after it arrived, so at most {format_promise(loss)} is lost"
            )
        case RedisSource(schedule=schedule):
            return _between_backups(schedule.backup, zone, thing="snapshots")
        case FilesSource(schedule=schedule) | BucketSource(schedule=schedule):
            return _between_backups(schedule.backup, zone, thing="copies")


def _between_backups(
    line: CronLine | None, zone: ZoneInfo, *, thing: str
) -> tuple[timedelta | None, str]:
    pause = None if line is None else longest_pause(line, zone)
    if pause is None:
        return None, f"no schedule says when {thing} are taken"
    return pause, f"{format_promise(pause)} may pass between {thing}, and all of it may be lost"


def _verdict(worst_loss: timedelta | None, objective: Objective) -> Verdict:
    if worst_loss is None:
        return Verdict.UNKNOWN
    return Verdict.MET if worst_loss <= objective.rpo else Verdict.MISSED


def _conclusion(verdict: Verdict, objective: Objective) -> str:
    promise = f"an RPO of {format_promise(objective.rpo)}"
    if verdict is Verdict.MET:
        return f"the schedule can keep {promise}"
    if verdict is Verdict.MISSED:
        return f"the schedule cannot keep {promise}"
    return f"nobody can tell whether {promise} is kept"


def _findings(name: str, source: SourcePolicy, policy: Policy) -> list[Finding]:
    found = []
    command = "`drtool sync`" if isinstance(source, BucketSource) else f"`drtool backup {name}`"
    if source.schedule.backup is None:
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject=f"source {name}",
                fact="no schedule says when a backup is taken",
                fix=f'Add `schedule: {{backup: "0 2 * * *"}}`, or run {command}.',
            )
        )
    if source.objective is not None and _is_looser(source.objective, policy):
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject=f"source {name}",
                fact="its own promise is weaker than the stack's",
            )
        )
    return found


def _is_looser(objective: Objective, policy: Policy) -> bool:
    default = policy.default_objective
    return objective.rpo > default.rpo or objective.rto > default.rto
