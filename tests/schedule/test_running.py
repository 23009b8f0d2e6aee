"""The scheduler's loop, with real processes and a clock that the test sets."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.errors import LeaseHeld
from drtool.model.progress import Event, Noted
from drtool.policy.scalars import CronLine
from drtool.schedule.jobs import Job, Receiver, Work
from drtool.schedule.running import Ran, Site, run_work
from drtool.system.process import ProgramFailed, ToldProcess, start_told
from tests.archiving.rig import until
from tests.schedule.rig import NOON, PROGRAM, SetClock


class Scheduled:
    """A scheduler in a thread; each job's name is `backup KIND`, and KIND says what its program does."""

    def __init__(self, place: Path) -> None:
        self.place, self.clock = place, SetClock()
        self.events: list[Event] = []
        self.started: list[ToldProcess] = []
        self.stop = threading.Event()
        self.leads = True
        self.is_full = False
        self.ran: Ran | None = None
        self.error: BaseException | None = None

    def run(self, work: Work, newest: Callable[[Job], datetime | None], at_once: int) -> None:
        site = Site(start=self._start, zone=ZoneInfo("UTC"), clock=self.clock, at_once=at_once,
                    emit=self.events.append, leads=lambda: self.leads)  # fmt: skip
        try:
            self.ran = run_work(work, site, newest=newest, stop=self.stop)
        except BaseException as error:
            self.error = error

    def _start(self, words: Sequence[str]) -> ToldProcess:
        if self.is_full:
            raise ProgramFailed("no room for a process")
        name = "_".join(words)
        command = (sys.executable, "-c", PROGRAM, str(self.place), name, words[-1].split("-")[0])
        self.started.append(start_told(command, environment=os.environ))
        return self.started[-1]

    def runs(self, name: str) -> int:
        path = self.place / name.replace(" ", "_")
        return path.read_text().count("began") if path.exists() else 0

    def told(self, words: str) -> int:
        return sum(words in event.text for event in self.events if isinstance(event, Noted))

    def is_idle(self) -> bool:
        return all(one.exit_code() is not None for one in self.started)


@contextmanager
def scheduled(
    place: Path,
    *jobs: Job,
    receivers: Sequence[Receiver] = (),
    newest: datetime | None = NOON,
    at_once: int = 3,
    is_full: bool = False,
) -> Iterator[Scheduled]:
    running = Scheduled(place)
    running.is_full = is_full
    work = Work(jobs=jobs, receivers=tuple(receivers))
    thread = threading.Thread(target=running.run, args=(work, lambda _job: newest, at_once))
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        thread.join(60)
        assert not thread.is_alive()
    assert running.is_idle()  # nothing is left behind
    if running.error is not None:
        raise running.error


def settle() -> None:
    """Time for what must not happen to happen: programs here begin within 50 ms."""
    threading.Event().wait(0.4)


def job(kind: str, line: str = "0 * * * *", *, is_heavy: bool = True) -> Job:
    return Job(source=kind, words=("backup", kind), line=CronLine(line), is_heavy=is_heavy)


def test_a_job_runs_once_each_time_it_is_due(tmp_path: Path) -> None:
    with scheduled(tmp_path, job("0")) as running:
        running.clock.move(minutes=59)
        settle()
        assert running.runs("backup 0") == 0
        for count in (1, 2, 3):
            running.clock.move(minutes=60)
            until(lambda: running.told("done in") == count, "it is done")  # noqa: B023 - at once
            assert running.runs("backup 0") == count
    assert running.ran == Ran(jobs=(("backup 0", 3, 3),), receivers=())


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (None, 1),
        (NOON - timedelta(hours=1), 1),
        (NOON - timedelta(days=90), 1),
        (NOON, 0),
        (NOON + timedelta(seconds=30), 0),
        (NOON + timedelta(days=17 * 365), 1),  # taken under a clock that ran ahead
    ],
)
def test_what_was_due_while_nothing_ran_is_done_once_at_once(
    tmp_path: Path, newest: datetime | None, expected: int
) -> None:
    with scheduled(tmp_path, job("0"), job("0-marker", "0 13 * * *"), newest=newest) as running:
        running.clock.move(minutes=10)
        if expected:
            until(lambda: running.told("backup 0: done in") == 1, "it is done")
        settle()
        assert running.runs("backup 0") == expected


