"""`drtool restore`: plan, look at the place, carry out, judge, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from drtool import __version__
from drtool.drill.judging import judge_loss, judge_time
from drtool.model.outcome import RestoreOutcome, RestorePreview, RestoreReport
from drtool.model.request import RestoreRequest
from drtool.policy.policy import Policy
from drtool.policy.secrets import resolve
from drtool.policy.sources import PostgresSource
from drtool.repository.repository import Repository
from drtool.restore.destination import check_destination
from drtool.restore.look import look
from drtool.restore.phases import Phases
from drtool.restore.plan import RestorePlan, plan_restore, preview
from drtool.restore.run import RestoreSite, run_restore
from drtool.sources.postgres.binaries import find_binaries
from drtool.sources.postgres.connection import database_of
from drtool.system.users import choose_user
from drtool.verify.cluster import ClusterVerifier
from drtool.wiring.parts import chosen_sources, opened_repository
from drtool.wiring.reports import keep_evidence, write_page
from drtool.wiring.surroundings import Surroundings

FALLBACK_DATABASE = "postgres"


@dataclass(frozen=True, slots=True)
class _Job:
    """One source's restore, planned, its place and programs looked at."""

    plan: RestorePlan
    site: RestoreSite
    verifier: ClusterVerifier


def restore(
    request: RestoreRequest, policy: Policy, around: Surroundings
) -> RestoreReport | tuple[RestorePreview, ...]:
    """Restore each source that is asked for; with `is_plan` only say how.

    All are planned, and their places looked at, before the first byte is written.
    """
    sources = chosen_sources(request.sources, policy, around)
    places = _places(request, list(sources), policy, now=around.clock.now())
    with opened_repository(policy, around) as repository:
        plans = {name: _plan(name, request, repository) for name in sources}
        if request.is_plan:
            return tuple(
                preview(plan, destination=str(places[name])) for name, plan in plans.items()
            )
        jobs = {
            name: _prepare(plans[name], sources[name], places[name], around=around)
            for name in sources
        }
        outcomes = tuple(
            _carry_out(name, job, request, policy=policy, repository=repository, around=around)
            for name, job in jobs.items()
        )
        report = RestoreReport(
            stack=policy.stack,
            timezone=policy.timezone.key,
            written=around.clock.now(),
            tool_version=__version__,
            outcomes=outcomes,
        )
        keep_evidence(report, repository, around)
    if request.report is not None:
        write_page(report, request.report, around)
    return report


def _plan(name: str, request: RestoreRequest, repository: Repository) -> RestorePlan:
    facts = look(repository, name, request.target, timeline=request.timeline)
    return plan_restore(facts, request.target, accepts_gap=request.accepts_gap)


def _places(
    request: RestoreRequest, names: list[str], policy: Policy, *, now: datetime
) -> Mapping[str, Path]:
    """`--into` itself for one source, directories below it for several; else a new one."""
    if request.into is not None and len(names) == 1:
        return {names[0]: request.into.absolute()}
    stamp = now.astimezone(policy.timezone).strftime("%Y%m%dT%H%M%S")
    root = request.into or policy.restore_root / f"{policy.stack}-{stamp}"
    return {name: root.absolute() / name for name in names}


def _prepare(
    plan: RestorePlan, source: PostgresSource, place: Path, *, around: Surroundings
) -> _Job:
    owner = choose_user(place, source.restore.run_as)
    destination = check_destination(
        plan, place, owner=owner, tablespaces=source.restore.tablespaces
    )
    major = plan.manifest.postgres.server_version // 10000
    binaries = find_binaries(major, bin_dir=source.bin_dir)
    verifier = ClusterVerifier(
        questions=source.checks,
        database=_database(source, around),
        role=plan.manifest.postgres.bootstrap_role,
        binaries=binaries,
        owner=owner,
    )
    return _Job(plan, RestoreSite(destination=destination, binaries=binaries), verifier)


def _database(source: PostgresSource, around: Surroundings) -> str:
    """The database that questions are asked in: the DSN's, if the DSN is to be had on this day."""
    if source.dsn.place == "env" and source.dsn.name not in around.environ:
        return FALLBACK_DATABASE
    dsn = around.redactor.learn(resolve(source.dsn, around.environ)).reveal()
    return database_of(dsn) or FALLBACK_DATABASE


def _carry_out(
    name: str,
    job: _Job,
    request: RestoreRequest,
    *,
    policy: Policy,
    repository: Repository,
    around: Surroundings,
) -> RestoreOutcome:
    phases = Phases(around.clock, around.emit)
    outcome = run_restore(
        job.plan, job.site, repository=repository, verifier=job.verifier, phases=phases
    )
    objective = policy.objective_of(name)
    loss = judge_loss(
        request.target,
        objective,
        proven_until=job.plan.latest,
        declared=phases.began,
        lost_at=request.lost_at,
    )
    is_answered = all(question.passed for question in outcome.questions) and outcome.is_writable
    duration = judge_time(outcome.phases, objective, is_answered=is_answered)
    return replace(outcome, lost_at=request.lost_at, judgements=(loss, duration))
