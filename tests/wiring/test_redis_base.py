"""A snapshot that is asked for behind a gap: taken, tried again, and stopped with the receiver."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from drtool.model.progress import Event, Noted
from drtool.policy.secrets import Redactor
from drtool.system.process import ProgramFailed, ToldProcess, start_told
from drtool.wiring.redis_base import BaseTaker
from drtool.wiring.surroundings import Surroundings
from tests.archiving.rig import until
from tests.schedule.rig import PROGRAM, SetClock


class CountedClock(SetClock):
    """Counts how often somebody waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        self.waits += 1
        return super().wait(seconds, until)


class Bases:
    """A taker whose backups are programs of `kinds`, one after the other."""

    def __init__(self, place: Path, *kinds: str) -> None:
        self.place, self.clock = place, CountedClock()
        self.events: list[Event] = []
        self.started: list[ToldProcess] = []
        self._kinds = list(kinds)
        around = Surroundings(
            environ=os.environ,
            redactor=Redactor(),
            emit=self.events.append,
            clock=self.clock,
            stop=threading.Event(),
        )
        self.taker = BaseTaker("cache", self._start, around)

    def _start(self, words: Sequence[str]) -> ToldProcess:
        assert words == ("backup", "cache")
        if self._kinds[0] == "none":
            self._kinds.pop(0)
            raise ProgramFailed("drtool cannot be started: Resource temporarily unavailable")
        command = (sys.executable, "-c", PROGRAM, str(self.place), "log", self._kinds.pop(0))
        self.started.append(start_told(command, environment=os.environ))
        return self.started[-1]

    def pass_some_turns(self) -> None:
        """The taker has looked at what is asked for and at the clock, several times."""
        looks = self.clock.waits
        until(lambda: self.clock.waits > looks + 5, "it looks")

    def has_told(self, words: str, times: int = 1) -> bool:
        return self.told(words) == times

    def warned(self, words: str) -> bool:
        return any(
            words in event.text and event.level == "warning"
            for event in self.events
            if isinstance(event, Noted)
        )

    def told(self, words: str) -> int:
        return sum(words in event.text for event in self.events if isinstance(event, Noted))


def test_one_that_cannot_be_taken_is_tried_again_until_one_is(tmp_path: Path) -> None:
    bases = Bases(tmp_path, "9", "6", "0")
    bases.taker.ask()
    until(lambda: bases.told("is taken, behind the gap"), "it is taken")
    bases.taker.close()
    # Why, in its own words, and in the one line that is printed under a scheduler.
    assert bases.warned("the new snapshot of cache ended with 9: a line of log; it is tried again")
    assert bases.warned("the new snapshot of cache ended with 6: a line of log; it is tried again")
    assert len(bases.started) == 3


def test_one_that_cannot_even_be_started_is_tried_again(tmp_path: Path) -> None:
    bases = Bases(tmp_path, "none", "0")
    bases.taker.ask()
    until(lambda: bases.told("is taken, behind the"), "it is taken")
    bases.taker.close()
    assert bases.told("Resource temporarily unavailable") == 1


def test_gaps_of_several_shards_at_once_are_one_snapshot_and_a_later_one_is_another(
    tmp_path: Path,
) -> None:
    bases = Bases(tmp_path, "until", "0")
    for _ in range(3):
        bases.taker.ask()
    until(lambda: len(bases.started) == 1, "one is taken")
    until((tmp_path / "log").exists, "it reads")
    bases.taker.ask()  # it may have read that shard already
    (tmp_path / "go").touch()
    until(lambda: bases.told("the next snapshot is taken in 60 s"), "it is told when")
    bases.clock.move(seconds=60)
    until(lambda: bases.told("is taken, behind the gap") == 2, "and one after it")
    bases.taker.close()
    assert len(bases.started) == 2


def test_one_that_is_being_taken_ends_with_the_receiver(tmp_path: Path) -> None:
    bases = Bases(tmp_path, "forever")
    bases.taker.ask()
    until((tmp_path / "log").exists, "it is being taken")
    bases.taker.close()
    assert bases.started[0].exit_code() is not None


def test_while_gaps_follow_each_other_snapshots_are_taken_further_and_further_apart(
    tmp_path: Path,
) -> None:
    bases = Bases(tmp_path, *["0"] * 6)

    def take(number: int) -> None:
        bases.taker.ask()
        until(partial(bases.has_told, "is taken, behind the gap", number), "it is taken")

    take(1)
    for number, seconds in ((2, 60), (3, 120), (4, 240)):
        bases.taker.ask()
        until(partial(bases.has_told, f"is taken in {seconds} s"), "it is told when")
        bases.clock.move(seconds=seconds - 1)
        bases.taker.ask()  # while it waits, more gaps make no more snapshots
        bases.pass_some_turns()
        assert len(bases.started) == number - 1
        bases.clock.move(seconds=1)
        until(partial(bases.has_told, "is taken, behind the gap", number), "it is taken")
    bases.clock.move(seconds=961)  # no gap for twice the pause
    take(5)
    bases.taker.ask()
    until(lambda: bases.told("is taken in 60 s") == 2, "the pause is short again")
    bases.taker.close()
    assert len(bases.started) == 5
