"""The stopwatch of a restore: phases on the monotonic clock, one after the other, that add up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drtool.model.outcome import Phase
from drtool.model.progress import Emit, PhaseBegan, PhaseEnded
from drtool.system.clock import Clock, Stopwatch
from drtool.system.stopping import go_on


@dataclass(slots=True)
class _Sizes:
    """What the phase's own code learns while it runs."""

    size_bytes: int | None = None


class Phases:
    """Begun when the restore is declared. One thread at a time.

    `stop` asks the restore to end: its steps look at it with `go_on` where nothing is left half done.
    """

    def __init__(self, clock: Clock, emit: Emit, stop: threading.Event | None = None) -> None:
        self.began = clock.now()
        self.emit = emit
        self.clock = clock
        self.stop = stop or threading.Event()
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

    def go_on(self) -> None:
        """Return, or raise Interrupted if somebody asked to stop. Any thread."""
        go_on(self.stop, "the restore")

    def seconds(self) -> float:
        """Since the restore was declared."""
        return self._watch.seconds()

    def done(self) -> tuple[Phase, ...]:
        """The phases so far, in order."""
        return tuple(self._done)
