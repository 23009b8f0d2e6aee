"""Do what is due, and keep receivers running, until told to stop: each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from signal import SIGTERM
from threading import Event
from zoneinfo import ZoneInfo

from drtool.errors import ExitCode, LeaseHeld
from drtool.model.measure import CLOCK_SKEW, format_span
from drtool.model.progress import Emit, Noted
from drtool.schedule.due import next_due
from drtool.schedule.jobs import Job, Receiver, Work
from drtool.system.clock import Clock
from drtool.system.process import ProgramFailed, ToldProcess
from drtool.system.retry import RetryLimits

AT_ONCE = 3
# A receiver makes durable what it has; whoever stops a container should give it as long.
END_SECONDS = 45.0
_STEP_SECONDS = 0.5
# What may be better in a while: a server or a store that was away, another run of the same; what
# was killed (below zero), as when memory ran out, is tried again too.
_PASSING = (ExitCode.SOURCE_UNAVAILABLE, ExitCode.REPOSITORY_UNAVAILABLE, ExitCode.LEASE_HELD)
# Longer than any that goes on; one that hangs keeps the others from their turn.
_HEAVY_SECONDS = 24 * 3600.0
_LIGHT_SECONDS = 3600.0
_KILL_SECONDS = 60.0
_AWAIT_SECONDS = 60.0
_ASK_SECONDS = 2.0
_JOB_PAUSES = RetryLimits(first_pause_seconds=60.0, longest_pause_seconds=1800.0)
_RECEIVER_PAUSES = RetryLimits(first_pause_seconds=2.0, longest_pause_seconds=120.0)
_MOST_DOUBLINGS = 10
# How a line of a command begins that somebody should see.
_GRAVE = ("drtool: error", "new warning", "new problem")
# A receiver that ran for so long was well; its next failure is a new one.
_WELL_SECONDS = 300.0
# A receiver that was started again and has run for so long has outlived what it had failed of.
_BACK_SECONDS = 60.0

Start = Callable[[Sequence[str]], ToldProcess]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a scheduler did until it was told to stop: runs by job, and how many ended well."""

    jobs: tuple[tuple[str, int, int], ...]
    receivers: tuple[tuple[str, int], ...]


def _nobody_is_awaited(_job: Job) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """`start` starts a command of drtool. `at_once` heavy jobs run at a time, the others wait.

    `leads` is asked again and again, and says whether this is still the one scheduler of the stack.
    `has_receiver` says whether the receiver that a job leans on runs: a backup that begins before it,
    as after a restart, would receive beside it and hold it up. It is awaited, a minute at most.
    """

    start: Start
    zone: ZoneInfo
    clock: Clock
    emit: Emit
    leads: Callable[[], bool]
    at_once: int = AT_ONCE
    has_receiver: Callable[[Job], bool] = _nobody_is_awaited


def run_work(
    work: Work, site: Site, *, newest: Callable[[Job], datetime | None], stop: Event
) -> Ran:
    """Run until `stop` is set; then every process is asked to end, and killed after `END_SECONDS`.

    `newest` says when a job was last done, by whomever; None if it never was, or nobody knows. A heavy
    job that was due since then is done at once: so no run is missed because this machine was off. One
    that failed for a passing reason is tried again until it is due anyway. A job that still runs when
    it is due again is not started twice. LeaseHeld if another scheduler has taken over.
    """
    now = site.clock.now()
    jobs = [_JobState(job, site, newest=newest(job), now=now) for job in work.jobs]
    receivers = [_ReceiverState(receiver, site) for receiver in work.receivers]
    try:
        while not stop.is_set():
            for receiver in receivers:
                receiver.look()
            _look_at_jobs(jobs, site)
            if not site.leads():
                raise LeaseHeld(
                    "another scheduler of this stack has taken over",
                    hint="Run one; a second waits until the first is gone.",
                )
            site.clock.wait(_STEP_SECONDS, stop)
    finally:
        states: list[_JobState | _ReceiverState] = [*jobs, *receivers]
        _end([one.process for one in states if one.process is not None], site.clock)
        for state in states:
            state.stopped()
    return Ran(
        jobs=tuple((one.job.name, one.runs, one.done) for one in jobs),
        receivers=tuple((one.receiver.name, one.starts) for one in receivers),
    )


