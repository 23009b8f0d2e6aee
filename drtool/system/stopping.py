"""The token by which a long run is asked to end: an event that the work itself looks at, where it can end."""

from __future__ import annotations

import threading

from drtool.errors import Interrupted


def go_on(stop: threading.Event, what: str) -> None:
    """Return, or raise Interrupted naming `what` if somebody asked to stop."""
    if stop.is_set():
        raise Interrupted(f"{what} was broken off", hint="Run the same command again.")
