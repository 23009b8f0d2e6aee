"""Digests of pages, extents, and the choice of what is stored: true for every input."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from drtool.pipeline.pages import (
    EXTENT,
    MOST_CHUNKS_A_REGION,
    PAGE_BYTES,
    PLACE,
    REGION_PAGES,
    Extents,
    Places,
    changed_pages,
    choose_storing,
    collapse,
    digest_pages,
    expand,
    page_count,
)

BOUNDED = settings(max_examples=150, deadline=None, derandomize=True)

# Few packs and chunks, so that neighbours often belong together.
PLACES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 40)), max_size=140
).map(lambda rows: np.array([(p, c, o * PAGE_BYTES) for p, c, o in rows], PLACE))
RUNS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 70_000), st.integers(0, 31), st.integers(1, 33)),
    min_size=1,
    max_size=20,
)


def _places_of_runs(runs: list[tuple[int, int, int, int]]) -> Places:
    rows = [
        (pack, chunk, (first + page) * PAGE_BYTES)
        for pack, chunk, first, pages in runs
        for page in range(pages)
    ]
    return np.array(rows, PLACE)


def _as_bytes(extents: Extents) -> list[tuple[int, int, int]]:
    """(pack, chunk, offset) of every page's beginning: slow, and plainly right."""
    found = []
    for extent in extents:
        for at in range(0, int(extent["length"]), PAGE_BYTES):
            found.append((int(extent["pack"]), int(extent["chunk"]), int(extent["offset"]) + at))
    return found


@BOUNDED
@given(PLACES, st.integers(0, PAGE_BYTES - 1))
def test_extents_expand_to_the_places_they_were_made_of(places: Places, missing: int) -> None:
    size = max(0, len(places) * PAGE_BYTES - (missing if len(places) else 0))

    extents = collapse(places, size)

    assert expand(extents).tolist() == places.tolist()
    assert int(extents["length"].sum(dtype=np.int64)) == size
    assert not (extents["length"][:-1] % PAGE_BYTES).any(), "only the last page may be short"
    assert _as_bytes(extents) == places.tolist()


@BOUNDED
@given(RUNS, st.integers(0, PAGE_BYTES - 1))
def test_collapsing_what_was_expanded_changes_nothing(
    runs: list[tuple[int, int, int, int]], missing: int
) -> None:
    places = _places_of_runs(runs)
    extents = collapse(places, len(places) * PAGE_BYTES - missing)

    again = collapse(expand(extents), len(places) * PAGE_BYTES - missing)

    assert again.tolist() == extents.tolist()


@BOUNDED
@given(RUNS)
def test_neighbouring_extents_never_could_have_been_one(
    runs: list[tuple[int, int, int, int]],
) -> None:
    places = _places_of_runs(runs)

    extents = collapse(places, len(places) * PAGE_BYTES)

    for before, after in pairwise(extents):
        same_chunk = (before["pack"], before["chunk"]) == (after["pack"], after["chunk"])
        assert not (same_chunk and int(before["offset"]) + int(before["length"]) == after["offset"])


def test_no_pages_make_no_extents() -> None:
    assert len(collapse(np.empty(0, PLACE), 0)) == 0
    assert len(expand(np.empty(0, EXTENT))) == 0


@pytest.mark.parametrize("size", [0, PAGE_BYTES, 2 * PAGE_BYTES + 1])
def test_places_that_cannot_hold_the_size_are_refused(size: int) -> None:
    places = np.zeros(2, PLACE)

    with pytest.raises(ValueError, match="cannot hold"):
        collapse(places, size)


@BOUNDED
@given(st.binary(max_size=5 * PAGE_BYTES + 7), st.integers(0, 2**64 - 1))
def test_each_page_has_the_digest_of_its_own_bytes(content: bytes, seed: int) -> None:
    digests = digest_pages(memoryview(content), seed)

    pages = [content[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)]
    assert digests.tolist() == [xxh3_64_intdigest(page, seed) for page in pages]
    assert len(digests) == page_count(len(content))