def test_a_job_that_still_runs_is_not_started_twice(tmp_path: Path) -> None:
    with scheduled(tmp_path, job("until")) as running:
        running.clock.move(minutes=60)
        until(lambda: running.runs("backup until") == 1, "it has begun")
        running.clock.move(minutes=60)
        until(lambda: running.told("still runs") == 1, "it is told")
        (tmp_path / "go").touch()
        until(lambda: running.told("done in") == 1, "it is done")
        running.clock.move(minutes=60)
        until(lambda: running.told("done in") == 2, "it is done again")
        assert running.runs("backup until") == 2


@pytest.mark.parametrize(("code", "is_tried_again"), [(5, True), (6, True), (9, True), (2, False),
                                                      (7, False), (1, False)])  # fmt: skip
def test_a_passing_failure_is_tried_again_and_another_is_not(
    tmp_path: Path, code: int, *, is_tried_again: bool
) -> None:
    name = f"backup {code}"
    with scheduled(tmp_path, job(str(code))) as running:
        running.clock.move(minutes=60)
        until(lambda: running.told(f"ended with {code}") == 1, "it has failed")
        assert running.told(f"a line of backup_{code}") == 1  # a failure is told in its own words
        running.clock.move(minutes=2)
        if is_tried_again:
            until(lambda: running.told(f"ended with {code}") == 2, "it has failed again")
        settle()
        assert running.runs(name) == 1 + is_tried_again
    assert running.ran == Ran(jobs=((name, 1 + is_tried_again, 0),), receivers=())


def test_heavy_jobs_wait_for_one_another_and_light_ones_for_nobody(tmp_path: Path) -> None:
    heavy = [job("until"), job("until-2"), job("until-3")]
    with scheduled(tmp_path, *heavy, job("0", is_heavy=False), at_once=2) as running:
        running.clock.move(minutes=60)
        until(lambda: running.told("a line of backup_0") == 1, "the light one is done")
        until(lambda: running.runs("backup until") + running.runs("backup until-2") == 2, "two run")
        settle()
        assert running.runs("backup until-3") == 0
        (tmp_path / "go").touch()
        until(lambda: running.told("backup until-3: done in") == 1, "the third is done")


def test_what_a_check_said_before_is_not_said_again_nor_is_its_code(tmp_path: Path) -> None:
    """Issue 8, 32: every finding came again as a warning, every five minutes."""
    with scheduled(tmp_path, job("3", is_heavy=False)) as running:
        for count in (1, 2, 3):
            running.clock.move(minutes=60)
            until(lambda: running.told("ended with 3") == count, "it has ended")  # noqa: B023 - at once
    texts = [event for event in running.events if isinstance(event, Noted)]
    assert [event.level for event in texts] == ["info", "warning", "info", "info"]
    assert texts[0].text == "backup 3: a line of backup_3"
    assert all(event.text.endswith("and said the same as before") for event in texts[2:])


def test_a_job_that_had_to_wait_has_its_turn_before_those_that_had_theirs(tmp_path: Path) -> None:
    """More work than there is room for is late, and told; none of it is left out for ever."""
    jobs = [job("until"), job("until-2")]
    with scheduled(tmp_path, *jobs, at_once=1) as running:
        running.clock.move(minutes=60)
        until(lambda: running.runs("backup until") == 1, "the first runs")
        running.clock.move(minutes=60)
        until(
            lambda: running.told("backup until-2: is due again, and still waits") == 1, "it waits"
        )
        (tmp_path / "go").touch()
        until(lambda: running.told("backup until-2: done in") == 1, "it has had its turn")


