"""Which keys every store accepts, and the order in which all of them list."""

from __future__ import annotations

import re

_TEMPORARY = re.compile(r"^\.drtool-.*\.tmp$", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_key(key: str) -> None:
    """ValueError unless `key` can be stored, and found again under the same name, everywhere.

    Some S3 servers turn a backslash into a slash and some object stores refuse control
    characters, so neither may be in a key; nor may a name that `is_temporary`, for no listing
    would show it.
    """
    for part in key.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"key {key!r} has an empty part, or one of dots")
        if is_temporary(part):
            raise ValueError(f"key {key!r} looks like an unfinished file of drtool's")
    _check_letters(key)


def check_prefix(prefix: str) -> None:
    """ValueError unless keys could begin with the text `prefix`."""
    parts = prefix.split("/")
    if any(part in ("", ".", "..") for part in parts[:-1]):
        raise ValueError(f"prefix {prefix!r} has an empty part, or one of dots")
    _check_letters(prefix)


def check_directory(prefix: str) -> None:
    """ValueError unless `prefix` is empty or ends in a slash."""
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"directory prefix {prefix!r} does not end in /")
    check_prefix(prefix)


def check_range(start: int, length: int) -> None:
    """ValueError for what no object could have."""
    if start < 0 or length < 0:
        raise ValueError(f"range of {length} bytes from {start} makes no sense")


def is_temporary(name: str) -> bool:
    """Whether `system.durable` gives such names to files that are not finished."""
    return _TEMPORARY.match(name) is not None


def in_order(key: str) -> bytes:
    """What keys are sorted by."""
    return key.encode("utf-8", "surrogateescape")


def _check_letters(text: str) -> None:
    if _CONTROL.search(text) or "\\" in text:
        raise ValueError(f"key {text!r} holds a control character or a backslash")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"key {text!r} cannot be written in UTF-8") from error
