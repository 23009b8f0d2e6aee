"""The RDB format: opcodes, lengths, strings, and how to step over a value without decoding it.

Versions 9 (Redis 5) to 12 (Redis 7.4); Valkey 7.2 to 8.1 write 11. Source: src/rdb.h and src/rdb.c of
Redis and of Valkey.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from drtool.errors import IntegrityError, NotRecoverable

OLDEST_VERSION = 9
NEWEST_VERSION = 12
MAGIC = b"REDIS"
VALKEY_MAGIC = b"VALKEY"
FOOTER_BYTES = 8
# What is held whole while it is read: a key, a fact, a library of functions, what a module keeps beside keys.
MOST_HELD_BYTES = 64 << 20

SLOT_INFO = 0xF4
FUNCTION = 0xF5
FUNCTION_BEFORE_RELEASE = 0xF6
MODULE_AUX = 0xF7
IDLE = 0xF8
FREQUENCY = 0xF9
AUX = 0xFA
RESIZE = 0xFB
EXPIRE_MS = 0xFC
EXPIRE_SECONDS = 0xFD
SELECT = 0xFE
END = 0xFF

MODULE_VALUE_1 = 6
MODULE_VALUE = 7
# Hashes whose fields expire; the first two were written by candidates for 7.4 alone.
HASH_EXPIRING_CANDIDATE = 22
HASH_PACKED_EXPIRING_CANDIDATE = 23
HASH_EXPIRING = 24
HASH_PACKED_EXPIRING = 25
FIELDS_EXPIRE = frozenset({22, 23, 24, 25})
# A string is any of these on disk: plain, or a list, set, hash or zset packed into one string.
PACKED_VALUES = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20, HASH_PACKED_EXPIRING_CANDIDATE})
_MODULE_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


Shape = Callable[["Cursor"], None]


class RdbDamaged(IntegrityError):
    """An RDB is cut off, was changed, or never was one."""


class UnknownModule(NotRecoverable):
    """An RDB holds what only a module can read, and nobody said that the module will be there."""


class UnknownFormat(NotRecoverable):
    """An RDB is of a version, or holds something of a size, that drtool does not read."""


class Cursor(Protocol):
    """Where one stands in an RDB. Each method steps over one thing."""

    def length(self) -> int:
        """Step over a length and return it."""

    def string(self) -> None:
        """Step over a string, however it is encoded."""

    def raw(self, count: int) -> None:
        """Step over `count` bytes."""

    def byte(self) -> int:
        """Step over one byte and return it."""


def skip_string(window: bytes, pos: int) -> int:
    """The position after the string at `pos`, which may lie beyond the window's end.

    IndexError if even its header is cut off.
    """
    first = window[pos]
    if first < 0x40:
        return pos + 1 + first
    if first < 0x80:
        return pos + 2 + ((first & 0x3F) << 8 | window[pos + 1])
    if first < 0xC0:
        count, pos = read_length(window, pos)
        return pos + count
    if first == 0xC3:
        packed, pos = read_length(window, pos + 1)
        _, pos = read_length(window, pos)
        return pos + packed
    if first < 0xC3:
        return pos + 1 + (1 << (first & 3))
    raise ValueError(f"unknown encoding {first:#x} of a string")


def read_length(window: bytes, pos: int) -> tuple[int, int]:
    """The length at `pos` and the position after it; IndexError if it is cut off."""
    first = window[pos]
    if first < 0x40:
        return first, pos + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | window[pos + 1], pos + 2
    if first == 0x80:
        window[pos + 4]
        return int.from_bytes(window[pos + 1 : pos + 5], "big"), pos + 5
    if first == 0x81:
        window[pos + 8]
        return int.from_bytes(window[pos + 1 : pos + 9], "big"), pos + 9
    raise ValueError(f"unknown encoding {first:#x} of a length")


def read_string(window: bytes, pos: int) -> tuple[bytes, int]:
    """The string at `pos`, decoded, and the position after it; IndexError if it is cut off."""
    end = skip_string(window, pos)
    if end > len(window):
        raise IndexError("the string goes on beyond the window")
    first = window[pos]
    if first < 0xC0:
        count, begin = read_length(window, pos)
        return window[begin : begin + count], end
    if first < 0xC3:
        return b"%d" % int.from_bytes(window[pos + 1 : end], "little", signed=True), end
    packed, begin = read_length(window, pos + 1)
    size, begin = read_length(window, begin)
    return _unpack_lzf(window[begin : begin + packed], size), end


def write_length(count: int) -> bytes:
    """A length as Redis writes it."""
    if count < 0x40:
        return bytes((count,))
    if count < 0x4000:
        return (0x4000 | count).to_bytes(2, "big")
    if count < 1 << 32:
        return b"\x80" + count.to_bytes(4, "big")
    return b"\x81" + count.to_bytes(8, "big")


def write_string(text: bytes) -> bytes:
    """A plain string as Redis writes it."""
    return write_length(len(text)) + text


def module_name(number: int) -> str:
    """The name of nine letters that a module's types carry in their number."""
    letters = [_MODULE_ALPHABET[(number >> 10 + 6 * place) & 63] for place in range(8, -1, -1)]
    return "".join(letters)


