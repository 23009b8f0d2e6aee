"""The restore of one PostgreSQL cluster, as the restore of a stack needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from drtool.drill.judging import judge_loss
from drtool.errors import UsageError
from drtool.model.objective import Objective
from drtool.model.outcome import RestoreOutcome
from drtool.model.progress import Emit
from drtool.model.request import RestoreRequest
from drtool.model.target import ToBackup, ToTime, describe_target
from drtool.model.wal import Lsn
from drtool.policy.policy import Policy
from drtool.policy.sources import PostgresSource, SourcePolicy
from drtool.repository.repository import Repository
from drtool.repository.wal_search import WalSearch
from drtool.restore.copy_ports import CopyPorts
from drtool.restore.destination import check_destination
from drtool.restore.look import look
from drtool.restore.phases import Phases
from drtool.restore.plan import RestorePlan, plan_restore, preview
from drtool.restore.run import RestoreSite, run_restore
from drtool.restore.timeline_choice import ReplayedPath, held_mark
from drtool.sources.postgres.binaries import ServerBinaries
from drtool.system.users import choose_user
from drtool.verify.cluster import ClusterVerifier
from drtool.wiring.judged import asked_of, judge_ready, judged
from drtool.wiring.planned import Planned, Runner
from drtool.wiring.postgres_restorable import (
    check_surroundings,
    programs_for,
    questions_database,
)
from drtool.wiring.surroundings import Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What planning, looking and running share."""

    source: PostgresSource
    request: RestoreRequest
    objective: Objective
    repository: Repository
    around: Surroundings
    plan: RestorePlan
    binaries: ServerBinaries

    def prepare(self, place: Path, ports: CopyPorts) -> Runner:
        """Look at the place."""
        owner = choose_user(place, self.source.restore.run_as)
        destination = check_destination(
            self.plan, place, owner=owner, tablespaces=self.source.restore.tablespaces
        )
        extent = self.plan.manifest.postgres
        verifier = ClusterVerifier(
            questions=self.source.checks,
            database=questions_database(self.source, self.around),
            role=extent.bootstrap_role,
            binaries=self.binaries,
            owner=owner,
        )
        site = RestoreSite(
            destination=destination,
            binaries=self.binaries,
            preload=self.source.restore.preload,
            ports=ports,
        )
        return lambda emit: self._run(site, verifier, emit)

    def _run(self, site: RestoreSite, verifier: ClusterVerifier, emit: Emit) -> RestoreOutcome:
        phases = Phases(self.around.clock, emit, self.around.stop)
        verifier = replace(verifier, emit=emit)
        outcome = run_restore(
            self.plan, site, repository=self.repository, verifier=verifier, phases=phases
        )
        asked = asked_of(self.request, self.plan.target, declared=phases.began)
        loss = judge_loss(asked, self.objective, proven_until=self._proven_until(outcome))
        return judged(outcome, asked, loss, duration=judge_ready(outcome, self.objective))

    def _proven_until(self, outcome: RestoreOutcome) -> datetime | None:
        """Up to when everything acknowledged is in the copy: from what it reached, on its own timelines,
        against the marks of all timelines.
        """
        plan, reached = self.plan, outcome.reached.lsn
        if reached is None:
            return None
        target = plan.target
        moment = target.moment if isinstance(target, ToTime) else None
        path = ReplayedPath(
            source=plan.source, system_id=plan.system_id, history=plan.history, reached=reached
        )
        held = held_mark(self.repository, path, until=moment)
        if moment is None:
            return held.moment if held else None
        witness = plan.witness
        if witness is None:
            return moment
        is_on_path = plan.history.holds(witness.timeline, Lsn(witness.lsn))
        # A position that was found in the WAL lies behind all that the marks tell of.
        if is_on_path and (plan.stop is not None or reached >= witness.lsn):
            return moment
        return held.moment if held else plan.manifest.postgres.stopped_at


def require_postgres(request: RestoreRequest, sources: Mapping[str, SourcePolicy]) -> None:
    """UsageError if a base backup to begin with is named, and nothing can begin with it."""
    if request.from_backup is None:
        return
    if isinstance(request.target, ToBackup):
        raise UsageError(
            "--from-backup and --backup exclude each other: the end of a backup is reached from itself",
            hint=f"Say `--backup {request.target.backup_id}` alone.",
        )
    if len(sources) != 1 or not all(isinstance(one, PostgresSource) for one in sources.values()):
        raise UsageError(
            f"--from-backup is for one PostgreSQL, and here it is {', '.join(sources)}",
            hint="Name the source: `drtool restore SOURCE --from-backup ID ...`.",
        )


def plan_postgres(
    name: str,
    source: PostgresSource,
    request: RestoreRequest,
    *,
    policy: Policy,
    repository: Repository,
    around: Surroundings,
) -> Planned:
    """NotRecoverable, naming what can be reached, if the target cannot be."""
    facts = look(
        repository,
        name,
        request.target,
        timeline=request.timeline,
        from_backup=request.from_backup,
        search=WalSearch(
            f"search in the WAL of {name} for {describe_target(request.target)}",
            clock=around.clock,
            emit=around.emit,
            stop=around.stop,
            zone=policy.timezone,
        ),
    )
    plan = plan_restore(facts, request.target, accepts_gap=request.accepts_gap)
    extent = plan.manifest.postgres
    # Now, so that a plan says what the run would: that this machine lacks the programs.
    binaries = programs_for(source, extent)
    here = check_surroundings(f"source {name}", source, extent, binaries=binaries)
    shown = replace(plan, findings=(*plan.findings, *here))
    job = _Job(
        source=source,
        request=request,
        objective=policy.objective_of(name),
        repository=repository,
        around=around,
        plan=plan,
        binaries=binaries,
    )
    return Planned(
        source=name,
        earliest=plan.earliest,
        latest=plan.latest,
        preview=lambda place: preview(shown, destination=str(place)),
        prepare=job.prepare,
    )
