"""Drops what is left of objects that go up in parts: a bucket keeps it unseen, and bills it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from botocore.exceptions import BotoCoreError, ClientError

from drtool.errors import DrtoolError
from drtool.mirror.catalogue import Catalogue
from drtool.mirror.plan import Told
from drtool.model.finding import Finding, Severity
from drtool.stores.bucket import Bucket

_UNDER_WAY = "under way"
_NONE_LEFT = "none left"


@contextmanager
def no_parts_left(
    bucket: Bucket,
    catalogue: Catalogue,
    told: Told,
    *,
    keys: Callable[[], Iterable[str]],
    check: Callable[[], None],
) -> Iterator[None]:
    """Around the putting of objects with these `keys`, by a run that holds the mirror's lease.

    Parts that lie in the bucket for one of them are given up: before the block those of a run that was
    killed, where the block before did not come to its end or this catalogue knows of none; after it
    what the block itself left, however it ended, if it put anything in parts. Nothing is on its way any
    more then. `check` raises once another run holds the lease: parts may be that one's. Where the bucket
    does not answer, that is told, and the run goes on.
    """
    if bucket.place.scheme != "s3":
        yield  # others forget parts by themselves
        return
    is_clean = True
    if catalogue.about("parts") != _NONE_LEFT:
        is_clean = _try_to_give_up(bucket, keys(), told)
    catalogue.set_about(parts=_UNDER_WAY)
    try:
        yield
    except BaseException:
        with suppress(DrtoolError):
            check()
            if bucket.has_begun_parts:
                _try_to_give_up(bucket, keys(), told)
        raise
    check()
    if is_clean and bucket.has_begun_parts:
        is_clean = _try_to_give_up(bucket, keys(), told)
    if is_clean:
        catalogue.set_about(parts=_NONE_LEFT)


def _try_to_give_up(bucket: Bucket, keys: Iterable[str], told: Told) -> bool:
    """Whether the bucket could be asked; where not, that is told."""
    try:
        _give_up(bucket, keys)
    except (ClientError, BotoCoreError) as error:
        told.add(_unseen(bucket, error))
        return False
    return True


def _give_up(bucket: Bucket, keys: Iterable[str]) -> None:
    control, name = bucket.control(), bucket.place.bucket
    prefix = bucket.object_path("")
    pages = control.get_paginator("list_multipart_uploads").paginate(Bucket=name, Prefix=prefix)
    uploads = []
    with _passing_over_none():
        uploads = [upload for page in pages for upload in page.get("Uploads", [])]
    if not uploads:
        return
    # Without a prefix, others may have uploads under way in this bucket.
    met = {upload["Key"] for upload in uploads}
    ours = met.intersection(bucket.object_path(key) for key in keys)
    for upload in uploads:
        if upload["Key"] in ours:
            with _passing_over_none():
                control.abort_multipart_upload(
                    Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"]
                )


@contextmanager
def _passing_over_none() -> Iterator[None]:
    """An upload that is gone need not be given up; one server also says so of a bucket without any."""
    try:
        yield
    except ClientError as error:
        if _code(error) != "NoSuchUpload":
            raise


def _unseen(bucket: Bucket, error: Exception) -> Finding:
    return Finding(
        severity=Severity.NOTE,
        subject=bucket.url,
        fact=f"parts of objects that a run left could not be given up: {_code(error)}",
        fix="Let a lifecycle rule of the bucket end unfinished uploads after a day.",
    )


def _code(error: Exception) -> str:
    response = error.response if isinstance(error, ClientError) else {}
    return str(response.get("Error", {}).get("Code", type(error).__name__))
