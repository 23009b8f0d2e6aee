"""A bucket whose objects are overwritten and deleted: for mirrors, not for repositories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import obstore
from obstore.exceptions import PreconditionError

from drtool.errors import DrtoolError, ObjectMissing, PolicyError, RepositoryUnavailable
from drtool.stores.place import LocalPlace, RemotePlace, parse_place
from drtool.stores.remote_client import (
    RemoteLimits,
    control_client,
    reading_client,
    streaming_client,
    writing_client,
)
from drtool.stores.remote_errors import LIBRARY_ERRORS, is_bad_range, is_refused, translated
from drtool.system.clock import Clock
from drtool.system.retry import retrying

T = TypeVar("T")

# Above this an object goes up in parts, read as a stream; below it is in memory once.
SINGLE_PUT_BYTES = 8 << 20
PART_BYTES = 8 << 20
# Parts of one object on their way at a time.
CONCURRENT_PARTS = 4
# S3 takes 10,000 parts of an object.
_MOST_PARTS = 9_000
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Placed:
    """What the store answered to a put: None where it says nothing.

    `version` is the version id by which exactly this content can be read again, if the bucket keeps
    versions.
    """

    etag: str | None
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """An object as a listing or a look shows it."""

    key: str
    size_bytes: int
    modified: datetime
    etag: str | None
    version: str | None = None


class ObjectChanged(DrtoolError):
    """An object is no longer the one that was asked for: somebody wrote it meanwhile."""

    retryable = False


class ObjectRefused(RepositoryUnavailable):
    """The store will not have this one object: its name, its size. Others may be taken."""

    retryable = False


class Bucket:
    """Objects below a prefix of a bucket, read, written over and deleted. From any thread.

    Every call is tried again a bounded number of times. Bytes that go up are covered by a SHA-256
    which the server compares, where it does. Raises ObjectMissing, ObjectChanged, and
    RepositoryUnavailable with its kinds.
    """

    def __init__(self, place: RemotePlace, *, clock: Clock, limits: RemoteLimits) -> None:
        """Made by `open_bucket`."""
        self.place = place
        self._clock = clock
        self._limits = limits
        self._reader = reading_client(place, limits)
        self._writer = writing_client(place, limits)
        self._streamer = streaming_client(place, limits)
        # Whether an object was begun in parts: only then there may be some that lie about.
        self.has_begun_parts = False

    @property
    def url(self) -> str:
        """As the policy wrote it, without credentials."""
        return self.place.url

    def put(self, key: str, content: bytes, attributes: Mapping[str, str]) -> Placed:
        """Put `content`, in place of what is there. `attributes` become the object's metadata."""

        def once() -> Placed:
            answer = obstore.put(
                self._writer, key, content, attributes=dict(attributes), use_multipart=False
            )
            return Placed(_bare(answer["e_tag"]), answer["version"])

        return self._retry(key, once)

    def put_stream(
        self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str], *, size_bytes: int
    ) -> Placed:
        """Put a large object in parts; it appears whole or not at all.

        Each request is tried again by itself, the whole only once: the caller reads anew. What the pieces
        raise comes through, and what was uploaded is given up. Memory: 5 parts of 8 MiB, more only beyond
        70 GiB.
        """
        part_bytes = max(PART_BYTES, -(-size_bytes // _MOST_PARTS))
        self.has_begun_parts = True

        def once() -> Placed:
            answer = obstore.put(
                self._streamer,
                key,
                iter(pieces),
                attributes=dict(attributes),
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=CONCURRENT_PARTS,
            )
            return Placed(_bare(answer["e_tag"]), answer["version"])

        return self._asked(key, once)

    def read(self, key: str, *, version: str | None = None) -> bytes:
        """A whole object, for those known to be small."""
        return self._retry(
            key, lambda: bytes(obstore.get(self._reader, key, options=_which(version)).bytes())
        )

    def read_head(self, key: str, length: int, *, version: str | None = None) -> bytes:
        """At most the first `length` bytes; fewer if the object has fewer."""

        def once() -> bytes:
            try:
                options = _which(version)
                options["range"] = (0, length)
                return bytes(obstore.get(self._reader, key, options=options).bytes())
            except LIBRARY_ERRORS as error:
                if not is_bad_range(error):
                    raise
                # An empty object has no first byte, and some servers answer no ranges.
                return bytes(obstore.get(self._reader, key, options=_which(version)).bytes())[
                    :length
                ]

        return self._retry(key, once)

    def stream(
        self, key: str, *, version: str | None = None, etag: str | None = None
    ) -> Iterator[bytes]:
        """The bytes of an object in pieces of about a MiB. Not tried again once bytes have come.

        With `etag`, ObjectChanged if it is another one by now.
        """
        options = _which(version)
        if etag is not None:
            options["if_match"] = f'"{etag}"'
        result = self._retry(key, lambda: obstore.get(self._reader, key, options=options))
        if etag is not None and _bare(result.meta["e_tag"]) != etag:
            raise _changed(self.url, key)  # a server that ignores If-Match
        taken = 0
        try:
            for piece in result.stream(min_chunk_size=_PIECE_BYTES):
                taken += len(piece)
                yield bytes(piece)
        except LIBRARY_ERRORS as error:
            raise translated(error, place=self.place, key=key) from error
        if taken != result.meta["size"]:
            raise RepositoryUnavailable(
                f"{self.url}: object {key} ended after {taken} of {result.meta['size']} bytes",
                hint="Run the same command again.",
            )

    def look(self, key: str) -> Met | None:
        """What stands at `key`; None if nothing does."""
        try:
            return self._retry(key, lambda: _met(obstore.head(self._reader, key)))
        except ObjectMissing:
            return None

    def delete(self, key: str) -> None:
        """Delete; on a bucket with versions a marker is put on top of them. No error if it is gone."""
        try:
            self._retry(key, lambda: obstore.delete(self._writer, key))
        except ObjectMissing:
            return

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[Met]:
        """Objects below the directory `prefix` with keys beyond `after`, in the store's own order.

        A listing that breaks is begun anew a bounded number of times: an object may then come twice.
        """
        failures = 0
        while True:
            try:
                yield from self._listed(prefix.rstrip("/"), after)
                return
            except RepositoryUnavailable as error:
                failures += 1
                if not error.retryable or failures >= self._limits.retries.attempts:
                    raise
                self._clock.wait(self._limits.retries.pause(failures))

    def _listed(self, directory: str, after: str | None) -> Iterator[Met]:
        pages = obstore.list(self._reader, directory or None, offset=after, chunk_size=1000)
        try:
            for page in pages:
                for listed in page:
                    yield _met(listed)
        except LIBRARY_ERRORS as error:
            raise translated(error, place=self.place) from error

    def keeps_versions(self) -> bool | None:
        """Whether a deleted or overwritten object can still be read; None if nobody can tell."""
        if self.place.scheme != "s3":
            return None
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = control_client(self.place).get_bucket_versioning(Bucket=self.place.bucket)
        except (BotoCoreError, ClientError):
            return None
        return bool(answer.get("Status") == "Enabled")

    def object_path(self, key: str) -> str:
        """What `key` is called in the bucket."""
        return f"{self.place.prefix}/{key}" if self.place.prefix else key

    def control(self) -> Any:  # boto3 makes its clients' classes at run time
        """boto3's client for an s3:// place."""
        return control_client(self.place)

    def _retry(self, key: str, call: Callable[[], T]) -> T:
        return retrying(
            lambda: self._asked(key, call), limits=self._limits.retries, clock=self._clock
        )

    def _asked(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except PreconditionError as error:
            raise _changed(self.url, key) from error
        except LIBRARY_ERRORS as error:
            told = translated(error, place=self.place, key=key)
            if type(told) is RepositoryUnavailable and is_refused(error):
                raise ObjectRefused(
                    told.message, hint="See what the store says of this name and size."
                ) from error
            raise told from error


def open_bucket(url: str, *, clock: Clock, limits: RemoteLimits | None = None) -> Bucket:
    """The bucket at `url`; PolicyError for one that is not of S3, Google or Azure."""
    place = parse_place(url)
    if isinstance(place, LocalPlace):
        raise PolicyError(
            f"{url} is a directory, and a mirror is kept in a bucket",
            hint="Write s3://BUCKET/PREFIX, gs:// or az://; `drtool backup` also keeps directories.",
        )
    return Bucket(place, clock=clock, limits=limits or RemoteLimits())


def _met(
    listed: Any,  # obstore's ObjectMeta, whose fields differ between its versions
) -> Met:
    return Met(
        key=listed["path"],
        size_bytes=listed["size"],
        modified=listed["last_modified"],
        etag=_bare(listed["e_tag"]),
        version=listed["version"],
    )


def _bare(etag: str | None) -> str | None:
    """Without its quotes, which some servers leave out of listings."""
    return None if etag is None else etag.strip('"')


def _which(version: str | None) -> Any:  # a TypedDict of the library, with keys left out
    return {} if version is None else {"version": version}


def _changed(url: str, key: str) -> ObjectChanged:
    return ObjectChanged(
        f"{url}: object {key} was changed while it was read",
        hint="Run the same command again.",
    )
