"""Whether the mirror's bucket keeps what is deleted: found by deleting, since settings may be ignored."""

from __future__ import annotations

import uuid
from contextlib import suppress

from botocore.exceptions import BotoCoreError, ClientError

from drtool.errors import ObjectMissing
from drtool.mirror.keys import OWN
from drtool.stores.bucket import Bucket

_BODY = b"drtool measures what outlives a deletion"


def keeps_deleted(bucket: Bucket) -> bool | None:
    """Whether an object can still be read by its version after its key was deleted; None if not known.

    Asked before files are deleted from a bucket that says it keeps versions; one object of the mirror's
    own is put, deleted, read, and removed with its versions.
    """
    said = bucket.keeps_versions()
    if not said:
        return said
    key = f"{OWN}/probe/{uuid.uuid4().hex}"
    placed = bucket.put(key, _BODY, {})
    bucket.delete(key)
    try:
        return placed.version is not None and bucket.read(key, version=placed.version) == _BODY
    except ObjectMissing:
        return False
    finally:
        with suppress(ClientError, BotoCoreError):
            _remove_versions(bucket, key)


def _remove_versions(bucket: Bucket, key: str) -> None:
    control, name = bucket.control(), bucket.place.bucket
    answer = control.list_object_versions(Bucket=name, Prefix=bucket.object_path(key))
    for one in [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]:
        control.delete_object(Bucket=name, Key=one["Key"], VersionId=one["VersionId"])
