"""`drtool restore`: every source of the stack, or the named ones, back to one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from drtool import __version__
from drtool.errors import (
    DrtoolError,
    NotRecoverable,
    PlaceMissing,
    RepositoryNotInitialised,
    UsageError,
)
from drtool.model.measure import CLOCK_SKEW, format_exact, format_moment
from drtool.model.outcome import RestoreOutcome, RestorePreview, RestoreReport
from drtool.model.progress import Emit, Noted
from drtool.model.request import RestoreRequest
from drtool.model.target import ToLatest, ToTime
from drtool.model.window import TimeRange
from drtool.policy.policy import Policy
from drtool.policy.sources import FilesSource, PostgresSource, RedisSource, SourcePolicy
from drtool.repository.repository import Repository
from drtool.restore.redis_outage import MomentUncertain
from drtool.system.access import require_temporary_files
from drtool.wiring.copy_ports import copy_ports
from drtool.wiring.files import plan_files, require_trees
from drtool.wiring.met_damage import damage_remembered
from drtool.wiring.occupied import require_unoccupied
from drtool.wiring.origins import require_own_backups
from drtool.wiring.parts import opened_repository, restorable_sources
from drtool.wiring.planned import Planned
from drtool.wiring.redis import plan_redis_source, require_redis
from drtool.wiring.reports import keep_evidence, write_page
from drtool.wiring.restore_postgres import plan_postgres, require_postgres
from drtool.wiring.side_by_side import Job, side_by_side
from drtool.wiring.stack_moment import newest_common, not_for_all
from drtool.wiring.state import read_state
from drtool.wiring.surroundings import Surroundings

# So many moments are tried from the newest on.
_MOST_STEPS = 100


def restore(
    request: RestoreRequest, policy: Policy, around: Surroundings
) -> RestoreReport | tuple[RestorePreview, ...]:
    """Restore each source that is asked for; with `is_plan` only say how.

    All are planned for the same moment, and their places looked at, before the first byte is
    written. Then they run side by side. One that fails does not stop the others; its error, the
    gravest if there are several, is raised when all have ended and the report is written.
    """
    sources = restorable_sources(request.sources, policy, around)
    require_trees(request, sources)
    require_redis(request, sources)
    require_postgres(request, sources)
    _require_sensible(request, now=around.clock.now())
    require_temporary_files()
    places = _places(request, list(sources), policy, now=around.clock.now())
    require_unoccupied(places, policy)
    with _to_restore_from(policy, around) as repository:
        if not request.accepts_source:
            for name, source in sources.items():
                require_own_backups(name, source, policy=policy, repository=repository)
        stack = _Stack(sources, policy, repository, around)
        met = partial(damage_remembered, repository, around)
        with nullcontext() if request.is_plan else met():
            planned = stack.plan(request)
        ports = copy_ports(request.into, policy, around)
        # Also for a plan: it must not promise what the run would refuse.
        runners = {one.source: one.prepare(places[one.source], ports) for one in planned}
        if request.is_plan:
            return tuple(one.preview(places[one.source]) for one in planned)
        jobs = {name: partial(_run, job, met) for name, job in runners.items()}
        ended = side_by_side(jobs, around.emit, at_once=len(jobs), stop=around.stop)
        outcomes = [one for one in ended.values() if isinstance(one, RestoreOutcome)]
        errors = {name: one for name, one in ended.items() if isinstance(one, DrtoolError)}
        report = RestoreReport(
            stack=policy.stack,
            timezone=policy.timezone.key,
            written=around.clock.now(),
            tool_version=__version__,
            outcomes=tuple(outcomes),
            rescue_sha256=repository.seal.rescue_sha256,
        )
        if outcomes:
            keep_evidence(report, repository, around)
    if request.report is not None and outcomes:
        write_page(report, request.report, around)
    if errors:
        raise _gravest(errors, outcomes)
    return report


@contextmanager
def _to_restore_from(policy: Policy, around: Surroundings) -> Iterator[Repository]:
    """The repository; one that is not there is to be found again, and none to be made."""
    with ExitStack() as stack:
        try:
            repository = stack.enter_context(opened_repository(policy, around))
        except (RepositoryNotInitialised, PlaceMissing) as error:
            error.hint = (
                "Mount its disk, or correct `repository.url` in the policy: it is to hold the backups"
                " already. `drtool repository info` looks there."
            )
            raise
        yield repository


def _run(
    job: Job[RestoreOutcome], met: Callable[[], AbstractContextManager[None]], emit: Emit
) -> RestoreOutcome:
    with met():
        return job(emit)


@dataclass(frozen=True, slots=True)
class _Newest:
    """The newest moment that all sources reach, `planned`, and why none after it."""

    moment: datetime
    planned: list[Planned]
    why: str

    def told(self, zone: ZoneInfo) -> str:
        text = f"the newest moment that all sources reach is {format_moment(self.moment, zone)}"
        return f"{text}: {self.why}" if self.why else text


@dataclass(frozen=True, slots=True)
class _Stack:
    """The sources that are to come back to one moment."""

    sources: Mapping[str, SourcePolicy]
    policy: Policy
    repository: Repository
    around: Surroundings

    def plan(self, request: RestoreRequest) -> list[Planned]:
        """Every source planned for the same moment; NotRecoverable names the newest that all reach."""
        if len(self.sources) == 1 or request.each_latest:
            return [self._plan_one(name, request) for name in self.sources]
        if isinstance(request.target, ToLatest):
            newest = self._newest_for_all(request)
            self.around.emit(Noted(newest.told(self.policy.timezone)))
            return newest.planned
        if not isinstance(request.target, ToTime):
            return [self._plan_one(name, request) for name in self.sources]
        planned, failed = self._plan_all(request)
        if failed:
            try:
                newest = self._newest_for_all(replace(request, target=ToLatest()))
            except NotRecoverable:
                raise self._not_for_all(request.target, failed, newest=None) from None
            raise self._not_for_all(request.target, failed, newest=newest.moment)
        return planned

    def _plan_all(self, request: RestoreRequest) -> tuple[list[Planned], dict[str, NotRecoverable]]:
        """Each source planned, and why the others cannot be."""
        planned: list[Planned] = []
        failed: dict[str, NotRecoverable] = {}
        for name in self.sources:
            try:
                planned.append(self._plan_one(name, request))
            except NotRecoverable as error:
                failed[name] = error
        return planned, failed

    def _windows(self) -> dict[str, Sequence[TimeRange]]:
        now = self.around.clock.now()
        return {
            name: read_state(name, self.policy, self.repository, now=now).windows
            for name in self.sources
        }

    def _not_for_all(
        self, target: ToTime, failed: Mapping[str, NotRecoverable], *, newest: datetime | None
    ) -> NotRecoverable:
        zone = self.policy.timezone
        return not_for_all(target.moment, failed, self._windows(), newest=newest, zone=zone)

    def _newest_for_all(self, request: RestoreRequest) -> _Newest:
        """The newest moment that each source reaches, found by planning it: no other would do."""
        ends = [self._plan_one(name, request) for name in self.sources]
        latest = [one.latest for one in ends if one.latest is not None] or self._newest_of_trees()
        earliest = [one.earliest for one in ends if one.earliest is not None]
        if not latest or (earliest and max(earliest) > min(latest)):
            raise NotRecoverable(
                "there is no moment that all sources can be brought back to",
                hint="Restore each as far as it goes with --each-latest, or name one source."
                " `drtool status` shows the windows.",
            )
        moment, why = min(latest), ""
        for _ in range(_MOST_STEPS):
            target = ToTime(moment.astimezone(self.policy.timezone))
            planned, failed = self._plan_all(replace(request, target=target, is_latest=True))
            if not failed:
                return _Newest(moment, planned, why)
            earlier = self._earlier(moment, failed)
            if earlier is None or earlier >= moment:
                raise self._not_for_all(target, failed, newest=None)
            moment, why = earlier, next(iter(failed.values())).message
        raise self._not_for_all(ToTime(moment), {}, newest=None)

    def _newest_of_trees(self) -> list[datetime]:
        """Of trees alone: when the last of them had its newest snapshot."""
        ends = [one.end for ranges in self._windows().values() for one in ranges]
        now = self.around.clock.now()
        # One that bears a time to come has been taken by now.
        return [max(ends) if max(ends) <= now + CLOCK_SKEW else now] if ends else []

    def _earlier(self, moment: datetime, failed: Mapping[str, NotRecoverable]) -> datetime | None:
        """The next moment to try where `moment` is not reached by those that `failed`."""
        known = [one.earlier for one in failed.values() if isinstance(one, MomentUncertain)]
        if len(known) == len(failed):
            return min(known)
        trees = {name for name, one in self.sources.items() if isinstance(one, FilesSource)}
        return newest_common(self._windows(), open_ended=trees, before=moment)

    def _plan_one(self, name: str, request: RestoreRequest) -> Planned:
        source, objective = self.sources[name], self.policy.objective_of(name)
        repository, around = self.repository, self.around
        match source:
            case PostgresSource():
                return plan_postgres(
                    name,
                    source,
                    request,
                    policy=self.policy,
                    repository=repository,
                    around=around,
                )
            case RedisSource():
                return plan_redis_source(
                    name,
                    source,
                    request,
                    objective=objective,
                    repository=repository,
                    around=around,
                )
            case FilesSource():
                return plan_files(
                    name,
                    source,
                    request,
                    objective=objective,
                    repository=repository,
                    around=around,
                )
            case _:
                raise NotRecoverable(f"source {name} of kind {source.kind} cannot be restored yet")


def _require_sensible(request: RestoreRequest, *, now: datetime) -> None:
    """UsageError for a disaster that has not been yet, or that came before the moment restored to."""
    lost_at, target = request.lost_at, request.target
    if lost_at is None:
        return
    if lost_at > now + CLOCK_SKEW:
        raise UsageError(
            f"--lost-at {format_exact(lost_at, request.zone)} has not come yet: now is"
            f" {format_moment(now, request.zone)}",
            hint="Give the moment at which the data was lost.",
        )
    if isinstance(target, ToTime) and lost_at < target.moment:
        raise UsageError(
            f"--lost-at {format_exact(lost_at, request.zone)} lies before the moment to restore to,"
            f" {format_exact(target.moment, request.zone)}: the copy would hold what the disaster did",
            hint="Give a --to that is not after the disaster, or leave --lost-at out.",
        )


def _places(
    request: RestoreRequest, names: list[str], policy: Policy, *, now: datetime
) -> Mapping[str, Path]:
    """`--into` itself for one source, directories below it for several; else a new one."""
    if request.into is not None and len(names) == 1:
        return {names[0]: request.into.absolute()}
    stamp = now.astimezone(policy.timezone).strftime("%Y%m%dT%H%M%S")
    root = request.into or policy.restore_root / f"{policy.stack}-{stamp}"
    return {name: root.absolute() / name for name in names}


def _gravest(errors: Mapping[str, DrtoolError], outcomes: Sequence[RestoreOutcome]) -> DrtoolError:
    """The error with the gravest code, which tells of the others too."""
    name, error = max(errors.items(), key=lambda item: item[1].exit_code)
    error.message = f"source {name}: {error.message}"
    for other, one in errors.items():
        if other != name:
            error.message += f"\n  source {other}: {one.message}"
    if outcomes:
        done = ", ".join(f"{one.source} in {one.destination}" for one in outcomes)
        error.hint = f"{error.hint} Restored all the same: {done}."
    return error
