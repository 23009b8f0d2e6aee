"""The thread that stores a shard's stream, and how far it is durable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from drtool.archiving.patience import Patience
from drtool.archiving.redis_arrivals import Arrivals
from drtool.repository.layout import ReplicationHistory
from drtool.repository.repository import Repository
from drtool.repository.streamlog import put_stream

LONGEST_LOOK_SECONDS = 0.5
JOIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperCalls:
    """What the storing thread calls: with how far it is durable, and before each put."""

    on_durable: Callable[[int], None]
    before_put: Callable[[], None]


class StreamKeeper:
    """Stores a stream as it is given, in a thread of its own.

    `durable` never runs ahead of what the store has confirmed. Memory: what `Arrivals` holds, twice, and
    the sealed bytes of one segment.
    """

    def __init__(
        self,
        repository: Repository,
        history: ReplicationHistory,
        patience: Patience,
        *,
        begin: int,
        flush_seconds: float,
        calls: KeeperCalls,
    ) -> None:
        self._repository = repository
        self._history = history
        self._patience = patience
        self._flush_seconds = flush_seconds
        self._on_durable, self._before_put = calls.on_durable, calls.before_put
        self.durable = begin
        self.segments = 0
        self.arrivals = Arrivals(begin)
        self.failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"keep {history.source}", daemon=True
        )
        self._thread.start()

    def raise_failure(self) -> None:
        """Raise what the storing thread has failed with, if it has."""
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Store all that was given, end the thread; raise what it failed with."""
        self.arrivals.close()
        while self._thread.is_alive():
            # Bounded by `Patience`: as long as the store is away, but not long after a stop.
            self._thread.join(JOIN_SECONDS)
        self.raise_failure()

    def _run(self) -> None:
        try:
            while not self.arrivals.is_over:
                if self.arrivals.wait(LONGEST_LOOK_SECONDS):
                    self._store()
                self._before_put()  # what has become known meanwhile need not wait for bytes
        except BaseException as error:  # noqa: BLE001 - the thread that receives raises it
            self.failure = error

    def _store(self) -> None:
        clock = self._patience.clock
        due = clock.monotonic() + self._flush_seconds
        while not self.arrivals.wait_until_due(max(0.0, due - clock.monotonic())):
            if clock.monotonic() >= due:
                break
        batch = self.arrivals.take()
        if batch is None:
            return
        self._before_put()
        self._patience.put(
            lambda: put_stream(self._repository, self._history, batch.index, content=batch.content)
        )
        self.durable = batch.index.end
        self.segments += 1
        self._on_durable(self.durable)
