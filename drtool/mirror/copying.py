"""Copies one object from bucket to bucket: by the server where it can, else through this machine.

By boto3, because a bucket of an application may hold keys that are no paths (`a//b`, `dir/`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from drtool.errors import AccessDenied, DrtoolError, PlaceMissing, RepositoryUnavailable
from drtool.mirror.entries import MirrorEntry
from drtool.stores.bucket import Bucket
from drtool.stores.remote_errors import no_credentials

# S3 copies at most 5 GiB in one request.
WHOLE_COPY_BYTES = 5 << 30
_PART_BYTES = 512 << 20
_MOST_PARTS = 9_000
# An object that is written to all the time is given up after so many looks.
_TRIES = 3
_CHANGED = {"PreconditionFailed", "412", "InvalidRange"}
_GONE = {"NoSuchKey", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
# What reading a body raises where the connection broke, and how often one object is read on.
_BROKEN = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, OSError)
_READ_AGAIN = 20
_Answer = dict[str, Any]  # what boto3 gives and takes: documented, not typed
# From this size on boto3 puts in parts.
_LARGE_BYTES = 8 << 20
_KEPT = (
    "Metadata",
    "ContentType",
    "ContentEncoding",
    "ContentDisposition",
    "ContentLanguage",
    "CacheControl",
)


@dataclass(frozen=True, slots=True)
class Copied:
    """The mirror holds the object now, as the source had it under `entry.source_etag`."""

    entry: MirrorEntry
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NotCopied:
    """The object vanished meanwhile (no error), or could not be copied."""

    key: str
    error: DrtoolError | None


class Copier:
    """Copies objects between two S3 buckets. From any thread."""

    def __init__(
        self,
        source: Bucket,
        mirror: Bucket,
        *,
        whole_bytes: int = WHOLE_COPY_BYTES,
        part_bytes: int = _PART_BYTES,
    ) -> None:
        """`whole_bytes` and `part_bytes` are only for tests to change."""
        self._source = source
        self._mirror = mirror
        self._reading = source.control()
        self._writing = mirror.control()
        self._whole_bytes = whole_bytes
        self._part_bytes = part_bytes
        ours, theirs = source.place, mirror.place
        self.is_same_server = (ours.endpoint, ours.region) == (theirs.endpoint, theirs.region)

    def copy(self, wanted: MirrorEntry) -> Copied | NotCopied:
        """Copy the object, exactly as it was under one etag; a newer one if it changed since the listing.

        PITFALLS 89: every read says which etag it means, and what comes is compared with it.
        """
        try:
            for _ in range(_TRIES):
                done = self._once(wanted)
                if done is not None:
                    return Copied(done, done.tree.size_bytes)
                wanted = self._look_again(wanted)
        except ClientError as error:
            if _code(error) in _GONE:
                return NotCopied(wanted.key, None)
            return NotCopied(wanted.key, _translated(error, self._mirror, wanted.key))
        except BotoCoreError as error:
            return NotCopied(wanted.key, _unreachable(error, self._mirror, wanted.key))
        except DrtoolError as error:
            return NotCopied(wanted.key, error)
        return NotCopied(
            wanted.key,
            RepositoryUnavailable(
                f"{self._source.url}: object {wanted.key} changed each time it was copied",
                hint="Run `drtool sync` again when it is written to less.",
            ),
        )

    def delete(self, path: bytes) -> None:
        """Delete an object of the mirror; errors in our words."""
        key = path.decode()
        try:
            self._writing.delete_object(
                Bucket=self._mirror.place.bucket, Key=self._mirror.object_path(key)
            )
        except ClientError as error:
            raise _translated(error, self._mirror, key) from error
        except BotoCoreError as error:
            raise _unreachable(error, self._mirror, key) from error

    def _once(self, wanted: MirrorEntry) -> MirrorEntry | None:
        """The object as copied; None if it is another one by now."""
        try:
            if not self.is_same_server:
                return self._through_us(wanted)
            if wanted.tree.size_bytes > self._whole_bytes:
                return self._in_parts(wanted)
            return self._whole(wanted)
        except ClientError as error:
            if _code(error) in _CHANGED:
                return None
            raise

    def _whole(self, wanted: MirrorEntry) -> MirrorEntry | None:
        answer = self._writing.copy_object(
            Bucket=self._mirror.place.bucket,
            Key=self._mirror.object_path(wanted.key),
            CopySource=self._place_of(wanted),
            CopySourceIfMatch=f'"{wanted.source_etag}"',
        )
        etag = _bare(answer["CopyObjectResult"].get("ETag"))
        # For servers that ignore the condition. A copy of an object in parts gets another etag.
        is_comparable = etag is not None and "-" not in f"{etag}{wanted.source_etag}"
        if is_comparable and etag != wanted.source_etag:
            return None
        return replace(wanted, etag=etag, version=answer.get("VersionId"))

    def _in_parts(self, wanted: MirrorEntry) -> MirrorEntry:
        self._mirror.has_begun_parts = True
        place = {
            "Bucket": self._mirror.place.bucket,
            "Key": self._mirror.object_path(wanted.key),
        }
        size = wanted.tree.size_bytes
        step = max(self._part_bytes, -(-size // _MOST_PARTS))
        # A copy in one request takes these along by itself, one in parts does not.
        with self._naming_source(wanted.key):
            met = self._reading.head_object(**self._place_of(wanted))
        before = self._standing(place)
        upload = self._writing.create_multipart_upload(**place, **_kept(met))["UploadId"]
        try:
            parts = []
            for number, begin in enumerate(range(0, size, step), 1):
                answer = self._writing.upload_part_copy(
                    **place,
                    UploadId=upload,
                    PartNumber=number,
                    CopySource=self._place_of(wanted),
                    CopySourceIfMatch=f'"{wanted.source_etag}"',
                    CopySourceRange=f"bytes={begin}-{min(begin + step, size) - 1}",
                )
                parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
            answer = self._complete(place, upload, parts, before=before, size_bytes=size)
        except BaseException:
            self._give_up(place, upload)
            raise
        return replace(wanted, etag=_bare(answer.get("ETag")), version=answer.get("VersionId"))

    def _complete(
        self,
        place: dict[str, str],
        upload: str,
        parts: list[_Answer],
        *,
        before: _Answer,
        size_bytes: int,
    ) -> _Answer:
        """What completing it was answered; where the answer to an earlier try was lost, what is there.

        `before` is what was there before the upload: what is there now is ours if it is another one of this
        size, as nobody else writes into a mirror while its lease is held.
        """
        try:
            answer: _Answer = self._writing.complete_multipart_upload(
                **place, UploadId=upload, MultipartUpload={"Parts": parts}
            )
            return answer
        except ClientError as error:
            if _code(error) != "NoSuchUpload":
                raise
            met = self._standing(place)
            if met.get("ContentLength") != size_bytes or _marks(met) == _marks(before):
                raise
            return met

    def _standing(self, place: dict[str, str]) -> _Answer:
        """boto3's answer to a head of the mirror's object; empty if there is none."""
        try:
            met: _Answer = self._writing.head_object(**place)
        except ClientError as error:
            if _code(error) in _GONE:
                return {}
            raise
        return met

    def _give_up(self, place: dict[str, str], upload: str) -> None:
        """The error that led here counts; what cannot be given up now is at the end of the run."""
        with suppress(ClientError, BotoCoreError):
            self._writing.abort_multipart_upload(**place, UploadId=upload)

    def _through_us(self, wanted: MirrorEntry) -> MirrorEntry | None:
        body = _Body(self, wanted)
        answer = body.begin()
        if _bare(answer.get("ETag")) != wanted.source_etag:
            return None
        self._mirror.has_begun_parts |= wanted.tree.size_bytes >= _LARGE_BYTES
        place = {
            "Bucket": self._mirror.place.bucket,
            "Key": self._mirror.object_path(wanted.key),
        }
        # In parts by itself where it is large; 8 MiB each, ten at a time.
        self._writing.upload_fileobj(
            body,
            **place,
            ExtraArgs=_kept(answer),
        )
        met = self._writing.head_object(**place)
        if met["ContentLength"] != body.taken or body.taken != wanted.tree.size_bytes:
            return None
        return replace(
            wanted,
            content=body.hexdigest(),
            etag=_bare(met.get("ETag")),
            version=met.get("VersionId"),
        )

    def get_from_source(self, wanted: MirrorEntry, **given: str) -> _Answer:
        """boto3's answer to a get of the very content that is wanted; errors name the source."""
        with self._naming_source(wanted.key):
            answer: _Answer = self._reading.get_object(
                **self._place_of(wanted), IfMatch=f'"{wanted.source_etag}"', **given
            )
        return answer

    def unread(self, error: Exception, key: str) -> DrtoolError:
        """The error for an object of the source that breaks off each time it is read."""
        return RepositoryUnavailable(
            f"{self._source.url}: object {key} breaks off while it is read ({type(error).__name__})",
            hint="Look whether the store is up and reachable, then run the same command again.",
        )

    @contextmanager
    def _naming_source(self, key: str) -> Iterator[None]:
        """The source's failures are not the mirror's; that an object is gone or changed comes through."""
        try:
            yield
        except ClientError as error:
            if _code(error) in _GONE | _CHANGED:
                raise
            raise _translated(error, self._source, key) from error
        except BotoCoreError as error:
            raise _unreachable(error, self._source, key) from error

    def _look_again(self, wanted: MirrorEntry) -> MirrorEntry:
        with self._naming_source(wanted.key):
            met = self._reading.head_object(**self._place_of(wanted))
        modified_ns = int(met["LastModified"].timestamp() * 1_000_000) * 1000
        tree = wanted.tree._replace(size_bytes=met["ContentLength"], modified_ns=modified_ns)
        return replace(wanted, tree=tree, source_etag=_bare(met["ETag"]))

    def _place_of(self, wanted: MirrorEntry) -> dict[str, str]:
        return {
            "Bucket": self._source.place.bucket,
            "Key": self._source.object_path(wanted.key),
        }