def _unpack_lzf(packed: bytes, size: int) -> bytes:
    # Source: lzf_d.c. No byte of it makes more than 264.
    if size > min(MOST_HELD_BYTES, 264 * len(packed)):
        raise ValueError("a packed string is larger than it can be")
    out = bytearray()
    pos = 0
    try:
        while pos < len(packed) and len(out) <= size:
            control = packed[pos]
            pos += 1
            if control < 32:
                out += packed[pos : pos + control + 1]
                pos += control + 1
                continue
            count = 2 + (control >> 5)
            if count == 9:
                count += packed[pos]
                pos += 1
            begin = len(out) - ((control & 0x1F) << 8) - packed[pos] - 1
            pos += 1
            if begin < 0:
                raise ValueError("a packed string refers to what is not there")
            # The copy may overlap what it makes: then the pattern repeats.
            pattern = out[begin : begin + count]
            out += (pattern * (1 + count // len(pattern)))[:count]
    except IndexError:
        raise ValueError("a packed string is cut off") from None
    if len(out) != size:
        raise ValueError("a packed string has another size than it says")
    return bytes(out)


def _strings(cursor: Cursor) -> None:
    for _ in range(cursor.length()):
        cursor.string()


def _pairs(cursor: Cursor) -> None:
    for _ in range(cursor.length()):
        cursor.string()
        cursor.string()


def _scored_by_text(cursor: Cursor) -> None:
    for _ in range(cursor.length()):
        cursor.string()
        size = cursor.byte()
        if size < 253:
            cursor.raw(size)


def _scored(cursor: Cursor) -> None:
    for _ in range(cursor.length()):
        cursor.string()
        cursor.raw(8)


def _expiring_pairs(cursor: Cursor) -> None:
    for _ in range(cursor.length()):
        cursor.length()
        cursor.string()
        cursor.string()


def _behind_moment(cursor: Cursor, rest: Shape) -> None:
    cursor.raw(8)
    rest(cursor)


def _quicklist(cursor: Cursor) -> None:
    for _ in range(cursor.length()):
        cursor.length()
        cursor.string()


def _stream(cursor: Cursor, version: int) -> None:
    _pairs(cursor)
    # Length and last id; since version 2 also first id, highest deleted id and entries ever added.
    for _ in range(3 if version == 1 else 8):
        cursor.length()
    for _ in range(cursor.length()):
        cursor.string()
        for _ in range(2 if version == 1 else 3):
            cursor.length()
        for _ in range(cursor.length()):
            cursor.raw(16 + 8)
            cursor.length()
        for _ in range(cursor.length()):
            cursor.string()
            cursor.raw(8 if version < 3 else 16)
            cursor.raw(16 * cursor.length())


def module_fields(cursor: Cursor) -> None:
    """Step over what a module wrote, up to and with its end mark."""
    while (kind := cursor.length()) != 0:
        if kind in (1, 2):
            cursor.length()
        elif kind in (3, 4):
            cursor.raw(4 * (kind - 2))
        elif kind == 5:
            cursor.string()
        else:
            raise ValueError(f"unknown field {kind} of a module's value")


def _module_value(cursor: Cursor) -> None:
    cursor.length()
    module_fields(cursor)


SHAPES: dict[int, Shape] = {
    **{kind: lambda cursor: cursor.string() for kind in PACKED_VALUES},
    1: _strings,
    2: _strings,
    3: _scored_by_text,
    4: _pairs,
    5: _scored,
    MODULE_VALUE: _module_value,
    14: _strings,
    15: lambda cursor: _stream(cursor, 1),
    18: _quicklist,
    19: lambda cursor: _stream(cursor, 2),
    21: lambda cursor: _stream(cursor, 3),
    HASH_EXPIRING_CANDIDATE: _expiring_pairs,
    HASH_EXPIRING: lambda cursor: _behind_moment(cursor, _expiring_pairs),
    HASH_PACKED_EXPIRING: lambda cursor: _behind_moment(cursor, lambda one: one.string()),
}
