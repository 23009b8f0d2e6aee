"""The socket for stores: objects by key, written once, read whole or by range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from drtool.errors import NotAuthentic

Buffer = bytes | bytearray | memoryview
# `Store.list` hides the type of the same name inside the classes.
Names = list[str]

# No object that is read whole is larger: a WAL segment has at most 1 GiB, and sealed a little more.
LARGEST_OBJECT_BYTES = (1 << 30) + (1 << 20)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing tells of an object; `modified` is the store's clock.

    `md5` is the store's ETag where it has the form of one, in hexadecimal. It may be something else
    in that form (with SSE-KMS): equal to the bytes' own it proves them, different it proves nothing.
    """

    key: str
    size_bytes: int
    modified: datetime
    md5: str | None = None


class Store(Protocol):
    """Immutable objects by key.

    Keys are `/`-separated, relative, of any printable characters (space, `+`, `%`, non-ASCII);
    `.` and `..` as a part, an empty part, a control character, a backslash and a leading `/` are
    refused with ValueError, and so is a part `.drtool-*.tmp`, the name of an unfinished file.
    All methods may be called from any thread. Each call bounds its own retries and time. Errors:
    ObjectMissing (it answered: not there), RepositoryUnavailable and its kinds (it could not be
    asked), AlreadyExists. Nothing else escapes.
    """

    @property
    def url(self) -> str:
        """Where it is, without credentials, for messages."""

    @property
    def creates_atomically(self) -> bool:
        """Whether `create` refuses an existing key even when several writers race.

        What the code believes of the store, until `stores.probe` has looked.
        """

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put a new object, the concatenation of `parts`; return once it is durable.

        AlreadyExists if the key is taken by other bytes. If a retried put finds its own bytes in
        place (the first answer was lost on the way), that counts as success.
        """

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        """The whole object; `too_large`, before it is read, for one of more than `most_bytes`."""

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        """`length` bytes from `start`; ObjectMissing, or IntegrityError if the object is shorter."""

    def read_tail(self, key: str, length: int) -> memoryview:
        """The last `length` bytes, or the whole object if it is shorter."""

    def stat(self, key: str) -> StoredObject | None:
        """What a listing would tell; None if it is surely not there."""

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[StoredObject]:
        """Every object whose key begins with the text `prefix`, in order of the key's UTF-8 bytes.

        `after`: only keys greater than this one. A failure in mid-listing is raised, never an end.
        """

    def list_directories(self, prefix: str) -> Names:
        """The next part of all keys below `prefix` (which ends in `/` or is empty), sorted, without `/`."""

    def delete(self, key: str) -> None:
        """Remove an object; no error if it is not there. Only `expire/`, probes and repairs call it."""

    def replace_if(self, key: str, content: bytes, expected: bytes | None) -> bool:
        """Compare and swap for leases: put `content` if the object now holds `expected` (None: is absent).

        Return whether it did. Only for `leases/`, which are not backups.
        """

    def now(self) -> datetime:
        """The store's own clock, read from an answer of its server (a directory: the machine's clock)."""

    def close(self) -> None:
        """Let connections go. The store is not used afterwards."""


def too_large(key: str, size_bytes: int, most_bytes: int) -> NotAuthentic:
    """The error for an object that is larger than any that drtool puts under such a name."""
    error = NotAuthentic(
        f"object {key} has {size_bytes} bytes, and what drtool puts there has at most {most_bytes}",
        hint="Something else wrote it: look at it with the store's own tools, and take it away.",
    )
    error.key = key
    return error
