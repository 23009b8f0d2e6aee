"""Marks of a shard: a heartbeat is written on its master, and kept once the archived stream holds it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from drtool.archiving.redis_lateness import Lateness, Probe
from drtool.errors import DrtoolError
from drtool.model.objective import Mark
from drtool.model.progress import Emit, Noted
from drtool.repository.layout import ReplicationHistory
from drtool.repository.marks import put_mark
from drtool.repository.repository import Repository
from drtool.sources.redis.connection import RedisConnection
from drtool.sources.redis.heartbeat import RedisMark, beat, probe
from drtool.system.clock import Clock

# Marks that wait for their stream; an outage longer than this many beats loses the oldest of them.
MOST_PENDING = 1000
LONGEST_PAUSE_SECONDS = 60.0
# What a beat needs: a connection to the shard's master, and the key; None: the master is only asked.
Master = Callable[[], tuple[RedisConnection, str | None]]
_STEP_SECONDS = 0.5
_HURRIED_SECONDS = 0.1


class StreamHeart:
    """Beats every `seconds`, in a thread of its own, until `close`.

    Without a key nothing is written, and the master is only asked how far it is; `probe` is what it
    said last. While `hurries` is set it is asked ten times a second. A master that cannot be asked is
    reported once and looked for again; receiving goes on meanwhile.
    """

    def __init__(self, master: Master, *, seconds: float, clock: Clock, emit: Emit) -> None:
        self._master = master
        self._seconds = seconds
        self._clock = clock
        self._emit = emit
        self._stop = threading.Event()
        self._pending: deque[RedisMark] = deque(maxlen=MOST_PENDING)
        self._failures = 0
        self._failure: BaseException | None = None
        self.kept = 0
        self.probe: Probe | None = None
        self.hurries = threading.Event()
        self.newest: datetime | None = None
        self._thread = threading.Thread(target=self._run, name="redis heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop beating. A beat that hangs is left to its own time-out."""
        self._stop.set()
        self._thread.join(5.0)

    def keep(self, repository: Repository, history: ReplicationHistory, durable: int) -> None:
        """Put the marks that the log of `history`, durable up to `durable`, now holds.

        A store that is away leaves them waiting: marks must not hold up the stream. A bug that ended
        the heartbeat is raised here.
        """
        if self._failure is not None:
            raise self._failure
        for mark in tuple(self._pending):
            place = mark.position
            if place.replid != history.replication_id or place.offset > durable:
                continue
            try:
                put_mark(repository, history, Mark(mark.moment, place.offset, 0))
            except DrtoolError:
                return
            self.kept += 1
            self.newest = mark.moment
            with contextlib.suppress(ValueError):  # it was dropped for a newer one meanwhile
                self._pending.remove(mark)

    def _run(self) -> None:
        try:
            self._beat_until_stopped()
        except BaseException as error:  # noqa: BLE001 - the thread that receives raises it
            self._failure = error

    def _beat_until_stopped(self) -> None:
        while not self._stop.is_set():
            try:
                connection, key = self._master()
                with connection:
                    while not self._stop.is_set():
                        self._beat(connection, key)
            except DrtoolError as error:
                if not self._failures:
                    text = f"the master is not asked how far it is: {error.message}. {error.hint}"
                    self._emit(Noted(f"no marks are made, and {text}", "warning"))
                self._failures = min(self._failures + 1, 10)
                pause = min(self._seconds * 2**self._failures, LONGEST_PAUSE_SECONDS)
                self._clock.wait(pause, self._stop)

    def _beat(self, connection: RedisConnection, key: str | None) -> None:
        """One beat, and probes until the next is due."""
        begin = at = self._clock.monotonic()
        mark = probe(connection) if key is None else beat(connection, key)
        if key is not None:
            self._pending.append(mark)
        self.probe = Probe(mark.position, at)
        self._failures = 0
        while (at := self._clock.monotonic()) < begin + self._seconds:
            left = begin + self._seconds - at
            if self.hurries.is_set():
                self.probe = Probe(probe(connection).position, at)
                left = min(left, _HURRIED_SECONDS)
            if self._clock.wait(min(left, _STEP_SECONDS), self._stop):
                return


@dataclass(frozen=True, slots=True)
class Timing:
    """What a session judges the arrival of its stream by."""

    lateness: Lateness
    heart: StreamHeart

    def look(self, offset: int) -> None:
        """Judge what has been received up to `offset`; the master is asked often while it is late."""
        self.lateness.look(offset, self.heart.probe)
        if self.lateness.is_late != self.heart.hurries.is_set():
            (self.heart.hurries.set if self.lateness.is_late else self.heart.hurries.clear)()
