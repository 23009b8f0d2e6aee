"""Packs: what goes in comes out, and nothing else does."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.errors import IntegrityError, ObjectMissing
from drtool.repository import chunks, layout
from drtool.repository.chunks import (
    CHUNK_BYTES,
    LARGEST_CHUNK_BYTES,
    MOST_CHUNKS,
    PACK_BUFFER_BYTES,
    PACK_BYTES,
    ChunkReader,
    PackBuilder,
)
from drtool.repository.places import ChunkPlace
from drtool.repository.repository import Repository
from drtool.repository.sealing import Compressor
from drtool.stores.memory import MemoryStore
from tests.repository.building import new_repository, tamper

REPOSITORY = new_repository()
BUFFER = bytearray(PACK_BUFFER_BYTES)


def put_pack(repository: Repository, plain: list[bytes], pack_id: bytes | None = None) -> bytes:
    builder = PackBuilder(repository.ring, Compressor(1), BUFFER)
    pack_id = pack_id or os.urandom(16)
    builder.begin(pack_id)
    for one in plain:
        builder.add(one, builder.chunk_id(one))
    repository.store.create(layout.pack_key(pack_id), builder.finish())
    return pack_id


def read_pack(repository: Repository, pack_id: bytes, numbers: list[int]) -> list[bytes]:
    reader = ChunkReader(repository.store, repository.ring)
    return [bytes(plain) for _, plain in reader.read(pack_id, numbers)]


@settings(max_examples=30, deadline=None)
@given(
    plain=st.lists(st.binary(max_size=2000) | st.just(bytes(70_000)), min_size=1, max_size=12),
    chosen=st.sets(st.integers(0, 11)),
)
def test_chunks_come_back_whatever_is_asked_for(plain: list[bytes], chosen: set[int]) -> None:
    pack_id = put_pack(REPOSITORY, plain)
    numbers = [n for n in range(len(plain)) if n in chosen]

    assert read_pack(REPOSITORY, pack_id, numbers) == [plain[n] for n in numbers]


def test_a_pack_may_be_empty() -> None:
    pack_id = put_pack(REPOSITORY, [])

    reader = ChunkReader(REPOSITORY.store, REPOSITORY.ring)

    assert len(reader.footer(pack_id)) == 0
    assert reader.footer(pack_id).pack_bytes == len(REPOSITORY.store.read(layout.pack_key(pack_id)))


def test_a_full_pack_takes_one_more_chunk_of_any_size() -> None:
    builder = PackBuilder(REPOSITORY.ring, Compressor(1), BUFFER)
    builder.begin(os.urandom(16))
    chunk = os.urandom(CHUNK_BYTES)
    count = 0
    while not builder.is_full:
        builder.add(chunk, bytes(32))
        count += 1
    last = os.urandom(LARGEST_CHUNK_BYTES)

    builder.begin(builder.pack_id)
    for number in range(count - 1):
        assert builder.add(chunk, builder.chunk_id(chunk)) == number
    was_full = builder.is_full
    builder.add(last, builder.chunk_id(last))
    REPOSITORY.store.create(layout.pack_key(builder.pack_id), builder.finish())

    assert (was_full, builder.is_full) == (False, True)
    assert read_pack(REPOSITORY, builder.pack_id, [0, count - 1]) == [chunk, last]
    REPOSITORY.store.delete(layout.pack_key(builder.pack_id))


def test_a_footer_larger_than_the_first_look_is_read_with_a_second_one() -> None:
    plain = [struct.pack(">I", n) for n in range(4000)]
    pack_id = put_pack(REPOSITORY, plain)

    assert chunks._TAIL_GUESS < 4000 * 41
    assert read_pack(REPOSITORY, pack_id, [0, 1999, 3999]) == [plain[0], plain[1999], plain[3999]]


def test_a_pack_is_full_when_it_holds_the_most_chunks() -> None:
    builder = PackBuilder(REPOSITORY.ring, Compressor(1), BUFFER)
    builder.begin(os.urandom(16))
    for number in range(MOST_CHUNKS):
        builder.add(b"", bytes(32))
        assert builder.is_full == (number == MOST_CHUNKS - 1)

    assert sum(len(part) for part in builder.finish()) < PACK_BYTES


class CountingStore(MemoryStore):
    """Counts ranged reads, and the bytes they asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        self.reads.append(length)
        return super().read_range(key, start, length)


