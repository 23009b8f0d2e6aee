"""Time as an argument: wall clock for labels, monotonic clock for durations, waits that end."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the rest of the house knows of time."""

    def now(self) -> datetime:
        """The wall clock, in UTC. For labels and for comparing with what others wrote down."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps. For durations."""

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        """Pass `seconds`, or less if `until` is set meanwhile; return whether it is set."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        if until is None:
            time.sleep(max(0.0, seconds))
            return False
        return until.wait(max(0.0, seconds))


class Stopwatch:
    """Seconds since it was made, on the monotonic clock of `clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begin = clock.monotonic()

    def seconds(self) -> float:
        return self._clock.monotonic() - self._begin
