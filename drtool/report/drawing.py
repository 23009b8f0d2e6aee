"""Where things stand in the drawings of a report: pure geometry, in the drawing's own units.

Each drawing is made for a width, so that a telephone and a sheet of paper both get readable text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.model.measure import format_promise, format_size
from drtool.model.objective import DISASTER, LossInterval
from drtool.model.outcome import Judgement, LogSpan, Phase, Promise, RestoreOutcome
from drtool.model.wal import Lsn

WIDE, NARROW = 720, 340
ROW_HEIGHT = 44
AXIS_HEIGHT = 30
BAND_HEIGHT = 34
# A bar thinner than this cannot be seen, though its phase did happen.
MIN_BAR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line of the axis; `anchor` keeps its label inside the drawing."""

    x: float
    label: str
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One phase: its words above, its bar below."""

    y: float
    x: float
    width: float
    title: str
    label: str
    look: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseDrawing:
    """Where the time went, from the beginning to the end; `promise_x` only if the promise is in sight."""

    width: int
    height: float
    axis_y: float
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    promise_x: float | None
    promise_label: str
    promise_anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One coloured part of a band, and its line in the legend."""

    x: float
    width: float
    look: str
    label: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BandDrawing:
    """A line cut into stretches; `marks` are positions on it with a word each."""

    width: int
    height: float
    stretches: tuple[Stretch, ...]
    marks: tuple[Tick, ...]
    summary: str
    title: str = ""


def draw_phases(outcome: RestoreOutcome, width: int) -> PhaseDrawing:
    """The stopwatch: one row a phase, on one axis of seconds."""
    promised = promise_of(outcome, Promise.RTO)
    span = _span_shown(outcome.total_seconds, promised)
    scale = width / span
    axis_y = float(len(outcome.phases) * ROW_HEIGHT)
    in_sight = promised is not None and promised.total_seconds() <= span
    promise_x = promised.total_seconds() * scale if promised is not None and in_sight else None
    return PhaseDrawing(
        width=width,
        height=axis_y + AXIS_HEIGHT,
        axis_y=axis_y,
        bars=tuple(_bar(phase, number, scale=scale) for number, phase in enumerate(outcome.phases)),
        ticks=_ticks(span, width),
        promise_x=promise_x,
        promise_label="" if promised is None else f"promised {format_promise(promised)}",
        promise_anchor="end" if (promise_x or 0) > width / 2 else "start",
    )


def promise_of(outcome: RestoreOutcome, promise: Promise) -> timedelta | None:
    """What was promised; None if it is not judged here."""
    judgement = judgement_of(outcome, promise)
    return None if judgement is None else judgement.promised


def judgement_of(outcome: RestoreOutcome, promise: Promise) -> Judgement | None:
    """The judgement of one half of the objective, if there is one."""
    return next((one for one in outcome.judgements if one.objective is promise), None)


def _span_shown(total_seconds: float, promised: timedelta | None) -> float:
    """The axis ends with the run, or with the promise if that lies near enough to be drawn."""
    total = max(total_seconds, 0.001)
    if promised is not None and promised.total_seconds() <= 2.5 * total:
        return max(total, promised.total_seconds()) * 1.02
    return total


def _bar(phase: Phase, number: int, *, scale: float) -> Bar:
    rate = phase.bytes_per_second
    parts = ["waiting for a person"] if phase.is_waiting else []
    parts.append(format_promise(timedelta(seconds=phase.seconds)))
    if phase.size_bytes is not None:
        parts.append(format_size(phase.size_bytes))
    if rate is not None:
        parts.append(f"{format_size(int(rate))}/s")
    return Bar(
        y=float(number * ROW_HEIGHT),
        x=phase.begin_seconds * scale,
        width=max(MIN_BAR, phase.seconds * scale),
        title=phase.title,
        label=" · ".join(parts),
        look="waiting" if phase.is_waiting else "working",
    )


def _ticks(span: float, width: int) -> tuple[Tick, ...]:
    step = _step(span, at_most=8 if width >= WIDE else 4)
    count = int(span / step + 1e-9)
    return tuple(
        Tick(
            x=number * step * width / span,
            label=format_promise(timedelta(seconds=number * step)) if number else "0",
            anchor=_anchor(number * step / span),
        )
        for number in range(count + 1)
    )


def _step(span: float, *, at_most: int) -> float:
    """A round number of seconds, minutes or hours."""
    steps = [
        *(base * 10.0**power for power in (-3, -2, -1) for base in (1, 2, 5)),
        *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400),
    ]
    return next((step for step in steps if span / step <= at_most), span)


def _anchor(share: float) -> str:
    return "start" if share < 0.06 else "end" if share > 0.94 else "middle"


