"""`drtool schedule`: what is due when, and the process that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from drtool.errors import DrtoolError, LeaseHeld, RepositoryUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.model.outcome import Fact, FactSheet
from drtool.model.progress import Noted, PhaseBegan
from drtool.policy.policy import Policy
from drtool.policy.sources import BucketSource, FilesSource, PostgresSource, WalMode
from drtool.repository.backups import read_newest_manifest
from drtool.repository.lease import Lease, lease_holder
from drtool.repository.repository import Repository
from drtool.schedule.due import next_due
from drtool.schedule.jobs import Job, Work, plan_work
from drtool.schedule.running import Ran, Site, run_work
from drtool.system.process import ToldProcess
from drtool.wiring.commands import StartCommand, command_starter
from drtool.wiring.mirrors import newest_run_began
from drtool.wiring.parts import opened_repository
from drtool.wiring.surroundings import Surroundings

# How long until a store that was away, or another scheduler, is looked at again.
_AGAIN_SECONDS = 5.0
_TELL_AGAIN_SECONDS = 3600.0


def listed(policy: Policy, around: Surroundings) -> FactSheet:
    """What is due next, and what always runs; asks no server."""
    work, now, zone = plan_work(policy), around.clock.now(), policy.timezone
    facts = []
    for job in work.jobs:
        moment = next_due(job.line, zone, after=now)
        shown = "never" if moment is None else f"{moment.astimezone(zone):%a %Y-%m-%d %H:%M %Z}"
        facts.append(
            Fact(
                name=job.name.replace(" ", "_"),
                value=moment,
                label=job.name,
                shown=f"{shown}   ({job.line})",
            )
        )
    for one in work.receivers:
        name = one.name.replace(" ", "_")
        facts.append(Fact(name=name, value="always", label=one.name))
    return FactSheet(
        kind="schedule",
        title=f"Schedule of {policy.stack}, in {zone.key}",
        facts=tuple(facts),
        findings=tuple(_findings(policy, now)),
    )


def run(policy: Policy, policy_file: Path, around: Surroundings, *, at_once: int) -> FactSheet:
    """Do what is due until `around.stop` is set. One scheduler of a stack runs; others wait for it.

    LeaseHeld if another one took over meanwhile, as when this machine was stopped for a minute.
    """
    work = plan_work(policy)
    for finding in _findings(policy, around.clock.now()):
        around.emit(Noted(f"{finding.subject}: {finding.fact}", "warning"))
    with _leading(policy, around) as leading, _records(around) as records:
        if leading is None:
            return _ran(policy, None)
        repository, lease = leading
        site = Site(
            start=_telling_changes(command_starter(policy_file, around), records),
            zone=policy.timezone,
            clock=around.clock,
            emit=around.emit,
            leads=lambda: not lease.is_lost,
            at_once=at_once,
            has_receiver=_receiver_of(policy, repository),
        )
        title = f"Scheduling {counted(len(work.jobs), 'job')} and {counted(len(work.receivers), 'receiver')}"
        around.emit(PhaseBegan(phase="schedule", title=title, total=None))
        newest = _newest(policy, repository, around)
        return _ran(policy, run_work(work, site, newest=newest, stop=around.stop))


@contextmanager
def _records(around: Surroundings) -> Iterator[Path | None]:
    """Where checks keep what they found for the next one, while this scheduler runs; None without room."""
    with ExitStack() as held:
        try:
            place = Path(held.enter_context(TemporaryDirectory(prefix="drtool-schedule-")))
        except OSError as error:
            around.emit(Noted(f"each check tells all that it finds: {error}", "warning"))
            yield None
            return
        yield place


def _telling_changes(start: StartCommand, records: Path | None) -> StartCommand:
    """Lets checks say what changed since the one before, not all of it every few minutes."""

    def started(words: Sequence[str]) -> ToldProcess:
        if words[0] != "check" or records is None:
            return start(words)
        return start((*words, "--changes", str(records / f"{words[1]}.json")))

    return started


@contextmanager
def _leading(policy: Policy, around: Surroundings) -> Iterator[tuple[Repository, Lease] | None]:
    """The repository, once it answers and no other scheduler leads; None if told to stop before."""
    told: dict[type[DrtoolError], float] = {}
    with ExitStack() as held:
        while not around.stop.is_set():
            with ExitStack() as tried:
                try:
                    repository = tried.enter_context(opened_repository(policy, around))
                    name = f"schedule-{policy.stack}"
                    lease = tried.enter_context(Lease(repository, name, clock=around.clock))
                except (RepositoryUnavailable, LeaseHeld) as error:
                    if not error.retryable:
                        raise  # no waiting heals it: let the container fail where it is seen
                    now = around.clock.monotonic()
                    if now - told.get(type(error), float("-inf")) >= _TELL_AGAIN_SECONDS:
                        told[type(error)] = now
                        around.emit(Noted(f"{error.message}; waiting", "warning"))
                else:
                    held.enter_context(tried.pop_all())
                    if told:
                        around.emit(Noted("this scheduler begins its work", "recovery"))
                    yield repository, lease
                    return
            around.clock.wait(_AGAIN_SECONDS, around.stop)
        yield None


def _receiver_of(policy: Policy, repository: Repository) -> Callable[[Job], bool]:
    """Whether the WAL of a job's source is received, where the policy says that it is."""

    def has_receiver(job: Job) -> bool:
        source = policy.source(job.source)
        if job.words[0] != "backup" or not isinstance(source, PostgresSource):
            return True
        if source.wal.mode is not WalMode.STREAM:
            return True
        try:
            return lease_holder(repository, f"wal-{job.source}") is not None
        except DrtoolError:
            return True  # the backup itself says what is wrong with the repository

    return has_receiver


