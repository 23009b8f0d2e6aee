"""A new backup for a change log that has a gap: until then nothing behind the gap can be brought back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from signal import SIGTERM

from drtool.errors import DrtoolError, ExitCode
from drtool.model.progress import Noted
from drtool.system.retry import RetryLimits
from drtool.system.spacing import Spacing
from drtool.wiring.commands import StartCommand
from drtool.wiring.surroundings import Surroundings

_ERROR = "drtool: error: "
_STEP_SECONDS = 0.2
_END_SECONDS = 10.0
_PAUSES = RetryLimits(first_pause_seconds=20.0, longest_pause_seconds=1800.0)
_MOST_DOUBLINGS = 10
# Each reads the whole source, and where gaps follow each other the next makes it useless again.
_FIRST_SPACING_SECONDS = 60.0
_LONGEST_SPACING_SECONDS = 900.0


def _always() -> bool:
    return True


class BaseTaker:
    """Runs `drtool backup SOURCE` whenever it is asked to, one at a time, until one has ended well.

    In a process of its own: the receiver's thread must not wait while a source is read. The first is
    taken at once; while gaps follow each other, the next begins a minute after the last has ended, then
    two, up to a quarter of an hour. `what` is taken, in the words of its kind. `is_needed`
    is asked before each: somebody else, such as the schedule, may have taken one meanwhile.
    """

    def __init__(
        self,
        source: str,
        start: StartCommand,
        around: Surroundings,
        *,
        what: str = "snapshot",
        is_needed: Callable[[], bool] = _always,
    ) -> None:
        self._what, self._is_needed = what, is_needed
        self._source, self._start_command = source, start
        self._clock, self._emit = around.clock, around.emit
        self._spacing = Spacing(
            around.clock,
            first_seconds=_FIRST_SPACING_SECONDS,
            longest_seconds=_LONGEST_SPACING_SECONDS,
        )
        self._is_asked, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"base {source}", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """One that begins from now on is needed; any thread."""
        self._is_asked.set()

    def close(self) -> None:
        """Take none any more, and stop one that is being taken."""
        self._is_over.set()
        self._thread.join(2 * _END_SECONDS)

    def _run(self) -> None:
        failures, has_told = 0, False
        while not self._clock.wait(_STEP_SECONDS, self._is_over):
            if not self._is_asked.is_set():
                continue
            if (left := self._spacing.remaining()) > 0:
                if not has_told:
                    self._tell_pause(left)
                has_told = True
                continue
            has_told = False
            self._is_asked.clear()
            if not self._is_still_needed():
                continue
            ended = self._take()
            if ended is None:
                return
            code, why = ended
            if code == ExitCode.DONE:
                failures = 0
                self._spacing.record()
                told = f"{self._source}: a new {self._what} is taken, behind the gap"
                self._emit(Noted(told, "recovery"))
                continue
            failures += 1
            self._is_asked.set()
            pause = _PAUSES.pause(min(failures, _MOST_DOUBLINGS))
            text = f"ended with {code}{why}; it is tried again in {round(pause)} s"
            self._emit(Noted(f"the new {self._what} of {self._source} {text}", "warning"))
            self._clock.wait(pause, self._is_over)

    def _tell_pause(self, seconds: float) -> None:
        text = f"gaps follow each other, so the next {self._what} is taken in {round(seconds)} s"
        self._emit(Noted(f"{self._source}: {text}", "warning"))

    def _is_still_needed(self) -> bool:
        try:
            return self._is_needed()
        except DrtoolError:
            return True  # nobody could look: one too many does no harm

    def _take(self) -> tuple[int, str] | None:
        """The exit code of a backup, and why it failed; None if it was stopped because all is over."""
        try:
            process = self._start_command(("backup", self._source))
        except DrtoolError as error:  # no memory or no room for a process just now
            return error.exit_code, f": {error.message}"
        while (code := process.exit_code()) is None:
            if self._clock.wait(_STEP_SECONDS, self._is_over):
                process.send(SIGTERM)
                if process.wait(_END_SECONDS) is None:
                    process.kill_family()
                return None
        if code == ExitCode.DONE:
            return code, ""
        lines = process.lines()
        for line in lines:
            self._emit(Noted(f"backup {self._source}: {line}"))
        return code, _reason(lines)


def _reason(lines: Sequence[str]) -> str:
    """Why a command of drtool failed, in its own words; nothing if it said none."""
    errors = [line.partition(_ERROR)[2] for line in lines if line.startswith(_ERROR)]
    said = errors or [line.strip() for line in lines if line.strip()]
    return f": {said[-1]}" if said else ""
