"""From stretches that were stored to the records of the file table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from drtool.backup.packing import PackingHall
from drtool.backup.stowing import Stowed
from drtool.pipeline.pages import Digests, collapse
from drtool.repository.chunks import CHUNK_BYTES
from drtool.repository.places import ChunkPlace
from drtool.repository.table import (
    RECORD_COVERS_BYTES,
    Attributes,
    DigestPlace,
    TableRecord,
    TableWriter,
    encode_digests,
)


class Assembly:
    """Puts the stretches of each file together, in the order they were read, and writes its records.

    One thread. Holds the stretches of one record (12 bytes a page: 400 KB), and the records whose
    digests wait for their chunk to be full (256 KiB of digests).
    """

    def __init__(self, hall: PackingHall, table: TableWriter) -> None:
        self._hall = hall
        self._table = table
        self._parts: list[Stowed] = []
        self._waiting: list[tuple[TableRecord, int]] = []
        self._digests = bytearray()
        self.pages = 0
        self.pages_changed = 0

    def add_plain(self, attributes: Attributes) -> None:
        """A directory, a link or an empty file."""
        self._table.add(TableRecord(attributes=attributes))

    def add(self, stowed: Stowed) -> None:
        """The next stretch."""
        self._parts.append(stowed)
        stretch = stowed.stretch
        self.pages += len(stowed.places)
        self.pages_changed += stowed.pages_changed
        end = stretch.begin + stretch.length
        if stretch.is_last or end % RECORD_COVERS_BYTES == 0:
            self._close_record()

    def add_encoded(self, path: bytes, begin: int, encoded: bytes) -> None:
        """A record as the previous backup's table has it."""
        self._table.add_encoded(path, begin, encoded)

    def add_all_encoded(self, records: Sequence[tuple[bytes, int, bytes]]) -> None:
        """Many such records, with path and begin."""
        self._table.add_all_encoded(records)

    def add_name(self, path: bytes, of: bytes) -> None:
        """Another name of the file `of`."""
        self._table.add_name(path, of)

    def withdraw(self, path: bytes) -> None:
        """Forget what was added of this file so far."""
        self._store_digests()
        self._table.withdraw(path)

    def finish(self) -> tuple[list[ChunkPlace], set[int]]:
        """Store the digests that still wait, and the table; its chunks, and the packs it refers to."""
        if self._parts:
            raise ValueError("a file has no end")
        self._store_digests()
        with self._hall.packer() as packer:
            return self._table.finish(lambda plain: self._hall.packs.place(*packer.store(plain)))

    def _close_record(self) -> None:
        parts, self._parts = self._parts, []
        first = parts[0].stretch
        size_bytes = sum(part.stretch.length for part in parts)
        record = TableRecord(
            attributes=first.attributes,
            begin=first.begin,
            extents=collapse(np.concatenate([part.places for part in parts]), size_bytes),
        )
        earlier = _unchanged_digests(parts, size_bytes)
        if earlier is not None:
            self.add_record(replace(record, digests=earlier))
        else:
            self.add_digested(record, np.concatenate([part.digests for part in parts]))

    def add_record(self, record: TableRecord) -> None:
        """A record that is whole as it is."""
        self._table.add(record)

    def add_digested(self, record: TableRecord, page_digests: Digests) -> None:
        """A record whose digests are to be stored: with those of others, and it is added then."""
        digests = encode_digests(page_digests)
        if len(self._digests) + len(digests) > CHUNK_BYTES:
            self._store_digests()
        self._waiting.append((record, len(self._digests)))
        self._digests += digests

    def _store_digests(self) -> None:
        if not self._waiting:
            return
        with self._hall.packer() as packer:
            pack, number = packer.store(bytes(self._digests))
        for record, offset in self._waiting:
            self._table.add(replace(record, digests=DigestPlace(pack, number, offset)))
        self._waiting, self._digests = [], bytearray()


def _unchanged_digests(parts: list[Stowed], size_bytes: int) -> DigestPlace | None:
    """Where the record's digests lie already, if not a page of it has changed."""
    known = parts[0].stretch.known
    if known is None or known.record is None or any(part.pages_changed for part in parts):
        return None
    return known.record.digests if known.record.covered_bytes == size_bytes else None