@BOUNDED
@given(st.binary(min_size=1, max_size=3 * PAGE_BYTES), st.data())
def test_a_change_of_one_byte_changes_one_digest(content: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(content) - 1))
    other = bytearray(content)
    other[at] ^= data.draw(st.integers(1, 255))

    before, after = digest_pages(memoryview(content), 7), digest_pages(memoryview(other), 7)

    assert np.flatnonzero(before != after).tolist() == [at // PAGE_BYTES]


def test_a_short_last_page_differs_from_the_same_page_padded_with_zeros() -> None:
    """A file that grew by zeros within its last page must not pass for unchanged (PITFALLS 34)."""
    short = digest_pages(memoryview(b"x" * 100), 1)
    padded = digest_pages(memoryview(b"x" * 100 + bytes(PAGE_BYTES - 100)), 1)

    assert short[0] != padded[0]


DIGESTS = st.lists(st.integers(0, 3), max_size=80).map(lambda rows: np.array(rows, np.uint64))


@BOUNDED
@given(DIGESTS, DIGESTS)
def test_a_page_is_unchanged_only_if_its_digest_is_known_at_its_place(
    now: np.ndarray[tuple[int], np.dtype[np.uint64]],
    known: np.ndarray[tuple[int], np.dtype[np.uint64]],
) -> None:
    changed = changed_pages(now, known)

    expected = [page >= len(known) or now[page] != known[page] for page in range(len(now))]
    assert changed.tolist() == expected


@st.composite
def _known_and_changed(draw: st.DrawFn) -> tuple[list[bool], Places]:
    count = draw(st.integers(0, 3 * REGION_PAGES + 5))
    common = draw(st.integers(0, count))
    likely = draw(st.sampled_from([1, 3, 20]))
    changed = [page >= common or draw(st.integers(0, likely)) == 0 for page in range(count)]
    chunks = draw(st.integers(1, 6))
    rows = [(0, draw(st.integers(0, chunks - 1)), 0) for _ in range(common)]
    return changed, np.array(rows, PLACE)


@BOUNDED
@given(_known_and_changed())
def test_exactly_the_changed_pages_and_whole_regions_are_stored(
    given_pages: tuple[list[bool], Places],
) -> None:
    changed, known = given_pages

    storing = choose_storing(np.array(changed, bool), known)

    whole = {
        page
        for first in storing.regions.tolist()
        for page in range(first, min(first + REGION_PAGES, len(changed)))
    }
    loose = set(storing.loose.tolist())
    assert all(first % REGION_PAGES == 0 for first in storing.regions.tolist())
    assert not whole & loose
    assert whole | loose >= {page for page, is_changed in enumerate(changed) if is_changed}
    assert all(changed[page] for page in loose)


@BOUNDED
@given(_known_and_changed())
def test_a_region_that_is_touched_never_needs_more_than_four_chunks(
    given_pages: tuple[list[bool], Places],
) -> None:
    changed, known = given_pages

    storing = choose_storing(np.array(changed, bool), known)

    for first in range(0, len(changed), REGION_PAGES):
        pages = range(first, min(first + REGION_PAGES, len(changed)))
        if first in storing.regions or not any(changed[page] for page in pages):
            continue
        kept = {int(known[page]["chunk"]) for page in pages if not changed[page]}
        assert len(kept) + 1 <= MOST_CHUNKS_A_REGION


@BOUNDED
@given(_known_and_changed())
def test_a_region_is_stored_whole_only_for_a_reason(
    given_pages: tuple[list[bool], Places],
) -> None:
    changed, known = given_pages

    storing = choose_storing(np.array(changed, bool), known)

    for first in storing.regions.tolist():
        pages = range(first, min(first + REGION_PAGES, len(changed)))
        kept = {int(known[page]["chunk"]) for page in pages if not changed[page]}
        assert all(changed[page] for page in pages) or len(kept) + 1 > MOST_CHUNKS_A_REGION
