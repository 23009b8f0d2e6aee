"""Hashes whose fields expire (Redis 7.4 and later), written again with other times; values are copied.

Source: rdbSaveObject and rdbLoadObject in src/rdb.c, and src/listpack.c, of Redis 7.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from drtool.sources.redis import rdbcodes as codes

Sink = Callable[[memoryview], None]
# From when a field expires (milliseconds since 1970) to when it shall: -1 for never, None if it is over.
FieldRule = Callable[[int], int | None]

_MOMENT_BYTES = 8
_HEADER_BYTES = 6
_PACKED_END = 0xFF
# One listpack becomes the same fields one by one, which a server packs again as it is set up to.
_UNPACKED = {
    codes.HASH_PACKED_EXPIRING: codes.HASH_EXPIRING,
    codes.HASH_PACKED_EXPIRING_CANDIDATE: codes.HASH_EXPIRING_CANDIDATE,
}


class FieldCursor(Protocol):
    """Steps through a value and hands over what it stepped over, except what is `drop`ped."""

    def length(self) -> int:
        """Step over a length and return it."""

    def string(self) -> None:
        """Step over a string."""

    def taken(self, count: int) -> bytes:
        """The next few bytes, stepped over and not handed over."""

    def taken_string(self) -> bytes:
        """The next string as it stands, stepped over and not handed over."""

    def hand_over(self) -> None:
        """Hand over all that was stepped over."""

    def drop(self) -> None:
        """What was stepped over since the last `hand_over` is not handed over."""


def type_after(kind: int) -> int:
    """The type under which a value of type `kind` is written again."""
    return _UNPACKED.get(kind, kind)


def rewrite_fields(kind: int, cursor: FieldCursor, sink: Sink, *, rule: FieldRule) -> None:
    """Hand the value to `sink` as one of type `type_after(kind)`, its fields' times changed by `rule`.

    A field that is over keeps its time, which lies in the past: the server removes it. So the number
    of fields, which stands before them, is known, and values of any size pass through.
    """
    least = None
    if kind in (codes.HASH_EXPIRING, codes.HASH_PACKED_EXPIRING):
        moment = cursor.taken(_MOMENT_BYTES)
        least = int.from_bytes(moment, "little")
        sink(memoryview(moment))
    if kind in _UNPACKED:
        _rewrite_packed(codes.read_string(cursor.taken_string(), 0)[0], sink, rule, least=least)
        return
    for _ in range(cursor.length()):
        cursor.hand_over()
        told = cursor.length()
        cursor.drop()
        # Times are counted from the least one, plus 1: 0 is a field that does not expire.
        expires_ms = told if least is None or not told else told + least - 1
        sink(memoryview(_time(expires_ms, rule, least=least)))
        cursor.string()
        cursor.string()
    cursor.hand_over()


def _rewrite_packed(packed: bytes, sink: Sink, rule: FieldRule, *, least: int | None) -> None:
    elements = list(_elements(packed))
    if len(elements) % 3:
        raise ValueError("a packed hash has a field without a value or a time")
    sink(memoryview(codes.write_length(len(elements) // 3)))
    for field, value, expires_ms in zip(*[iter(elements)] * 3, strict=True):
        time = _time(int(expires_ms), rule, least=least)
        sink(memoryview(time + codes.write_string(field) + codes.write_string(value)))


def _time(expires_ms: int, rule: FieldRule, *, least: int | None) -> bytes:
    wanted = rule(expires_ms) if expires_ms else -1
    after = expires_ms if wanted is None else wanted
    if after < 0:
        return codes.write_length(0)
    return codes.write_length(after if least is None else max(0, after - least) + 1)


def _elements(packed: bytes) -> Iterator[bytes]:
    """What a listpack holds, numbers as their decimal digits; ValueError for what is none."""
    pos = _HEADER_BYTES
    try:
        while packed[pos] != _PACKED_END:
            element, size = _element(packed, pos)
            yield element
            pos += size + _way_back_bytes(size)
    except IndexError:
        raise ValueError("a packed hash is cut off") from None


def _element(packed: bytes, pos: int) -> tuple[bytes, int]:
    """The element at `pos` and how many bytes it takes without the way back."""
    first = packed[pos]
    if first < 0x80:
        return b"%d" % first, 1
    if 0xC0 <= first < 0xE0:
        number = (first & 0x1F) << 8 | packed[pos + 1]
        return b"%d" % (number - 0x2000 if number & 0x1000 else number), 2
    if first in _NUMBER_BYTES:
        count = _NUMBER_BYTES[first]
        content = packed[pos + 1 : pos + 1 + count]
        return b"%d" % int.from_bytes(content, "little", signed=True), 1 + count
    if first < 0xC0:
        begin, count = pos + 1, first & 0x3F
    elif first < 0xF0:
        begin, count = pos + 2, (first & 0x0F) << 8 | packed[pos + 1]
    elif first == 0xF0:
        begin, count = pos + 5, int.from_bytes(packed[pos + 1 : pos + 5], "little")
    else:
        raise ValueError(f"unknown encoding {first:#x} in a packed hash")
    packed[begin + count]
    return packed[begin : begin + count], begin + count - pos


_NUMBER_BYTES = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}


def _way_back_bytes(size: int) -> int:
    for count, limit in ((1, 128), (2, 16383), (3, 2097151), (4, 268435455)):
        if size < limit:
            return count
    return 5
