"""Puts an object too large for one request into S3 in parts; it appears whole, or not at all."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from drtool.errors import (
    AccessDenied,
    ConditionsRefused,
    DrtoolError,
    PlaceMissing,
    RepositoryUnavailable,
)

# Above this an object goes up in parts. drtool's own packs and segments are smaller.
SINGLE_PUT_BYTES = 64 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
# Parts on their way at a time: with what is copied for them, 64 MiB of memory.
CONCURRENT_PARTS = 4
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


def put_in_parts(
    control: Any,  # boto3's client, made at run time
    address: tuple[str, str],
    views: Sequence[memoryview],
    *,
    if_absent: bool,
) -> bool:
    """Put `views` at `address` (bucket, path); False if `if_absent` and something stands there.

    The condition is checked by the server when the parts are put together. What was uploaded is
    given up on any failure; if even that fails, the bucket's rule for incomplete uploads has to.
    """
    bucket, path = address
    place = {"Bucket": bucket, "Key": path}
    try:
        place["UploadId"] = control.create_multipart_upload(**place)["UploadId"]
        try:
            parts = _upload(control, place, views)
            condition = {"IfNoneMatch": "*"} if if_absent else {}
            control.complete_multipart_upload(
                **place, MultipartUpload={"Parts": parts}, **condition
            )
        except BaseException:
            _give_up(control, place)
            raise
    except ClientError as error:
        if if_absent and _code(error) in _TAKEN:
            return False
        told = _translated(error, f"s3://{bucket}/{path}")
        if if_absent and _status(error) in (400, 405, 501):
            raise ConditionsRefused(told.message, hint=told.hint) from error
        raise told from error
    except BotoCoreError as error:
        raise RepositoryUnavailable(
            f"s3://{bucket}/{path} cannot be put: {type(error).__name__}",
            hint="Look whether the store is up and reachable, then run the same command again.",
        ) from error
    return True


def _upload(
    control: Any,  # boto3's client, made at run time
    place: dict[str, str],
    views: Sequence[memoryview],
) -> list[dict[str, object]]:
    def upload(number: int, content: bytes) -> dict[str, object]:
        digest = hashlib.md5(content, usedforsecurity=False).digest()
        answer = control.upload_part(
            **place,
            PartNumber=number,
            Body=content,
            ContentMD5=base64.b64encode(digest).decode(),
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    done: list[dict[str, object]] = []
    numbered = enumerate(_cut(views), 1)
    with ThreadPoolExecutor(CONCURRENT_PARTS) as threads:
        while batch := list(islice(numbered, CONCURRENT_PARTS)):
            going: list[Future[dict[str, object]]] = [
                threads.submit(upload, number, content) for number, content in batch
            ]
            done.extend(future.result() for future in going)
    return done


def _cut(views: Sequence[memoryview]) -> Iterator[bytes]:
    """The concatenation of `views` in pieces of PART_BYTES, the last one shorter."""
    pieces: list[memoryview] = []
    room = PART_BYTES
    for view in views:
        while len(view):
            piece, view = view[:room], view[room:]
            pieces.append(piece)
            room -= len(piece)
            if room == 0:
                yield b"".join(pieces)
                pieces, room = [], PART_BYTES
    if pieces:
        yield b"".join(pieces)


def _give_up(
    control: Any,  # boto3's client, made at run time
    place: dict[str, str],
) -> None:
    try:
        control.abort_multipart_upload(**place)
    except (BotoCoreError, ClientError):
        return  # the first error is the one to tell


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _translated(error: ClientError, what: str) -> DrtoolError:
    code = _code(error)
    status = _status(error)
    message = f"{what} cannot be put: the store answered {status} {code}"
    if code == "NoSuchBucket":
        return PlaceMissing(message, hint="Make the bucket, or correct the url in the policy.")
    if status in (401, 403):
        return AccessDenied(message, hint="Look at the credentials, and at what they may do.")
    return RepositoryUnavailable(
        message, hint="Look whether the store is up, then run the same command again."
    )
