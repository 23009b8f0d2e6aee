"""What one worker does with a batch: find the pages that changed, and store them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drtool.backup.batches import Batch, KnownPages, Stretch
from drtool.backup.packing import Packer, PackingHall
from drtool.pipeline.pages import (
    PAGE_BYTES,
    PLACE,
    REGION_BYTES,
    REGION_PAGES,
    Digests,
    Places,
    changed_pages,
    choose_storing,
    digest_pages,
    page_count,
)

_NONE = KnownPages(digests=np.empty(0, np.uint64), places=np.empty(0, PLACE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stowed:
    """A stretch whose bytes are all accounted for: where each page lies, and its digest."""

    stretch: Stretch
    places: Places
    digests: Digests
    pages_changed: int


def stow(batch: Batch, hall: PackingHall, *, seed: int) -> list[Stowed]:
    """Store what is new in `batch`. Runs in a worker; raises what the store raised."""
    with hall.packer() as packer:
        gathered = _Gathering(batch, packer)
        stowed = [
            _stow_stretch(stretch, batch.view, packer=packer, gathered=gathered, seed=seed)
            for stretch in batch.stretches
        ]
        gathered.flush()
    return stowed


def _stow_stretch(
    stretch: Stretch, buffer: memoryview, *, packer: Packer, gathered: _Gathering, seed: int
) -> Stowed:
    view = buffer[stretch.at : stretch.at + stretch.length]
    known = stretch.known or _NONE
    digests = digest_pages(view, seed)
    changed = changed_pages(digests, known.digests)
    places = np.empty(page_count(stretch.length), PLACE)
    common = min(len(places), len(known.places))
    places[:common] = known.places[:common]
    if changed.any():
        storing = choose_storing(changed, known.places)
        for first in storing.regions:
            begin = int(first) * PAGE_BYTES
            pack, number = packer.store(view[begin : begin + REGION_BYTES])
            region = places[int(first) : int(first) + REGION_PAGES]
            region["pack"], region["chunk"] = pack, number
            region["offset"] = np.arange(len(region), dtype=np.uint32) * PAGE_BYTES
        gathered.add(places, storing.loose, stretch.at // PAGE_BYTES)
    return Stowed(stretch=stretch, places=places, digests=digests, pages_changed=int(changed.sum()))


class _Gathering:
    """Changed pages of all stretches of a batch, put together into chunks of 32.

    The short last page of a file is stored with whatever follows it in the buffer up to the page's
    end: its true length is the file's.
    """

    def __init__(self, batch: Batch, packer: Packer) -> None:
        self._pages = np.frombuffer(batch.buffer, np.uint8).reshape(-1, PAGE_BYTES)
        self._packer = packer
        self._waiting: list[tuple[Places, int, int]] = []

    def add(
        self, places: Places, loose: np.ndarray[tuple[int], np.dtype[np.int64]], at: int
    ) -> None:
        """Take the pages `loose` of a stretch that begins at page `at` of the buffer."""
        for page in loose:
            self._waiting.append((places, int(page), at + int(page)))
            if len(self._waiting) == REGION_PAGES:
                self.flush()

    def flush(self) -> None:
        """Store the pages that wait as one chunk, and note where each came to lie."""
        if not self._waiting:
            return
        rows = [row for _, _, row in self._waiting]
        plain = memoryview(self._pages[rows].reshape(-1).data)
        pack, number = self._packer.store(plain)
        for position, (places, page, _) in enumerate(self._waiting):
            places[page] = (pack, number, position * PAGE_BYTES)
        self._waiting = []
