"""Finds out what outlives a deletion in an s3:// bucket, by deleting: settings are not believed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from drtool.errors import DrtoolError
from drtool.stores.remote import RemoteStore
from drtool.system.clock import Clock, Stopwatch

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

# A server too slow to be asked everything within the first is asked once more with the second.
_RETENTIONS = (timedelta(seconds=3), timedelta(seconds=30))
# The server's clock is known to the second, and it may need a moment to let go.
_RELEASE_SECONDS = 5
_PAUSE_SECONDS = 0.5
_BODY = b"drtool measures what outlives a deletion"
# Statuses of 4xx that say "not now" rather than "no".
_PASSING_STATUSES = (408, 429)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What was found; None means "not known".

    `versioning`: an object was still there by its version after its key was deleted.
    `object_lock`: a version under COMPLIANCE retention outlived its deletion, and only as long as
    that. `outlives_deletion`: so did the version of an object put as drtool puts its own, with
    all that these credentials may do.
    """

    versioning: bool | None = None
    object_lock: bool | None = None
    outlives_deletion: bool | None = None


def measured_protection(store: RemoteStore, place: str, *, clock: Clock) -> Protection:
    """What `store` keeps of objects below `place` that are deleted; all None if it is not S3.

    It takes the 3 s that one object is locked, where the bucket says that it locks; 40 s at most, and what
    the requests take.
    """
    if store.place.scheme != "s3":
        return Protection()
    bucket = _Bucket(store)
    return Protection(
        versioning=_known(lambda: _keeps_versions(bucket, f"{place}version")),
        object_lock=_known(lambda: _keeps_locked(bucket, f"{place}locked-", clock)),
        outlives_deletion=_known(lambda: _outlives_deletion(bucket, f"{place}ours")),
    )


def removed_with_versions(store: RemoteStore, place: str) -> bool | None:
    """Delete every version and delete marker below `place`; whether none is left, None if not known."""
    if store.place.scheme != "s3":
        return None
    return _known(lambda: _Bucket(store).remove_all(place))


def _known(measure: Callable[[], bool | None]) -> bool | None:
    """What was measured; None where the server did not let us or gave no answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return measure()
    except (BotoCoreError, ClientError, DrtoolError):
        return None


def _keeps_versions(bucket: _Bucket, key: str) -> bool:
    if not bucket.says_versioning():
        return False
    version = bucket.put_as_ours(key)
    bucket.delete(key)
    return version is not None and bucket.has(key, version)


def _outlives_deletion(bucket: _Bucket, key: str) -> bool:
    version = bucket.put_as_ours(key)
    bucket.delete(key, version)
    if bucket.has(key, version):
        bucket.delete(key, version, bypassing=True)
    return bucket.has(key, version)


def _keeps_locked(bucket: _Bucket, key: str, clock: Clock) -> bool | None:
    """None too if the server was too slow, or if something else than the lock keeps the version."""
    if not bucket.says_lock():
        return False
    for number, retention in enumerate(_RETENTIONS):
        name = f"{key}{number}"
        ends = bucket.store.now() + retention
        version = bucket.put_locked(name, ends)
        bucket.delete(name, version, bypassing=True)
        if bucket.has(name, version):
            return _is_released(bucket, name, version, ends=ends, clock=clock) or None
        # Gone within its retention, as the server's own clock has it.
        if bucket.store.now() < ends:
            return False
    return None


def _is_released(
    bucket: _Bucket, key: str, version: str | None, *, ends: datetime, clock: Clock
) -> bool:
    """Whether the same deletion is done once the retention is over.

    If not, it may be the credentials that were refused, and not the lock that held.
    """
    limit = (ends - bucket.store.now()).total_seconds() + _RELEASE_SECONDS
    passed = Stopwatch(clock)
    while passed.seconds() < limit:
        if bucket.store.now() >= ends:
            bucket.delete(key, version)
            if not bucket.has(key, version):
                return True
        clock.wait(_PAUSE_SECONDS)
    return False


class _Bucket:
    """The requests; what is refused for good counts as done, since one looks at what is there."""

    def __init__(self, store: RemoteStore) -> None:
        self.store = store
        self._control = store.control()

    def says_versioning(self) -> bool:
        answer = self._control.get_bucket_versioning(Bucket=self.store.place.bucket)
        return bool(answer.get("Status") == "Enabled")

    def says_lock(self) -> bool:
        from botocore.exceptions import ClientError

        try:
            answer = self._control.get_object_lock_configuration(Bucket=self.store.place.bucket)
        except ClientError as error:
            if (
                error.response.get("Error", {}).get("Code")
                == "ObjectLockConfigurationNotFoundError"
            ):
                return False
            raise
        settings = answer.get("ObjectLockConfiguration", {})
        return bool(settings.get("ObjectLockEnabled") == "Enabled")

    def put_as_ours(self, key: str) -> str | None:
        """Put an object as drtool puts all of its own; its version, None where there are none."""
        self.store.create(key, [_BODY])
        return _version(self._control.head_object(**self._object(key)))

    def put_locked(self, key: str, until: datetime) -> str | None:
        """Put an object under COMPLIANCE retention; S3 demands a checksum with it."""
        digest = hashlib.md5(_BODY, usedforsecurity=False).digest()
        return _version(
            self._control.put_object(
                **self._object(key),
                Body=_BODY,
                ContentMD5=base64.b64encode(digest).decode(),
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=until,
            )
        )

    def delete(self, key: str, version: str | None = None, *, bypassing: bool = False) -> None:
        """`bypassing`: GOVERNANCE retention too, if the credentials may."""
        from botocore.exceptions import ClientError

        asked = self._object(key, version)
        try:
            if bypassing:
                self._control.delete_object(**asked, BypassGovernanceRetention=True)
            else:
                self._control.delete_object(**asked)
        except ClientError as error:
            if not _is_refusal(_status(error)):
                raise

    def has(self, key: str, version: str | None) -> bool:
        """Whether the object is read back as it was put."""
        from botocore.exceptions import ClientError

        try:
            answer = self._control.get_object(**self._object(key, version))
            with answer["Body"] as body:
                return bool(body.read(len(_BODY) + 1) == _BODY)
        except ClientError as error:
            if _status(error) != 404:
                raise
            return False

    def remove_all(self, place: str) -> bool:
        """Whether nothing is left below `place`, of any version."""
        for name, version in self._versions(place):
            self.delete(name, version)
        left = self._versions(place)
        for name, version in left:
            self.delete(name, version, bypassing=True)
        return not left or not self._versions(place)

    def _versions(self, place: str) -> list[tuple[str, str]]:
        """The first thousand of them, more than a probe puts; keys relative to the store."""
        prefix = self.store.object_path(place)
        above = len(prefix) - len(place)
        answer = self._control.list_object_versions(Bucket=self.store.place.bucket, Prefix=prefix)
        found = [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]
        return [(one["Key"][above:], one["VersionId"]) for one in found]

    def _object(self, key: str, version: str | None = None) -> dict[str, str]:
        named = {"Bucket": self.store.place.bucket, "Key": self.store.object_path(key)}
        return named if version is None else named | {"VersionId": version}


def _version(answer: dict[str, Any]) -> str | None:  # as boto3 gives its answers
    found = answer.get("VersionId")
    return found if isinstance(found, str) else None


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_refusal(status: int) -> bool:
    return 400 <= status < 500 and status not in _PASSING_STATUSES
