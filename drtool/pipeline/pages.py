"""Pages of 8 KiB: their digests, which of them changed, and which of those are stored how.

Everything here is pure, and looks at all pages of a batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

PAGE_BYTES = 8192
REGION_PAGES = 32
REGION_BYTES = REGION_PAGES * PAGE_BYTES
MOST_CHUNKS_A_REGION = 4

# An extent is a run of bytes of a file that lies in one piece in a chunk. `pack` is an index into
# a list of packs, `offset` counts in the plain chunk.
EXTENT = np.dtype([("length", ">u4"), ("pack", ">u4"), ("chunk", ">u4"), ("offset", ">u4")])
Extents = npt.NDArray[np.void]
# In place of a pack: zeros that are stored nowhere.
HOLE = 0xFFFFFFFF

# Where one page lies; a page never straddles two chunks.
PLACE = np.dtype([("pack", np.uint32), ("chunk", np.uint32), ("offset", np.uint32)])
Places = npt.NDArray[np.void]

Digests = npt.NDArray[np.uint64]


def page_count(size_bytes: int) -> int:
    """Pages that hold `size_bytes`; the last may be short."""
    return -(-size_bytes // PAGE_BYTES)


def digest_pages(view: memoryview, seed: int) -> Digests:
    """XXH3-64 of each page, the last of which may be short.

    One call a page: measured at 17 GB/s on 8 KiB pages, where anything numpy could do over all
    pages at once is weaker as a digest or slower.
    """
    digest = xxh3_64_intdigest
    pages = range(0, len(view), PAGE_BYTES)
    return np.array([digest(view[at : at + PAGE_BYTES], seed) for at in pages], np.uint64)


def expand(extents: Extents) -> Places:
    """The place of each page that page-aligned `extents` hold."""
    lengths = extents["length"].astype(np.int64)
    pages = -(-lengths // PAGE_BYTES)
    places = np.empty(int(pages.sum()), PLACE)
    for column in ("pack", "chunk"):
        places[column] = np.repeat(extents[column], pages)
    first = np.repeat(np.cumsum(pages) - pages, pages)
    within = np.arange(len(places)) - first
    places["offset"] = np.repeat(extents["offset"].astype(np.int64), pages) + within * PAGE_BYTES
    return places


def collapse(places: Places, size_bytes: int) -> Extents:
    """The fewest extents that hold `size_bytes` in the pages at `places`."""
    count = len(places)
    if count != page_count(size_bytes):
        raise ValueError(f"{count} pages cannot hold {size_bytes} bytes")
    if count == 0:
        return np.empty(0, EXTENT)
    before, after = places[:-1], places[1:]
    goes_on = (before["pack"] == after["pack"]) & (
        (before["pack"] == HOLE)
        | (before["chunk"] == after["chunk"])
        & (before["offset"].astype(np.int64) + PAGE_BYTES == after["offset"])
    )
    starts = np.concatenate([[0], np.flatnonzero(~goes_on) + 1])
    extents = np.empty(len(starts), EXTENT)
    for column in ("pack", "chunk", "offset"):
        extents[column] = places[column][starts]
    is_hole = extents["pack"] == HOLE
    extents["chunk"][is_hole] = extents["offset"][is_hole] = 0
    lengths = np.diff(np.concatenate([starts, [count]])) * PAGE_BYTES
    lengths[-1] -= count * PAGE_BYTES - size_bytes
    extents["length"] = lengths
    return extents


@dataclass(frozen=True, slots=True)
class Storing:
    """What of a stretch must be stored: whole regions (by their first page), and single pages."""

    regions: npt.NDArray[np.int64]
    loose: npt.NDArray[np.int64]


def choose_storing(changed: npt.NDArray[np.bool_], known: Places) -> Storing:
    """Which pages to store, given which have `changed` and where the earlier ones are `known`.

    `known` may be shorter than `changed` (the file grew); pages beyond it have changed. A region is
    stored whole if all of it changed, or if its pages would come from more than four chunks, so
    that reading it back stays cheap.
    """
    count = len(changed)
    regions = -(-count // REGION_PAGES)
    padded = np.zeros(regions * REGION_PAGES, bool)
    padded[:count] = changed
    by_region = padded.reshape(regions, REGION_PAGES)
    changed_pages = by_region.sum(axis=1)
    sizes = np.full(regions, REGION_PAGES)
    sizes[-1:] = count - (regions - 1) * REGION_PAGES
    whole = changed_pages == sizes
    for region in np.flatnonzero((changed_pages > 0) & ~whole):
        begin = int(region) * REGION_PAGES
        end = min(begin + REGION_PAGES, len(known), count)
        kept = known[begin:end][~changed[begin:end]]
        chunks = np.unique((kept["pack"].astype(np.uint64) << 32) | kept["chunk"])
        if len(chunks) + 1 > MOST_CHUNKS_A_REGION:
            whole[region] = True
    loose = padded & ~np.repeat(whole, REGION_PAGES)
    return Storing(np.flatnonzero(whole) * REGION_PAGES, np.flatnonzero(loose))


def changed_pages(digests: Digests, known: Digests) -> npt.NDArray[np.bool_]:
    """For each page whether it differs from the one known at its place; unknown pages differ."""
    changed = np.ones(len(digests), bool)
    common = min(len(digests), len(known))
    changed[:common] = digests[:common] != known[:common]
    return changed
