"""The thread that stores: WAL of one timeline into segments and parts, and how far it is durable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from drtool.archiving.growing import GrowingSegment
from drtool.archiving.handover import Handover
from drtool.archiving.patience import Patience
from drtool.archiving.wal_events import EventFinder
from drtool.model.wal import Lsn, WalSegment
from drtool.repository.layout import Lineage
from drtool.repository.log_events import LogEvent, put_event
from drtool.repository.repository import Repository

# Marks and time-outs are looked at no later than this.
LONGEST_LOOK_SECONDS = 1.0
JOIN_SECONDS = 10.0
# A segment so large that its plain bytes must not wait for the interval.
MOST_UNFLUSHED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepSettings:
    """What is kept and how: `on_durable` is called, by the storing thread, after each advance, and
    `on_event` before the WAL of an event is durable.
    """

    repository: Repository
    lineage: Lineage
    segment_bytes: int
    flush_seconds: float
    at_once: threading.Event
    on_durable: Callable[[Lsn], None]
    on_event: Callable[[LogEvent], None]


class LogKeeper:
    """Stores WAL as it is given, from `begin` (the start of a segment) on, in a thread of its own.

    `durable` never runs ahead of what the store has confirmed. Bytes below the first `durable` are
    in the repository already and are not put again as parts. Memory: `handover.MOST_BYTES`, the
    plain and the sealed bytes of one segment. What a recovery must know of the WAL (`wal_events`) is
    put before the WAL.
    """

    def __init__(
        self, settings: KeepSettings, patience: Patience, *, begin: Lsn, durable: Lsn
    ) -> None:
        self._settings = settings
        self._patience = patience
        self._clock = patience.clock
        self._number = begin // settings.segment_bytes
        self.durable = durable
        self.segments = 0
        self.parts = 0
        self.handover = Handover()
        self.failure: BaseException | None = None
        self._growing: GrowingSegment | None = None
        self._events = EventFinder(
            settings.repository, settings.lineage, segment_bytes=settings.segment_bytes
        )
        self._first_unflushed_at: float | None = None
        name = f"keep {settings.lineage.source}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def raise_failure(self) -> None:
        """Raise what the storing thread has failed with, if it has."""
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Store all that was given, end the thread; raise what it failed with."""
        self.handover.end()
        while self._thread.is_alive():
            # Bounded by `Patience`: as long as the store is away, but not long after a stop.
            self._thread.join(JOIN_SECONDS)
        self.handover.close()
        self.raise_failure()

    def _run(self) -> None:
        try:
            while not self._step():
                pass
        except BaseException as error:  # noqa: BLE001 - the thread that receives raises it
            self.failure = error
        finally:
            self.handover.wake()

    def _step(self) -> bool:
        taken = self.handover.take(self._patience_left())
        for view in taken.views:
            self._store(view)
        at_once = self._settings.at_once.is_set() and self.handover.is_empty
        if taken.wants_flush or taken.is_last or at_once or self._is_due():
            self._flush()
        self._settings.on_durable(self.durable)
        return taken.is_last

    def _store(self, view: memoryview) -> None:
        while view:
            growing = self._growing or self._begin_segment()
            piece = view[: growing.room]
            self._put_events(Lsn(growing.begin + growing.filled), piece)
            growing.add(piece)
            view = view[len(piece) :]
            if not growing.room:
                self._patience.put(growing.put_whole)
                self.segments += 1
                self._number += 1
                self._growing = None
                self._advance(growing)
            elif growing.unflushed and self._first_unflushed_at is None:
                self._first_unflushed_at = self._clock.monotonic()

    def _put_events(self, begin: Lsn, piece: memoryview) -> None:
        """What a recovery must know of `piece` is durable before `piece` itself is."""
        found: list[LogEvent] = []
        self._patience.put(lambda: found.extend(self._events.find(begin, piece)))
        settings = self._settings
        for event in found:
            self._patience.put(partial(put_event, settings.repository, settings.lineage, event))
            settings.on_event(event)

    def _begin_segment(self) -> GrowingSegment:
        settings = self._settings
        segment = WalSegment(settings.lineage.timeline, self._number)
        growing = GrowingSegment(
            settings.repository, settings.lineage, segment, segment_bytes=settings.segment_bytes
        )
        known = self.durable - segment.begin(settings.segment_bytes)
        growing.begin_known(min(max(known, 0), settings.segment_bytes))
        self._growing = growing
        return growing

    def _flush(self) -> None:
        growing = self._growing
        if growing is not None and growing.unflushed:
            self._patience.put(growing.put_tail)
            self.parts += 1
            self._advance(growing)

    def _advance(self, growing: GrowingSegment) -> None:
        self._first_unflushed_at = None
        self.durable = max(self.durable, growing.end)
        self.handover.wake()

    def _is_due(self) -> bool:
        growing = self._growing
        if growing is None or self._first_unflushed_at is None:
            return False
        waited = self._clock.monotonic() - self._first_unflushed_at
        return waited >= self._settings.flush_seconds or growing.unflushed > MOST_UNFLUSHED_BYTES

    def _patience_left(self) -> float:
        if self._first_unflushed_at is None:
            return LONGEST_LOOK_SECONDS
        due = self._first_unflushed_at + self._settings.flush_seconds - self._clock.monotonic()
        return min(max(due, 0.0), LONGEST_LOOK_SECONDS)