def _look_at_jobs(jobs: Sequence[_JobState], site: Site) -> None:
    now = site.clock.now()
    for one in jobs:
        one.look(now)
    heavy = sum(1 for one in jobs if one.process is not None and one.job.is_heavy)
    for one in sorted((one for one in jobs if one.is_waiting), key=lambda one: one.due or now):
        if one.job.is_heavy and (heavy >= site.at_once or one.awaits_receiver()):
            continue
        heavy += one.job.is_heavy
        one.begin()


class _JobState:
    """One job: when it is due, and the process that does it."""

    def __init__(self, job: Job, site: Site, *, newest: datetime | None, now: datetime) -> None:
        self.job = job
        self.process: ToldProcess | None = None
        self.due: datetime | None = None
        self.runs = self.done = 0
        self._site = site
        self._began = self._retry_at = 0.0
        self._failures = 0
        self._ends_by: float | None = None
        self._said: tuple[int, list[str]] = (0, [])
        self._awaits_since: float | None = None
        self._asked_at = 0.0
        self._looked = now
        self._next = next_due(job.line, site.zone, after=now)
        if job.is_heavy and _is_overdue(job, site.zone, newest=newest, now=now):
            self.due = now

    @property
    def is_waiting(self) -> bool:
        """Whether it is to be begun as soon as there is room."""
        is_due = self.due is not None and self.process is None
        return is_due and self._site.clock.monotonic() >= self._retry_at

    def awaits_receiver(self) -> bool:
        """Whether it has to wait still; looked up every two seconds, and no longer than a minute."""
        now = self._site.clock.monotonic()
        if self._awaits_since is None:
            self._awaits_since = self._asked_at = now
        elif now - self._asked_at < _ASK_SECONDS:
            return True
        self._asked_at = now
        if now - self._awaits_since < _AWAIT_SECONDS and not self._site.has_receiver(self.job):
            return True
        self._awaits_since = None
        return False

    def look(self, now: datetime) -> None:
        """See whether it has ended, and whether it is due."""
        if self.process is not None:
            code = self.process.exit_code()
            if code is not None:
                self._ended(code)
            else:
                self._end_what_hangs(self.process)
        if now < self._looked:  # somebody has set the clock back
            self._next = next_due(self.job.line, self._site.zone, after=now)
        self._looked = now
        if self._next is None or now < self._next:
            return
        if self.process is not None:
            self._note("is due, and still runs: this run is left out", "warning")
        elif self.is_waiting:
            self._note("is due again, and still waits for others to end (--at-once)", "warning")
        else:
            self.due, self._retry_at, self._failures = self._next, 0.0, 0
        self._next = next_due(self.job.line, self._site.zone, after=now)

    def begin(self) -> None:
        """Start it."""
        self.runs += 1
        self._began = self._site.clock.monotonic()
        if self.job.is_heavy:
            self._note("begins")
        try:
            self.process = self._site.start(self.job.words)
        except ProgramFailed as error:
            self._failed(error.message, is_passing=True)

    def _end_what_hangs(self, process: ToldProcess) -> None:
        limit = _HEAVY_SECONDS if self.job.is_heavy else _LIGHT_SECONDS
        now = self._site.clock.monotonic()
        if self._ends_by is None and now - self._began >= limit:
            self._ends_by = now + _KILL_SECONDS
            span = format_span(timedelta(seconds=now - self._began))
            self._note(f"has run for {span}: it is ended", "warning")
            process.send(SIGTERM)
        elif self._ends_by is not None and now >= self._ends_by:
            process.kill_family()

    def stopped(self) -> None:
        """Tell of a run that was cut short, because all is stopped."""
        if self.process is not None:
            self._note(f"stopped, {self.process.exit_code()}", "warning")

    def _ended(self, code: int) -> None:
        assert self.process is not None
        lines, self.process = self.process.lines(), None
        self._ends_by = None
        span = format_span(timedelta(seconds=self._site.clock.monotonic() - self._began))
        if not self.job.is_heavy:
            self._checked(code, lines, span)
            return
        if code == ExitCode.DONE:
            for line in lines:
                self._note(*_told(line))
            self.due, self._failures = None, 0
            self.done += 1
            self._note(f"done in {span}")
            return
        for line in lines:
            self._note(_told(line)[0], "warning")
        self._failed(f"ended with {code} after {span}", is_passing=code in _PASSING or code < 0)

    def _checked(self, code: int, lines: list[str], span: str) -> None:
        """Pass on what a check says, which is what changed; words that it said before are not repeated."""
        said, self._said = self._said, (code, lines)
        self.due = None
        self.done += code == ExitCode.DONE
        if lines and self._said == said:
            self._note(f"ended with {code} after {span}, and said the same as before")
            return
        for line in lines:
            self._note(*_told(line))
        if code != said[0]:
            level = "info" if code == ExitCode.DONE else "warning"
            self._note(f"ended with {code} after {span}", level)

    def _failed(self, what: str, *, is_passing: bool) -> None:
        again = ""
        if is_passing and self.job.is_heavy:
            self._failures += 1
            pause = _JOB_PAUSES.pause(min(self._failures, _MOST_DOUBLINGS))
            self._retry_at = self._site.clock.monotonic() + pause
            again = f"; it is tried again in {round(pause)} s"
        else:
            self.due = None
        self._note(f"{what}{again}", "warning")

    def _note(self, text: str, level: str = "info") -> None:
        self._site.emit(Noted(f"{self.job.name}: {text}", level))


