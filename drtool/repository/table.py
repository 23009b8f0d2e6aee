"""The file table: for each file of a backup its attributes, and where each of its bytes lies.

A table is a row of chunks; a chunk is a list of pack ids and of records that refer to them
(FORMAT.md, section 6). A record covers at most 256 MiB of a file; a longer file has several,
one after the other. Records stand in order of (path, begin). Chunks are cut by the paths in them,
so stretches that did not change are the same chunks again and cost nothing.
"""

from __future__ import annotations

import struct
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from drtool.pipeline.pages import EXTENT, PAGE_BYTES, Extents
from drtool.repository.chunks import ChunkPlace, ChunkReader
from drtool.repository.sealing import damaged

RECORD_COVERS_BYTES = 256 << 20
DIGEST_BYTES = 8
PACK_ID_BYTES = 16

NO_EXTENTS: Extents = np.empty(0, EXTENT)

_COLUMNS = ("length", "pack", "chunk", "offset")
_RECORD = struct.Struct(">BHHIIIqQQIIII")
_NO_DIGESTS = 0xFFFFFFFF
_CUT_AT_LEAST = 32 << 10
_CUT_AT_MOST = 192 << 10
_SPOOL_BYTES = 32 << 20


class EntryKind(Enum):
    """What an entry of a table is."""

    FILE = ord("f")
    DIRECTORY = ord("d")
    SYMLINK = ord("l")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a file is besides its bytes. Times are nanoseconds since 1970; `link` is a symlink's text."""

    path: bytes
    kind: EntryKind
    mode: int
    uid: int
    gid: int
    modified_ns: int
    size_bytes: int
    link: bytes = b""


@dataclass(frozen=True, slots=True)
class DigestPlace:
    """Where the page digests of a record lie: a chunk, and an offset into it. `pack` as in extents."""

    pack: int
    chunk: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRecord:
    """A file, or one stretch of 256 MiB of it: `extents` hold its bytes from `begin` on, in order.

    `pack` in extents and digests is an index into the `PackList` of whoever holds the record.
    """

    attributes: Attributes
    begin: int = 0
    extents: Extents = field(default_factory=lambda: NO_EXTENTS)
    digests: DigestPlace | None = None

    @property
    def covered_bytes(self) -> int:
        """How many bytes of the file the extents hold."""
        return int(self.extents["length"].sum(dtype=np.int64))


