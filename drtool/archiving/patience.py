"""Puts that outlast a store that is away: tried again until they succeed or the run is told to end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from drtool.errors import RepositoryUnavailable
from drtool.model.progress import Emit, Noted
from drtool.repository.lease import RENEW_SECONDS, Lease
from drtool.system.clock import Clock
from drtool.system.retry import RetryLimits

# From the moment a run is told to stop, a store that is away gets this long to come back.
LAST_SECONDS = 20.0
_PAUSES = RetryLimits(first_pause_seconds=0.1, longest_pause_seconds=10.0)
_MOST_DOUBLINGS = 12


@dataclass(slots=True, kw_only=True)
class Patience:
    """Waits for the store on behalf of one run. Any thread may use it."""

    stop: threading.Event
    clock: Clock
    emit: Emit
    lease: Lease | None = None
    _checked_at: float = field(default=float("-inf"), init=False)
    _troubles: dict[str, str] = field(default_factory=dict, init=False)
    _saying: threading.Lock = field(default_factory=threading.Lock, init=False)

    def put(self, put: Callable[[], None]) -> None:
        """Do `put` until it succeeds; RepositoryUnavailable once the run was told to stop.

        Whatever else it raises is raised at once: LeaseHeld, other bytes under the same name.
        """
        attempt = 0
        deadline: float | None = None
        while True:
            try:
                self._check_lease()
                put()
                break
            except RepositoryUnavailable as error:
                attempt += 1
                if attempt == 1:
                    self.emit(
                        Noted(f"{error.message}; nothing is acknowledged meanwhile", "warning")
                    )
                if self.stop.is_set():
                    deadline = deadline or self.clock.monotonic() + LAST_SECONDS
                    if self.clock.monotonic() > deadline:
                        raise
                pause = _PAUSES.pause(min(attempt, _MOST_DOUBLINGS))
                # Once told to stop, the event no longer makes a pause: try a few times a second.
                self.clock.wait(0.25 if deadline else pause, None if deadline else self.stop)
        if attempt:
            tries = "1 failed try" if attempt == 1 else f"{attempt} failed tries"
            self.emit(Noted(f"the store is back after {tries}", "recovery"))

    def say(self, trouble: str | None, *, about: str = "") -> None:
        """Let whoever looks at the lease see what keeps the run from its work; None once nothing does.

        `about` is the part of the run that says it, where several parts have troubles of their own.
        """
        if self.lease is None:
            return
        with self._saying:
            if trouble is None:
                self._troubles.pop(about, None)
            else:
                self._troubles[about] = f"{about}: {trouble}" if about else trouble
            self.lease.say("; ".join(self._troubles.values()) or None)

    def _check_lease(self) -> None:
        """Two receivers put equal bytes, so it is enough to look as often as a lease is renewed."""
        now = self.clock.monotonic()
        if self.lease is not None and now - self._checked_at >= RENEW_SECONDS:
            self.lease.check()
            self._checked_at = now