class _ReceiverState:
    """One receiver, and the process that it is."""

    def __init__(self, receiver: Receiver, site: Site) -> None:
        self.receiver = receiver
        self.process: ToldProcess | None = None
        self.starts = 0
        self._site = site
        self._began = self._start_at = 0.0
        self._failures = 0
        self._is_missed = False

    def look(self) -> None:
        """Pass on what it says; start it, again after a pause that grows while it fails."""
        now = self._site.clock.monotonic()
        if self.process is None:
            if now >= self._start_at:
                self._began = now
                self.starts += 1
                self._note("starts")
                try:
                    self.process = self._site.start(self.receiver.words)
                except ProgramFailed as error:
                    self._ended(error.message, now)
            return
        code = self.process.exit_code()
        for line in self.process.lines():
            self._note(*_told(line))
        if code is not None:
            self._ended(f"ended with {code}", now)
        elif self._is_missed and now - self._began >= _BACK_SECONDS:
            self._is_missed = False
            self._note("runs again", "recovery")

    def stopped(self) -> None:
        """Pass on its last words."""
        if self.process is not None:
            for line in self.process.lines():
                self._note(*_told(line))
            code = self.process.exit_code()
            self._note(f"ended with {code}", "info" if code == ExitCode.DONE else "warning")

    def _ended(self, what: str, now: float) -> None:
        self.process, self._is_missed = None, True
        if now - self._began >= _WELL_SECONDS:
            self._failures = 0
        self._failures += 1
        pause = _RECEIVER_PAUSES.pause(min(self._failures, _MOST_DOUBLINGS))
        self._start_at = now + pause
        self._note(f"{what}; it is started again in {round(pause)} s", "warning")

    def _note(self, text: str, level: str = "info") -> None:
        self._site.emit(Noted(f"{self.receiver.name}: {text}", level))


def _told(line: str) -> tuple[str, str]:
    """What a command of drtool says, and how grave it is."""
    text = line.removeprefix("warning: ")
    return text, "warning" if text != line or line.startswith(_GRAVE) else "info"


def _is_overdue(job: Job, zone: ZoneInfo, *, newest: datetime | None, now: datetime) -> bool:
    # One that bears a time to come was made under a clock that ran ahead: nobody knows when.
    if newest is None or newest - now > CLOCK_SKEW:
        return True
    due = next_due(job.line, zone, after=newest)
    return due is not None and due <= now


def _end(processes: Sequence[ToldProcess], clock: Clock) -> None:
    """Ask all to end, wait for them, and kill what does not: nothing is left running."""
    for process in processes:
        process.send(SIGTERM)
    deadline = clock.monotonic() + END_SECONDS
    try:
        for process in processes:
            process.wait(deadline - clock.monotonic())
    finally:
        for process in processes:
            if process.exit_code() is None:
                process.kill_family()
