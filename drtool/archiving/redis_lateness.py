"""Whether a shard's stream arrives as it is written, told by what its master says of itself.

Bytes that the receiver fetches after an outage, its own or that of the replica it has joined, are told
by the moment of their arrival, which says nothing of when they were written. So the master is asked
for its offset several times a second. Whatever arrives within a second of a question whose answer is
held was written within that second. What arrives later, because the link, the replica or the receiver
itself stood still, is recorded as late, before it is stored.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from drtool.archiving.redis_clock import ServerClock
from drtool.repository.extents import RedisShard
from drtool.repository.layout import ReplicationHistory
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory
from drtool.repository.streambranch import StreamPath, Stretch
from drtool.repository.streamlate import LateStretch, open_late, put_late
from drtool.repository.streampath import newest
from drtool.sources.redis.psync import Position
from drtool.system.clock import Clock

# What arrives within this time of being written is told by its arrival.
TOLERATED_LAG = timedelta(seconds=1)
OUTAGE = "the stream was not received"
STALL = "the stream was received later than it was written"
# Answers of the master that are not reached yet: some seconds of them.
_MOST_PROBES = 32


@dataclass(frozen=True, slots=True)
class Probe:
    """At `at`, on our monotonic clock, the master had come to `position` or was just about to.

    `moment` is what its own clock said meanwhile.
    """

    position: Position
    at: float
    moment: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """How a stretch of stream begins: at `offset`, with what was written after `since`.

    `is_late` if the server had more at `at`, by the monotonic clock, or the histories parted before
    what we had.
    """

    offset: int
    since: datetime
    at: float
    is_late: bool


class Lateness:
    """Watches one session of one history. `look` and `arrived` are called by the thread that receives,
    `put` by that which stores.
    """

    def __init__(
        self,
        repository: Repository,
        history: ReplicationHistory,
        joined: Joined,
        *,
        server_clock: ServerClock,
        clock: Clock,
    ) -> None:
        self._repository, self._history = repository, history
        self._server_clock, self._clock = server_clock, clock
        self._lock = threading.Lock()
        self._in_step = (joined.since, joined.offset)
        # All that has arrived by then was in time.
        self._in_time = self._in_step
        self._in_step_at = joined.at
        self._seen: Probe | None = None
        self._goals: deque[Probe] = deque(maxlen=_MOST_PROBES)
        self._open: LateStretch | None = None
        self._waiting: list[LateStretch] = []
        if joined.is_late:
            self._fall_behind(OUTAGE)
        else:
            self._close(open_late(repository, history), joined.offset)

    @property
    def is_late(self) -> bool:
        return self._open is not None

    def known_until(self, arrived: datetime | None) -> datetime:
        """Up to when all that was written has been received, if the last of it `arrived` then."""
        if self._open is not None:
            return self._open.since
        return max(self._in_step[0], arrived or self._in_step[0])

    def look(self, offset: int, probe: Probe | None) -> None:
        """Judge what has been received, up to `offset`, by the newest `probe` of the master."""
        self._take_in(probe)
        reached: Probe | None = None
        while self._goals and offset >= self._goals[0].position.offset:
            reached = self._goals.popleft()
        if reached is not None and self._since(reached.at) <= TOLERATED_LAG:
            self._catch_up(offset, reached.at)
        elif self._goals and self._since(self._goals[0].at) > TOLERATED_LAG:
            self._fall_behind(STALL)

    def arrived(self, offset: int, moment: datetime) -> None:
        """Bytes up to `offset` have arrived at `moment`, and are not given on yet: they are late unless
        the receiver was in step with the master shortly before.
        """
        if self._since(self._in_step_at) > TOLERATED_LAG:
            self._fall_behind(STALL)
        elif self._open is None:
            self._in_time = (moment, offset)

    def _since(self, at: float) -> timedelta:
        return timedelta(seconds=self._clock.monotonic() - at)

    def _take_in(self, probe: Probe | None) -> None:
        seen, offset = self._seen, self._in_step[1]
        if probe is None or probe.position.replid != self._history.replication_id:
            return
        if probe.at <= (self._in_step_at if seen is None else seen.at):
            return
        self._seen = probe
        passed = timedelta(seconds=probe.at - seen.at) if seen is not None else timedelta()
        if seen is None or probe.moment - seen.moment - passed <= TOLERATED_LAG:
            self._goals.append(probe)
            return
        # Time has passed there and not here: this machine stood still, its monotonic clock with it.
        self._goals.clear()
        self._server_clock.doubt()
        self._in_time = self._in_step  # what seemed to arrive in time since then may not have
        if probe.position.offset > offset:
            self._fall_behind(STALL)

    def _close(self, left: LateStretch | None, offset: int) -> None:
        """Record the end of a stretch that a session left open: its bytes are all here."""
        if left is not None and offset >= left.begin:
            self._waiting.append(replace(left, end=offset, until=self._server_clock.now()))

    def _fall_behind(self, reason: str) -> None:
        since, begin = self._in_time
        if self._open is not None:
            return
        with self._lock:
            self._open = LateStretch(begin=begin, since=since, reason=reason)
            self._waiting.append(self._open)

    def _catch_up(self, offset: int, at: float) -> None:
        now = self._server_clock.now()
        with self._lock:
            opened, self._open = self._open, None
            self._in_step = self._in_time = (now, offset)
            self._in_step_at = at
            if opened is None:
                return
            is_put = opened not in self._waiting
            if not is_put:
                self._waiting.remove(opened)
            if is_put or now - opened.since > TOLERATED_LAG:
                self._waiting.append(replace(opened, end=offset, until=now))

    def put(self, put: Callable[[Callable[[], None]], None]) -> None:
        """Record what is known, by `put`, before bytes of it are: so no moment ever looks exact that
        is not.
        """
        with self._lock:
            waiting = list(self._waiting)
        for late in waiting:
            put(lambda one=late: put_late(self._repository, self._history, one))  # type: ignore[misc] # a default binds the loop's value
            with self._lock:
                if late in self._waiting:
                    self._waiting.remove(late)


def held_since(
    repository: Repository,
    inventory: StreamInventory,
    asked: Position,
    *,
    snapshots: Sequence[RedisShard],
) -> datetime | None:
    """When the last of what is held before `asked` had arrived, or its snapshot was taken.

    None if nothing leads there.
    """
    log = inventory.logs.get(asked.replid)
    for run in log.runs if log is not None else ():
        if run.begin < asked.offset <= run.end:
            stretch = Stretch(asked.replid, run.begin, asked.offset)
            path = StreamPath(run.begin, (stretch,))
            last = newest(repository, inventory.source, path)
            return last.moment if last is not None else None
    for one in snapshots:
        if asked == Position(one.replication_id, one.offset):
            return one.taken_at
    return None
