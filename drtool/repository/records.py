"""Records of a file table: a file, or a stretch of one, and its encoding (FORMAT.md, section 6)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from drtool.pipeline.pages import EXTENT, HOLE, Extents
from drtool.repository.sealing import damaged

RECORD_COVERS_BYTES = 256 << 20

NO_EXTENTS: Extents = np.empty(0, EXTENT)

_COLUMNS = ("length", "pack", "chunk", "offset")
RECORD_HEAD = struct.Struct(">BHHIIIqQQIIII")
# Mode, owner, group, modified and size: what all records of one file have in common.
COMMON = slice(5, 33)
_DIGEST_PACK_AT = 45
_SIZE_AT = 25
_LENGTHS = struct.Struct(">HH")
_EXTRA = struct.Struct(">I")
# Of the head, what numbering packs and finding the next record need: a third of the time of all.
_NUMBERING = struct.Struct(">BHH36xII")
_EXTENT_BYTES = EXTENT.itemsize
_SPAN = struct.Struct(">BHH28xQI")
_HAS_EXTRA = 0x20  # clear in the letter of the kind, which makes it upper case
_NO_DIGESTS = 0xFFFFFFFF
_LEAST_TIME, _MOST_TIME = -(1 << 63), (1 << 63) - 1


class EntryKind(Enum):
    """What an entry of a table is."""

    FILE = ord("f")
    DIRECTORY = ord("d")
    SYMLINK = ord("l")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a file is besides its bytes. Times are nanoseconds since 1970; `link` is a symlink's text.

    A time of modification that a record cannot hold (it reaches from 1677 to 2262) is stored as the
    nearest one that it can; for trees, `extra` has the time itself.
    `extra` is what only trees of files have (`trees.py` makes and reads it); the first record of a
    file keeps it.
    """

    path: bytes
    kind: EntryKind
    mode: int
    uid: int
    gid: int
    modified_ns: int
    size_bytes: int
    link: bytes = b""
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class DigestPlace:
    """Where the page digests of a record lie: a chunk, and an offset into it. `pack` as in extents."""

    pack: int
    chunk: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRecord:
    """A file, or one stretch of 256 MiB of it: `extents` hold its bytes from `begin` on, in order.

    `pack` in extents and digests is an index into the `PackList` of whoever holds the record, or
    HOLE for zeros that are stored nowhere.
    """

    attributes: Attributes
    begin: int = 0
    extents: Extents = field(default_factory=lambda: NO_EXTENTS)
    digests: DigestPlace | None = None

    @property
    def covered_bytes(self) -> int:
        """How many bytes of the file the extents hold."""
        return int(self.extents["length"].sum(dtype=np.int64))


def recordable_time(nanoseconds: int) -> int:
    """The nearest time that a record can hold."""
    return min(max(nanoseconds, _LEAST_TIME), _MOST_TIME)


def encode_record(record: TableRecord) -> bytes:
    """Its bytes as FORMAT.md has them; pack indices are those of the record."""
    entry, extents, digests = record.attributes, record.extents, record.digests
    extra = entry.extra if record.begin == 0 else b""
    head = RECORD_HEAD.pack(
        entry.kind.value & ~_HAS_EXTRA if extra else entry.kind.value,
        len(entry.path), len(entry.link), entry.mode, entry.uid, entry.gid,
        recordable_time(entry.modified_ns), entry.size_bytes, record.begin, len(extents),
        _NO_DIGESTS if digests is None else digests.pack,
        0 if digests is None else digests.chunk,
        0 if digests is None else digests.offset,
    )  # fmt: skip
    parts = [head, entry.path, entry.link]
    if extra:
        parts += [_EXTRA.pack(len(extra)), extra]
    columns = [np.ascontiguousarray(extents[column]).tobytes() for column in _COLUMNS]
    return b"".join([*parts, *columns])


def with_path(encoded: bytes, path: bytes) -> bytes:
    """The same record under another path."""
    kind, path_bytes = struct.unpack_from(">BH", encoded)
    after = RECORD_HEAD.size + path_bytes
    if encoded[RECORD_HEAD.size : after] == path:
        return encoded
    head = struct.pack(">BH", kind, len(path)) + encoded[3 : RECORD_HEAD.size]
    return head + path + encoded[after:]


