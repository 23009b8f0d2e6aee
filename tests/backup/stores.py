"""Stores that fail when a test says so, around one that works."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime

from drtool.errors import RepositoryUnavailable
from drtool.stores.protocol import LARGEST_OBJECT_BYTES, Buffer, Names, Store, StoredObject


class Died(BaseException):
    """The process was killed here. No `except Exception` may hold it up."""


class Through:
    """Passes every call on, and remembers the keys that were created."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.created: list[str] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def creates_atomically(self) -> bool:
        return self.inner.creates_atomically

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        self.inner.create(key, parts)
        with self._lock:
            self.created.append(key)

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        return self.inner.read(key, most_bytes=most_bytes)

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        return self.inner.read_range(key, start, length)

    def read_tail(self, key: str, length: int) -> memoryview:
        return self.inner.read_tail(key, length)

    def stat(self, key: str) -> StoredObject | None:
        return self.inner.stat(key)

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[StoredObject]:
        return self.inner.list(prefix, after=after)

    def list_directories(self, prefix: str) -> Names:
        return self.inner.list_directories(prefix)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def replace_if(self, key: str, content: bytes, expected: bytes | None) -> bool:
        return self.inner.replace_if(key, content, expected)

    def now(self) -> datetime:
        return self.inner.now()

    def close(self) -> None:
        self.inner.close()


class FailsAt(Through):
    """From the `number`-th create on (counted from 1) nothing can be put any more."""

    def __init__(
        self,
        inner: Store,
        number: int,
        error: BaseException | None = None,
        *,
        after_put: bool = False,
    ) -> None:
        """`after_put`: the failing create itself is carried out, and only its answer is lost."""
        super().__init__(inner)
        self._number = number
        self._error = error or RepositoryUnavailable("the store is away")
        self._after_put = after_put
        self._calls = 0

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        with self._lock:
            self._calls += 1
            call = self._calls
        if call == self._number and self._after_put:
            super().create(key, parts)
        if call >= self._number:
            raise self._error
        super().create(key, parts)
