"""A segment that grows for days in small parts stays cheap to read, and is checked when begun again."""

from __future__ import annotations

import random

import pytest

from drtool.archiving.growing import FAN, GrowingSegment
from drtool.errors import IntegrityError, RepositoryUnavailable
from drtool.model.wal import WalSegment
from drtool.repository.layout import Lineage
from drtool.repository.log import list_parts, read_segment
from drtool.repository.repository import Repository
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import LARGEST_OBJECT_BYTES
from tests.archiving.faults import FaultyStore
from tests.archiving.rig import SOURCE, new_repository

MB = 1 << 20
LINEAGE = Lineage(SOURCE, 7, 1)
SEGMENT = WalSegment(1, 5)


class Counting(FaultyStore):
    """Counts what is read."""

    reads = 0

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        self.reads += 1
        return super().read(key, most_bytes=most_bytes)


def grown(repository: Repository, *, known: int = 0) -> GrowingSegment:
    growing = GrowingSegment(repository, LINEAGE, SEGMENT, segment_bytes=MB)
    growing.begin_known(known)
    return growing


@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_parts_are_read_as_few(seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    store = Counting(MemoryStore())
    repository = new_repository(store)
    content = chance.randbytes(MB)
    growing, at = grown(repository), 0
    while at < MB // 2:
        step = chance.randint(1, 400)
        growing.add(memoryview(content)[at : at + step])
        at += step
        growing.put_tail()
        if chance.random() < 0.002:
            # The receiver died here: the next one is sent the segment from its start.
            growing = grown(repository, known=at)
            growing.add(memoryview(content)[:at])

    store.reads = 0
    held = read_segment(repository, LINEAGE, SEGMENT, segment_bytes=MB)

    assert held == content[:at] + bytes(MB - at)
    assert len(list_parts(repository, LINEAGE, SEGMENT.name(MB))) > 1000
    assert store.reads < 4 * FAN


def test_a_tail_that_the_server_never_wrote_is_not_gone_on_from() -> None:
    """PITFALLS 3: a server that lost its tail and wrote other bytes is found out."""
    repository = new_repository()
    first = grown(repository)
    first.add(memoryview(b"a" * 1000))
    first.put_tail()

    again = grown(repository, known=1000)
    again.add(memoryview(b"a" * 999 + b"b" + b"c" * 50))

    with pytest.raises(IntegrityError, match="not what the server now sends"):
        again.put_tail()


def test_a_tail_that_could_not_be_compared_for_an_outage_is_compared_after_it() -> None:
    """An outage is no permission to go on from what may be another server's."""
    store = FaultyStore(MemoryStore())
    repository = new_repository(store)
    first = grown(repository)
    first.add(memoryview(b"a" * 1000))
    first.put_tail()
    again = grown(repository, known=1000)
    again.add(memoryview(b"b" * 1050))

    store.is_away = True
    with pytest.raises(RepositoryUnavailable):
        again.put_tail()
    store.is_away = False

    with pytest.raises(IntegrityError, match="not what the server now sends"):
        again.put_tail()


def test_a_whole_segment_over_its_parts_is_well() -> None:
    repository = new_repository()
    growing = grown(repository)
    growing.add(memoryview(b"a" * 1000))
    growing.put_tail()
    growing.add(memoryview(b"b" * (MB - 1000)))
    growing.put_whole()
    growing.put_whole()

    assert read_segment(repository, LINEAGE, SEGMENT, segment_bytes=MB) == b"a" * 1000 + b"b" * (
        MB - 1000
    )


@pytest.mark.parametrize("loss", ["gone", "overwritten", "its middle is gone"])
def test_a_tail_that_is_no_longer_readable_is_put_again_before_more_is_acknowledged(
    loss: str,
) -> None:
    """It counted as compared, and what came was put behind it: behind a hole that no restore passes."""
    repository = new_repository()
    first, content = grown(repository), bytes(range(1, 201)) * 6
    for begin, end in ((0, 500), (500, 700), (700, 1000)):
        first.add(memoryview(content)[begin:end])
        first.put_tail()
    for begin, end in ((0, 500), (500, 700), (700, 1000)):
        if begin == 500 or loss != "its middle is gone":
            key = LINEAGE.part_key(SEGMENT.name(MB), begin, end)
            repository.store.delete(key)
            if loss == "overwritten":
                repository.store.create(key, [b"nothing"])

    again = grown(repository, known=1000)
    again.add(memoryview(content)[:1100])
    again.put_tail()

    held = read_segment(repository, LINEAGE, SEGMENT, segment_bytes=MB)
    assert held == content[:1100].ljust(MB, b"\0")
