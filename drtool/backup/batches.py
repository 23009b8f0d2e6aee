"""Batches: the bytes of many files, as they arrive, in buffers of 8 MiB that are used again."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.pipeline.pages import PAGE_BYTES, REGION_BYTES, Digests, Places
from drtool.repository.table import RECORD_COVERS_BYTES, Attributes, TableRecord
from drtool.system.memory import lazy_buffer

BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPages:
    """Digests and places of a stretch of pages in the previous backup; both may be shorter.

    `record` is what the previous backup's table says of the whole 256 MiB they belong to.
    """

    digests: Digests
    places: Places
    record: TableRecord | None = None

    def within(self, begin: int, length: int) -> KnownPages:
        """Of `length` bytes from `begin` on, counted from where these begin."""
        pages = slice(begin // PAGE_BYTES, (begin + length + PAGE_BYTES - 1) // PAGE_BYTES)
        return KnownPages(
            digests=self.digests[pages], places=self.places[pages], record=self.record
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """`length` bytes of a file from `begin` on, at `at` in the batch's buffer.

    Begins on a multiple of 256 KiB of its file and never crosses one of 256 MiB. `is_last` ends the file.
    """

    attributes: Attributes
    begin: int
    at: int
    length: int
    known: KnownPages | None
    is_last: bool


class Batch:
    """A buffer and the stretches in it. Filled by one thread, then read by one."""

    def __init__(self) -> None:
        self.buffer = lazy_buffer(BATCH_BYTES)
        self.view = memoryview(self.buffer)
        self.stretches: list[Stretch] = []
        self.used = 0

    def clear(self) -> None:
        """Make it empty again."""
        self.stretches = []
        self.used = 0

    def room_for(self, left_bytes: int) -> int:
        """How many of a file's next `left_bytes` fit, cut so that regions stay whole; 0 if none should."""
        room = BATCH_BYTES - self.used
        if left_bytes <= room:
            return left_bytes
        return room - room % REGION_BYTES

    def reserve(self, length: int) -> int:
        """Set `length` bytes aside, and zeros behind them up to the page's end; return where they begin."""
        at = self.used
        padding = -length % PAGE_BYTES
        self.used = at + length + padding
        self.view[at + length : self.used] = bytes(padding)
        return at


def stretch_bytes(batch: Batch, *, begin: int, size_bytes: int) -> int:
    """The length of the stretch that begins at `begin` of a file of that size, in what room there is."""
    in_record = RECORD_COVERS_BYTES - begin % RECORD_COVERS_BYTES
    return batch.room_for(min(size_bytes - begin, in_record))