class PackList:
    """Pack ids, each with an index: what extents refer to. One thread writes, any may read."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self._index: dict[bytes, int] = {}

    def index_of(self, pack_id: bytes) -> int:
        """The index of a pack, which is added if it is new."""
        index = self._index.setdefault(pack_id, len(self.ids))
        if index == len(self.ids):
            self.ids.append(pack_id)
        return index

    def place(self, pack: int, chunk: int) -> ChunkPlace:
        return ChunkPlace(self.ids[pack], chunk)


StoreChunk = Callable[[bytes], ChunkPlace]


class TableWriter:
    """Collects records in any order, then stores the table in path order.

    Memory: 32 MiB of records, the rest in an unlinked temporary file, and about 200 bytes a record.
    """

    def __init__(self, packs: PackList) -> None:
        self._packs = packs
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed by finish
        self._index: list[tuple[bytes, int, int, int]] = []

    def add(self, record: TableRecord) -> None:
        """Take a record; raise ValueError for one that covers too much."""
        if record.covered_bytes > RECORD_COVERS_BYTES:
            raise ValueError(f"a record covers {record.covered_bytes} bytes")
        encoded = _encode(record)
        place = self._spool.tell()
        self._spool.write(encoded)
        self._index.append((record.attributes.path, record.begin, place, len(encoded)))

    def finish(self, store: StoreChunk) -> tuple[list[ChunkPlace], set[int]]:
        """Store the table; return its chunks in order, and the indices of all packs it refers to."""
        self._index.sort()
        places: list[ChunkPlace] = []
        referred: set[int] = set()
        pending = _PendingChunk(self._packs)
        for path, _, place, length in self._index:
            self._spool.seek(place)
            pending.add(_decode(self._spool.read(length), 0, name="spool")[0])
            cut = xxh3_64_intdigest(path) & 7 == 0 and pending.size >= _CUT_AT_LEAST
            if cut or pending.size >= _CUT_AT_MOST:
                places.append(store(pending.take(referred)))
        if pending.size:
            places.append(store(pending.take(referred)))
        self._spool.close()
        return places, referred


class _PendingChunk:
    """Records on their way into one chunk, with pack indices that count within the chunk."""

    def __init__(self, packs: PackList) -> None:
        self._packs = packs
        self._local: dict[int, int] = {}
        self._records: list[bytes] = []
        self.size = 0

    def add(self, record: TableRecord) -> None:
        extents = record.extents.copy()
        used, first, inverse = np.unique(extents["pack"], return_index=True, return_inverse=True)
        # In the order in which the record names them: the order of `used` is this backup's own,
        # and a table chunk that did not change must come out the same in every backup.
        for pack in used[np.argsort(first)]:
            self._local.setdefault(int(pack), len(self._local))
        numbers = [self._local[int(pack)] for pack in used]
        extents["pack"] = np.array(numbers, np.uint32)[inverse] if len(used) else 0
        digests = record.digests
        if digests is not None:
            pack = self._local.setdefault(digests.pack, len(self._local))
            digests = DigestPlace(pack, digests.chunk, digests.offset)
        encoded = _encode(
            TableRecord(
                attributes=record.attributes, begin=record.begin, extents=extents, digests=digests
            )
        )
        self._records.append(encoded)
        self.size += len(encoded)

    def take(self, referred: set[int]) -> bytes:
        ids = b"".join(self._packs.ids[pack] for pack in self._local)
        counts = struct.pack(">I", len(self._local)), struct.pack(">I", len(self._records))
        plain = b"".join([counts[0], ids, counts[1], *self._records])
        referred.update(self._local)
        self._local, self._records, self.size = {}, [], 0
        return plain


def _encode(record: TableRecord) -> bytes:
    entry, extents, digests = record.attributes, record.extents, record.digests
    head = _RECORD.pack(
        entry.kind.value, len(entry.path), len(entry.link), entry.mode, entry.uid, entry.gid,
        entry.modified_ns, entry.size_bytes, record.begin, len(extents),
        _NO_DIGESTS if digests is None else digests.pack,
        0 if digests is None else digests.chunk,
        0 if digests is None else digests.offset,
    )  # fmt: skip
    columns = [np.ascontiguousarray(extents[column]).tobytes() for column in _COLUMNS]
    return b"".join([head, entry.path, entry.link, *columns])


def _decode(plain: bytes | memoryview, place: int, *, name: str) -> tuple[TableRecord, int]:
    """The record at `place`, and where the next one begins."""
    try:
        (kind, path_bytes, link_bytes, mode, uid, gid, modified_ns, size_bytes, begin, count,
         digest_pack, digest_chunk, digest_offset) = _RECORD.unpack_from(plain, place)  # fmt: skip
        place += _RECORD.size
        path = bytes(plain[place : place + path_bytes])
        place += path_bytes
        link = bytes(plain[place : place + link_bytes])
        place += link_bytes
        extents = np.empty(count, EXTENT)
        for column in _COLUMNS:
            extents[column] = np.frombuffer(plain, ">u4", count, place)
            place += 4 * count
        attributes = Attributes(
            path=path, kind=EntryKind(kind), mode=mode, uid=uid, gid=gid,
            modified_ns=modified_ns, size_bytes=size_bytes, link=link,
        )  # fmt: skip
    except (struct.error, ValueError) as error:
        raise damaged(name, f"a record of its file table cannot be read ({error})") from error
    digests = None
    if digest_pack != _NO_DIGESTS:
        digests = DigestPlace(digest_pack, digest_chunk, digest_offset)
    return TableRecord(attributes=attributes, begin=begin, extents=extents, digests=digests), place


def _records(
    plain: memoryview, packs: PackList, *, name: str
) -> Iterator[tuple[int, int, TableRecord]]:
    """All records of a table chunk with begin and end; pack indices translated to `packs`."""
    (pack_count,) = struct.unpack_from(">I", plain, 0)
    translation = _pack_translation(plain, pack_count, packs)
    place = 4 + pack_count * PACK_ID_BYTES
    (count,) = struct.unpack_from(">I", plain, place)
    place += 4
    for _ in range(count):
        record, after = _decode(plain, place, name=name)
        yield place, after, _translated(record, translation)
        place = after
    if place != len(plain):
        raise damaged(name, "a chunk of its file table does not add up")


def _pack_translation(
    plain: memoryview, pack_count: int, packs: PackList
) -> npt.NDArray[np.uint32]:
    ids = bytes(plain[4 : 4 + pack_count * PACK_ID_BYTES])
    indices = [
        packs.index_of(ids[place : place + PACK_ID_BYTES])
        for place in range(0, len(ids), PACK_ID_BYTES)
    ]
    return np.array(indices, np.uint32)


def _translated(record: TableRecord, translation: npt.NDArray[np.uint32]) -> TableRecord:
    extents, digests = record.extents, record.digests
    if len(extents):
        extents["pack"] = translation[extents["pack"]]
    if digests is not None:
        digests = DigestPlace(int(translation[digests.pack]), digests.chunk, digests.offset)
    return TableRecord(
        attributes=record.attributes, begin=record.begin, extents=extents, digests=digests
    )


class Table:
    """A stored table: read in order, or by path once `index` was called. One thread at a time."""

    def __init__(
        self, reader: ChunkReader, chunks: Sequence[ChunkPlace], packs: PackList, *, name: str
    ) -> None:
        self._reader = reader
        self._chunks = chunks
        self._name = name
        self.packs = packs
        self._index: dict[tuple[bytes, int], tuple[int, int, int]] = {}
        self._translations: list[npt.NDArray[np.uint32]] = []
        self._spool: tempfile.SpooledTemporaryFile[bytes] | None = None

    def __iter__(self) -> Iterator[TableRecord]:
        """All records in order of (path, begin), one chunk in memory at a time."""
        for chunk in self._chunks:
            plain = self._reader.read_one(chunk)
            for _, _, record in _records(plain, self.packs, name=self._name):
                yield record

    def index(self) -> None:
        """Read the whole table once, so that `find` need not ask the store, whatever it is asked for.

        Memory: 350 bytes a record, and 32 MiB of the table; the rest lies in a temporary file.
        """
        self.close()
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - see close
        for number, chunk in enumerate(self._chunks):
            plain = self._reader.read_one(chunk)
            at = self._spool.tell()
            for begin, end, record in _records(plain, self.packs, name=self._name):
                key = record.attributes.path, record.begin
                self._index[key] = number, at + begin, end - begin
            (pack_count,) = struct.unpack_from(">I", plain, 0)
            self._translations.append(_pack_translation(plain, pack_count, self.packs))
            self._spool.write(plain)

    def find(self, path: bytes, begin: int) -> TableRecord | None:
        """The record of a file's stretch; None if there is none. `index` was called before."""
        found = self._index.get((path, begin))
        if found is None or self._spool is None:
            return None
        number, place, length = found
        self._spool.seek(place)
        record, _ = _decode(self._spool.read(length), 0, name=self._name)
        return _translated(record, self._translations[number])

    def close(self) -> None:
        """Let the index go."""
        if self._spool is not None:
            self._spool.close()
        self._spool, self._index, self._translations = None, {}, []


