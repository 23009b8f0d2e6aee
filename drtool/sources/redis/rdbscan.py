"""The hot loop over an RDB's records: where each begins and ends, when it expires, and its key."""

from __future__ import annotations

from collections.abc import Container

from drtool.sources.redis import rdbcodes as codes
from drtool.sources.redis.rdbcodes import (
    Shape,
    UnknownModule,
    read_length,
    read_string,
    skip_string,
)

# Where a record begins, where its type stands, where it ends, when it expires (NEVER: -1), its key.
Entry = tuple[int, int, int, int, bytes]
NEVER = -1


class EveryModule:
    """Takes any module for known: its values can be stepped over without it. `met` are their types."""

    def __init__(self) -> None:
        self.met: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.met.add(str(name))
        return True


class Inside:
    """Steps through a window; IndexError, or a position beyond its end, where the window is short."""

    def __init__(self, window: bytes, pos: int) -> None:
        self.bytes = window
        self.pos = pos

    def length(self) -> int:
        count, self.pos = codes.read_length(self.bytes, self.pos)
        return count

    def string(self) -> None:
        self.pos = codes.skip_string(self.bytes, self.pos)

    def raw(self, count: int) -> None:
        self.pos += count

    def byte(self) -> int:
        self.pos += 1
        return self.bytes[self.pos - 1]


def scan(window: bytes, pos: int, modules: Container[str]) -> tuple[list[Entry], int, bool]:
    """The records that lie whole in `window` from `pos` on.

    Also where the first thing begins that is not one, and whether that is because the window is too
    short: otherwise an opcode of another kind stands there. ValueError for what is no RDB.
    """
    entries: list[Entry] = []
    append = entries.append
    packed = codes.PACKED_VALUES
    size = len(window)
    done = pos
    try:
        while True:
            expires_ms = NEVER
            kind = window[pos]
            type_at = pos
            if kind >= codes.SLOT_INFO:
                if not codes.IDLE <= kind <= codes.EXPIRE_SECONDS or kind in (
                    codes.AUX,
                    codes.RESIZE,
                ):
                    return entries, done, False
                type_at, expires_ms = read_head(window, pos)
                kind = window[type_at]
            # The two commonest encodings of a key are read here: a call would cost a fifth.
            pos = type_at + 1
            first = window[pos]
            if first < 0x40:
                begin = pos + 1
                pos = begin + first
                key = window[begin:pos]
            elif first < 0x80:
                begin = pos + 2
                pos = begin + ((first & 0x3F) << 8 | window[pos + 1])
                key = window[begin:pos]
            else:
                key, pos = read_string(window, pos)
            if kind in packed:
                pos = skip_string(window, pos)
            else:
                pos = _skip_value(window, pos, kind, modules=modules)
            if pos > size:
                break
            append((done, type_at, pos, expires_ms, key))
            done = pos
    except IndexError:
        pass
    return entries, done, True


def read_head(window: bytes, pos: int) -> tuple[int, int]:
    """Where the type of the record at `pos` stands, and when the record expires, or NEVER."""
    expires_ms = NEVER
    while (code := window[pos]) >= codes.SLOT_INFO:
        if code == codes.EXPIRE_MS:
            expires_ms = int.from_bytes(window[pos + 1 : pos + 9], "little", signed=True)
            pos += 9
        elif code == codes.EXPIRE_SECONDS:
            expires_ms = 1000 * int.from_bytes(window[pos + 1 : pos + 5], "little")
            pos += 5
        elif code == codes.FREQUENCY:
            pos += 2
        elif code == codes.IDLE:
            _, pos = read_length(window, pos + 1)
        else:
            raise ValueError(f"opcode {code:#x} where a record should go on")
    return pos, expires_ms


def shape_of(kind: int) -> Shape:
    """How to step over a value of that type; ValueError for an unknown one."""
    try:
        return codes.SHAPES[kind]
    except KeyError:
        if kind == codes.MODULE_VALUE_1:
            raise UnknownModule(
                "the RDB holds a module's value in the first format, which only the module can read",
                hint="Restore it whole, into the same number of masters, with the module loaded.",
            ) from None
        raise ValueError(f"unknown type {kind} of a value") from None


def known_module(number: int, modules: Container[str]) -> str:
    """The name of the module type with that number; UnknownModule if it is not in `modules`."""
    name = codes.module_name(number)
    if name not in modules:
        raise UnknownModule(
            f"the RDB holds what only the module type {name} can read",
            hint="Load the module where it is restored, and name its type.",
        )
    return name


def _skip_value(window: bytes, pos: int, kind: int, *, modules: Container[str]) -> int:
    if kind == codes.MODULE_VALUE:
        known_module(read_length(window, pos)[0], modules)
    cursor = Inside(window, pos)
    shape_of(kind)(cursor)
    return cursor.pos
