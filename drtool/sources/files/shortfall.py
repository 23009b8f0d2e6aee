"""What could not be done to many entries alike, told once with a count."""

from __future__ import annotations

import threading

from drtool.model.finding import Finding, Severity
from drtool.sources.files.entries import shown


class Shortfalls:
    """Counts facts, each with the first path it was true of; memory grows with the facts alone.

    Any thread may add.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[bytes, int]] = {}

    def add(self, path: bytes, fact: str, fix: str = "") -> None:
        """`fact` is true of `path`, which is in place otherwise."""
        with self._lock:
            first, count = self._counts.get((fact, fix), (path, 0))
            self._counts[fact, fix] = first, count + 1

    def findings(self) -> list[Finding]:
        """One warning for each fact."""
        with self._lock:
            counts = dict(self._counts)
        return [
            Finding(
                severity=Severity.WARNING,
                subject=shown(first) if count == 1 else f"{shown(first)} and {count - 1} more",
                fact=fact,
                fix=fix,
            )
            for (fact, fix), (first, count) in counts.items()
        ]