class _OtherObject(Exception):
    """The source's object is another one by now."""


class _Body:
    """An object of the source, hashed as it is read; a connection that breaks is made anew where it broke.

    Its errors say that it was the source that could not be read.
    """

    def __init__(self, copier: Copier, wanted: MirrorEntry) -> None:
        self._copier, self._wanted = copier, wanted
        self._hash = hashlib.sha256()
        self._body: Any = None  # botocore's StreamingBody
        self._failures = 0
        self.taken = 0

    def begin(self) -> _Answer:
        """Ask for the bytes that have not come yet, of the same content; what boto3 answers."""
        given = {"Range": f"bytes={self.taken}-"} if self.taken else {}
        answer = self._copier.get_from_source(self._wanted, **given)
        # A store that ignores conditions or ranges answers with something else.
        is_on = str(answer.get("ContentRange", "")).startswith(f"bytes {self.taken}-")
        if self.taken and not (is_on and _bare(answer.get("ETag")) == self._wanted.source_etag):
            raise _OtherObject
        self._body = answer["Body"]
        return answer

    def read(self, amount: int = -1) -> bytes:
        piece = self._piece(None if amount < 0 else amount)
        self._hash.update(piece)
        self.taken += len(piece)
        return piece

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _piece(self, amount: int | None) -> bytes:
        while True:
            try:
                piece: bytes = self._body.read(amount)
                return piece
            except _BROKEN as error:
                self._failures += 1
                if self._failures > _READ_AGAIN:
                    raise self._copier.unread(error, self._wanted.key) from error
                self.begin()


