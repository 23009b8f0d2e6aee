"""Keys counted while an RDB streams by: how many each database held at the snapshot's own offset."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from drtool.errors import NotRecoverable
from drtool.sources.redis.rdb import Batch, LargeEntry, RdbWalker
from drtool.sources.redis.rdbscan import EveryModule

# What waits between the link and the walk: parts of 1 MiB at most.
_MOST_WAITING = 8
_POLL_SECONDS = 0.2


class KeyCount:
    """Walks an RDB in a thread of its own, as it is fed; `finish` or `abandon` ends the thread.

    Counting is exact where INFO keyspace on a busy server is not, and a walk to the end shows that
    the RDB can be read; what modules wrote is stepped over. Memory: nine parts, and what the walker holds.
    """

    def __init__(self) -> None:
        self._parts: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._over = threading.Event()
        self._keys: dict[int, int] = {}
        self._modules = EveryModule()
        self._failure: BaseException | None = None
        self._why_unknown = ""
        self._thread = threading.Thread(target=self._walk, name="count", daemon=True)
        self._thread.start()

    @property
    def module_types(self) -> tuple[str, ...]:
        """The types of modules whose data was met."""
        return tuple(sorted(self._modules.met))

    def feed(self, part: memoryview) -> None:
        """The next bytes; waits while the walk is behind."""
        content = bytes(part)
        while not self._over.is_set():
            try:
                self._parts.put(content, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def finish(self) -> dict[int, int] | str:
        """Keys by database once all was fed, or why nobody can tell; RdbDamaged if it is damaged."""
        self._end()
        if self._failure is not None:
            raise self._failure
        return self._why_unknown or self._keys

    def abandon(self) -> None:
        """Nothing more comes."""
        self._over.set()
        self._thread.join()

    def _end(self) -> None:
        while not self._over.is_set():
            try:
                self._parts.put(None, timeout=_POLL_SECONDS)
                break
            except queue.Full:
                continue
        self._thread.join()

    def _walk(self) -> None:
        try:
            for item in RdbWalker(self._fed(), modules=self._modules):
                if isinstance(item, Batch):
                    self._add(item.database, len(item.entries))
                elif isinstance(item, LargeEntry):
                    self._add(item.database, 1)
        except NotRecoverable as error:
            # A version that this drtool does not know.
            self._why_unknown = error.message
        except BaseException as error:  # noqa: BLE001 - raised by `finish`; mostly RdbDamaged
            self._failure = error
        finally:
            self._over.set()

    def _add(self, database: int, count: int) -> None:
        self._keys[database] = self._keys.get(database, 0) + count

    def _fed(self) -> Iterator[bytes]:
        while not self._over.is_set():
            try:
                part = self._parts.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if part is None:
                return
            yield part
