"""The thread that receives: WAL from the server to the keeper, and reports of what is durable."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable

from drtool.archiving.keeping import LogKeeper
from drtool.errors import SourceUnavailable
from drtool.model.wal import Lsn
from drtool.sources.postgres.connection import ReplicationConnection
from drtool.sources.postgres.walstream import Keepalive, TimelineEnded, WalBytes, WalStream
from drtool.system.clock import Clock

# The server ends a session that is silent for wal_sender_timeout, which we set to 60 s.
REPORT_SECONDS = 10.0
# No wait is longer, so that a stop is noticed soon.
LONGEST_WAIT_SECONDS = 0.5


class Intake:
    """Moves WAL from one stream to one keeper. One thread."""

    def __init__(
        self,
        connection: ReplicationConnection,
        stream: WalStream,
        keeper: LogKeeper,
        *,
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._keeper = keeper
        self._clock = clock
        self._reported_at = float("-inf")
        self._reported = Lsn(0)
        self.server_end = Lsn(0)
        self.received_bytes = 0
        self._both = select.poll()
        self._both.register(connection.pgconn.socket, select.POLLIN)
        self._both.register(keeper.handover.wake_descriptor, select.POLLIN)
        self._keeper_only = select.poll()
        self._keeper_only.register(keeper.handover.wake_descriptor, select.POLLIN)

    def run(
        self, expected: Lsn, stop: threading.Event, *, on_report: Callable[[Lsn, Lsn], bool]
    ) -> TimelineEnded | None:
        """Receive from `expected` on until the timeline ends; None when `stop` is set, or when
        `on_report`, told how far it is durable and how far the server is, says no.

        SourceUnavailable when the server goes away; whatever the keeper failed with.
        """
        keeper, stream, handover = self._keeper, self._stream, self._keeper.handover
        while not stop.is_set():
            keeper.raise_failure()
            if keeper.durable != self._reported or self._is_report_due():
                self.report()
                if not on_report(keeper.durable, self.server_end):
                    return None
            if handover.is_full:
                # Not reading is the back-pressure: the server keeps what we cannot store.
                self._wait(self._keeper_only)
                continue
            item = stream.receive(0)
            if isinstance(item, WalBytes):
                if item.begin != expected:
                    raise SourceUnavailable(
                        f"the server sent WAL from {item.begin}, not {expected}"
                    )
                handover.give(item.data)
                expected = Lsn(expected + len(item.data))
                self.received_bytes += len(item.data)
                self.server_end = item.server_end
            elif item is None:
                self._wait(self._both)
            elif isinstance(item, Keepalive):
                self.server_end = item.server_end
                if item.reply_requested:
                    # A server that shuts down waits until all of its WAL is durable here.
                    handover.ask_for_flush()
                    self.report()
            else:
                return item
        return None

    def report(self) -> None:
        """Tell the server what is durable. As received we report no more than that either: a commit
        that waits for `remote_write` must not be told of bytes that a dying machine would lose.
        """
        self._reported = self._keeper.durable
        self._reported_at = self._clock.monotonic()
        self._stream.report(received=self._reported, flushed=self._reported)

    def _is_report_due(self) -> bool:
        return self._clock.monotonic() - self._reported_at >= REPORT_SECONDS

    def _wait(self, poll: select.poll) -> None:
        poll.poll(LONGEST_WAIT_SECONDS * 1000)
        self._keeper.handover.hush()
