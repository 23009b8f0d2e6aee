"""Reads objects of a remote store, one try a call: whole, by range, from the end, and what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import obstore

from drtool.errors import DrtoolError, IntegrityError, ObjectMissing, RepositoryUnavailable
from drtool.stores.place import RemotePlace
from drtool.stores.protocol import LARGEST_OBJECT_BYTES, StoredObject, too_large
from drtool.stores.remote_client import RemoteClient
from drtool.stores.remote_errors import LIBRARY_ERRORS, is_bad_range, translated
from drtool.stores.remote_listing import stored

if TYPE_CHECKING:
    from obstore import UpdateVersion

T = TypeVar("T")


class ObjectReader:
    """From any thread. Raises ObjectMissing, IntegrityError for a short one, and RepositoryUnavailable."""

    def __init__(self, client: RemoteClient, place: RemotePlace) -> None:
        self._client = client
        self._place = place

    def fetch(
        self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES
    ) -> tuple[bytes, UpdateVersion]:
        """The whole object, and the version to match for replacing it."""
        try:
            result = obstore.get(self._client, key)
            meta = result.meta
            if meta["size"] > most_bytes:
                # Nothing of the body was asked for yet.
                raise too_large(key, meta["size"], most_bytes)
            content = bytes(result.bytes())
        except LIBRARY_ERRORS as error:
            raise self._translated(error, key) from error
        if len(content) != meta["size"]:
            raise self._cut_short(key)
        version: UpdateVersion = {}
        # The library's types allow None here; its code does not.
        if meta["e_tag"] is not None:
            version["e_tag"] = meta["e_tag"]
        if meta["version"] is not None:
            version["version"] = meta["version"]
        return content, version

    def part(self, key: str, start: int, length: int) -> memoryview:
        """`length` bytes from `start`."""
        if length == 0:
            return self._empty_range(key, start)
        try:
            found = memoryview(obstore.get_range(self._client, key, start=start, length=length))
        except LIBRARY_ERRORS as error:
            if not is_bad_range(error):
                raise self._translated(error, key) from error
            self._require_size(key, start + length)
            found = memoryview(self.fetch(key)[0])[start : start + length]
        if len(found) != length:
            self._require_size(key, start + length)
            raise self._cut_short(key)
        return found

    def _empty_range(self, key: str, start: int) -> memoryview:
        self._require_size(key, start)
        return memoryview(b"")

    def _require_size(self, key: str, size_bytes: int) -> None:
        found = self.stat(key)
        if found is None:
            raise ObjectMissing(key)
        if found.size_bytes < size_bytes:
            raise IntegrityError(
                f"object {key} is shorter than {size_bytes} bytes",
                hint="Run `drtool verify` to see which backups need it.",
            )

    def tail(self, key: str, length: int) -> memoryview:
        """The last `length` bytes, or all of a shorter object."""
        if length == 0:
            return self._empty_range(key, 0)
        try:
            result = obstore.get(self._client, key, options={"range": {"suffix": length}})
            tail = memoryview(result.bytes())
            size = result.meta["size"]
        except LIBRARY_ERRORS as error:
            if not is_bad_range(error):
                raise self._translated(error, key) from error
            return self._tail_by_size(key, length)
        if len(tail) != min(length, size):
            raise self._cut_short(key)
        return tail

    def _tail_by_size(self, key: str, length: int) -> memoryview:
        """For empty objects, which have no tail to ask for, and stores without suffix ranges."""
        found = self.stat(key)
        if found is None:
            raise ObjectMissing(key)
        length = min(length, found.size_bytes)
        return self.part(key, found.size_bytes - length, length)

    def stat(self, key: str) -> StoredObject | None:
        """What a listing would tell; None if the store says that it is not there."""
        try:
            return stored(obstore.head(self._client, key))
        except FileNotFoundError:
            pass
        except LIBRARY_ERRORS as error:
            raise self._translated(error, key) from error
        # The answer to HEAD has no body, so a missing bucket looks like a missing object. The
        # answer to GET says which it is.
        try:
            return stored(self._asked(key, lambda: obstore.get(self._client, key)).meta)
        except ObjectMissing:
            return None

    def holds(self, key: str, content: bytes) -> bool:
        """Whether the object is these bytes."""
        return self.matching(key, content) is not None

    def matching(self, key: str, content: bytes) -> UpdateVersion | None:
        """The version to match for replacing an object of these bytes; None if it is another, or none."""
        try:
            there, version = self.fetch(key, most_bytes=len(content))
        except (ObjectMissing, IntegrityError):
            return None  # not there, or longer
        return version if there == content else None

    def _cut_short(self, key: str) -> RepositoryUnavailable:
        return RepositoryUnavailable(
            f"{self._place.told}: object {key}: the answer was cut short",
            hint="Look at the network between here and the store, then run the command again.",
        )

    def _asked(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except LIBRARY_ERRORS as error:
            raise self._translated(error, key) from error

    def _translated(self, error: Exception, key: str) -> DrtoolError:
        return translated(error, place=self._place, key=key)
