"""The chunks that some extents need, fetched together; and what of a file is right already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from drtool.errors import IntegrityError
from drtool.pipeline.pages import HOLE, Extents
from drtool.repository.chunks import ChunkReader
from drtool.repository.keys import KeyRing
from drtool.repository.table import PackList
from drtool.sources.files.filewriter import FileWriter

_LOOK_BYTES = 1 << 20
Chunks = dict[tuple[int, int], memoryview]
# (offset, length) to what the file holds there, shorter at its end.
ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Reads chunks and puts their bytes where they belong. Any thread may use it."""

    reader: ChunkReader
    packs: PackList
    ring: KeyRing

    def fetch(self, extents: Sequence[Extents]) -> Chunks:
        """All chunks of these extents, pack by pack: as much memory as they have bytes."""
        every = np.concatenate(extents)
        every = every[every["pack"] != HOLE]
        chunks: Chunks = {}
        for pack in np.unique(every["pack"]).tolist():
            numbers = np.unique(every["chunk"][every["pack"] == pack]).tolist()
            for number, plain in self.reader.read(self.packs.ids[pack], numbers):
                chunks[pack, number] = plain
        return chunks

    def write(self, file: FileWriter, begin: int, extents: Extents, *, chunks: Chunks) -> int:
        """Write what extents hold, from `begin` of the file on; return where they end."""
        for length, pack, chunk, offset, *_ in extents.tolist():
            if pack == HOLE:
                file.hole(begin, length)
            else:
                plain = chunks[pack, chunk]
                if offset + length > len(plain):
                    raise IntegrityError(
                        f"chunk {chunk} of pack {self.packs.ids[pack].hex()} is shorter than the"
                        " file table says",
                        hint="Run `drtool verify`, and restore from another backup.",
                    )
                file.write(begin, plain[offset : offset + length])
            begin += length
        return begin

    def differing(self, read: ReadAt, begin: int, extents: Extents) -> Extents:
        """Those extents whose bytes are not in the file already, each with its place.

        A whole chunk is compared by its id, so nothing is fetched for it; a part of one is fetched.
        The result has a column more: `place`, where in the file the extent belongs.
        """
        places = np.cumsum(extents["length"].astype(np.int64)) - extents["length"] + begin
        is_other = [
            not self._is_there(read, place, row)
            for place, row in zip(places.tolist(), extents.tolist(), strict=True)
        ]
        kept = extents[is_other]
        placed = np.empty(len(kept), PLACED)
        for column in ("length", "pack", "chunk", "offset"):
            placed[column] = kept[column]
        placed["place"] = places[is_other]
        return placed

    def _is_there(self, read: ReadAt, place: int, row: tuple[int, int, int, int]) -> bool:
        length, pack, chunk, offset = row
        if pack == HOLE:
            return _is_zero(read, place, length)
        found = read(place, length)
        if len(found) != length:
            return False
        footer = self.reader.footer(self.packs.ids[pack])
        if chunk < len(footer) and offset == 0 and int(footer.rows[chunk]["plain"]) == length:
            digest = blake3(found, key=self.ring.chunk_id_key()).digest()
            return bool(digest == footer.rows[chunk]["id"].tobytes())
        plain = self.reader.read_one(self.packs.place(pack, chunk))
        return plain[offset : offset + length] == found


def _is_zero(read: ReadAt, place: int, length: int) -> bool:
    while length:
        found = read(place, min(length, _LOOK_BYTES))
        if not found or found.strip(b"\0"):
            return False
        place, length = place + len(found), length - len(found)
    return True


PLACED = np.dtype(
    [("length", ">u4"), ("pack", ">u4"), ("chunk", ">u4"), ("offset", ">u4"), ("place", ">u8")]
)
