"""A store in memory: for tests, and for what need not outlive the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.stores.keys import check_directory, check_key, check_prefix, check_range, in_order
from drtool.stores.protocol import (
    LARGEST_OBJECT_BYTES,
    Buffer,
    Names,
    StoredObject,
    too_large,
)
from drtool.system.clock import Clock, SystemClock


class MemoryStore:
    """Objects in a dictionary; keeps every promise of `Store` but durability."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, datetime]] = {}

    @property
    def url(self) -> str:
        return "memory://"

    @property
    def creates_atomically(self) -> bool:
        return True

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        check_key(key)
        content = b"".join(parts)
        with self._lock:
            held = self._objects.setdefault(key, (content, self._clock.now()))
        if held[0] != content:
            raise AlreadyExists(key)

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        check_key(key)
        with self._lock:
            held = self._objects.get(key)
        if held is None:
            raise ObjectMissing(key)
        if len(held[0]) > most_bytes:
            raise too_large(key, len(held[0]), most_bytes)
        return held[0]

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        check_range(start, length)
        content = self.read(key)
        if len(content) < start + length:
            raise IntegrityError(f"object {key} is shorter than {start + length} bytes")
        return memoryview(content)[start : start + length]

    def read_tail(self, key: str, length: int) -> memoryview:
        check_range(0, length)
        content = self.read(key)
        return memoryview(content)[max(0, len(content) - length) :]

    def stat(self, key: str) -> StoredObject | None:
        check_key(key)
        with self._lock:
            held = self._objects.get(key)
        return None if held is None else StoredObject(key, len(held[0]), held[1])

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[StoredObject]:
        check_prefix(prefix)
        with self._lock:
            found = [
                StoredObject(key, len(content), modified)
                for key, (content, modified) in self._objects.items()
                if key.startswith(prefix)
            ]
        found.sort(key=lambda one: in_order(one.key))
        return (one for one in found if after is None or in_order(one.key) > in_order(after))

    def list_directories(self, prefix: str) -> Names:
        check_directory(prefix)
        with self._lock:
            tails = [key[len(prefix) :] for key in self._objects if key.startswith(prefix)]
        return sorted({tail.split("/", 1)[0] for tail in tails if "/" in tail}, key=in_order)

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._objects.pop(key, None)

    def replace_if(self, key: str, content: bytes, expected: bytes | None) -> bool:
        check_key(key)
        with self._lock:
            held = self._objects.get(key)
            if (None if held is None else held[0]) != expected:
                return False
            self._objects[key] = (bytes(content), self._clock.now())
        return True

    def now(self) -> datetime:
        return self._clock.now()

    def close(self) -> None:
        pass
