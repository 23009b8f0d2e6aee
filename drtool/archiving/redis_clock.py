"""The clock of the server that is joined: it gives the moments of a stream, and not the receiver's own."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

from drtool.errors import SourceUnavailable
from drtool.sources.redis.connection import RedisConnection, server_moment
from drtool.system.clock import Clock

# Of so many questions the one that was answered soonest counts: its answer is off by half its way.
_QUESTIONS = 3
# Two machines' oscillators part by some 50 millionths: 3 ms in a minute.
LOOK_SECONDS = 60.0
# What PostgreSQL and Redis call the same moment differs by so much then; a person should know.
TOLERATED_DIFFERENCE = timedelta(seconds=1)


class ServerClock:
    """Tells the server's time between two looks at it, by our monotonic clock.

    So a moment asked for means the same for a Redis as for a PostgreSQL: what the servers' clocks
    said, not that of whichever machine drtool runs on; and setting our clock does nothing. It is the
    clock of the server that is joined, as `taken_at` of a snapshot is. What it tells never goes back,
    over other servers and clocks that were put back: indexes are searched by moments. One thread.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moment: datetime | None = None
        self._at = self._tried_at = 0.0
        self._last: datetime | None = None

    def look(self, connection: RedisConnection) -> None:
        """Ask the server for its time. SourceUnavailable if it does not tell; errors as `ask`."""
        soonest, self._tried_at = float("inf"), self._clock.monotonic()
        for _ in range(_QUESTIONS):
            begin = self._clock.monotonic()
            moment = server_moment(connection)
            end = self._clock.monotonic()
            if end - begin < soonest:
                soonest = end - begin
                self._moment, self._at = moment, (begin + end) / 2

    def look_again(self, connection: RedisConnection) -> None:
        """Look, if the last time is a while ago.

        A server that does not answer leaves what was known, which holds for hours; the link will tell.
        """
        if self._clock.monotonic() - self._tried_at >= LOOK_SECONDS:
            with contextlib.suppress(SourceUnavailable):
                self.look(connection)

    def doubt(self) -> None:
        """Look the next time in any case: our clock may have stood still, or the server's was set."""
        self._tried_at = float("-inf")

    def now(self) -> datetime:
        """What the server's clock says now; ours before the first look."""
        told = self._told()
        self._last = told if self._last is None else max(told, self._last)
        return self._last

    @property
    def difference(self) -> timedelta:
        """How far the server's clock is ahead of ours."""
        return self._told() - self._clock.now()

    def _told(self) -> datetime:
        if self._moment is None:
            return self._clock.now()
        return self._moment + timedelta(seconds=self._clock.monotonic() - self._at)
