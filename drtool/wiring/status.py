"""`drtool status`: from when to when each source can be recovered, and whether its promise is kept now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from drtool.check.freshness import is_overdue
from drtool.config.promises import longest_pause
from drtool.errors import IntegrityError
from drtool.model.checked import MirrorStanding
from drtool.model.finding import Finding, Severity
from drtool.model.measure import format_span
from drtool.model.objective import LossInterval, Verdict, judge
from drtool.model.outcome import StatusReport, StatusRow
from drtool.model.request import StatusRequest
from drtool.policy.policy import Policy
from drtool.policy.sources import (
    BucketSource,
    FilesSource,
    PostgresSource,
    RedisSource,
    SourcePolicy,
)
from drtool.repository.backups import Manifest, read_manifests
from drtool.repository.repository import Repository
from drtool.wiring.files import files_row
from drtool.wiring.parts import opened_repository
from drtool.wiring.surroundings import Surroundings

if TYPE_CHECKING:
    from drtool.archiving.status import WalStatus


def status(request: StatusRequest, policy: Policy, around: Surroundings) -> StatusReport:
    """How things stand, told from the repository alone: a source need not be there.

    Of mirrors their buckets are asked; one that is away leaves its line unknown.
    """
    names = request.sources or tuple(str(name) for name in policy.sources)
    sources = {name: policy.source(name) for name in names}
    now = around.clock.now()
    _load(sources.values())
    with opened_repository(policy, around) as repository:
        rows = tuple(
            _with_mirror(
                _row(name, source, policy, repository=repository, now=now),
                source,
                repository=repository,
                around=around,
            )
            for name, source in sources.items()
        )
    return StatusReport(stack=policy.stack, timezone=policy.timezone.key, at=now, rows=rows)


def _load(sources: Iterable[SourcePolicy]) -> None:
    """Load what each kind needs: each only where it is met, and while the repository is being opened."""
    for source in sources:
        match source:
            case PostgresSource():
                import drtool.archiving.status
            case RedisSource():
                import drtool.wiring.redis  # noqa: F401 - loaded for later


def _row(
    name: str, source: SourcePolicy, policy: Policy, *, repository: Repository, now: datetime
) -> StatusRow:
    match source:
        case PostgresSource():
            return _postgres_row(name, source, policy, repository=repository, now=now)
        case RedisSource():
            from drtool.wiring.redis import redis_row

            manifests, errors = read_manifests(repository, name)
            objective = policy.objective_of(name)
            row = redis_row(
                name, source, objective, manifests=manifests, repository=repository, now=now
            )
            newest = manifests[-1] if manifests else None
            found = _backup_findings(name, source, policy, newest=newest, now=now)
            return replace(row, findings=(*_damaged(errors), *found, *row.findings))
        case FilesSource():
            manifests, errors = read_manifests(repository, name)
            row = files_row(name, source, policy.objective_of(name), manifests=manifests, now=now)
            newest = manifests[-1] if manifests else None
            found = _backup_findings(name, source, policy, newest=newest, now=now)
            return replace(row, findings=(*_damaged(errors), *found))
        case BucketSource():
            objective = policy.objective_of(name)
            return StatusRow(
                source=name, kind=source.kind, objective=objective, verdict=Verdict.UNKNOWN
            )


def _with_mirror(
    row: StatusRow, source: SourcePolicy, *, repository: Repository, around: Surroundings
) -> StatusRow:
    """The row with how the source's mirror stands: a warning where nobody could look."""
    if not isinstance(source, FilesSource | BucketSource) or source.mirror is None:
        return row
    # With it come the clients of buckets, for which the others need not wait.
    from drtool.wiring.mirrors import mirror_row

    mirror = mirror_row(row.source, source.mirror, repository=repository, around=around)
    if isinstance(source, BucketSource):
        row = _bucket_row(row, mirror, now=around.clock.now())
    if mirror.trouble is None:
        return replace(row, mirror=mirror)
    finding = Finding(
        severity=Severity.WARNING,
        subject=f"mirror of {row.source}",
        fact=f"nobody can tell when it was last brought up to date: {mirror.trouble}",
        fix=f"Run `drtool check {row.source}`, and see that the bucket answers.",
    )
    return replace(row, mirror=mirror, findings=(*row.findings, finding))


