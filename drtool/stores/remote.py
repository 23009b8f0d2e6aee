"""A store in a bucket of S3, Google or Azure, by `obstore`: one request a call, retried by us."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, InvalidPathError, PreconditionError

from drtool.errors import (
    AlreadyExists,
    ConditionsRefused,
    DrtoolError,
    ObjectMissing,
    RepositoryUnavailable,
)
from drtool.stores.capabilities import Capabilities
from drtool.stores.keys import check_directory, check_key, check_prefix, check_range, in_order
from drtool.stores.multipart import SINGLE_PUT_BYTES, put_in_parts
from drtool.stores.place import RemotePlace
from drtool.stores.protocol import LARGEST_OBJECT_BYTES, Buffer, Names, StoredObject
from drtool.stores.remote_client import (
    RemoteLimits,
    control_client,
    reading_client,
    writing_client,
)
from drtool.stores.remote_clock import server_time
from drtool.stores.remote_errors import LIBRARY_ERRORS, is_bad_range, refuses_condition, translated
from drtool.stores.remote_listing import Level, Listed, list_by_directories, list_flat
from drtool.stores.remote_reading import ObjectReader
from drtool.stores.strange_names import is_key, level_of, pages_of
from drtool.system.clock import Clock
from drtool.system.retry import retrying

if TYPE_CHECKING:
    from obstore import PutMode

T = TypeVar("T")

_COMPARED_BYTES = 8 * 1024 * 1024


class RemoteStore:
    """Objects below a prefix of a bucket.

    What the server can do is believed from `capabilities` (measured by `stores.probe`); without
    them it is believed to honour conditions, and to list in order only if no endpoint was given.
    Where it does not honour conditions, or answers that it knows none, `create` and `replace_if`
    look first and put then: two writers at the same moment could overwrite each other, so there
    must be one only.
    """

    def __init__(
        self,
        place: RemotePlace,
        *,
        clock: Clock,
        capabilities: Capabilities | None = None,
        limits: RemoteLimits | None = None,
    ) -> None:
        self.place = place
        self.capabilities = capabilities
        self._clock = clock
        self._limits = limits or RemoteLimits()
        # Answered with a refusal while plain puts were taken: no longer sent.
        self._creates_plainly = self._replaces_plainly = False
        self._reader = reading_client(place, self._limits)
        self._objects = ObjectReader(self._reader, place)
        self._writer = writing_client(place, self._limits)

    def with_capabilities(self, capabilities: Capabilities) -> RemoteStore:
        """The same place, believing what was measured of it."""
        return RemoteStore(
            self.place, clock=self._clock, capabilities=capabilities, limits=self._limits
        )

    @property
    def url(self) -> str:
        return self.place.url

    @property
    def creates_atomically(self) -> bool:
        if self._creates_plainly:
            return False
        return self.capabilities is None or self.capabilities.creates_atomically

    @property
    def _replaces_if_matching(self) -> bool:
        if self._replaces_plainly:
            return False
        return self.capabilities is None or self.capabilities.replaces_if_matching

    @property
    def _is_doubtful(self) -> bool:
        """Whether the store may ignore a condition: nobody vouches for what was recorded of it."""
        return self.capabilities is not None and not self.capabilities.is_measured

    @property
    def has_refused_conditions(self) -> bool:
        """Whether a conditional put was answered with a refusal, and plain ones were made since."""
        return self._creates_plainly or self._replaces_plainly

    @property
    def _lists_in_order(self) -> bool:
        if self.capabilities is None:
            return self.place.endpoint is None
        return self.capabilities.lists_in_order

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        check_key(key)
        views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        self._retry(lambda: self._create_once(key, views))

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        check_key(key)
        return self._retry(lambda: self._objects.fetch(key, most_bytes=most_bytes))[0]

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        check_key(key)
        check_range(start, length)
        return self._retry(lambda: self._objects.part(key, start, length))

    def read_tail(self, key: str, length: int) -> memoryview:
        check_key(key)
        check_range(0, length)
        return self._retry(lambda: self._objects.tail(key, length))

    def stat(self, key: str) -> StoredObject | None:
        check_key(key)
        return self._retry(lambda: self._objects.stat(key))

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[StoredObject]:
        check_prefix(prefix)
        if self._lists_in_order:
            return list_flat(self._pages, prefix, after, may_resume=self._may_resume)
        return list_by_directories(self._level, prefix, after)

    def list_directories(self, prefix: str) -> Names:
        check_directory(prefix)
        found = {path.rstrip("/") for path in self._level(prefix.rstrip("/"))["common_prefixes"]}
        if not self._lists_in_order:
            # Such a store keeps directories, and goes on showing them when they are empty.
            found = {path for path in found if any(True for _ in self.list(f"{path}/"))}
        return sorted((path.rpartition("/")[2] for path in found), key=in_order)

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            self._retry(lambda: self._asked(key, lambda: obstore.delete(self._writer, key)))
        except ObjectMissing:
            return

    def replace_if(self, key: str, content: bytes, expected: bytes | None) -> bool:
        check_key(key)
        tries = 0

        def attempt() -> bool:
            nonlocal tries
            tries += 1
            if self._swap_once(key, content, expected):
                return True
            # The answer to an earlier try may have been lost after it had its effect.
            return tries > 1 and self._objects.holds(key, content)

        return self._retry(attempt)

    def now(self) -> datetime:
        return self._retry(lambda: server_time(self.place, self._limits))

    def answers_ranges(self, key: str) -> bool:
        """Whether the server itself cuts a range out of `key`, which has two bytes or more.

        Where it does not, or does it with the wrong status as rclone does, whole objects are read
        and cut here: right, but with more traffic.
        """

        def once() -> bool:
            try:
                return len(obstore.get_range(self._reader, key, start=1, length=1)) == 1
            except LIBRARY_ERRORS as error:
                if is_bad_range(error):
                    return False
                raise self._translated(error, key) from error

        return self._retry(once)

    def object_path(self, key: str) -> str:
        """What `key` is called in the bucket."""
        return f"{self.place.prefix}/{key}" if self.place.prefix else key

    def control(self) -> Any:  # boto3 makes its clients' classes at run time
        """boto3's client for an s3:// place."""
        return control_client(self.place)

    def close(self) -> None:
        """Nothing to do: the library's connections end with their idle time-out."""

    def _retry(self, call: Callable[[], T]) -> T:
        return retrying(call, limits=self._limits.retries, clock=self._clock)

    def _may_resume(self, failures: int) -> bool:
        if failures >= self._limits.retries.attempts:
            return False
        self._clock.wait(self._limits.retries.pause(failures))
        return True

    def _asked(self, key: str, call: Callable[[], T]) -> T:
        """What one request answers, its failure in our words."""
        try:
            return call()
        except LIBRARY_ERRORS as error:
            raise self._translated(error, key) from error

    def _translated(self, error: Exception, key: str) -> DrtoolError:
        return translated(error, place=self.place, key=key)

    def _create_once(self, key: str, views: Sequence[memoryview]) -> None:
        if self._put_new(key, views):
            return
        found = self._objects.stat(key)
        if found is None:
            # 409: another writer was putting it, and has not finished or has failed.
            raise RepositoryUnavailable(
                f"{self.url}: object {key} is being written by somebody else",
                hint="Look whether another drtool writes to this repository.",
            )
        if not self._holds(found, views):
            raise AlreadyExists(key)

    def _put_new(self, key: str, views: Sequence[Buffer]) -> bool:
        """Put if absent; False if something is there."""
        if self.creates_atomically:
            if self._is_doubtful and self._objects.stat(key) is not None:
                return False
            try:
                return self._put_conditionally(key, views)
            except ConditionsRefused:
                if self._objects.stat(key) is not None:
                    return False
                self._put_plainly(key, views)
                # Only now is it known that it was the condition, and not the object.
                self._creates_plainly = True
                return True
        if self._objects.stat(key) is not None:
            return False
        self._put_plainly(key, views)
        return True

    def _put_conditionally(self, key: str, views: Sequence[Buffer]) -> bool:
        if self._is_large(views):
            return self._put_large(key, views, if_absent=True)
        try:
            self._put(key, views, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def _put_plainly(self, key: str, views: Sequence[Buffer]) -> None:
        if self._is_large(views):
            self._put_large(key, views, if_absent=False)
        else:
            self._put(key, views, mode="overwrite")

    def _is_large(self, views: Sequence[Buffer]) -> bool:
        """Whether it takes more than one put; Google and Azure take gigabytes in one."""
        size = sum(len(view) for view in views)
        return self.place.scheme == "s3" and size > SINGLE_PUT_BYTES

    def _put_large(self, key: str, views: Sequence[Buffer], *, if_absent: bool) -> bool:
        address = (self.place.bucket, self.object_path(key))
        pieces = [memoryview(view) for view in views]
        return put_in_parts(self.control(), address, pieces, if_absent=if_absent)

    def _put(self, key: str, views: Sequence[Buffer], *, mode: PutMode) -> None:
        """One put; the library's own exceptions for a condition that does not hold.

        `mode` is the library's: "create", "overwrite" or a version to match.
        """
        try:
            obstore.put(self._writer, key, [*views] or b"", mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            raise
        except LIBRARY_ERRORS as error:
            told = self._translated(error, key)
            if mode != "overwrite" and refuses_condition(error):
                raise ConditionsRefused(told.message, hint=told.hint) from error
            raise told from error

    def _holds(self, found: StoredObject, views: Sequence[memoryview]) -> bool:
        if found.size_bytes != sum(len(view) for view in views):
            return False
        offset = 0
        for view in views:
            for start in range(0, len(view), _COMPARED_BYTES):
                wanted = view[start : start + _COMPARED_BYTES]
                if self._objects.part(found.key, offset + start, len(wanted)) != wanted:
                    return False
            offset += len(view)
        return True

    def _swap_once(self, key: str, content: bytes, expected: bytes | None) -> bool:
        if expected is None:
            return self._put_new(key, [content])
        version = self._objects.matching(key, expected)
        if version is None:
            return False
        if not self._replaces_if_matching:
            self._put(key, [content], mode="overwrite")
            return True
        try:
            self._put(key, [content], mode=version)
        except (AlreadyExistsError, PreconditionError):
            return False
        except ConditionsRefused:
            self._put(key, [content], mode="overwrite")
            self._replaces_plainly = True
        return True

    def _pages(self, directory: str, offset: str | None) -> Iterator[Sequence[Listed]]:
        last = offset
        try:
            for page in obstore.list(
                self._reader, directory or None, offset=offset, chunk_size=1000
            ):
                last = page[-1]["path"] if page else last
                yield [listed for listed in page if is_key(listed["path"])]
        except LIBRARY_ERRORS as error:
            if not self._has_strange_names(error):
                raise self._translated(error, "") from error
            yield from pages_of(
                self.control(), self.place.bucket, root=self._root, directory=directory, after=last
            )

    @property
    def _root(self) -> str:
        return f"{self.place.prefix}/" if self.place.prefix else ""

    def _has_strange_names(self, error: Exception) -> bool:
        return isinstance(error, InvalidPathError) and self.place.scheme == "s3"

    def _level(self, directory: str) -> Level:
        def once() -> Level:
            try:
                found = obstore.list_with_delimiter(self._reader, directory or None)
            except LIBRARY_ERRORS as error:
                if not self._has_strange_names(error):
                    raise
                return level_of(
                    self.control(), self.place.bucket, root=self._root, directory=directory
                )
            # An object with the name of the directory is a marker that it is empty.
            objects = [one for one in found["objects"] if one["path"] != directory]
            return {
                "common_prefixes": [
                    path for path in found["common_prefixes"] if is_key(path.rstrip("/"))
                ],
                "objects": [one for one in objects if is_key(one["path"])],
            }

        return self._retry(lambda: self._asked("", once))
