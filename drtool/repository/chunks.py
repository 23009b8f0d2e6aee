"""Chunks in packs: sealed pieces of content, written by one thread, read by any.

A pack is `DRTOOL1P`, the sealed chunks one behind the other, a sealed footer that lists them, the
key block, and the footer's length: FORMAT.md, section 5.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from drtool.errors import ObjectMissing
from drtool.repository import layout
from drtool.repository.keys import KeyRing
from drtool.repository.places import ChunkPlace
from drtool.repository.sealing import (
    KEY_BLOCK_BYTES,
    PREFIX_BYTES,
    TAG_BYTES,
    Codec,
    Compressor,
    ObjectSeal,
    ObjectType,
    damaged,
    new_seal,
    open_frame,
    open_seal,
    unpack,
)
from drtool.stores.protocol import Store

Buffer = bytes | bytearray | memoryview

CHUNK_BYTES = 256 << 10
LARGEST_CHUNK_BYTES = 2 << 20
PACK_BYTES = 32 << 20
MOST_CHUNKS = 60_000
PACK_BUFFER_BYTES = PACK_BYTES + LARGEST_CHUNK_BYTES + TAG_BYTES
ID_BYTES = 32

_TRAILER = struct.Struct(">I4s")
_END = b"DRT."
_TAIL_GUESS = 64 << 10
_COALESCE_BYTES = 256 << 10
_FOOTER_ROW = np.dtype([("sealed", ">u4"), ("plain", ">u4"), ("codec", "u1"), ("id", "V32")])


class PackBuilder:
    """One pack in the making, in a buffer that is used again. One thread at a time."""

    def __init__(self, ring: KeyRing, compressor: Compressor, buffer: bytearray | mmap) -> None:
        self._ring = ring
        self._id_key = ring.chunk_id_key()
        self._compressor = compressor
        self._buffer = memoryview(buffer)
        self._rows: list[tuple[int, int, int, bytes]] = []
        self._seal: ObjectSeal | None = None
        self._used = 0
        self.pack_id = b""

    def begin(self, pack_id: bytes) -> None:
        """Start an empty pack of that id."""
        self.pack_id = pack_id
        self._seal = new_seal(self._ring, ObjectType.PACK, layout.pack_key(pack_id))
        self._buffer[:PREFIX_BYTES] = ObjectType.PACK.magic
        self._used = PREFIX_BYTES
        self._rows = []

    def chunk_id(self, plain: Buffer) -> bytes:
        """The keyed BLAKE3 that names this content in this repository."""
        return blake3(plain, key=self._id_key).digest()

    def add(self, plain: Buffer, chunk_id: bytes) -> int:
        """Pack and seal one chunk; return its number. The caller has looked at `is_full`."""
        assert self._seal is not None
        number = len(self._rows)
        codec, packed = self._compressor.pack(plain)
        aad = self._seal.associated(number, codec, len(plain), final=False)
        end = self._used + len(packed) + TAG_BYTES
        place = self._buffer[self._used : end]
        self._seal.cipher.encrypt_into(number.to_bytes(12, "big"), packed, aad, place)
        self._rows.append((len(place), len(plain), codec.value, chunk_id))
        self._used = end
        return number

    @property
    def is_empty(self) -> bool:
        return not self._rows

    @property
    def is_full(self) -> bool:
        """Whether another chunk of any size might not fit."""
        return self._used >= PACK_BYTES or len(self._rows) >= MOST_CHUNKS

    def finish(self) -> list[Buffer]:
        """Seal the footer; return the parts of the object. They stay valid until the next `begin`."""
        assert self._seal is not None
        rows = np.array(self._rows, dtype=_FOOTER_ROW)
        plain = rows.tobytes()
        codec, packed = self._compressor.pack(plain)
        aad = self._seal.associated(len(self._rows), codec, len(plain), final=True)
        number = len(self._rows).to_bytes(12, "big")
        sealed = self._seal.cipher.encrypt(number, bytes(packed), aad)
        head = struct.pack(">IBI", len(self._rows), codec.value, len(plain))
        tail = head + sealed + self._seal.key_block
        return [self._buffer[: self._used], tail + _TRAILER.pack(len(tail), _END)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFooter:
    """What is in a pack: for chunk `n` its place, lengths, codec and id; `tail_bytes` follow the last."""

    seal: ObjectSeal
    offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.void]
    tail_bytes: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pack_bytes(self) -> int:
        """How long the pack must be."""
        return int(self.offsets[-1]) + self.tail_bytes

    def chunk_ids(self) -> list[bytes]:
        """The ids of all chunks, in order."""
        packed = self.rows["id"].tobytes()
        return [packed[place : place + ID_BYTES] for place in range(0, len(packed), ID_BYTES)]


def parse_footer(ring: KeyRing, pack_id: bytes, tail: Buffer) -> PackFooter | int:
    """Open the footer from the last bytes of a pack; or how many bytes are needed to do it."""
    name = layout.pack_key(pack_id)
    view = memoryview(tail)
    if len(view) < _TRAILER.size:
        raise damaged(name, "it is cut short")
    length, end = _TRAILER.unpack(view[-_TRAILER.size :])
    if end != _END or length < 9 + TAG_BYTES + KEY_BLOCK_BYTES or length > 16 << 20:
        raise damaged(name, "it does not end as a pack does")
    if len(view) < length + _TRAILER.size:
        return int(length) + _TRAILER.size
    body = view[-(length + _TRAILER.size) : -_TRAILER.size]
    count, codec_value, plain_bytes = struct.unpack(">IBI", body[:9])
    if plain_bytes != count * _FOOTER_ROW.itemsize or codec_value not in (0, 1):
        raise damaged(name, "its footer does not add up")
    seal = open_seal(ring, ObjectType.PACK, name, key_block=body[-KEY_BLOCK_BYTES:])
    codec = Codec(codec_value)
    packed = open_frame(
        seal, count, body[9:-KEY_BLOCK_BYTES], codec=codec, plain_bytes=plain_bytes, final=True
    )
    rows = np.frombuffer(unpack(codec, packed, plain_bytes, name=name), dtype=_FOOTER_ROW)
    if (
        (rows["codec"] > Codec.ZSTD.value).any()
        or (rows["plain"] > LARGEST_CHUNK_BYTES).any()
        or (rows["sealed"] > LARGEST_CHUNK_BYTES + TAG_BYTES).any()
    ):
        raise damaged(name, "its footer lists chunks that no pack has")
    ends = np.cumsum(rows["sealed"].astype(np.int64))
    offsets = np.concatenate([np.zeros(1, np.int64), ends]) + PREFIX_BYTES
    tail_bytes = int(length) + _TRAILER.size
    return PackFooter(seal=seal, offsets=offsets, rows=rows, tail_bytes=tail_bytes)


class ChunkReader:
    """Reads chunks, authenticated and checked against their id. Any thread may use it.

    Keeps the footers of packs it has read from, of at most `most_rows` chunks together: 50 bytes
    a chunk, 50 MB in all, whether packs hold a hundred large chunks or thousands of small ones.
    """

    def __init__(self, store: Store, ring: KeyRing, *, most_rows: int = 1 << 20) -> None:
        self._store = store
        self._ring = ring
        self._id_key = ring.chunk_id_key()
        self._most_rows = most_rows
        self._rows = 0
        self._footers: OrderedDict[bytes, PackFooter] = OrderedDict()
        self._lock = threading.Lock()

    def footer(self, pack_id: bytes) -> PackFooter:
        """The footer of a pack; IntegrityError names the pack that is missing or damaged."""
        with self._lock:
            if pack_id in self._footers:
                self._footers.move_to_end(pack_id)
                return self._footers[pack_id]
        key = layout.pack_key(pack_id)
        footer = parse_footer(self._ring, pack_id, self._found(key, _TAIL_GUESS))
        if isinstance(footer, int):
            footer = parse_footer(self._ring, pack_id, self._found(key, footer))
        if isinstance(footer, int):
            raise damaged(key, "its footer does not fit into it")
        with self._lock:
            if pack_id not in self._footers:
                self._footers[pack_id] = footer
                self._rows += len(footer)
            while self._rows > self._most_rows and len(self._footers) > 1:
                self._rows -= len(self._footers.popitem(last=False)[1])
        return footer

    def read(self, pack_id: bytes, numbers: Sequence[int]) -> Iterator[tuple[int, memoryview]]:
        """The chunks of one pack named by `numbers` (ascending, none twice), with few reads of the store.

        Neighbours, and chunks with a small gap between, come with one ranged read of at most 8 MiB.
        """
        footer = self.footer(pack_id)
        key = layout.pack_key(pack_id)
        if numbers and numbers[-1] >= len(footer):
            raise damaged(key, f"it has no chunk {numbers[-1]}")
        for group in _coalesce(footer, numbers):
            begin, end = int(footer.offsets[group[0]]), int(footer.offsets[group[-1] + 1])
            try:
                sealed = self._store.read_range(key, begin, end - begin)
            except ObjectMissing as error:
                raise _missing_pack(key) from error
            for number in group:
                low, high = int(footer.offsets[number]), int(footer.offsets[number + 1])
                yield number, self.open_chunk(footer, number, sealed[low - begin : high - begin])

    def read_one(self, place: ChunkPlace) -> memoryview:
        """One chunk."""
        [(_, plain)] = self.read(place.pack_id, [place.number])
        return plain

    def open_chunk(self, footer: PackFooter, number: int, sealed: Buffer) -> memoryview:
        """Authenticate, decrypt, unpack one chunk, and check its id."""
        row = footer.rows[number]
        codec, plain_bytes = Codec(int(row["codec"])), int(row["plain"])
        packed = open_frame(
            footer.seal, number, sealed, codec=codec, plain_bytes=plain_bytes, final=False
        )
        plain = unpack(codec, packed, plain_bytes, name=footer.seal.name)
        if blake3(plain, key=self._id_key).digest() != row["id"].tobytes():
            raise damaged(footer.seal.name, f"chunk {number} has another content than its id says")
        return plain

    def _found(self, key: str, length: int) -> memoryview:
        try:
            return self._store.read_tail(key, length)
        except ObjectMissing as error:
            raise _missing_pack(key) from error


def _missing_pack(key: str) -> ObjectMissing:
    return ObjectMissing(
        key, hint="A backup needs this pack. Run `drtool verify`, and restore from another backup."
    )


def _coalesce(footer: PackFooter, numbers: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for number in numbers:
        if group:
            gap = int(footer.offsets[number] - footer.offsets[group[-1] + 1])
            span = int(footer.offsets[number + 1] - footer.offsets[group[0]])
            if gap > _COALESCE_BYTES or span > 8 << 20:
                yield group
                group = []
        group.append(number)
    if group:
        yield group


PutPack = Callable[[bytes, list[Buffer]], None]
