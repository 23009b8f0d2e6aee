"""A file of more than one region, as it is read: changed pages are stored, the rest is found again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drtool.backup.batches import BATCH_BYTES, Batch, KnownPages, Stretch
from drtool.backup.packing import PackingHall
from drtool.backup.previous import PreviousBackup
from drtool.backup.stowing import stow
from drtool.backup.tree_table import TreeTable
from drtool.pipeline.pages import (
    HOLE,
    PAGE_BYTES,
    PLACE,
    REGION_BYTES,
    Digests,
    Places,
    collapse,
    digest_pages,
    page_count,
)
from drtool.repository.table import RECORD_COVERS_BYTES, Attributes, DigestPlace, TableRecord

_ZERO_PAGE = memoryview(bytes(PAGE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    places: Places
    digests: Digests
    is_changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PageStores:
    """What pages are compared with, and where they go."""

    hall: PackingHall
    table: TreeTable
    previous: PreviousBackup | None
    seed: int


class LargeFile:
    """Takes the bytes and holes of one file in order, and adds its records to the table.

    Holes are kept as holes where they cover whole pages of 8 KiB. Holds one batch of 8 MiB, which
    the caller lends, and the places and digests of one record: 700 KB.
    """

    def __init__(self, walked: Attributes, batch: Batch, stores: PageStores) -> None:
        """`walked` is what the records after the first bear until the table gives them the first's."""
        self._walked = walked
        self._batch = batch
        self._stores = stores
        self._at = self._stretch = self._record = 0
        self._known: KnownPages | None = None
        self._parts: list[_Part] = []
        self._holes: list[tuple[int, int]] = []
        self._first: tuple[TableRecord, Digests | None] | None = None
        self._begin_record()

    @property
    def at(self) -> int:
        """How many bytes were taken."""
        return self._at

    def take(self, data: memoryview) -> None:
        """The next bytes."""
        while data:
            count = min(len(data), self._end() - self._at)
            place = self._at - self._stretch
            self._batch.view[place : place + count] = data[:count]
            data = data[count:]
            self._advance(count)

    def hole(self, length: int) -> None:
        """The next `length` bytes are zeros that the file does not occupy."""
        end = self._at + length
        self._holes.append((self._at, end))
        while self._at < end:
            whole = min(end, self._record + RECORD_COVERS_BYTES) - self._at
            whole -= whole % REGION_BYTES
            if self._at == self._stretch and whole:
                self._skip(whole)
                continue
            # Up to where whole regions may begin, or the hole ends: zeros like any bytes.
            to_region = REGION_BYTES - self._at % REGION_BYTES
            count = min(end - self._at, to_region, self._end() - self._at)
            place = self._at - self._stretch
            self._batch.view[place : place + count] = bytes(count)
            self._advance(count)
            if self._at % REGION_BYTES == 0 and self._at < end:
                self._stow()

    def finish(self, attributes: Attributes) -> None:
        """All was given; the file is what `attributes` says. Its first record is added last."""
        self._stow()
        self._close_record()
        if self._first is None:
            self._stores.table.add(TableRecord(attributes=attributes))
            return
        record, digests = self._first
        first = TableRecord(attributes=attributes, extents=record.extents, digests=record.digests)
        self._stores.table.add(first, digests)

    def _end(self) -> int:
        return min(self._stretch + BATCH_BYTES, self._record + RECORD_COVERS_BYTES)

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at == self._end():
            self._stow()

    def _skip(self, length: int) -> None:
        pages = page_count(length)
        places = np.zeros(pages, PLACE)
        places["pack"] = HOLE
        [zeros] = digest_pages(_ZERO_PAGE, self._stores.seed)
        self._add(places, np.full(pages, zeros, np.uint64))
        self._at += length
        self._stretch = self._at
        if self._at == self._record + RECORD_COVERS_BYTES:
            self._close_record()

    def _stow(self) -> None:
        length = self._at - self._stretch
        if not length:
            return
        batch = self._batch
        batch.clear()
        batch.reserve(length)
        known = self._known.within(self._stretch - self._record, length) if self._known else None
        batch.stretches = [
            Stretch(
                attributes=self._walked,
                begin=self._stretch,
                at=0,
                length=length,
                known=known,
                is_last=False,
            )
        ]
        [stowed] = stow(batch, self._stores.hall, seed=self._stores.seed)
        self._mark_holes(stowed.places, self._stretch, length)
        self._add(stowed.places, stowed.digests)
        self._stretch = self._at
        if self._at == self._record + RECORD_COVERS_BYTES:
            self._close_record()

    def _mark_holes(self, places: Places, begin: int, length: int) -> None:
        for low, high in self._holes:
            first = -(-max(low - begin, 0) // PAGE_BYTES)
            # A hole up to the file's end also covers its short last page.
            last = len(places) if high >= begin + length else (high - begin) // PAGE_BYTES
            if first < last:
                places["pack"][first:last] = HOLE
        self._holes = [hole for hole in self._holes if hole[1] > begin + length]

    def _add(self, places: Places, digests: Digests) -> None:
        first = sum(len(part.places) for part in self._parts)
        is_changed = True
        if self._known is not None:
            before = slice(first, first + len(places))
            is_changed = not (
                np.array_equal(digests, self._known.digests[before])
                and np.array_equal(places, self._known.places[before])
            )
        self._parts.append(_Part(places=places, digests=digests, is_changed=is_changed))

    def _begin_record(self) -> None:
        previous = self._stores.previous
        self._known = previous.pages_of(self._walked.path, self._record) if previous else None

    def _close_record(self) -> None:
        size_bytes = self._at - self._record
        if not size_bytes:
            return
        parts, self._parts = self._parts, []
        digests: Digests | None = np.concatenate([part.digests for part in parts])
        earlier = self._earlier_digests(parts, size_bytes)
        record = TableRecord(
            attributes=self._walked,
            begin=self._record,
            extents=collapse(np.concatenate([part.places for part in parts]), size_bytes),
            digests=earlier,
        )
        if earlier is not None:
            digests = None
        if self._record == 0:
            self._first = record, digests
        else:
            self._stores.table.add(record, digests)
        self._record = self._at
        self._begin_record()

    def _earlier_digests(self, parts: list[_Part], size_bytes: int) -> DigestPlace | None:
        """Where they lie already, if nothing of the record has changed."""
        known = self._known.record if self._known else None
        if known is None or known.covered_bytes != size_bytes:
            return None
        return None if any(part.is_changed for part in parts) else known.digests
