"""The tar archives inside a base backup, read as they arrive, in pieces of any size.

PostgreSQL writes plain ustar (src/port/tar.c, tarCreateHeader): names of at most 99 bytes, no
extensions, numbers in octal or, where they do not fit, in base 256. The server sends header, data
and padding of a member in messages of their own, so almost every message is the inside of a member.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from drtool.errors import IntegrityError

BLOCK_BYTES = 512
# The server sends permissions alone, numbers of 32 bits for owners, and at most 64 bits of anything.
_MOST_MODE = 0o7777
_MOST_ID = (1 << 32) - 1
# A file of a data directory has 1 GiB; one that grew there by itself may have more.
_MOST_SIZE = 1 << 50
_MOST_NUMBER = (1 << 64) - 1
_ZEROS = bytes(BLOCK_BYTES)


class MemberKind(StrEnum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


_KINDS = {b"0": MemberKind.FILE, b"\0": MemberKind.FILE, b"5": MemberKind.DIRECTORY}
_KINDS[b"2"] = MemberKind.SYMLINK


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberBegan:
    """A file, directory or link; `path` is relative to PGDATA and has no slash at its end."""

    path: bytes
    kind: MemberKind
    mode: int
    uid: int
    gid: int
    modified_seconds: int
    size_bytes: int
    link: bytes


@dataclass(slots=True)
class MemberBytes:
    """The next bytes of the member, valid until the next item is asked for."""

    # Not frozen: one is made for every 32 KiB, and a frozen dataclass costs three times as much.
    data: memoryview


@dataclass(frozen=True, slots=True)
class MemberEnded:
    """All bytes of the member have been given."""


_ENDED = MemberEnded()
TarItem = MemberBegan | MemberBytes | MemberEnded


class TarReader:
    """Turns the bytes of one archive, cut anywhere, into its members."""

    def __init__(self, name: str, prefix: bytes = b"") -> None:
        """`name` is for messages; `prefix` goes before every member's path."""
        self._name = name
        self._prefix = prefix
        self._left = 0
        self._padding = 0
        self._in_member = False
        self._header = bytearray()
        self._zero_blocks = 0

    def feed(self, view: memoryview) -> Iterator[MemberBegan | MemberBytes | MemberEnded]:
        """The items that `view` completes. IntegrityError for bytes that are no tar."""
        length = len(view)
        if not length:
            return
        if length < self._left:
            self._left -= length
            yield MemberBytes(view)
            return
        at = 0
        while at < length:
            if self._in_member:
                take = min(self._left, length - at)
                yield MemberBytes(view[at : at + take])
                at += take
                self._left -= take
                if not self._left:
                    self._in_member = False
                    yield _ENDED
            elif self._padding:
                take = min(self._padding, length - at)
                self._padding -= take
                at += take
            else:
                take = min(BLOCK_BYTES - len(self._header), length - at)
                self._header += view[at : at + take]
                at += take
                if len(self._header) == BLOCK_BYTES:
                    yield from self._begin_member(bytes(self._header))
                    self._header.clear()

    def finish(self) -> None:
        """IntegrityError unless the archive ended where an archive may end."""
        if self._left or self._padding or self._header or self._zero_blocks < 2:
            raise IntegrityError(
                f"archive {self._name} of the base backup ends in the middle of a member",
                hint="Take the backup again; see the server's log.",
            )

    def _begin_member(self, header: bytes) -> Iterator[MemberBegan | MemberEnded]:
        if header == _ZEROS:
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            raise self._broken("has a member after its end")
        member = self._parse(header)
        yield member
        self._left = member.size_bytes
        self._padding = -member.size_bytes % BLOCK_BYTES
        self._in_member = self._left > 0
        if not self._left:
            yield _ENDED

    def _parse(self, header: bytes) -> MemberBegan:
        written = self._number(header[148:156])
        if sum(header) - sum(header[148:156]) + 8 * 0x20 != written:
            raise self._broken("has a header with a wrong checksum")
        kind = _KINDS.get(header[156:157])
        if kind is None:
            raise self._broken(f"has a member of unknown type {header[156:157]!r}")
        path = _text(header[0:100])
        if header[257:262] == b"ustar" and (before := _text(header[345:500])):
            path = before + b"/" + path
        path = path.removeprefix(b"./").rstrip(b"/")
        parts = path.split(b"/")
        if any(part in (b"", b".", b"..") for part in parts):
            raise self._broken(f"has a member with the path {path!r}")
        return MemberBegan(
            path=self._prefix + path,
            kind=kind,
            mode=self._number(header[100:108], most=_MOST_MODE),
            uid=self._number(header[108:116], most=_MOST_ID),
            gid=self._number(header[116:124], most=_MOST_ID),
            modified_seconds=_signed(self._number(header[136:148])),
            size_bytes=self._number(header[124:136], most=_MOST_SIZE)
            if kind is MemberKind.FILE
            else 0,
            link=_text(header[157:257]) if kind is MemberKind.SYMLINK else b"",
        )

    def _number(self, field: bytes, *, most: int = _MOST_NUMBER) -> int:
        if field[0] & 0x80:
            number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        else:
            text = field.split(b"\0", 1)[0].strip()
            if not all(0x30 <= digit <= 0x37 for digit in text):
                raise self._broken(f"has a header with the number {text!r}")
            number = int(text or b"0", 8)
        if number > most:
            raise self._broken(
                f"has a header with the number {number}, and no file has more than {most}"
            )
        return number

    def _broken(self, fact: str) -> IntegrityError:
        return IntegrityError(
            f"archive {self._name} of the base backup {fact}",
            hint="Take the backup again; see the server's log.",
        )


def _signed(number: int) -> int:
    """The server sends a time before 1970 as the 64 bits of its number."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]
