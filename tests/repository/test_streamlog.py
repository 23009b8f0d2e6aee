"""The archived stream of a Redis: what is held, over failovers, and what is never handed out."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.errors import IntegrityError, NotRecoverable
from drtool.repository.layout import ReplicationHistory, StreamSegment, parse_stream_name
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamRun, take_stream_inventory
from drtool.repository.streambranch import find_path
from drtool.repository.streamlog import (
    StreamBegin,
    StreamIndex,
    StreamLink,
    StreamMoment,
    put_begin,
    put_link,
    put_stream,
    read_stream_segment,
)
from drtool.repository.streampath import newest, offset_at, read_path
from tests.repository.building import NOW, new_repository, tamper

A, B, C = "a" * 40, "b" * 40, "c" * 40
SECOND = timedelta(seconds=1)
# What each history holds at each offset; those that share a past share its bytes.
STREAM = random.Random(81).randbytes(20_000)


@pytest.fixture
def repository() -> Repository:
    return new_repository()


def put(
    repository: Repository,
    name: str,
    begin: int,
    *,
    end: int,
    content: bytes = STREAM,
    rate: int = 10,
) -> None:
    """The bytes of a history, `rate` of which arrive each second from NOW on."""
    steps = sorted({*range(begin + 7, end, 7), end})
    moments = tuple(StreamMoment(NOW + SECOND * (step / rate), step) for step in steps)
    history = ReplicationHistory("cache", name)
    put_stream(repository, history, StreamIndex(begin, end, moments), content=[content[begin:end]])


def link(repository: Repository, name: str, previous: str, *, offset: int) -> None:
    put_link(
        repository,
        "cache",
        StreamLink(replication_id=name, previous=previous, offset=offset, at=NOW),
    )


def held(repository: Repository, name: str, begin: int, *, end: int) -> bytes:
    path = find_path(take_stream_inventory(repository, "cache"), name, begin=begin)
    return b"".join(read_path(repository, "cache", path, end=end))


def runs(repository: Repository, name: str = A) -> list[tuple[int, int]]:
    log = take_stream_inventory(repository, "cache").logs[name]
    return [(run.begin, run.end) for run in log.runs]


def test_a_stream_comes_back_as_it_was_put(repository: Repository) -> None:
    put(repository, A, 100, end=350)
    put(repository, A, 350, end=351)

    assert held(repository, A, 100, end=351) == STREAM[100:351]
    assert held(repository, A, 217, end=218) == STREAM[217:218]
    assert held(repository, A, 217, end=217) == b""


def test_the_same_bytes_again_are_a_success_and_other_bytes_are_refused(
    repository: Repository,
) -> None:
    """PITFALLS 1 and 3: also if they came at another time."""
    put(repository, A, 100, end=350)
    put(repository, A, 100, end=350, rate=3)

    with pytest.raises(IntegrityError, match="another stream"):
        put(repository, A, 100, end=350, content=bytes(350))

    assert held(repository, A, 100, end=350) == STREAM[100:350]


def test_a_segment_under_another_name_is_not_delivered(repository: Repository) -> None:
    put(repository, A, 100, end=200)
    put(repository, A, 200, end=300)
    history = ReplicationHistory("cache", A)
    store = repository.store
    tamper(store, history.segment_key(200, 300), store.read(history.segment_key(100, 200)))

    with pytest.raises(NotRecoverable, match="up to 200 only"):
        held(repository, A, 150, end=250)


def test_an_object_without_a_byte_is_not_there(repository: Repository) -> None:
    """PITFALLS 6."""
    put(repository, A, 100, end=200)
    repository.store.create(ReplicationHistory("cache", A).segment_key(200, 300), [b""])

    assert runs(repository) == [(100, 200)]
    with pytest.raises(NotRecoverable, match="up to 200 only"):
        held(repository, A, 100, end=201)


cut_lists = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(1, 900)).map(lambda pair: (pair[0], sum(pair))),
    min_size=1,
    max_size=12,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(cut_lists, st.integers(0, 4000), st.integers(0, 1500))
def test_what_is_read_is_what_is_held_without_a_gap(
    cuts: list[tuple[int, int]], begin: int, length: int
) -> None:
    repository = new_repository()
    for low, high in cuts:
        put(repository, A, low, end=high)
    there = {place for low, high in cuts for place in range(low, high)}
    end = begin + length

    assert {place for low, high in runs(repository) for place in range(low, high)} == there
    if all(place in there for place in range(begin, end)):
        assert held(repository, A, begin, end=end) == STREAM[begin:end]
    else:
        with pytest.raises(NotRecoverable):
            held(repository, A, begin, end=end)


@settings(max_examples=60, deadline=None)
@given(cut_lists, st.integers(0, 4000), st.integers(-5, 500))
def test_the_offset_of_a_moment_is_the_last_that_had_arrived_on_the_way(
    cuts: list[tuple[int, int]], begin: int, seconds: int
) -> None:
    repository = new_repository()
    for low, high in cuts:
        put(repository, A, low, end=high)
    inventory = take_stream_inventory(repository, "cache")
    path = find_path(inventory, A, begin=begin)
    end = path.end
    moment = NOW + SECOND * seconds

    found = offset_at(repository, "cache", path, moment=moment)

    if found is None:
        assert begin == end or begin / 10 + 0.7 > seconds
    else:
        assert begin < found <= end
        assert found / 10 <= seconds
        assert found == end or found + 7 > seconds * 10 - 7
    last = newest(repository, "cache", path)
    assert (last is None) == (end == begin)
    assert last is None or last == StreamMoment(NOW + SECOND * (end / 10), end)


def test_a_stream_goes_on_under_the_id_that_continues_it(repository: Repository) -> None:
    put(repository, A, 100, end=300)
    link(repository, B, A, offset=300)
    put(repository, B, 300, end=500)
    link(repository, C, B, offset=500)
    put(repository, C, 500, end=700)

    assert held(repository, A, 150, end=650) == STREAM[150:650]
    assert held(repository, C, 150, end=650) == STREAM[150:650]
    inventory = take_stream_inventory(repository, "cache")
    path = find_path(inventory, B, begin=200)
    assert [one.replication_id for one in path.stretches] == [A, B, C]
    path = find_path(inventory, A, begin=150)
    assert offset_at(repository, "cache", path, moment=NOW + SECOND * 60.05) == 598
    assert offset_at(repository, "cache", path, moment=NOW + SECOND * 25.05) == 247


def test_bytes_that_an_id_wrote_after_the_failover_are_not_taken_for_the_others(
    repository: Repository,
) -> None:
    """A master that was cut off goes on writing; what it wrote is not the history of the new one."""
    put(repository, A, 100, end=300)
    put(repository, A, 300, end=400, content=bytes(400))
    link(repository, B, A, offset=300)
    put(repository, B, 300, end=500)

    assert held(repository, B, 100, end=500) == STREAM[100:500]
    assert held(repository, A, 100, end=500) == STREAM[100:500]


def test_of_two_ids_that_go_on_the_one_that_is_held_counts(repository: Repository) -> None:
    put(repository, A, 100, end=300)
    link(repository, B, A, offset=300)
    link(repository, C, A, offset=300)
    put(repository, C, 300, end=320)

    assert held(repository, A, 100, end=320) == STREAM[100:320]


def test_a_full_resync_is_a_gap_that_is_recorded(repository: Repository) -> None:
    put(repository, A, 100, end=300)
    begin = StreamBegin(
        replication_id=B, offset=900, reason="the backlog was overrun", at=NOW, shard="main",
        previous=(A, 300),
    )  # fmt: skip
    put_begin(repository, "cache", begin)
    put_begin(repository, "cache", begin)
    put(repository, B, 900, end=1000)

    inventory = take_stream_inventory(repository, "cache")

    assert inventory.logs[B].begins == (begin,)
    assert find_path(inventory, A, begin=100).end == 300
    assert find_path(inventory, B, begin=300).end == 300
    assert inventory.logs[B].runs == (StreamRun(900, 1000),)


def test_links_that_go_round_end(repository: Repository) -> None:
    put(repository, A, 100, end=300)
    link(repository, B, A, offset=300)
    link(repository, A, B, offset=400)

    assert find_path(take_stream_inventory(repository, "cache"), B, begin=100).end == 300
    assert find_path(take_stream_inventory(repository, "cache"), A, begin=350).end == 350


def test_a_link_that_names_another_past_is_refused(repository: Repository) -> None:
    link(repository, B, A, offset=300)
    link(repository, B, A, offset=300)

    with pytest.raises(IntegrityError, match="another previous"):
        link(repository, B, C, offset=300)


def test_wal_beside_a_stream_does_not_matter(repository: Repository) -> None:
    put(repository, A, 100, end=300)
    repository.store.create("log/cache/7300000000000000001/00000001/x", [b"x" * 200])
    repository.store.create(f"log/cache/{A}/strange", [b"x" * 200])

    assert list(take_stream_inventory(repository, "cache").logs) == [A]
    assert runs(repository) == [(100, 300)]


@given(st.integers(0, 2**62), st.integers(1, 2**62))
def test_names_of_segments_say_what_they_hold(begin: int, length: int) -> None:
    history = ReplicationHistory("cache", A)
    name = history.segment_key(begin, begin + length).removeprefix(history.prefix)

    assert parse_stream_name(name) == StreamSegment(begin, begin + length)


def test_an_index_that_does_not_end_where_its_segment_does_is_refused(
    repository: Repository,
) -> None:
    with pytest.raises(ValueError, match="ends where"):
        StreamIndex(5, 10, (StreamMoment(NOW, 9),))
    with pytest.raises(ValueError, match="in order"):
        StreamIndex(5, 10, (StreamMoment(NOW, 9), StreamMoment(NOW, 8), StreamMoment(NOW, 10)))


def test_the_moments_of_a_segment_are_kept_to_the_microsecond(repository: Repository) -> None:
    moment = NOW + timedelta(microseconds=123_457)
    index = StreamIndex(5, 10, (StreamMoment(moment, 10),))
    history = ReplicationHistory("cache", A)
    put_stream(repository, history, index, content=[b"ab", b"cde"])

    read, content = read_stream_segment(repository, history, StreamSegment(5, 10))

    assert (read, bytes(content)) == (index, b"abcde")
