"""A store that fails on purpose: dies at the n-th put, or is away until told otherwise."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime

from drtool.errors import RepositoryUnavailable
from drtool.stores.protocol import LARGEST_OBJECT_BYTES, Buffer, Names, Store, StoredObject


class Died(BaseException):
    """What a killed process would not live to see."""


class FaultyStore:
    """Passes on to `inner`; real in everything but the faults.

    `dies_at`: the n-th create from now raises Died, after the object was put if `after_put`.
    `is_away`: every call raises RepositoryUnavailable. `forgets`: keys that begin so are acknowledged
    and not kept.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.dies_at: int | None = None
        self.after_put = False
        self.is_away = False
        self.forgets: str | None = None
        self.forgotten: list[str] = []
        self.creates = 0

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def creates_atomically(self) -> bool:
        return self.inner.creates_atomically

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        self._look()
        self.creates += 1
        dies = self.dies_at is not None and self.creates >= self.dies_at
        if dies and not self.after_put:
            raise Died
        if self.forgets is not None and key.startswith(self.forgets):
            self.forgotten.append(key)
        else:
            self.inner.create(key, parts)
        if dies:
            raise Died

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        self._look()
        return self.inner.read(key, most_bytes=most_bytes)

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        self._look()
        return self.inner.read_range(key, start, length)

    def read_tail(self, key: str, length: int) -> memoryview:
        self._look()
        return self.inner.read_tail(key, length)

    def stat(self, key: str) -> StoredObject | None:
        self._look()
        return self.inner.stat(key)

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[StoredObject]:
        self._look()
        return self.inner.list(prefix, after=after)

    def list_directories(self, prefix: str) -> Names:
        self._look()
        return self.inner.list_directories(prefix)

    def delete(self, key: str) -> None:
        self._look()
        self.inner.delete(key)

    def replace_if(self, key: str, content: bytes, expected: bytes | None) -> bool:
        self._look()
        return self.inner.replace_if(key, content, expected)

    def now(self) -> datetime:
        self._look()
        return self.inner.now()

    def close(self) -> None:
        self.inner.close()

    def _look(self) -> None:
        if self.is_away:
            raise RepositoryUnavailable("the store is away", hint="Wait.")


class GatedStore(FaultyStore):
    """Its puts wait while `gate` is closed, as those of a store do that has become very slow."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.gate = threading.Event()
        self.gate.set()

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        assert self.gate.wait(60)
        super().create(key, parts)