def draw_loss(outcome: RestoreOutcome, width: int) -> BandDrawing | None:
    """The last moments before the disaster, or before what stands for it; None where no loss was measured."""
    judgement = judgement_of(outcome, Promise.RPO)
    measured = None if judgement is None else judgement.measured
    if judgement is None or measured is None:
        return None
    if isinstance(measured, timedelta):
        measured = LossInterval(measured, measured)
    at_least, at_most = measured.at_least.total_seconds(), measured.at_most.total_seconds()
    promised = judgement.promised.total_seconds()
    span = max(at_most * 1.5, 0.5)
    if at_most < promised <= 3 * span:
        span = promised * 1.15
    end = span * 1.08

    def x(seconds_before: float) -> float:
        return (span - seconds_before) / end * width

    stretches = _loss_stretches(measured, x, outcome.lost_at)
    marks = [Tick(x=x(0), label=judgement.against, anchor="end")]
    if promised <= span:
        label = f"promise: {format_promise(judgement.promised)}"
        marks.append(Tick(x=x(promised), label=label, anchor=_anchor(x(promised) / width)))
    return BandDrawing(
        width=width,
        height=BAND_HEIGHT + AXIS_HEIGHT,
        stretches=tuple(one for one in stretches if one.width > 0 or at_least == at_most),
        marks=tuple(marks),
        summary=_loss_summary(judgement, measured),
        title=f"What was lost before {judgement.against}",
    )


def _loss_summary(judgement: Judgement, measured: LossInterval) -> str:
    at_least, at_most = format_promise(measured.at_least), format_promise(measured.at_most)
    promised = format_promise(judgement.promised)
    if judgement.against == DISASTER:
        return (
            f"Before the disaster, between {at_least} and {at_most} of work was lost; promised were at most"
            f" {promised}. The true loss lies between these two; the promise is judged on the larger."
        )
    return (
        f"Measured back from {judgement.against}: between {at_least} and {at_most} of the work before it is"
        f" not in the copy; promised were at most {promised}, judged on the larger. Nobody said when the"
        " disaster was: how much it took, a restore with --lost-at tells."
    )


def _loss_stretches(
    measured: LossInterval, x: Callable[[float], float], lost_at: datetime | None
) -> list[Stretch]:
    at_least, at_most = measured.at_least.total_seconds(), measured.at_most.total_seconds()
    kept_until = (
        "" if lost_at is None else f"until {_clock(lost_at - measured.at_most)} UTC at least"
    )
    return [
        Stretch(x=0, width=x(at_most), look="kept", label="recovered", value=kept_until),
        Stretch(
            x=x(at_most),
            width=x(at_least) - x(at_most),
            look="unsure",
            label="the last recovered write lies in here",
            value=format_promise(measured.at_most - measured.at_least),
        ),
        Stretch(
            x=x(at_least),
            width=x(0) - x(at_least),
            look="lost",
            label="surely lost",
            value=format_promise(measured.at_least),
        ),
    ]


def _clock(moment: datetime) -> str:
    return moment.strftime("%H:%M:%S.%f")[:-3]


def draw_log(outcome: RestoreOutcome, width: int) -> BandDrawing | None:
    """The log from the backup's start to the repository's end; None where it is not known."""
    span, reached = outcome.log, outcome.reached.lsn
    if span is None or reached is None:
        return None
    end = max(reached, span.backup_stop, span.repository_end or Lsn(0))
    scale = width / max(1, end - span.backup_start)

    def stretch(begin: int, until: int, *, look: str, label: str) -> Stretch:
        return Stretch(
            x=(begin - span.backup_start) * scale,
            width=max(0.0, (until - begin) * scale),
            look=look,
            label=label,
            value=f"{Lsn(begin)} to {Lsn(until)}, {format_size(max(0, until - begin))}",
        )

    consistent = min(span.backup_stop, reached)
    stretches = [
        stretch(
            span.backup_start,
            consistent,
            look="base",
            label="replayed until the backup is consistent",
        ),
        stretch(consistent, reached, look="replayed", label="replayed to the target"),
        stretch(reached, end, look="beyond", label="in the repository, after the target"),
    ]
    return BandDrawing(
        width=width,
        height=BAND_HEIGHT + AXIS_HEIGHT,
        stretches=tuple(one for one in stretches if one.width > 0),
        marks=(
            Tick(
                x=(reached - span.backup_start) * scale,
                label=f"reached {reached}",
                anchor="end" if (reached - span.backup_start) * scale > width / 2 else "start",
            ),
        ),
        summary=_log_summary(span, reached),
    )


def _log_summary(span: LogSpan, reached: Lsn) -> str:
    known = "" if span.repository_end is None else f"; the repository reaches {span.repository_end}"
    return f"Replay began at {span.backup_start} and reached {reached}{known}."
