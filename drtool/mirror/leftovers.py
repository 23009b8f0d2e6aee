"""Drops what a killed run left of objects that go up in parts: a bucket keeps it unseen, and bills it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError

from drtool.mirror.catalogue import Catalogue
from drtool.mirror.plan import Told
from drtool.model.finding import Finding, Severity
from drtool.stores.bucket import Bucket

_UNDER_WAY = "under way"
_NONE_LEFT = "none left"


@contextmanager
def no_parts_left(
    bucket: Bucket, catalogue: Catalogue, told: Told, *, keys: Iterable[str]
) -> Iterator[None]:
    """Around the putting of objects with these `keys`, by a run that holds the mirror's lease.

    Parts that lie in the bucket for one of them are of a run that was killed: they are given up
    before the block. The bucket is asked only where the block before did not come to its end, or
    this catalogue knows of none; where it does not answer, that is told, and the run goes on.
    """
    if bucket.place.scheme != "s3":
        yield  # others forget parts by themselves
        return
    is_clean = True
    if catalogue.about("parts") != _NONE_LEFT:
        try:
            _give_up(bucket, keys)
        except (ClientError, BotoCoreError) as error:
            told.add(_unseen(bucket, error))
            is_clean = False
    catalogue.set_about(parts=_UNDER_WAY)
    yield
    if is_clean:
        catalogue.set_about(parts=_NONE_LEFT)


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
        fact=f"parts of objects that a killed run left could not be given up: {_code(error)}",
        fix="Let a lifecycle rule of the bucket end unfinished uploads after a day.",
    )


def _code(error: Exception) -> str:
    response = error.response if isinstance(error, ClientError) else {}
    return str(response.get("Error", {}).get("Code", type(error).__name__))
