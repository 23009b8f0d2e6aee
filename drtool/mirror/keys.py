"""The key of a file: its path as it is, wherever an object store can hold that; else escaped so that
it can be turned back.

The rule, so that anybody can turn a key back without drtool: in a key, `%` followed by two hexadecimal
digits is one byte; everything else stands for itself in UTF-8. Escaped are bytes that are no UTF-8,
control characters, the backslash (which some servers turn into a slash), a `%` that two hexadecimal
digits follow, and the first letter of the name `.drtool` at the top, which is the mirror's own.
"""

from __future__ import annotations

import re

OWN = ".drtool"
# S3's limit; the others take as much.
MOST_KEY_BYTES = 1024

_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
# What surrogateescape makes of bytes that are no UTF-8, and what stores cannot hold.
_AWKWARD = re.compile("[\x00-\x1f\x7f\\\\\udc80-\udcff]|%(?=[0-9A-Fa-f]{2})")


def escape(path: bytes) -> str:
    """Any bytes as text, reversibly. Plain UTF-8 stays as it is."""
    text = path.decode("utf-8", "surrogateescape")
    if _AWKWARD.search(text) is None:
        return text
    return _AWKWARD.sub(_percent, text)


def unescape(text: str) -> bytes:
    """What `escape` made it from."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode())


def key_of(path: bytes) -> str:
    """The key of a file of the tree."""
    key = escape(path)
    if key == OWN or key.startswith(OWN + "/"):
        return "%2E" + key[1:]
    return key


def path_of(key: str) -> bytes:
    """The file that a key stands for."""
    return unescape(key)


def is_own(key: str) -> bool:
    """Whether the object is the mirror's own, and no file."""
    return key.startswith(OWN + "/")


def is_too_long(key: str, *, prefix: str) -> bool:
    """Whether no store would take it below this prefix."""
    return len(key.encode()) + len(prefix.encode()) + 1 > MOST_KEY_BYTES


def _percent(match: re.Match[str]) -> str:
    [byte] = match[0].encode("utf-8", "surrogateescape")
    return f"%{byte:02X}"
