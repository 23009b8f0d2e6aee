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

from drtool.model.measure import format_size, format_span
from drtool.model.progress import Event, Noted, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.model.wal import Lsn
from drtool.system.clock import Clock

LINE_SECONDS = 5.0
JSON_SECONDS = 0.5
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
    first_done: int | None = None
    shown: float = float("-inf")
    elapsed: float = 0.0

    def advance(self, event: PhaseAdvanced, now: float) -> None:
        self.elapsed = now - self.begin
        if self.first_done is None:
            # Positions in the WAL do not begin at zero: rates count from the first one seen.
            self.first_done = event.done if self.began.unit == "wal" else 0
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
    """Only warnings."""

    def _text(self, event: Event, phase: _Phase | None) -> str | None:
        is_warning = isinstance(event, Noted) and event.level == "warning"
        return super()._text(event, phase) if is_warning else None


def show_amount(amount: int, unit: str) -> str:
    """`1.4 GB`, `1,204 objects`, `0/3000060`."""
    if unit == "wal":
        return str(Lsn(amount))
    return f"{amount:,} {unit}" if unit != "bytes" else format_size(amount)


def show_seconds(seconds: float) -> str:
    """A duration in words."""
    return format_span(timedelta(seconds=seconds))


def _summary(phase: _Phase, seconds: float) -> str:
    covered = phase.done - (phase.first_done or 0)
    unit = phase.began.unit
    size = format_size(covered) if unit in ("bytes", "wal") else show_amount(covered, unit)
    if unit not in ("bytes", "wal") or seconds < 0.01:
        return f", {size}"
    return f", {size}, {format_size(int(covered / seconds))}/s"


def _advance_line(phase: _Phase, event: PhaseAdvanced) -> str:
    unit, begun = phase.began.unit, phase.first_done or 0
    total = event.total if event.total is not None else phase.began.total
    elapsed, covered = phase.elapsed, event.done - begun
    parts = [show_amount(event.done, unit)]
    if total is not None and total > begun:
        share = max(0.0, min(1.0, covered / (total - begun)))
        parts = [f"{share:.0%}", f"{parts[0]} of {show_amount(total, unit)}"]
    if elapsed > 0 and covered > 0:
        rate = covered / elapsed
        if unit in ("bytes", "wal"):
            parts.append(f"{format_size(int(rate))}/s")
        if total is not None and total > event.done:
            parts.append(f"{show_seconds((total - event.done) / rate)} left")
    if event.detail:
        parts.append(event.detail)
    return f"{phase.began.title}: {', '.join(parts)}"
