"""The library's errors in our words: not there, not allowed, not possible, could not be asked."""

from __future__ import annotations

import os
import re

from obstore.exceptions import (
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from drtool.errors import (
    AccessDenied,
    DrtoolError,
    NotSupported,
    ObjectMissing,
    PlaceMissing,
    RepositoryUnavailable,
    StoreFull,
)
from drtool.stores.place import RemotePlace, credential_files

_KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

# What the library raises for a request that went wrong.
LIBRARY_ERRORS = (BaseError, OSError)

_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,80})</Code>")
_TRANSPORT = (
    ("dns error", "its name cannot be resolved"),
    ("ConnectionRefused", "the connection was refused"),
    ("ConnectionReset", "the connection was reset"),
    ("IncompleteMessage", "the connection broke before the answer was complete"),
    ("BrokenPipe", "the connection broke"),
    ("InvalidCertificate", "its certificate is not trusted"),
    ("TimedOut", "it gave no answer in time"),
    ("Timeout", "it gave no answer in time"),
    ("UnexpectedEof", "the connection broke"),
)
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted")
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
_FULL = ("QuotaExceeded", "StorageFull", "XMinioStorageFull", "InsufficientCapacity")
# Answers with a status of 400 that another try may not get.
_PASSING = ("RequestTimeout", "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody")
_DENIED_CODES = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")


# How requests to a machine's own credentials service show in the library's message.
_CREDENTIALS_SERVICES = (
    "/latest/api/token",
    "/latest/meta-data/",
    "InstanceProfile",
    "TaskProvider",
)


def translated(error: Exception, *, place: RemotePlace, key: str = "") -> DrtoolError:
    """What `error` means for the object `key` of the store at `place`.

    Only words known to be harmless are taken from the library's message: the rest of it may hold
    a signed address.
    """
    text, url = str(error), place.told
    if any(sign in text for sign in _CREDENTIALS_SERVICES):
        return no_credentials(place)
    status, code = _found(_STATUS, text), _found(_CODE, text)
    if code in _NO_BUCKET or (isinstance(error, FileNotFoundError) and not key):
        return PlaceMissing(
            f"{url}: the bucket {place.bucket} does not exist there",
            hint="Make the bucket, or correct the url in the policy; `?endpoint=https://HOST:PORT` in it"
            " names a server other than the provider's.",
        )
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(key)
    reason = _reason(text, status, code)
    where = f"{url}: object {key}: {reason}" if key else f"{url}: {reason}"
    if code in _SKEWED:
        return AccessDenied(where, hint="Set this machine's clock; the store refuses its time.")
    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if denied or status in ("401", "403") or code in _DENIED_CODES:
        return AccessDenied(
            where, hint="Look at the credentials in the environment, and at what they may do."
        )
    if isinstance(error, NotSupportedError) or status == "501":
        return NotSupported(
            where,
            hint="Name another server (`?endpoint=` in the url), or ask its operator whether a proxy or a"
            " mode of the bucket refuses this: the server itself said that it cannot do it.",
        )
    if status == "507" or code in _FULL:
        return StoreFull(where, hint="Make room in the store, or raise its quota.")
    if "credential" in text.lower() and status == "":
        return no_credentials(place)
    return RepositoryUnavailable(
        where, hint="Look whether the store is up and reachable, then run the same command again."
    )


def no_credentials(place: RemotePlace) -> AccessDenied:
    """Nothing that the credentials of a store could come from gave any: says where was looked."""
    if place.scheme != "s3":
        return AccessDenied(
            f"{place.told}: no credentials could be had",
            hint="Set the provider's variables: GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_*.",
        )
    unset = [name for name in _KEY_VARIABLES if not os.environ.get(name)]
    keys = f"{' and '.join(unset)} not set" if unset else "the key pair of the environment not used"
    files = " and ".join(credential_files())
    return AccessDenied(
        f"{place.told}: there are no credentials for the bucket {place.bucket}: {keys}, no profile in"
        f" {files}, no role of a web identity or a container, and this machine's instance metadata"
        " service gives none",
        hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, for the user that runs"
        " drtool.",
    )


def is_bad_range(error: Exception) -> bool:
    """Whether the object is too short for the range asked for, or the server gave no range."""
    text = str(error)
    return (
        _found(_STATUS, text) == "416"
        or "non-partial response" in text
        or "InvalidRange" in text
        or isinstance(error, NotSupportedError)
    )


def refuses_condition(error: Exception) -> bool:
    """Whether a conditional put was refused in a way that a plain one may not be.

    501 by the book; other servers call the header, the request or the method a bad one.
    """
    return (
        isinstance(error, NotSupportedError)
        or _found(_STATUS, str(error))
        in (
            "405",
            "501",
        )
        or is_refused(error)
    )


def is_refused(error: Exception) -> bool:
    """Whether the store will not have this object, however often it is asked: its name, or its size."""
    text = str(error)
    refused = _found(_STATUS, text) in ("400", "411", "413", "414", "422")
    return refused and _found(_CODE, text) not in _PASSING


def _reason(text: str, status: str, code: str) -> str:
    if status:
        return f"the store answered {status} {code}".rstrip()
    for sign, words in _TRANSPORT:
        if sign in text:
            return words
    return "the request failed"


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match.group(1) if match else ""
