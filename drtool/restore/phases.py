"""The stopwatch of a restore: phases on the monotonic clock, one after the other, that add up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drtool.model.outcome import Phase
from drtool.model.progress import Emit, PhaseBegan, PhaseEnded
from drtool.system.clock import Clock, Stopwatch


@dataclass(slots=True)
class _Sizes:
    """What the phase's own code learns while it runs."""

    size_bytes: int | None = None


class Phases:
    """Begun when the restore is declared. One thread at a time."""

    def __init__(self, clock: Clock, emit: Emit) -> None:
        self.began = clock.now()
        self.emit = emit
        self.clock = clock
        self._watch = Stopwatch(clock)
        self._done: list[Phase] = []

    @contextmanager
    def phase(
        self, name: str, title: str, *, total: int | None = None, unit: str = "bytes"
    ) -> Iterator[_Sizes]:
        """Measure what happens inside; a phase that fails is measured too."""
        begin = self._watch.seconds()
        sizes = _Sizes()
        self.emit(PhaseBegan(phase=name, title=title, total=total, unit=unit))
        try:
            yield sizes
        finally:
            seconds = self._watch.seconds() - begin
            self._done.append(
                Phase(
                    name=name,
                    title=title,
                    begin_seconds=begin,
                    seconds=seconds,
                    size_bytes=sizes.size_bytes,
                )
            )
            self.emit(PhaseEnded(phase=name, seconds=seconds))

    def seconds(self) -> float:
        """Since the restore was declared."""
        return self._watch.seconds()

    def done(self) -> tuple[Phase, ...]:
        """The phases so far, in order."""
        return tuple(self._done)
