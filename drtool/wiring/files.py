"""Trees of files in the commands: their snapshot, their restore, and how they stand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drtool.backup.plan import BackupPlan, plan_snapshot
from drtool.errors import UsageError
from drtool.model.objective import Objective
from drtool.model.origin import Origin
from drtool.model.outcome import BackupOutcome, Fact, FactSheet, RestoreOutcome, RestorePreview
from drtool.model.progress import Emit
from drtool.model.request import BackupRequest, RestoreRequest
from drtool.policy.sources import FilesSource, SourcePolicy
from drtool.repository.backups import read_manifests
from drtool.repository.extents import FilesExtent
from drtool.repository.repository import Repository
from drtool.wiring.earlier import facts_of_store, lease_of_backup, look_back_at_newest
from drtool.wiring.judged import asked_of, judge_ready, judged
from drtool.wiring.origins import require_own_tree
from drtool.wiring.planned import Planned, Runner
from drtool.wiring.surroundings import Surroundings

if TYPE_CHECKING:
    from drtool.restore.copy_ports import CopyPorts
    from drtool.restore.tree_plan import TreePlan


def load_backup() -> None:
    """Load what a snapshot needs, which a restore and a look do without."""
    import drtool.backup.tree  # noqa: F401 - loaded for later


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesBackup:
    """The snapshot of one tree."""

    name: str
    source: FilesSource
    request: BackupRequest
    repository: Repository
    around: Surroundings
    level: int
    origin: Origin

    def preview(self) -> FactSheet:
        """What a snapshot would begin with."""
        plan = self._plan()
        before = plan.previous.backup_id if plan.previous else "none: everything is read"
        return FactSheet(
            kind="backup-plan",
            title=f"Would back up {self.name}; nothing was done",
            facts=(
                Fact(name="path", value=str(self.source.path), label="from"),
                Fact(name="compared_with", value=before, label="compared with"),
                *facts_of_store(self.repository, unfinished=len(plan.attempts)),
            ),
        )

    def run(self) -> BackupOutcome:
        """Take it; LeaseHeld if another backup of this source runs."""
        from drtool.backup.tree import run_snapshot
        from drtool.backup.tree_place import TreeSource
        from drtool.sources.files.exclude import compile_rules

        source, around = self.source, self.around
        tree = TreeSource(
            path=source.path,
            exclude=compile_rules(source.exclude),
            one_file_system=source.one_file_system,
            max_delete_percent=source.max_delete,
            sentinel=os.fsencode(source.sentinel) if source.sentinel else None,
            accepts_changes=self.request.accepts_source,
            stop=around.stop,
        )
        with lease_of_backup(self.repository, self.name, around) as lease:
            return run_snapshot(
                self._plan(),
                tree=tree,
                repository=self.repository,
                lease=lease,
                clock=around.clock,
                emit=around.emit,
            )

    def _plan(self) -> BackupPlan:
        earlier = look_back_at_newest(self.repository, self.name, self.around)
        plan = plan_snapshot(
            self.name,
            earlier.next_id,
            kind=FilesExtent.kind,
            manifests=earlier.manifests,
            attempts=earlier.attempts,
            level=self.level,
        )
        return replace(plan, origin=self.origin)


def require_trees(request: RestoreRequest, sources: Mapping[str, SourcePolicy]) -> None:
    """UsageError if a part or a delta is asked of something that is no tree of files."""
    if not request.patterns and not request.is_delta:
        return
    option = "--path" if request.patterns else "--delta"
    for name, source in sources.items():
        if not isinstance(source, FilesSource):
            raise UsageError(
                f"{option} is for trees of files, and source {name} is of kind {source.kind}",
                hint=f"Name the source: `drtool restore SOURCE {option} ...`.",
            )


def plan_files(
    name: str,
    source: FilesSource,
    request: RestoreRequest,
    *,
    objective: Objective,
    repository: Repository,
    around: Surroundings,
) -> Planned:
    """NotRecoverable, naming the earliest moment, if there is no snapshot for the target."""
    from drtool.repository.damage import known_damage
    from drtool.restore.damage import without_damaged
    from drtool.restore.tree_plan import plan_tree, require_come
    from drtool.sources.files.exclude import compile_rules

    manifests, errors = read_manifests(repository, name)
    usable, passed_over = without_damaged(manifests, known_damage(repository), request.target)
    if not usable and passed_over:
        raise passed_over[0]
    require_come(name, request.target, usable, now=around.clock.now())
    plan = plan_tree(
        name,
        request.target,
        manifests=usable,
        damaged=[error.message for error in (*errors, *passed_over)],
        wanted=compile_rules(request.patterns) if request.patterns else None,
        is_delta=request.is_delta,
    )
    if not request.accepts_source:
        require_own_tree(plan.manifest, source, newest=manifests[-1])
    job = _Restore(
        plan=replace(plan, zone=request.zone),
        request=request,
        objective=objective,
        repository=repository,
        around=around,
    )
    return Planned(
        source=name,
        earliest=plan.earliest,
        latest=None,
        preview=job.preview,
        prepare=job.prepare,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Restore:
    plan: TreePlan
    request: RestoreRequest
    objective: Objective
    repository: Repository
    around: Surroundings

    def preview(self, place: Path) -> RestorePreview:
        """What would be done; refused as the run would be."""
        from drtool.restore.tree_ahead import look_ahead
        from drtool.restore.tree_plan import preview_tree

        checked = self._checked(place)
        ahead = look_ahead(
            self.plan, self.repository, place=checked if self.plan.is_delta else None
        )
        return preview_tree(
            self.plan,
            destination=str(place),
            files=ahead.files,
            links=ahead.links,
            size_bytes=ahead.size_bytes,
            changes=ahead.facts,
        )

    def prepare(self, place: Path, _: CopyPorts) -> Runner:
        """Look at the place, and whether each pattern matches something."""
        from drtool.restore.tree_ahead import look_ahead

        checked = self._checked(place)
        if self.plan.wanted is not None:
            look_ahead(self.plan, self.repository)
        return lambda emit: self._run(checked, emit)

    def _checked(self, place: Path) -> Path:
        from drtool.restore.tree_ahead import look_ahead
        from drtool.restore.tree_place import check_tree_place

        return check_tree_place(
            self.plan,
            place,
            occupied=lambda: look_ahead(self.plan, self.repository).occupied_bytes,
        )

    def _run(self, place: Path, emit: Emit) -> RestoreOutcome:
        from drtool.drill.judging import judge_snapshot
        from drtool.restore.phases import Phases
        from drtool.restore.tree import run_tree_restore

        phases = Phases(self.around.clock, emit, self.around.stop)
        outcome = run_tree_restore(self.plan, place, repository=self.repository, phases=phases)
        asked = asked_of(self.request, self.plan.target, declared=phases.began)
        taken_from = self.plan.manifest.files.taken_from
        loss = judge_snapshot(asked, self.objective, taken_from=taken_from)
        return judged(outcome, asked, loss, duration=judge_ready(outcome, self.objective))