def test_a_job_that_hangs_is_ended(tmp_path: Path) -> None:
    with scheduled(tmp_path, job("forever"), job("0"), at_once=1) as running:
        running.clock.move(minutes=60)
        until(lambda: running.runs("backup forever") == 1, "it runs")
        running.clock.move(hours=24, minutes=1)
        until(lambda: running.told("backup forever: has run for") == 1, "it is told")
        until(lambda: running.told("backup forever: ended with -15") == 1, "it has ended")
        until(lambda: running.told("backup 0: done in") == 1, "another has its turn")


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    receiver = Receiver(source="cache", words=("redis", "receive", "forever"))
    with scheduled(tmp_path, job("0"), receivers=[receiver], is_full=True) as running:
        until(lambda: running.told("no room for a process; it is started again") == 1, "it fails")
        running.clock.move(minutes=60)
        until(lambda: running.told("no room for a process; it is tried again") == 1, "it fails")
        running.is_full = False
        running.clock.move(minutes=2)
        until(lambda: running.told("backup 0: done in") == 1, "it is done")
        until(lambda: running.runs("redis receive forever") == 1, "it runs")


def test_a_clock_that_is_set_back_stops_nothing(tmp_path: Path) -> None:
    with scheduled(tmp_path, job("0")) as running:
        running.clock.move(minutes=60)
        until(lambda: running.told("done in") == 1, "it is done")
        running.clock.wall -= timedelta(days=2)
        settle()
        assert running.runs("backup 0") == 1
        running.clock.move(minutes=60)
        until(lambda: running.told("done in") == 2, "it is done an hour later, not two days")


def test_a_receiver_is_started_again_after_pauses_that_grow(tmp_path: Path) -> None:
    receiver = Receiver(source="cache", words=("redis", "receive", "6"))
    with scheduled(tmp_path, receivers=[receiver]) as running:
        for count in range(1, 5):
            until(lambda: running.told("ended with 6") == count, "it has ended")  # noqa: B023
            assert running.runs("redis receive 6") == count
            settle()
            assert running.runs("redis receive 6") == count  # not before its pause is over
            running.clock.move(seconds=120)
        pauses = [int(event.text.rsplit(" ", 2)[1]) for event in running.events
                  if isinstance(event, Noted) and "ended with" in event.text]  # fmt: skip
    assert 1 <= pauses[0] <= 2 < pauses[2] <= 8
    assert running.told("a line of redis_receive_6") >= 4


def test_a_receiver_that_is_killed_is_back(tmp_path: Path) -> None:
    receiver = Receiver(source="cache", words=("redis", "receive", "forever"))
    with scheduled(tmp_path, receivers=[receiver]) as running:
        until(lambda: running.runs("redis receive forever") == 1, "it runs")
        running.started[0].send(signal.SIGKILL)
        until(lambda: running.told("ended with -9") == 1, "it is noticed")
        running.clock.move(seconds=3)
        until(lambda: running.runs("redis receive forever") == 2, "it is back")
        settle()
        assert running.told("runs again") == 0  # it may fail of the same in a moment
        running.clock.move(seconds=60)
        until(lambda: running.told("runs again") == 1, "that it runs is told")
        settle()
        assert running.told("runs again") == 1


def test_whoever_lost_the_lead_stops_all_it_has_started(tmp_path: Path) -> None:
    receiver = Receiver(source="cache", words=("redis", "receive", "forever"))
    with scheduled(tmp_path, receivers=[receiver]) as running:
        until(lambda: running.runs("redis receive forever") == 1, "it runs")
        running.leads = False
        until(lambda: running.error is not None, "it has given up")
        assert running.is_idle()
        error, running.error = running.error, None
    assert isinstance(error, LeaseHeld)