class DigestReader:
    """Page digests of an earlier backup, by record. Keeps the last 64 chunks of at most 256 KiB.

    Files that changed at the same time have their digests in the same chunk, and a server sends
    files in much the same order each time: so few chunks are read twice.
    """

    def __init__(self, reader: ChunkReader, packs: PackList) -> None:
        self._reader = reader
        self._packs = packs
        self._recent: OrderedDict[ChunkPlace, memoryview] = OrderedDict()

    def read(self, record: TableRecord) -> npt.NDArray[np.uint64]:
        """One digest for each page that the record covers; none if the record has no digests."""
        place = record.digests
        if place is None:
            return np.empty(0, np.uint64)
        chunk = self._packs.place(place.pack, place.chunk)
        plain = self._recent.get(chunk)
        if plain is None:
            plain = self._recent[chunk] = self._reader.read_one(chunk)
            if len(self._recent) > 64:
                self._recent.popitem(last=False)
        self._recent.move_to_end(chunk)
        pages = -(-record.covered_bytes // PAGE_BYTES)
        if place.offset + pages * DIGEST_BYTES > len(plain):
            raise damaged(
                f"chunk {chunk.number} of pack {chunk.pack_id.hex()}", "digests are missing"
            )
        return np.frombuffer(plain, "<u8", pages, place.offset)


def encode_digests(digests: npt.NDArray[np.uint64]) -> bytes:
    """Digests as they are stored: little-endian 64-bit numbers."""
    return digests.astype("<u8").tobytes()
