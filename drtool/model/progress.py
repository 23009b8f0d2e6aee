"""What a verb tells while it works. A verb calls `emit(event)`; `report/` turns events into bars or lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseBegan:
    """A phase (`fetch`, `replay`, ...) has begun; `total` is None while nobody knows it.

    `unit` is `bytes` or `objects`. WAL is counted in bytes since the phase began; the position that
    was reached is the `detail` of what advances.
    """

    phase: str
    title: str
    total: int | None
    unit: str = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseAdvanced:
    """`done` of `total` so far. Any thread may emit it; later events may carry smaller counts."""

    phase: str
    done: int
    total: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnded:
    """A phase is over."""

    phase: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Noted:
    """A sentence for the person who watches. `recovery`: what a warning told of is over."""

    text: str
    level: str = "info"  # info | warning | recovery


Event = PhaseBegan | PhaseAdvanced | PhaseEnded | Noted
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """An `Emit` for callers that watch nothing."""