def _bucket_row(row: StatusRow, mirror: MirrorStanding, *, now: datetime) -> StatusRow:
    """A bucket is kept as its mirror alone: what was put since the last run began is at risk."""
    rpo = None if mirror.began is None or mirror.began > now else now - mirror.began
    return replace(
        row,
        verdict=judge(rpo, row.objective.rpo),
        earliest=mirror.began,
        latest=mirror.began,
        rpo_now=None if rpo is None else LossInterval(timedelta(0), rpo),
    )


def _postgres_row(
    name: str, source: PostgresSource, policy: Policy, *, repository: Repository, now: datetime
) -> StatusRow:
    from drtool.archiving.status import wal_status

    manifests, errors = read_manifests(repository, name)
    log = wal_status(repository, name, [m.postgres for m in manifests], now=now)
    rpo = log.rpo_now
    objective = policy.objective_of(name)
    newest = manifests[-1] if manifests else None
    findings = [
        *_damaged(errors),
        *_backup_findings(name, source, policy, newest=newest, now=now),
        *_log_findings(log, source),
        *log.findings,
    ]
    return StatusRow(
        source=name,
        kind=source.kind,
        objective=objective,
        verdict=judge(rpo, objective.rpo),
        earliest=_earliest(manifests, log),
        latest=log.recoverable_until,
        rpo_now=None if rpo is None else LossInterval(timedelta(0), rpo),
        last_backup=newest.backup_id if newest else None,
        last_backup_finished=newest.ended if newest else None,
        receiver=log.receiver or "none",
        gaps=log.gaps,
        findings=tuple(findings),
    )


def _earliest(manifests: Sequence[Manifest], log: WalStatus) -> datetime | None:
    """The end of the oldest backup of the cluster that the log is of."""
    mine = [m for m in manifests if m.postgres.system_id == log.system_id]
    return min((m.postgres.stopped_at for m in mine), default=None)


def _damaged(errors: Sequence[IntegrityError]) -> Iterator[Finding]:
    for error in errors:
        yield Finding(
            severity=Severity.PROBLEM, subject="manifest", fact=error.message, fix=error.hint
        )


def _backup_findings(
    name: str,
    source: SourcePolicy,
    policy: Policy,
    *,
    newest: Manifest | None,
    now: datetime,
) -> Iterator[Finding]:
    if newest is None:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=f"source {name}",
            fact="there is no backup: nothing can be recovered",
            fix=f"Run `drtool backup {name}`.",
        )
        return
    line = source.schedule.backup
    pause = longest_pause(line, policy.timezone) if line else None
    age = now - newest.ended
    if pause is not None and is_overdue(age, pause):
        yield Finding(
            severity=Severity.WARNING,
            subject=f"source {name}",
            fact=f"the last backup is {format_span(age)} old, and one is due every {format_span(pause)}",
            fix=f"Run `drtool backup {name}`, and look at why the scheduled one did not.",
        )
    yield from newest.findings


def _log_findings(log: WalStatus, source: PostgresSource) -> Iterator[Finding]:
    if log.receiver is None and source.wal.mode == "stream":
        yield Finding(
            severity=Severity.WARNING,
            subject=f"WAL of {log.source}",
            fact="nobody receives it: every change from now on would be lost",
            fix=f"Run `drtool wal receive {log.source}`.",
        )
    if log.mark is None:
        yield Finding(
            severity=Severity.WARNING,
            subject=f"WAL of {log.source}",
            fact="no mark tells up to which moment it can be recovered",
            fix=f"Let `drtool wal receive {log.source}` run: it makes a mark every few seconds.",
        )
