"""Ranges of time that a source can be returned to, and what breaks them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from drtool.model.measure import format_size
from drtool.model.wal import Lsn


@dataclass(frozen=True, slots=True, order=True)
class TimeRange:
    """Every moment from `begin` to `end`, both included, can be returned to."""

    begin: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.begin > self.end:
            raise ValueError(f"a range of time ends before it begins: {self.begin} to {self.end}")

    def holds(self, moment: datetime) -> bool:
        """Whether `moment` lies inside."""
        return self.begin <= moment <= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertainSpan:
    """Inside it nobody knows what `shard` of a source held; at its ends it is known.

    `end` None: it lasts, and what is received now may have been written at any time since.
    """

    begin: datetime
    end: datetime | None
    shard: str
    reason: str


def merged(ranges: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The same moments as few ranges, oldest first: those that overlap or touch become one."""
    found: list[TimeRange] = []
    for one in sorted(ranges):
        if found and one.begin <= found[-1].end:
            found[-1] = TimeRange(found[-1].begin, max(found[-1].end, one.end))
        else:
            found.append(one)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGap:
    """A stretch of log that the repository lacks: no moment inside it can be returned to.

    `since` is the last moment before it, `until` the first behind it that a backup made reachable
    again; None is not known, or not yet. With a `reason` the WAL is there, and no recovery passes it.
    """

    timeline: int
    begin: Lsn
    end: Lsn
    reason: str = ""
    since: datetime | None = field(default=None, compare=False)
    until: datetime | None = field(default=None, compare=False)

    @property
    def lack(self) -> str:
        """What is wrong with the stretch, as a clause: the same words wherever it is told."""
        if self.reason:
            return f"from {self.begin} to {self.end} it cannot be replayed: {self.reason}"
        size = format_size(self.end - self.begin)
        return f"from {self.begin} to {self.end} it is missing ({size})"
