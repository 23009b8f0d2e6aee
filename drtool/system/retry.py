"""Try again, a bounded number of times within a bounded time, with growing and jittered pauses."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from drtool.errors import DrtoolError
from drtool.system.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """At most `attempts` tries, none begun later than `within_seconds` after the first."""

    attempts: int = 6
    within_seconds: float = 60.0
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 10.0

    def pause(self, attempt: int) -> float:
        """Seconds before try number `attempt + 1`, full jitter on an exponential ceiling."""
        ceiling = min(self.longest_pause_seconds, self.first_pause_seconds * 2 ** (attempt - 1))
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - jitter, not a secret


def retrying(
    call: Callable[[], T], *, limits: RetryLimits, clock: Clock, stop: threading.Event | None = None
) -> T:
    """Return what `call` returns; repeat it while it raises a DrtoolError that says `retryable`.

    The last error is raised as it came. When `stop` is set, no further try is begun.
    """
    begin = clock.monotonic()
    attempt = 1
    while True:
        try:
            return call()
        except DrtoolError as error:
            pause = limits.pause(attempt)
            late = clock.monotonic() - begin + pause > limits.within_seconds
            if not error.retryable or attempt >= limits.attempts or late:
                raise
            if clock.wait(pause, stop):
                raise
        attempt += 1
