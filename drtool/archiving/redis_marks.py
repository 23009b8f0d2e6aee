"""Marks of a shard: a heartbeat is written on its master, and kept once the archived stream holds it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from drtool.archiving.redis_lateness import Lateness, Probe
from drtool.errors import DrtoolError, SourceUnavailable
from drtool.model.objective import Mark
from drtool.model.progress import Emit, Noted
from drtool.repository.layout import ReplicationHistory
from drtool.repository.marks import put_mark
from drtool.repository.repository import Repository
from drtool.repository.stream_known import put_reached
from drtool.sources.redis.connection import RedisConnection
from drtool.sources.redis.heartbeat import RedisMark, beat, probe
from drtool.system.clock import Clock

# Marks that wait for their stream; an outage longer than this many beats loses the oldest of them.
MOST_PENDING = 1000
LONGEST_PAUSE_SECONDS = 60.0
# What a beat needs: a connection to the shard's master, and the key; None: the master is only asked.
Master = Callable[[], tuple[RedisConnection, str | None]]
# What arrives between two questions is told by the first, so they leave room in TOLERATED_LAG.
_ASK_SECONDS = 0.25
REACHED_SECONDS = 300.0
_HURRIED_SECONDS = 0.1


class StreamHeart:
    """Beats every `seconds`, in a thread of its own, until `close`.

    Between two beats the master is asked four times a second how far it is; `probe` is what it said
    last. Without a key nothing is written, and it is only asked. While `hurries` is set it is asked ten
    times a second. A master that cannot be asked is reported once and looked for again; receiving goes
    on meanwhile.
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
        self._reached = _Reached(clock)
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

    def ended(self) -> None:
        """A session has ended well: record how far the log came."""
        self._reached.put()

    def keep(self, repository: Repository, history: ReplicationHistory, durable: int) -> None:
        """Put the marks that the log of `history`, durable up to `durable`, now holds.

        A store that is away leaves them waiting: marks must not hold up the stream. A bug that ended
        the heartbeat is raised here.
        """
        if self._failure is not None:
            raise self._failure
        self._reached.advance(repository, history, durable)
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
                    while self._beat(connection, key) and not self._stop.is_set():
                        pass
            except DrtoolError as error:
                self._say("no marks are made, and the master is not asked how far it is", error)
                self._failures = min(self._failures + 1, 10)
                pause = min(_ASK_SECONDS * 2**self._failures, LONGEST_PAUSE_SECONDS)
                self._clock.wait(pause, self._stop)

    def _say(self, what: str, error: DrtoolError) -> None:
        if not self._failures:
            self._emit(Noted(f"{what}: {error.message}. {error.hint}", "warning"))

    def _beat(self, connection: RedisConnection, key: str | None) -> bool:
        """One beat, and probes until the next is due; False if the master is to be looked for again."""
        begin = at = self._clock.monotonic()
        made = self._mark(connection, key) if key is not None else None
        told = made or probe(connection)
        self.probe = Probe(told.position, at, told.moment)
        if made is not None or key is None:
            if self._failures:
                again = "the master is asked how far it is" if key is None else "marks are made"
                self._emit(Noted(f"{again} again", "recovery"))
            self._failures = 0
        while (left := begin + self._seconds - self._clock.monotonic()) > 0:
            pause = _HURRIED_SECONDS if self.hurries.is_set() else _ASK_SECONDS
            if self._clock.wait(min(left, pause), self._stop):
                return False
            if left > pause:
                at = self._clock.monotonic()
                told = probe(connection)
                self.probe = Probe(told.position, at, told.moment)
        return made is not None or key is None

    def _mark(self, connection: RedisConnection, key: str) -> RedisMark | None:
        """None if the master takes no write: it has no memory left, or too few replicas, or the user
        may not. How far it is is asked all the same, or all that it sends would look late.
        """
        try:
            made = beat(connection, key)
        except SourceUnavailable as error:
            self._say("no marks are made", error)
            self._failures = max(self._failures, 1)
            return None
        self._pending.append(made)
        return made


class _Reached:
    """Records outside of the log how far it is durable: at first, every few minutes, and at the end of
    a history or of the receiver. A store that is away costs one such word, and holds up nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._place: tuple[Repository, ReplicationHistory, int] | None = None
        self._due = 0.0

    def advance(self, repository: Repository, history: ReplicationHistory, durable: int) -> None:
        is_other = self._place is None or self._place[1] != history
        if is_other:
            self.put()
        self._place = repository, history, durable
        now = self._clock.monotonic()
        if is_other or now >= self._due:
            self._due = now + REACHED_SECONDS
            self.put()

    def put(self) -> None:
        if self._place is not None:
            repository, history, durable = self._place
            with contextlib.suppress(DrtoolError):
                put_reached(repository, history, durable, at=self._clock.now())


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

    def arrived(self, offset: int, moment: datetime) -> None:
        """Judge bytes up to `offset` that have arrived just now, at `moment`."""
        self.lateness.arrived(offset, moment)
