"""An RDB read as a stream: what is in it, record by record, without decoding a single value."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from drtool.sources.redis import rdbcodes as codes
from drtool.sources.redis.crc64 import Buffer
from drtool.sources.redis.rdbcodes import RdbDamaged, UnknownFormat
from drtool.sources.redis.rdbfields import FieldRule, Sink, rewrite_fields
from drtool.sources.redis.rdbscan import (
    Entry,
    Inside,
    known_module,
    read_head,
    scan,
    shape_of,
)
from drtool.sources.redis.rdbwindow import Through, Window, cut_off
from drtool.system.owned_directory import OwnedDirectory
from drtool.system.users import RunAs

T = TypeVar("T")
# A record that is not whole in a window of this size is copied through, not held.
_LARGE_BYTES = 1 << 20
_FILE_BYTES = 1 << 20
# A server that loads the copy sets up all databases up to the last one that holds keys.
_LAST_DATABASE = (1 << 20) - 1
_DATABASE_DIGITS = 7
_WHOLE = (
    "Restore it to the backup's own moment (--backup ID), with its expiry times, into the same number of"
    " masters: that needs no reading."
)


@dataclass(frozen=True, slots=True)
class Aux:
    """A named fact about the RDB, such as `redis-ver` or `repl-offset`."""

    name: bytes
    value: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """How many keys, and keys that expire, the database now selected is said to hold."""

    database: int
    keys: int
    expires: int


@dataclass(frozen=True, slots=True)
class Function:
    """A library of functions: its code, and the bytes as they stand."""

    code: bytes
    raw: bytes

    @property
    def library(self) -> str:
        """The name that its first line (`#!lua name=...`) gives it."""
        for word in self.code.split(b"\n", 1)[0].split():
            if word.startswith(b"name="):
                return word[5:].decode("utf-8", "replace")
        return ""


@dataclass(frozen=True, slots=True)
class ModuleAux:
    """What a module keeps outside of all keys."""

    module: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one database, whole in `window`; good as long as anyone holds it."""

    database: int
    window: bytes
    entries: list[Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeEntry:
    """A record too large to be held. `head` is what stands before its type, `name` its type and key.

    `copy_value` hands the value over piece by piece, each piece good until the next one;
    `rewrite_value` does so with other times of fields, where they expire. One of them is called, at
    most once, and before the walk goes on. If nobody calls it, the value is skipped.
    """

    database: int
    key: bytes
    expires_ms: int
    head: bytes
    name: bytes
    copy_value: Callable[[Sink], None]
    rewrite_value: Callable[[Sink, FieldRule], None]

    @property
    def kind(self) -> int:
        """The type of the value."""
        return self.name[0]


RdbItem = Aux | Resize | Function | ModuleAux | Batch | LargeEntry


def file_parts(path: Path, *, owner: RunAs | None = None) -> Iterator[bytes]:
    """The content of a file, a piece at a time; with the rights of `owner`, whose directory it lies in."""
    if owner is None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    else:
        with OwnedDirectory(Path(os.path.realpath(path.parent)), owner) as place:
            descriptor = place.open(path.name, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        while part := file.read(_FILE_BYTES):
            yield part


def rewritten_value(kind: int, value: bytes, rule: FieldRule) -> bytes:
    """A value of a type whose fields expire, whole in memory, with other times; see `rdbfields`."""
    window, out = Window([]), bytearray()
    window.bytes = value
    sink = out.extend
    try:
        rewrite_fields(kind, Through(window, sink), sink, rule=rule)
    except (ValueError, OverflowError, IndexError) as error:
        raise RdbDamaged(f"a hash of an RDB cannot be read: {error}") from error
    return bytes(out)


class RdbWalker:
    """Iterates over what is in an RDB, in its order; memory does not grow with it.

    RdbDamaged if it is cut off or does not match its checksum, which is known only at its end; its
    records must not be trusted before. UnknownModule for what belongs to a module not in `modules`.
    """

    def __init__(
        self,
        parts: Iterable[Buffer],
        *,
        modules: Container[str] = frozenset(),
        any_version: bool = False,
    ) -> None:
        self._any_version = any_version
        self._window = Window(parts)
        self._modules = modules
        self._database = 0
        self.is_verified = False
        """Whether the checksum was there and matched; False before the end."""
        self.version = self._read_version()

    @property
    def size_bytes(self) -> int:
        """How much was read so far; after the walk, the size of the RDB."""
        return self._window.checksum.size_bytes

    def __iter__(self) -> Iterator[RdbItem]:
        window = self._window
        while True:
            try:
                entries, window.pos, is_short = scan(window.bytes, window.pos, self._modules)
                if entries:
                    yield Batch(self._database, window.bytes, entries)
                if is_short:
                    if len(window.bytes) - window.pos >= _LARGE_BYTES:
                        yield from self._large()
                    elif not window.more():
                        raise cut_off(window)
                elif window.bytes[window.pos] == codes.END:
                    self._finish()
                    return
                else:
                    yield from self._opcode()
            except ValueError as error:
                raise RdbDamaged(
                    f"an RDB cannot be read near byte {self.size_bytes}: {error}"
                ) from error

    def _read_version(self) -> int:
        self._window.more()
        head = self._window.bytes[:9]
        if self._any_version and head.startswith((codes.MAGIC, codes.VALKEY_MAGIC)):
            self._window.pos = len(head)
            return 0
        if head.startswith(codes.VALKEY_MAGIC):
            raise UnknownFormat(
                f"the RDB begins with {head.decode('ascii', 'replace')}: it is of Valkey 9 or later,"
                " which this drtool does not know",
                hint=_WHOLE,
            )
        digits = head[len(codes.MAGIC) :]
        if not head.startswith(codes.MAGIC) or len(digits) != 4 or not digits.isdigit():
            raise RdbDamaged(
                "this is no RDB: it does not begin with REDIS and a version",
                hint="A server that died while it wrote leaves an empty or short file: take an"
                " earlier backup.",
            )
        version = int(digits)
        if not codes.OLDEST_VERSION <= version <= codes.NEWEST_VERSION:
            raise UnknownFormat(
                f"the RDB has version {version}, and drtool knows {codes.OLDEST_VERSION} to"
                f" {codes.NEWEST_VERSION}",
                hint=_WHOLE,
            )
        self._window.pos = 9
        return version

    def _opcode(self) -> Iterator[RdbItem]:
        item = self._when_whole(self._read_opcode)
        if item is not None:
            yield item

    def _when_whole(self, read: Callable[[], T]) -> T:
        """What `read` returns, once enough is in the window: it is held whole, up to a limit."""
        window = self._window
        while True:
            try:
                return read()
            except IndexError:
                if len(window.bytes) - window.pos > codes.MOST_HELD_BYTES:
                    raise UnknownFormat(
                        f"the RDB holds something near byte {self.size_bytes} that is larger than"
                        f" {codes.MOST_HELD_BYTES >> 20} MiB and no value, which drtool does not read",
                        hint=_WHOLE,
                    ) from None
                if not window.more():
                    raise cut_off(window) from None

    def _read_opcode(self) -> RdbItem | None:
        window = self._window
        content, begin = window.bytes, window.pos
        code, pos = content[begin], begin + 1
        item: RdbItem | None = None
        if code == codes.SELECT:
            self._database, pos = codes.read_length(content, pos)
            if self._database > _LAST_DATABASE:
                raise ValueError(f"it has a database {self._database}")
        elif code == codes.RESIZE:
            keys, pos = codes.read_length(content, pos)
            expires, pos = codes.read_length(content, pos)
            item = Resize(self._database, keys, expires)
        elif code == codes.SLOT_INFO:
            # How many keys a slot of this server has, which is not so where its keys go.
            for _ in range(3):
                _, pos = codes.read_length(content, pos)
        elif code == codes.AUX:
            name, pos = codes.read_string(content, pos)
            value, pos = codes.read_string(content, pos)
            item = Aux(name, value, content[begin:pos])
        elif code == codes.FUNCTION:
            text, pos = codes.read_string(content, pos)
            item = Function(text, content[begin:pos])
        elif code == codes.MODULE_AUX:
            number, _ = codes.read_length(content, pos)
            cursor = Inside(content, pos)
            cursor.length()
            codes.module_fields(cursor)
            pos = cursor.pos
            # A slice would come up short where the window does.
            content[pos - 1]
            item = ModuleAux(known_module(number, self._modules), content[begin:pos])
        else:
            raise ValueError(f"unknown opcode {code:#x}")
        window.pos = pos
        return item

    def _large(self) -> Iterator[RdbItem]:
        window = self._window
        type_at, expires_ms, key, value_at = self._when_whole(self._read_name)
        kind = window.bytes[type_at]
        head = window.bytes[window.pos : type_at]
        name = window.bytes[type_at:value_at]
        window.pos = value_at
        is_taken = False

        def passing(step: Callable[[Through], None], sink: Sink) -> None:
            nonlocal is_taken
            is_taken = True
            cursor = Through(window, sink)
            try:
                step(cursor)
            except IndexError:
                raise cut_off(window) from None
            except (ValueError, OverflowError) as error:
                raise RdbDamaged(
                    f"an RDB cannot be read near byte {self.size_bytes}: {error}"
                ) from error
            cursor.hand_over()

        def copy_value(sink: Sink) -> None:
            passing(shape_of(kind), sink)

        def rewrite_value(sink: Sink, rule: FieldRule) -> None:
            passing(lambda cursor: rewrite_fields(kind, cursor, sink, rule=rule), sink)

        yield LargeEntry(
            database=self._database,
            key=key,
            expires_ms=expires_ms,
            head=head,
            name=name,
            copy_value=copy_value,
            rewrite_value=rewrite_value,
        )
        if not is_taken:
            copy_value(lambda _: None)

    def _read_name(self) -> tuple[int, int, bytes, int]:
        content = self._window.bytes
        type_at, expires_ms = read_head(content, self._window.pos)
        key, value_at = codes.read_string(content, type_at + 1)
        if content[type_at] == codes.MODULE_VALUE:
            known_module(codes.read_length(content, value_at)[0], self._modules)
        return type_at, expires_ms, key, value_at

    def _finish(self) -> None:
        window = self._window
        while window.more():
            # After the end there is the footer and nothing else.
            if len(window.bytes) > 1 + codes.FOOTER_BYTES:
                break
        rest = len(window.bytes) - window.pos - 1
        if rest < codes.FOOTER_BYTES:
            raise cut_off(window)
        if rest > codes.FOOTER_BYTES:
            raise RdbDamaged(
                f"an RDB is followed by {rest - codes.FOOTER_BYTES} bytes that do not belong to it",
                hint="`redis-cli --rdb -` leaves its end mark there; take the backup with drtool.",
            )
        self.is_verified = window.checksum.verify()


def stream_database(parts: Iterable[Buffer]) -> int | None:
    """For which database the first command after an RDB is (`repl-stream-db`); None if it is not told.

    A replica passes its master's stream on from the middle, so this is needed there; a master begins
    with a SELECT of its own, and then it does no harm. Only the first few hundred bytes are looked at.
    """
    # The facts at an RDB's beginning are written alike by every version.
    for item in RdbWalker(parts, any_version=True):
        if not isinstance(item, Aux):
            return None
        if item.name == b"repl-stream-db":
            return _database(item.value)
    return None


def _database(told: bytes) -> int | None:
    """None for -1, which a master writes."""
    if told == b"-1":
        return None
    if not told.isdigit() or len(told) > _DATABASE_DIGITS or int(told) > _LAST_DATABASE:
        raise RdbDamaged(f"an RDB says that the stream behind it is for database {told[:20]!r}")
    return int(told)