def _marks(
    met: _Answer,
) -> list[object]:
    """What differs between two puts of one key, even of the same content."""
    return [met.get("VersionId"), met.get("ETag"), met.get("LastModified")]


def _kept(
    answer: Any,  # of boto3, to a head or a get
) -> _Answer:  # keyword arguments of boto3, of several types
    """What belongs to an object besides its bytes: without its encoding they are another content."""
    return {name: answer[name] for name in _KEPT if answer.get(name)}


def _bare(etag: str | None) -> str | None:
    return None if etag is None else etag.strip('"')


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def client_error(error: ClientError | BotoCoreError, bucket: Bucket, key: str) -> DrtoolError:
    """What boto3 raised, in our words."""
    if isinstance(error, ClientError):
        return _translated(error, bucket, key)
    return _unreachable(error, bucket, key)


def _translated(error: ClientError, bucket: Bucket, key: str) -> DrtoolError:
    code = _code(error)
    message = f"{bucket.url}: object {key}: the store answered {code}"
    if code == "NoSuchBucket":
        return PlaceMissing(message, hint="Make the bucket, or correct the url in the policy.")
    if code in _DENIED:
        return AccessDenied(message, hint="Look at the credentials, and at what they may do.")
    return RepositoryUnavailable(
        message, hint="Look whether the store is up, then run the same command again."
    )


def _unreachable(error: BotoCoreError, bucket: Bucket, key: str) -> DrtoolError:
    if isinstance(error, NoCredentialsError | CredentialRetrievalError | PartialCredentialsError):
        return no_credentials(bucket.place)
    return RepositoryUnavailable(
        f"{bucket.place.told}: object {key}: {type(error).__name__}",
        hint="Look whether the store is up and reachable, then run the same command again.",
    )