def test_neighbours_come_with_one_read_of_at_most_8_mib() -> None:
    store = CountingStore()
    repository = new_repository(store)
    plain = [os.urandom(CHUNK_BYTES) for _ in range(80)]
    pack_id = put_pack(repository, plain)

    read_pack(repository, pack_id, list(range(80)))
    all_reads = store.reads
    store.reads = []
    read_pack(repository, pack_id, [0, 1, 3, 60])

    assert len(all_reads) == 3
    assert max(all_reads) <= 8 << 20
    assert len(store.reads) == 3


def test_every_flipped_bit_of_the_content_is_detected_by_reading_all() -> None:
    plain = [b"first chunk", b"second chunk" * 9]
    pack_id = put_pack(REPOSITORY, plain)
    key = layout.pack_key(pack_id)
    content = REPOSITORY.store.read(key)

    # The first eight bytes say that it is a pack; nothing is read by them.
    for place in range(8 * 8, len(content) * 8):
        broken = bytearray(content)
        broken[place // 8] ^= 1 << place % 8
        tamper(REPOSITORY.store, key, bytes(broken))
        with pytest.raises(IntegrityError):
            read_pack(REPOSITORY, pack_id, [0, 1])


def test_truncation_at_every_length_is_detected() -> None:
    pack_id = put_pack(REPOSITORY, [b"first chunk", b"second"])
    key = layout.pack_key(pack_id)
    content = REPOSITORY.store.read(key)

    for length in range(len(content)):
        tamper(REPOSITORY.store, key, content[:length])
        with pytest.raises(IntegrityError):
            read_pack(REPOSITORY, pack_id, [0, 1])


def test_swapped_chunks_and_swapped_packs_are_detected() -> None:
    one, other = os.urandom(100), os.urandom(100)
    pack_id, other_id = put_pack(REPOSITORY, [one, other]), put_pack(REPOSITORY, [other, one])
    key, other_key = layout.pack_key(pack_id), layout.pack_key(other_id)
    content, other_content = REPOSITORY.store.read(key), REPOSITORY.store.read(other_key)
    tamper(REPOSITORY.store, key, content[:8] + content[124:240] + content[8:124] + content[240:])
    tamper(REPOSITORY.store, other_key, content)

    with pytest.raises(IntegrityError, match="fails authentication"):
        read_pack(REPOSITORY, pack_id, [0])
    with pytest.raises(IntegrityError, match=other_id.hex()):
        read_pack(REPOSITORY, other_id, [0])
    tamper(REPOSITORY.store, key, other_content)
    with pytest.raises(IntegrityError, match=pack_id.hex()):
        read_pack(REPOSITORY, pack_id, [0])


def test_a_missing_pack_is_missing_and_a_missing_chunk_is_damage() -> None:
    pack_id = put_pack(REPOSITORY, [b"only one"])
    reader = ChunkReader(REPOSITORY.store, REPOSITORY.ring)

    with pytest.raises(IntegrityError, match="no chunk 1"):
        reader.read_one(ChunkPlace(pack_id, 1))
    with pytest.raises(ObjectMissing):
        reader.read_one(ChunkPlace(bytes(16), 0))


def test_a_chunk_whose_id_is_wrong_is_not_handed_out() -> None:
    builder = PackBuilder(REPOSITORY.ring, Compressor(1), BUFFER)
    builder.begin(os.urandom(16))
    builder.add(b"content", builder.chunk_id(b"other content"))
    REPOSITORY.store.create(layout.pack_key(builder.pack_id), builder.finish())

    with pytest.raises(IntegrityError, match="than its id says"):
        read_pack(REPOSITORY, builder.pack_id, [0])


def test_ids_are_keyed_so_that_equal_content_is_not_seen_from_outside() -> None:
    other = new_repository()
    one = PackBuilder(REPOSITORY.ring, Compressor(1), BUFFER).chunk_id(b"page")

    assert one == PackBuilder(REPOSITORY.ring, Compressor(1), BUFFER).chunk_id(b"page")
    assert one != PackBuilder(other.ring, Compressor(1), BUFFER).chunk_id(b"page")


def test_footers_in_memory_are_bounded_by_their_chunks() -> None:
    repository = new_repository()
    packs = [put_pack(repository, [bytes([n])] * 100) for n in range(6)]
    reader = ChunkReader(repository.store, repository.ring, most_rows=250)

    for pack_id in packs:
        reader.read_one(ChunkPlace(pack_id, 5))

    assert list(reader._footers) == packs[-2:]
    assert reader._rows == 200
