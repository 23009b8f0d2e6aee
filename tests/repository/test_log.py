"""The change log: what is there, what is not, and what is never handed out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.wal import Lsn, WalSegment
from drtool.repository import layout
from drtool.repository.layout import Lineage, RecordedGap, SegmentPart
from drtool.repository.log import SegmentWriter, put_history, put_part, read_history, read_segment
from drtool.repository.log_inventory import LogRun, take_inventory
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType
from tests.repository.building import (
    MIB,
    SYSTEM,
    new_repository,
    put_segments,
    put_tail,
    tamper,
    wal_bytes,
)

LINEAGE = Lineage("main", SYSTEM, 1)


@pytest.fixture
def repository() -> Repository:
    return new_repository()


def key_of(number: int, segment_bytes: int = MIB) -> str:
    return LINEAGE.segment_key(WalSegment(1, number).name(segment_bytes))


def read(repository: Repository, number: int) -> bytes:
    return read_segment(repository, LINEAGE, WalSegment(1, number), segment_bytes=MIB)


def runs(
    repository: Repository, *, segment_bytes: int = MIB, since: int = 0
) -> list[tuple[int, int]]:
    found = take_inventory(
        repository, "main", SYSTEM, segment_bytes=segment_bytes, since=Lsn(since)
    )
    return [(run.begin, run.end) for run in found.timelines[1].runs]


def test_a_segment_comes_back_as_it_was_written(repository: Repository) -> None:
    writer = SegmentWriter(repository, LINEAGE, WalSegment(1, 5).name(MIB))
    plain = wal_bytes(5)
    for place in range(0, MIB, 70_001):
        writer.write(plain[place : place + 70_001])
    writer.finish()

    assert read(repository, 5) == plain


def test_the_same_bytes_again_are_a_success_and_other_bytes_are_refused(
    repository: Repository,
) -> None:
    """PITFALLS 1 and 3: the old object stays as it was."""
    put_segments(repository, [5])
    before = repository.store.read(key_of(5))

    put_segments(repository, [5])
    writer = SegmentWriter(repository, LINEAGE, WalSegment(1, 5).name(MIB))
    writer.write(wal_bytes(6))
    with pytest.raises(IntegrityError, match="other WAL"):
        writer.finish()

    assert repository.store.read(key_of(5)) == before


def test_the_whole_segment_is_preferred_to_its_parts(repository: Repository) -> None:
    """PITFALLS 49."""
    name = WalSegment(1, 5).name(MIB)
    put_part(repository, LINEAGE, SegmentPart(name, 0, 1000), plain=b"j" * 1000)
    put_segments(repository, [5])

    assert read(repository, 5) == wal_bytes(5)


def test_a_segment_without_a_byte_or_of_another_length_is_never_delivered(
    repository: Repository,
) -> None:
    """PITFALLS 6."""
    put_tail(repository, 5, [(0, 1000)])
    repository.store.create(key_of(5), [b""])
    put_segments(repository, [6], segment_bytes=2 * MIB)
    repository.put(ObjectType.LOG, key_of(7), b"short")

    for number in (5, 7):
        with pytest.raises(IntegrityError):
            read(repository, number)
    assert runs(repository)[0] == (5 * MIB, 5 * MIB + 1000)
    with pytest.raises(ObjectMissing):
        read(repository, 8)


cut_lists = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(1, 900)).map(lambda pair: (pair[0], sum(pair))),
    max_size=12,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(cut_lists)
def test_parts_deliver_exactly_what_they_hold_from_the_first_byte_to_the_first_hole(
    cuts: list[tuple[int, int]],
) -> None:
    repository = new_repository()
    put_tail(repository, 5, cuts)
    held = {place for begin, end in cuts for place in range(begin, end)}
    whole = next(place for place in range(4000) if place not in held)

    if whole == 0:
        with pytest.raises(ObjectMissing):
            read(repository, 5)
        return
    assert read(repository, 5) == wal_bytes(5)[:whole] + bytes(MIB - whole)
    assert runs(repository)[0] == (5 * MIB, 5 * MIB + whole)


@settings(max_examples=60, deadline=None)
@given(cut_lists, st.sets(st.integers(2, 9)))
def test_the_inventory_is_the_union_of_all_that_is_there(
    cuts: list[tuple[int, int]], whole: set[int]
) -> None:
    repository = new_repository()
    put_segments(repository, sorted(whole))
    put_tail(repository, 5, cuts)

    held = sorted(
        [(n * MIB, (n + 1) * MIB) for n in whole] + [(5 * MIB + a, 5 * MIB + b) for a, b in cuts]
    )
    union: list[tuple[int, int]] = []
    for begin, end in held:
        if union and begin <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((begin, end))
    if held:
        assert runs(repository) == union


@pytest.mark.parametrize("segment_bytes", [MIB, 16 * MIB, 64 * MIB])
def test_segments_on_both_sides_of_the_ff_boundary_are_one_run(
    repository: Repository, segment_bytes: int
) -> None:
    """PITFALLS 15 and 16."""
    per_log = (1 << 32) // segment_bytes
    numbers = range(per_log - 2, per_log + 2)
    for number in numbers:
        name = WalSegment(1, number).name(segment_bytes)
        repository.put(ObjectType.LOG, LINEAGE.segment_key(name), b"not read by a listing")
    assert WalSegment(1, per_log).name(segment_bytes) == "000000010000000100000000"

    first, last = numbers[0] * segment_bytes, (numbers[-1] + 1) * segment_bytes
    assert runs(repository, segment_bytes=segment_bytes) == [(first, last)]
    repository.store.delete(key_of(per_log, segment_bytes))

    assert runs(repository, segment_bytes=segment_bytes) == [
        (first, per_log * segment_bytes),
        ((per_log + 1) * segment_bytes, last),
    ]


def test_an_inventory_of_thousands_of_segments_is_whole(repository: Repository) -> None:
    """PITFALLS 69: listings come in pages."""
    sealed = b"x" * 97
    for number in range(1, 2599):
        repository.store.create(key_of(number), [sealed])
    for number in (0, 2599):
        repository.put(ObjectType.LOG, key_of(number), bytes(MIB))

    assert runs(repository) == [(0, 2600 * MIB)]
    assert runs(repository, since=2000 * MIB)[0][0] >= 1984 * MIB


def test_the_inventory_knows_histories_and_gaps_and_other_clusters_do_not_matter(
    repository: Repository,
) -> None:
    put_segments(repository, [3])
    put_segments(repository, [4], timeline=7)
    put_history(repository, "main", SYSTEM, timeline=7, content=b"1\t0/400000\tx\n")
    put_history(repository, "main", SYSTEM, timeline=12, content=b"1\t0/400000\tx\n7\t0/500000\n")
    put_history(repository, "main", SYSTEM + 1, timeline=5, content=b"1\t0/400000\tx\n")
    gap = RecordedGap(Lsn(4 * MIB), Lsn(5 * MIB))
    repository.put(ObjectType.LOG, LINEAGE.gap_key(gap.begin, gap.end), b"{}")

    found = take_inventory(repository, "main", SYSTEM, segment_bytes=MIB)

    assert sorted(found.timelines) == [1, 7]
    assert found.histories == {7, 12}
    assert found.timelines[1].gaps == (gap,)
    assert found.timelines[1].run_holding(Lsn(3 * MIB + 5)) == LogRun(1, Lsn(3 * MIB), Lsn(4 * MIB))
    assert found.timelines[1].run_holding(Lsn(5 * MIB)) is None


def test_strange_names_in_the_log_are_no_wal(repository: Repository) -> None:
    """PITFALLS 12 and 48."""
    put_segments(repository, [3])
    for name in (
        "000000010000000000000004.00000028.backup",
        "000000010000000000000005.partial",
        "x",
    ):
        repository.store.create(LINEAGE.prefix + name, [b"x" * 500])

    assert runs(repository) == [(3 * MIB, 4 * MIB)]


def test_segments_of_another_size_are_a_named_error(repository: Repository) -> None:
    put_segments(repository, [0x7FF])

    with pytest.raises(IntegrityError, match="segments of 67108864 bytes"):
        runs(repository, segment_bytes=64 * MIB)


def test_a_history_is_read_in_any_encoding_and_a_damaged_one_is_an_error(
    repository: Repository,
) -> None:
    put_history(repository, "main", SYSTEM, timeline=2, content=b"1\t0/400000\tat \xff\xfe point\n")
    put_history(repository, "main", SYSTEM, timeline=3, content=b"nonsense\n")

    assert read_history(repository, "main", SYSTEM, timeline=2).end_of(1) == Lsn(0x400000)
    assert read_history(repository, "main", SYSTEM, timeline=1).path() == (1,)
    with pytest.raises(IntegrityError):
        read_history(repository, "main", SYSTEM, timeline=3)
    with pytest.raises(ObjectMissing):
        read_history(repository, "main", SYSTEM, timeline=4)


def test_a_segment_replayed_under_another_name_is_not_delivered(repository: Repository) -> None:
    put_segments(repository, [3, 4])
    tamper(repository.store, key_of(4), repository.store.read(key_of(3)))

    with pytest.raises(IntegrityError, match=key_of(4)):
        read(repository, 4)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_names_of_gaps_and_parts_say_what_they_hold(begin: int, end: int) -> None:
    gap = LINEAGE.gap_key(Lsn(begin), Lsn(end)).removeprefix(LINEAGE.prefix)
    part = SegmentPart("000000010000000000000003", begin % 2**32, end % 2**32)
    key = LINEAGE.part_key(part.segment, part.begin, part.end).removeprefix(LINEAGE.prefix)

    assert layout.parse_log_name(gap) == RecordedGap(Lsn(begin), Lsn(end))
    assert layout.parse_log_name(key) == part
