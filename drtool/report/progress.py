"""How far a verb is: bars on a terminal, plain lines without one, JSON lines for programs.

Each view is an `Emit` for the events of `model/progress.py`, safe to call from any thread, and a
context manager that leaves the terminal as it was.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self, TextIO

from drtool.model.measure import counted, format_size, format_span
from drtool.model.progress import Event, Noted, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.system.clock import Clock

LINE_SECONDS = 5.0
JSON_SECONDS = 0.5
# Before this, a rate says more of how a phase began than of how it goes on.
LEFT_AFTER_SECONDS = 2.0
LEFT_FROM_SHARE = 0.001
Redact = Callable[[str], str]


class ProgressView(Protocol):
    """Shows events until it is left."""

    def __call__(self, event: Event) -> None:
        """Show one event; never raises because nobody reads any more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@dataclass(slots=True)
class _Phase:
    """What is known of a phase that runs."""

    began: PhaseBegan
    begin: float
    done: int = 0
    shown: float = float("-inf")
    elapsed: float = 0.0

    def advance(self, event: PhaseAdvanced, now: float) -> None:
        self.elapsed = now - self.begin
        self.done = event.done


class _PlainView:
    """What lines and JSON lines share: one event at a time, a phase at most every so often."""

    def __init__(self, stream: TextIO, *, clock: Clock, redact: Redact, pause: float) -> None:
        self._stream, self._clock, self._redact, self._pause = stream, clock, redact, pause
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._is_open = False

    def __call__(self, event: Event) -> None:
        with self._lock:
            if not self._is_open:
                return
            text = self._line(event)
            if text is None:
                return
            try:
                self._stream.write(self._redact(text) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # Whoever watched has gone; the work goes on.
                self._is_open = False

    def _line(self, event: Event) -> str | None:
        """The text for an event, or None if it is not the time for one."""
        now = self._clock.monotonic()
        match event:
            case PhaseBegan():
                self._phases[event.phase] = _Phase(event, now)
                return self._text(event, None)
            case PhaseAdvanced():
                phase = self._phases.get(event.phase)
                if phase is None:
                    return None
                phase.advance(event, now)
                if now - phase.shown < self._pause:
                    return None
                phase.shown = now
                return self._text(event, phase)
            case PhaseEnded():
                return self._text(event, self._phases.pop(event.phase, None))
            case Noted():
                return self._text(event, None)

    def _text(self, event: Event, phase: _Phase | None) -> str | None:
        raise NotImplementedError


class LinesProgress(_PlainView):
    """Plain lines: a phase's begin and end, and between them at most one every five seconds."""

    def __init__(self, stream: TextIO, *, clock: Clock, redact: Redact = str) -> None:
        super().__init__(stream, clock=clock, redact=redact, pause=LINE_SECONDS)

    def _text(self, event: Event, phase: _Phase | None) -> str | None:
        match event:
            case PhaseBegan(title=title, total=total, unit=unit):
                amount = "" if total is None else f" ({show_amount(total, unit)})"
                return f"{title}{amount} ..."
            case PhaseAdvanced():
                return None if phase is None else _advance_line(phase, event)
            case PhaseEnded(phase=name, seconds=seconds):
                title = name if phase is None else phase.began.title
                done = "" if phase is None or not phase.done else _summary(phase, seconds)
                return f"{title}: done in {show_seconds(seconds)}{done}"
            case Noted(text=text, level=level):
                return f"warning: {text}" if level == "warning" else text


class JsonProgress(_PlainView):
    """One JSON object a line; a phase advances at most twice a second."""

    def __init__(self, stream: TextIO, *, clock: Clock, redact: Redact = str) -> None:
        super().__init__(stream, clock=clock, redact=redact, pause=JSON_SECONDS)

    def _text(self, event: Event, phase: _Phase | None) -> str | None:
        kinds = {
            PhaseBegan: "phase-began",
            PhaseAdvanced: "phase-advanced",
            PhaseEnded: "phase-ended",
            Noted: "noted",
        }
        content = {"drtool": 1, "kind": "progress", "event": kinds[type(event)], **asdict(event)}
        if isinstance(event, PhaseAdvanced) and phase is not None:
            content["unit"] = phase.began.unit
            content["total"] = event.total if event.total is not None else phase.began.total
        return json.dumps(content, ensure_ascii=False)


class QuietProgress(LinesProgress):
    """Only warnings, and that what they told of is over."""

    def _text(self, event: Event, phase: _Phase | None) -> str | None:
        is_told = isinstance(event, Noted) and event.level in ("warning", "recovery")
        return super()._text(event, phase) if is_told else None


def show_amount(amount: int, unit: str) -> str:
    """`1.4 GB`, `1,204 objects`, `1 object`."""
    if unit == "bytes":
        return format_size(amount)
    return counted(amount, unit.removesuffix("s"), unit)


def show_progress(done: int, total: int | None, unit: str) -> str:
    """`1.2 GB of 3.4 GB`, `1 of 3 objects`; without a total only what is done."""
    if total is None:
        return show_amount(done, unit)
    counted = format_size(done) if unit == "bytes" else f"{done:,}"
    return f"{counted} of {show_amount(total, unit)}"


def seconds_left(done: int, total: int | None, *, rate: float, elapsed: float) -> float | None:
    """Until `total` is done at `rate` a second; None where too little is done to tell."""
    if total is None or done >= total or rate <= 0 or elapsed < LEFT_AFTER_SECONDS:
        return None
    return (total - done) / rate if done >= total * LEFT_FROM_SHARE else None


def show_seconds(seconds: float) -> str:
    """A duration in words."""
    return format_span(timedelta(seconds=seconds))


def _summary(phase: _Phase, seconds: float) -> str:
    amount = show_amount(phase.done, phase.began.unit)
    if phase.began.unit != "bytes" or seconds < 0.01:
        return f", {amount}"
    return f", {amount}, {format_size(int(phase.done / seconds))}/s"


def _advance_line(phase: _Phase, event: PhaseAdvanced) -> str:
    unit, done, elapsed = phase.began.unit, event.done, phase.elapsed
    total = event.total if event.total is not None else phase.began.total
    parts = [show_progress(done, total, unit)]
    if total:
        parts.insert(0, f"{max(0.0, min(1.0, done / total)):.0%}")
    if elapsed > 0 and done > 0:
        rate = done / elapsed
        if unit == "bytes":
            parts.append(f"{format_size(int(rate))}/s")
        left = seconds_left(done, total, rate=rate, elapsed=elapsed)
        if left is not None:
            parts.append(f"{show_seconds(left)} left")
    if event.detail:
        parts.append(event.detail)
    return f"{phase.began.title}: {', '.join(parts)}"
