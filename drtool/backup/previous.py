"""What earlier backups left that this one can use: known pages of known files, and stored chunks."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from drtool.backup.batches import KnownPages
from drtool.backup.packing import KnownChunks
from drtool.errors import IntegrityError, ObjectMissing
from drtool.pipeline.pages import PAGE_BYTES, Digests, Places, expand
from drtool.repository.backups import Attempt, Manifest, open_table
from drtool.repository.chunks import ChunkReader, PackFooter
from drtool.repository.table import (
    RECORD_COVERS_BYTES,
    DigestReader,
    PackList,
    Table,
    TableRecord,
)

MOST_FOOTERS = 1000
MOST_MISSING = 8


class PreviousBackup:
    """The pages of the previous backup, by file and place. One thread."""

    def __init__(self, manifest: Manifest, reader: ChunkReader) -> None:
        self._table: Table = open_table(manifest, reader)
        self._table.index()
        self._digests = DigestReader(reader, self._table.packs)
        self._current: tuple[bytes, int] | None = None
        self._record: TableRecord | None = None
        self._pages: tuple[Digests, Places] | None = None
        self._lost: list[int] = []

    def forget(self, pack_ids: Iterable[bytes]) -> None:
        """Take all pages in these packs for unknown: they will be stored again."""
        self._lost = [self._table.packs.index_of(pack_id) for pack_id in pack_ids]

    @property
    def packs(self) -> PackList:
        """The pack list that the places refer to; the new backup goes on with it."""
        return self._table.packs

    def known(self, path: bytes, begin: int, length: int) -> KnownPages | None:
        """What is known of `length` bytes of a file from `begin` on, within one record."""
        start = begin - begin % RECORD_COVERS_BYTES
        if self._current != (path, start):
            self._current = (path, start)
            self._record = self._table.find(path, start)
            self._pages = None
            if self._record is not None and self._record.digests is not None:
                self._pages = self._read_pages(self._record)
        if self._record is None or self._pages is None:
            return None
        first = (begin - start) // PAGE_BYTES
        last = first + -(-length // PAGE_BYTES)
        digests, places = self._pages
        return KnownPages(
            digests=digests[first:last], places=places[first:last], record=self._record
        )

    def _read_pages(self, record: TableRecord) -> tuple[Digests, Places] | None:
        if record.digests is None or record.digests.pack in self._lost:
            return None
        digests, places = self._digests.read(record), expand(record.extents)
        if self._lost:
            gone = np.isin(places["pack"], self._lost)
            digests = np.where(gone, ~digests, digests)
        return digests, places


def learn_packs(
    pack_ids: Iterable[bytes], reader: ChunkReader, *, packs: PackList, known: KnownChunks
) -> list[bytes]:
    """Take the chunk ids of packs into `known`; return those packs that are not there or damaged.

    So content under another path is found again, and nothing is built on what was lost. Ids are
    taken from at most 1,000 packs, about 140 GB of pages; the footers of all are looked at.
    """
    lost: list[bytes] = []
    wanted = list(pack_ids)
    with ThreadPoolExecutor(8, thread_name_prefix="footers") as threads:
        footers = threads.map(lambda pack_id: _footer(reader, pack_id), wanted)
        for number, (pack_id, footer) in enumerate(zip(wanted, footers, strict=True)):
            if footer is None:
                lost.append(pack_id)
            elif number < MOST_FOOTERS:
                _learn(pack_id, footer, packs=packs, known=known)
    return lost


def learn_attempts(
    attempts: Iterable[Attempt], reader: ChunkReader, *, packs: PackList, known: KnownChunks
) -> int:
    """Take in what interrupted backups stored; return the number of packs found.

    An attempt's packs have ids that follow from its seed. Up to eight in a row may be missing:
    that many at most were under way when it died.
    """
    found = 0
    for attempt in attempts:
        missing, number = 0, 0
        while missing < MOST_MISSING and number < MOST_FOOTERS:
            pack_id = attempt.pack_id(number)
            number += 1
            footer = _footer(reader, pack_id)
            if footer is None:
                missing += 1
                continue
            missing = 0
            found += 1
            _learn(pack_id, footer, packs=packs, known=known)
    return found


def _footer(reader: ChunkReader, pack_id: bytes) -> PackFooter | None:
    try:
        return reader.footer(pack_id)
    except (ObjectMissing, IntegrityError):
        # What cannot be read is not used again; `drtool verify` is where it is told.
        return None


def _learn(pack_id: bytes, footer: PackFooter, *, packs: PackList, known: KnownChunks) -> None:
    pack = packs.index_of(pack_id)
    for number, chunk_id in enumerate(footer.chunk_ids()):
        known.add(chunk_id, pack, number)
