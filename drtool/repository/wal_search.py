"""A search through WAL that somebody waits for: told once it takes long, and ended where that is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, timezone
from zoneinfo import ZoneInfo

from drtool.model.progress import Emit, PhaseAdvanced, PhaseBegan, PhaseEnded, silent
from drtool.system.clock import Clock, Stopwatch, SystemClock
from drtool.system.stopping import go_on

# A search that is over by then needs no line of its own.
TOLD_AFTER_SECONDS = 2.0
_PHASE = "search"


class WalSearch:
    """One search after the other, each for what `title` names. One thread at a time.

    `zone` is that of whoever waits for it: moments are told in it.
    """

    def __init__(
        self,
        title: str,
        *,
        clock: Clock,
        emit: Emit,
        stop: threading.Event,
        zone: ZoneInfo | timezone = UTC,
    ) -> None:
        self.zone = zone
        self._title, self._clock, self._emit, self._stop = title, clock, emit, stop
        self._watch = Stopwatch(clock)
        self._total: int | None = None
        self._done = 0
        self._is_told = False

    @contextmanager
    def through(self, size_bytes: int) -> Iterator[None]:
        """The search through so much WAL at most is what happens inside."""
        self._watch, self._total = Stopwatch(self._clock), size_bytes
        self._done, self._is_told = 0, False
        try:
            yield
        finally:
            if self._is_told:
                self._emit(PhaseEnded(phase=_PHASE, seconds=self._watch.seconds()))

    def go_on(self) -> None:
        """Return, or raise Interrupted if somebody asked to stop."""
        go_on(self._stop, "the search in the WAL")

    def advance(self, size_bytes: int) -> None:
        """So much more was read."""
        self._done += size_bytes
        if not self._is_told:
            if self._watch.seconds() < TOLD_AFTER_SECONDS:
                return
            self._is_told = True
            self._emit(PhaseBegan(phase=_PHASE, title=self._title, total=self._total))
        self._emit(PhaseAdvanced(phase=_PHASE, done=self._done))


def unwatched() -> WalSearch:
    """A search for callers that watch nothing, and end by themselves."""
    return WalSearch("", clock=SystemClock(), emit=silent, stop=threading.Event())
