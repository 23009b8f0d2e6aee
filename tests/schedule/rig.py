"""A clock that the test sets, and a program that does what a test says."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
# What a command of drtool is here: it writes down that it ran, says so, and does what it is told to.
PROGRAM = """
import pathlib, sys, time
place, name, kind = sys.argv[1:4]
log = pathlib.Path(place, name)
with log.open("a") as file:
    file.write("began\\n")
print("a line of", name, flush=True)
while kind == "until" and not pathlib.Path(place, "go").exists():
    time.sleep(0.02)
if kind == "forever":
    time.sleep(600)
sys.exit(int(kind) if kind.isdigit() else 0)
"""


class SetClock:
    """Both clocks stand still until they are moved; a wait gives the other threads their turn."""

    def __init__(self) -> None:
        self.wall, self.seconds = NOON, 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        return (until or threading.Event()).wait(min(seconds, 0.02))

    def move(self, **span: float) -> None:
        self.wall += timedelta(**span)
        self.seconds += timedelta(**span).total_seconds()