def renumbered(encoded: bytes, number_of: Callable[[int], int]) -> bytes:
    """The same record with other pack indices; asked for in the order in which it names them."""
    kind, path_bytes, link_bytes, count, digest_pack = _NUMBERING.unpack_from(encoded)
    if not count and digest_pack == _NO_DIGESTS:
        return encoded
    packs_at = RECORD_HEAD.size + path_bytes + link_bytes + 4 * count
    if not kind & _HAS_EXTRA:
        (extra_bytes,) = _EXTRA.unpack_from(encoded, packs_at - 4 * count)
        packs_at += _EXTRA.size + extra_bytes
    if count == 1 and digest_pack == _NO_DIGESTS:
        # Nearly all files of a tree: worth a way of its own, twice for each in every snapshot.
        pack = int.from_bytes(encoded[packs_at : packs_at + 4], "big")
        number = pack if pack == HOLE else number_of(pack)
        if number == pack:
            return encoded
        return encoded[:packs_at] + number.to_bytes(4, "big") + encoded[packs_at + 4 :]
    changed = bytearray(encoded)
    column = np.frombuffer(encoded, ">u4", count, packs_at) if count > 1 else None
    if column is None or (column == column[0]).all():
        # All of it in one pack, as nearly all files are.
        if count:
            (pack,) = struct.unpack_from(">I", encoded, packs_at)
            number = pack if pack == HOLE else number_of(pack)
            changed[packs_at : packs_at + 4 * count] = struct.pack(">I", number) * count
    else:
        used, first, inverse = np.unique(column, return_index=True, return_inverse=True)
        numbers = {
            int(pack): number_of(int(pack)) for pack in column[np.sort(first)] if pack != HOLE
        }
        renumbered = np.array([numbers.get(int(pack), HOLE) for pack in used], ">u4")
        changed[packs_at : packs_at + 4 * count] = renumbered[inverse].tobytes()
    if digest_pack != _NO_DIGESTS:
        struct.pack_into(">I", changed, _DIGEST_PACK_AT, number_of(digest_pack))
    return bytes(changed)


def size_in(encoded: bytes) -> int:
    """The size of the file that an encoded record is of."""
    return int.from_bytes(encoded[_SIZE_AT : _SIZE_AT + 8], "big")


def extra_at(encoded: bytes) -> int:
    """Where the extra attributes of an encoded record begin; 0 if it has none."""
    if encoded[0] & _HAS_EXTRA:
        return 0
    path_bytes, link_bytes = _LENGTHS.unpack_from(encoded, 1)
    return int(RECORD_HEAD.size + path_bytes + link_bytes + _EXTRA.size)


def decode_attributes(encoded: bytes | memoryview, place: int = 0) -> tuple[Attributes, int]:
    """The attributes of an encoded record, and where its extents begin; struct.error if it is none."""
    kind, path_bytes, link_bytes, mode, uid, gid, modified_ns, size_bytes, *_ = (
        RECORD_HEAD.unpack_from(encoded, place)
    )
    place += RECORD_HEAD.size
    path = bytes(encoded[place : place + path_bytes])
    place += path_bytes
    link = bytes(encoded[place : place + link_bytes])
    place += link_bytes
    if place > len(encoded):
        raise ValueError("it is cut short")
    extra = b""
    if not kind & _HAS_EXTRA:
        (extra_bytes,) = _EXTRA.unpack_from(encoded, place)
        place += _EXTRA.size
        extra = bytes(encoded[place : place + extra_bytes])
        place += extra_bytes
        if len(extra) != extra_bytes:
            raise ValueError("it is cut short")
    attributes = Attributes(
        path=path, kind=EntryKind(kind | _HAS_EXTRA), mode=mode, uid=uid, gid=gid,
        modified_ns=modified_ns, size_bytes=size_bytes, link=link, extra=extra,
    )  # fmt: skip
    return attributes, place


def span_of(plain: bytes | memoryview, place: int, *, name: str) -> tuple[bytes, int, int]:
    """Path and begin of the record at `place`, and its length."""
    try:
        kind, path_bytes, link_bytes, begin, count = _SPAN.unpack_from(plain, place)
        at = place + RECORD_HEAD.size
        path = bytes(plain[at : at + path_bytes])
        at += path_bytes + link_bytes
        if not kind & _HAS_EXTRA:
            (extra_bytes,) = _EXTRA.unpack_from(plain, at)
            at += _EXTRA.size + extra_bytes
    except struct.error as error:
        raise damaged(name, f"a record of its file table cannot be read ({error})") from error
    length = at + _EXTENT_BYTES * count - place
    if place + length > len(plain):
        raise damaged(name, "a record of its file table cannot be read (it is cut short)")
    return path, begin, length


def decode_record(plain: bytes | memoryview, place: int, *, name: str) -> tuple[TableRecord, int]:
    """The record at `place`, and where the next one begins."""
    try:
        attributes, after = decode_attributes(plain, place)
        *_, begin, count, digest_pack, digest_chunk, digest_offset = RECORD_HEAD.unpack_from(
            plain, place
        )
        if after + _EXTENT_BYTES * count > len(plain):
            raise ValueError("it is cut short")
        extents = np.empty(count, EXTENT)
        for column in _COLUMNS:
            extents[column] = np.frombuffer(plain, ">u4", count, after)
            after += 4 * count
    except (struct.error, ValueError) as error:
        raise damaged(name, f"a record of its file table cannot be read ({error})") from error
    digests = None
    if digest_pack != _NO_DIGESTS:
        digests = DigestPlace(digest_pack, digest_chunk, digest_offset)
    return TableRecord(attributes=attributes, begin=begin, extents=extents, digests=digests), after
