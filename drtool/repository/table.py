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
from typing import IO

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from drtool.errors import IntegrityError
from drtool.pipeline.pages import HOLE, PAGE_BYTES
from drtool.repository.chunks import ChunkReader
from drtool.repository.places import PACK_ID_BYTES, ChunkPlace
from drtool.repository.records import (
    COMMON,
    NO_EXTENTS,
    RECORD_COVERS_BYTES,
    Attributes,
    DigestPlace,
    EntryKind,
    TableRecord,
    decode_record,
    encode_record,
    renumbered,
    span_of,
    with_path,
)
from drtool.repository.sealing import damaged

# A record is part of the table to whoever uses one.
__all__ = [
    "NO_EXTENTS",
    "RECORD_COVERS_BYTES",
    "Attributes",
    "DigestPlace",
    "DigestReader",
    "EntryKind",
    "PackList",
    "Table",
    "TableRecord",
    "TableWriter",
    "encode_digests",
]

DIGEST_BYTES = 8


_CUT_AT_LEAST = 32 << 10
_CUT_AT_MOST = 192 << 10
_SPOOL_BYTES = 32 << 20


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

    All records of a file get the mode, owner, time and size of the first one.
    Memory: 32 MiB of records, the rest in an unlinked temporary file, and about 200 bytes a record.
    """

    def __init__(self, packs: PackList) -> None:
        self._packs = packs
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed by finish
        self._end = 0
        self._index: list[_Row] = []
        self._names: list[tuple[bytes, bytes]] = []
        self._withdrawn: dict[bytes, int] = {}

    def add(self, record: TableRecord) -> None:
        """Take a record; raise ValueError for one that covers too much."""
        if record.covered_bytes > RECORD_COVERS_BYTES:
            raise ValueError(f"a record covers {record.covered_bytes} bytes")
        self.add_encoded(record.attributes.path, record.begin, encode_record(record))

    def add_encoded(self, path: bytes, begin: int, encoded: bytes) -> None:
        """Take a record as `Table.find_encoded` gave it."""
        self.add_all_encoded([(path, begin, encoded)])

    def add_all_encoded(self, records: Sequence[tuple[bytes, int, bytes]]) -> None:
        """Take many such records, with path and begin, at once: that is cheaper for each."""
        for path, begin, encoded in records:
            self._index.append((path, begin, self._end, len(encoded)))
            self._end += len(encoded)
        self._spool.write(b"".join([encoded for _, _, encoded in records]))

    def withdraw(self, path: bytes) -> None:
        """Forget the records that were added of a file so far: it changed while it was read."""
        self._withdrawn[path] = self._end

    def add_name(self, path: bytes, of: bytes) -> None:
        """Another path of the file `of`, which is added before or after: all that is said of that."""
        self._names.append((path, of))

    def finish(self, store: StoreChunk) -> tuple[list[ChunkPlace], set[int]]:
        """Store the table; return its chunks in order, and the indices of all packs it refers to."""
        places: list[ChunkPlace] = []
        referred: set[int] = set()
        pending = _PendingChunk(self._packs)
        for path, encoded in self._encoded():
            pending.add(encoded)
            size = pending.size
            cut = size >= _CUT_AT_LEAST and xxh3_64_intdigest(path) & 7 == 0
            if cut or size >= _CUT_AT_MOST:
                places.append(store(pending.take(referred)))
        if pending.size:
            places.append(store(pending.take(referred)))
        self._spool.close()
        return places, referred

    def _rows(self) -> list[_Row]:
        """In order, with those of other names, without those that were withdrawn."""
        rows = self._index
        if self._withdrawn:
            rows = [row for row in rows if row[2] >= self._withdrawn.get(row[0], 0)]
        wanted: dict[bytes, list[_Row]] = {of: [] for _, of in self._names}
        for row in rows if wanted else ():
            if row[0] in wanted:
                wanted[row[0]].append(row)
        more = [(path, *row[1:]) for path, of in self._names for row in wanted[of]]
        return sorted(rows + more)

    def _encoded(self) -> Iterator[tuple[bytes, bytes]]:
        first_path, common = b"", b""
        for path, begin, place, length in self._rows():
            self._spool.seek(place)
            encoded = with_path(self._spool.read(length), path)
            if begin == 0:
                first_path, common = path, encoded[COMMON]
            elif path == first_path and encoded[COMMON] != common:
                encoded = encoded[: COMMON.start] + common + encoded[COMMON.stop :]
            yield path, encoded


# Path, begin, place in the spool, length there.
_Row = tuple[bytes, int, int, int]


class _PendingChunk:
    """Records on their way into one chunk, with pack indices that count within the chunk."""

    def __init__(self, packs: PackList) -> None:
        self._packs = packs
        self._local = _Numbering()
        self._records: list[bytes] = []
        self.size = 0

    def add(self, encoded: bytes) -> None:
        # Numbered in the order in which records name them: the order of the pack list is this
        # backup's own, and a table chunk that did not change must come out the same in every backup.
        encoded = renumbered(encoded, self._local.__getitem__)
        self._records.append(encoded)
        self.size += len(encoded)

    def take(self, referred: set[int]) -> bytes:
        ids = b"".join(self._packs.ids[pack] for pack in self._local)
        counts = struct.pack(">I", len(self._local)), struct.pack(">I", len(self._records))
        plain = b"".join([counts[0], ids, counts[1], *self._records])
        referred.update(self._local)
        self._local, self._records, self.size = _Numbering(), [], 0
        return plain


class _Numbering(dict[int, int]):
    """Numbers packs from nought on, in the order in which they are asked for."""

    def __missing__(self, pack: int) -> int:
        self[pack] = number = len(self)
        return number


def _records(
    plain: memoryview, packs: PackList, *, name: str
) -> Iterator[tuple[int, int, TableRecord]]:
    """All records of a table chunk with begin and end; pack indices translated to `packs`."""
    pack_count, count, place = _head(plain, name=name)
    translation = _pack_translation(plain, pack_count, packs)
    for _ in range(count):
        record, after = decode_record(plain, place, name=name)
        try:
            translated = _translated(record, translation)
        except IndexError as error:
            raise _unlisted(name) from error
        yield place, after, translated
        place = after
    if place != len(plain):
        raise damaged(name, "a chunk of its file table does not add up")


def _head(plain: memoryview, *, name: str) -> tuple[int, int, int]:
    """How many packs and records a table chunk has, and where its records begin."""
    try:
        (pack_count,) = struct.unpack_from(">I", plain, 0)
        place = 4 + pack_count * PACK_ID_BYTES
        (count,) = struct.unpack_from(">I", plain, place)
    except struct.error as error:
        raise damaged(name, f"a chunk of its file table cannot be read ({error})") from error
    return pack_count, count, place + 4


def _unlisted(name: str) -> IntegrityError:
    return damaged(name, "a record of its file table refers to a pack that its chunk does not list")


def _spans(plain: memoryview, *, name: str) -> Iterator[tuple[bytes, int, int, int]]:
    """Path and begin of all records of a table chunk, and where each lies: nothing else is decoded."""
    _, count, place = _head(plain, name=name)
    for _ in range(count):
        path, begin, length = span_of(plain, place, name=name)
        yield path, begin, place, length
        place += length
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
        is_stored = extents["pack"] != HOLE
        if is_stored.all():
            extents["pack"] = translation[extents["pack"]]
        else:
            extents["pack"][is_stored] = translation[extents["pack"][is_stored]]
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
        # First records by path, since nearly all files have no other; the others by path and begin.
        self._first: dict[bytes, tuple[int, int, int]] = {}
        self._further: dict[tuple[bytes, int], tuple[int, int, int]] = {}
        self._translations: list[list[int]] = []
        self._held: list[bytes] = []
        self._spool: IO[bytes] | None = None

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
        held_bytes = 0
        for number, chunk in enumerate(self._chunks):
            plain = self._reader.read_one(chunk)
            at = 0
            if held_bytes + len(plain) <= _SPOOL_BYTES:
                held_bytes += len(plain)
                self._held.append(bytes(plain))
            else:
                held_bytes = _SPOOL_BYTES
                if self._spool is None:
                    self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - see close
                at = self._spool.tell()
                self._spool.write(plain)
            for path, begin, place, length in _spans(plain, name=self._name):
                if begin:
                    self._further[path, begin] = number, at + place, length
                else:
                    self._first[path] = number, at + place, length
            pack_count, _, _ = _head(plain, name=self._name)
            self._translations.append(_pack_translation(plain, pack_count, self.packs).tolist())

    def find(self, path: bytes, begin: int) -> TableRecord | None:
        """The record of a file's stretch; None if there is none. `index` was called before."""
        encoded = self.find_encoded(path, begin)
        return None if encoded is None else decode_record(encoded, 0, name=self._name)[0]

    def find_encoded(self, path: bytes, begin: int) -> bytes | None:
        """The same, as `TableWriter.add_encoded` takes it: ten times as fast."""
        found = self._further.get((path, begin)) if begin else self._first.get(path)
        if found is None:
            return None
        number, place, length = found
        if number < len(self._held):
            encoded = self._held[number][place : place + length]
        else:
            assert self._spool is not None
            self._spool.seek(place)
            encoded = self._spool.read(length)
        try:
            return renumbered(encoded, self._translations[number].__getitem__)
        except IndexError as error:
            raise _unlisted(self._name) from error

    def has(self, path: bytes) -> bool:
        """Whether it has anything of this path. `index` was called before."""
        return path in self._first

    def __len__(self) -> int:
        """How many records it has. `index` was called before."""
        return len(self._first) + len(self._further)

    def close(self) -> None:
        """Let the index go."""
        if self._spool is not None:
            self._spool.close()
        self._spool, self._first, self._further = None, {}, {}
        self._translations, self._held = [], []


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
