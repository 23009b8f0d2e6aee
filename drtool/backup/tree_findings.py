"""What a snapshot had to leave out: the first of each kind by name, the rest by count."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

from drtool.model.finding import Finding
from drtool.sources.files.entries import Omission, Omitted

# A manifest is read whole by every command: a tree of a million unreadable files must not grow it.
MOST_OF_A_KIND = 20


class Omissions:
    """Any thread may add. Memory: twenty of each kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[Omission, list[Omitted]] = {}
        self._counts: Counter[Omission] = Counter()
        self.is_complete = True

    def add(self, omitted: Omitted) -> None:
        with self._lock:
            self._counts[omitted.why] += 1
            first = self._first.setdefault(omitted.why, [])
            if len(first) < MOST_OF_A_KIND:
                first.append(omitted)
            if omitted.is_incomplete:
                self.is_complete = False

    def findings(self) -> tuple[Finding, ...]:
        """In order of path within their kind."""
        found: list[Finding] = []
        for why, first in self._first.items():
            told = [one.finding for one in sorted(first, key=lambda one: one.path)]
            more = self._counts[why] - len(first)
            if more:
                fact = f"and {more:,} more like these ({why})"
                told.append(replace(told[-1], subject="others", fact=fact))
            found += told
        return tuple(found)
