"""`drtool status`: from when to when each source can be recovered, and whether its promise is kept now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from drtool.check.state import SourceState
from drtool.model.checked import MirrorStanding
from drtool.model.finding import Finding, Severity
from drtool.model.measure import age_of
from drtool.model.objective import LossInterval, judge
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
from drtool.repository.repository import Repository
from drtool.wiring.parts import opened_repository
from drtool.wiring.state import read_state
from drtool.wiring.surroundings import Surroundings


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
                _row(read_state(name, policy, repository, now=now)),
                policy,
                repository=repository,
                around=around,
            )
            for name in sources
        )
    return StatusReport(stack=policy.stack, timezone=policy.timezone.key, at=now, rows=rows)


def _load(sources: Iterable[SourcePolicy]) -> None:
    """Load what each kind needs: each only where it is met, and while the repository is being opened."""
    for source in sources:
        match source:
            case PostgresSource():
                import drtool.wiring.state_postgres
            case RedisSource():
                import drtool.wiring.state_redis  # noqa: F401 - loaded for later


def _row(state: SourceState) -> StatusRow:
    windows, rpo = state.windows, state.rpo_now
    return StatusRow(
        source=state.source,
        kind=state.kind,
        objective=state.objective,
        verdict=state.verdict,
        earliest=windows[0].begin if windows else None,
        latest=windows[-1].end if windows else None,
        rpo_now=None if rpo is None else LossInterval(timedelta(0), rpo),
        last_backup=state.last_backup,
        last_backup_finished=state.last_backup_finished,
        receiver=state.receiver or "none",
        gaps=state.gaps,
        findings=state.findings,
        windows=windows,
        uncertain=state.uncertain,
    )


def _with_mirror(
    row: StatusRow, policy: Policy, *, repository: Repository, around: Surroundings
) -> StatusRow:
    """The row with how the source's mirror stands: a warning where nobody could look."""
    source = policy.source(row.source)
    if not isinstance(source, FilesSource | BucketSource) or source.mirror is None:
        return row
    # With it come the clients of buckets, for which the others need not wait.
    from drtool.wiring.mirrors import mirror_row

    mirror = mirror_row(row.source, policy, repository=repository, around=around)
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
    rpo = age_of(mirror.began, now)
    return replace(
        row,
        verdict=judge(rpo, row.objective.rpo),
        earliest=mirror.began,
        latest=mirror.began,
        rpo_now=None if rpo is None else LossInterval(timedelta(0), rpo),
    )
