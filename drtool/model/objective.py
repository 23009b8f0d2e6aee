"""What was promised, and how a measurement is judged against it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

# What a loss is measured back from where somebody said when it was.
DISASTER = "the disaster"


class Verdict(StrEnum):
    """Not measured is not met: UNKNOWN and STALE count as failed wherever one is judged."""

    MET = "MET"
    MISSED = "MISSED"
    UNKNOWN = "UNKNOWN"
    STALE = "STALE"


@dataclass(frozen=True, slots=True)
class Objective:
    """The promise: at most `rpo` of work lost, back within `rto`."""

    rpo: timedelta
    rto: timedelta


@dataclass(frozen=True, slots=True)
class LossInterval:
    """Measured loss, as the interval that surely contains the true one; judged on `at_most`."""

    at_least: timedelta
    at_most: timedelta

    def __post_init__(self) -> None:
        if self.at_least > self.at_most:
            raise ValueError("an interval's lower end lies above its upper end")


def judge(measured: timedelta | None, promised: timedelta) -> Verdict:
    """MET when `measured` is at most `promised`; UNKNOWN when nothing was measured."""
    if measured is None:
        return Verdict.UNKNOWN
    return Verdict.MET if measured <= promised else Verdict.MISSED


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """MISSED before UNKNOWN before STALE before MET; UNKNOWN of none."""
    order = (Verdict.MISSED, Verdict.UNKNOWN, Verdict.STALE, Verdict.MET)
    return min(verdicts, key=order.index, default=Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A wall-clock moment tied to a log position.

    Every commit that the server acknowledged at or before `moment` (the server's clock) lies at or
    before `lsn`, and a transaction of our own, begun after `moment`, has committed at or before
    `lsn`: so once the log is whole up to `lsn`, a recovery to `moment` can always be reached.
    """

    moment: datetime
    lsn: int
    timeline: int
