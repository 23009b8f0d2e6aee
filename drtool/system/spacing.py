"""Keeps occurrences of one thing apart, further and further while they keep coming."""

from __future__ import annotations

from drtool.system.clock import Clock


class Spacing:
    """At least `first_seconds` between two occurrences, doubled up to `longest_seconds` while they follow.

    An occurrence follows the one before if no more than twice the pause between them has passed; after
    a longer time without one the pause is `first_seconds` again. One thread.
    """

    def __init__(self, clock: Clock, *, first_seconds: float, longest_seconds: float) -> None:
        self._clock = clock
        self._first_seconds, self._longest_seconds = first_seconds, longest_seconds
        self._pause_seconds = first_seconds
        self._last: float | None = None

    def remaining(self) -> float:
        """Seconds until another may occur; 0 if it may now."""
        if self._last is None:
            return 0.0
        return max(0.0, self._last + self._pause_seconds - self._clock.monotonic())

    def record(self) -> None:
        """One has occurred now."""
        now = self._clock.monotonic()
        follows = self._last is not None and now - self._last <= 2 * self._pause_seconds
        doubled = min(self._longest_seconds, 2 * self._pause_seconds)
        self._pause_seconds = doubled if follows else self._first_seconds
        self._last = now