def _newest(
    policy: Policy, repository: Repository, around: Surroundings
) -> Callable[[Job], datetime | None]:
    """When a job was last done: what the repository and the mirrors say, whoever did it."""

    def newest(job: Job) -> datetime | None:
        if not job.is_heavy:
            return None
        try:
            if job.words[0] == "backup":
                manifest, _ = read_newest_manifest(repository, job.source)
                return None if manifest is None else manifest.began
            source = policy.source(job.source)
            if isinstance(source, FilesSource | BucketSource) and source.mirror is not None:
                return newest_run_began(job.source, policy, repository=repository, around=around)
        except DrtoolError as error:
            around.emit(
                Noted(f"{job.name}: nobody knows when it was done: {error.message}", "warning")
            )
        return None

    return newest


def _findings(policy: Policy, now: datetime) -> Iterator[Finding]:
    work: Work = plan_work(policy)
    for job in work.jobs:
        if next_due(job.line, policy.timezone, after=now) is None:
            yield Finding(
                severity=Severity.WARNING,
                subject=job.name,
                fact=f"its schedule, {job.line}, names no day that ever comes",
                fix="Mend it in the policy.",
            )
    copied = {job.source for job in work.jobs if job.is_heavy}
    for name in policy.sources:
        if str(name) not in copied:
            yield Finding(
                severity=Severity.WARNING,
                subject=f"source {name}",
                fact="no schedule says when a backup is taken, so none is",
                fix='Add `schedule: {backup: "0 2 * * *"}` to it.',
            )
    if policy.drills:
        yield Finding(
            severity=Severity.WARNING,
            subject="drills",
            fact="the policy schedules drills, and this version of drtool has none",
        )


def _ran(policy: Policy, ran: Ran | None) -> FactSheet:
    facts = []
    for name, runs, done in ran.jobs if ran else ():
        facts.append(
            Fact(
                name=name.replace(" ", "_"),
                value=done,
                label=name,
                shown=f"{counted(runs, 'run')}, {done} done",
            )
        )
    for name, starts in ran.receivers if ran else ():
        facts.append(
            Fact(name=name.replace(" ", "_"), value=starts, label=name, shown=f"started {starts}×")
        )
    return FactSheet(
        kind="schedule-run",
        title=f"Stopped the schedule of {policy.stack}",
        facts=tuple(facts),
    )
