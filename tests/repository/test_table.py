"""The file table: what is written is read, in order, by path, and unchanged stretches are stored once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.errors import IntegrityError
from drtool.pipeline.pages import EXTENT, HOLE
from drtool.repository.chunks import ChunkReader
from drtool.repository.places import ChunkPlace
from drtool.repository.table import (
    RECORD_COVERS_BYTES,
    Attributes,
    DigestPlace,
    DigestReader,
    EntryKind,
    PackList,
    Table,
    TableRecord,
    TableWriter,
    encode_digests,
)
from tests.repository.building import ChunkShelf, new_repository

PACKS = [bytes([n]) * 16 for n in range(5)]
U32 = st.integers(0, 2**32 - 1)

extents = st.lists(
    st.tuples(st.integers(0, 300_000), st.sampled_from([0, 1, 2, 3, 4, HOLE]), U32, U32), max_size=8
).map(lambda rows: np.array(rows, dtype=EXTENT))
attributes = st.builds(
    Attributes,
    path=st.binary(min_size=1, max_size=40),
    kind=st.sampled_from(EntryKind),
    mode=U32,
    uid=U32,
    gid=U32,
    modified_ns=st.integers(-(2**63), 2**63 - 1),
    size_bytes=st.integers(0, 2**64 - 1),
    link=st.binary(max_size=40),
    extra=st.binary(max_size=40),
)
records = st.builds(
    TableRecord,
    attributes=attributes,
    begin=st.integers(0, 2**64 - 1),
    extents=extents,
    digests=st.none() | st.builds(DigestPlace, st.integers(0, 4), U32, U32),
)


def stored(rows: list[TableRecord]) -> tuple[Table, list[ChunkPlace]]:
    """The records, whose packs count in PACKS, written and opened again."""
    repository = new_repository()
    shelf = ChunkShelf(repository)
    packs = PackList()
    for pack_id in PACKS:
        packs.index_of(pack_id)
    writer = TableWriter(packs)
    for record in rows:
        writer.add(record)
    places, _ = writer.finish(shelf.store)
    shelf.close()
    reader = ChunkReader(repository.store, repository.ring)
    return Table(reader, places, PackList(), name="test"), places


def told(record: TableRecord, ids: list[bytes]) -> object:
    """A record as plain values, with packs by id."""
    rows = [
        (
            int(row["length"]),
            ids[row["pack"]] if row["pack"] != HOLE else b"",
            int(row["chunk"]),
            int(row["offset"]),
        )
        for row in record.extents
    ]
    digests = record.digests
    place = None if digests is None else (ids[digests.pack], digests.chunk, digests.offset)
    extra = b"" if record.begin else record.attributes.extra
    return replace(record.attributes, extra=extra), record.begin, rows, place


def by_place(record: TableRecord) -> tuple[bytes, int]:
    return record.attributes.path, record.begin


@settings(max_examples=40, deadline=None)
@given(st.lists(records, max_size=30, unique_by=lambda record: record.attributes.path))
def test_records_come_back_in_order_and_are_found_by_path(rows: list[TableRecord]) -> None:
    table, _ = stored(rows)

    read = [told(record, table.packs.ids) for record in table]
    assert read == [told(record, PACKS) for record in sorted(rows, key=by_place)]

    table.index()
    for record in rows:
        found = table.find(*by_place(record))
        assert found is not None
        assert told(found, table.packs.ids) == told(record, PACKS)
    assert table.find(b"not there", 0) is None


def test_what_was_withdrawn_is_gone_and_other_names_say_all_that_the_first_does() -> None:
    packs = PackList()
    shelf = ChunkShelf(repository := new_repository())
    writer = TableWriter(packs)
    packs.index_of(PACKS[0])

    def add(path: bytes, begin: int, size: int) -> None:
        entry = Attributes(
            path=path, kind=EntryKind.FILE, mode=0o600, uid=1, gid=1, modified_ns=5,
            size_bytes=size, extra=b"extra",
        )  # fmt: skip
        extents = np.array([(min(size, 100), 0, 0, 0)], EXTENT)
        writer.add(TableRecord(attributes=entry, begin=begin, extents=extents))

    writer.add_name(b"another", b"kept")
    writer.add_name(b"nobody", b"never added")
    add(b"gone", 0, 50)
    add(b"kept", RECORD_COVERS_BYTES, 50)
    writer.withdraw(b"kept")
    writer.withdraw(b"gone")
    add(b"kept", RECORD_COVERS_BYTES, 60)
    add(b"kept", 0, 70)
    places, _ = writer.finish(shelf.store)
    shelf.close()

    read = list(Table(ChunkReader(repository.store, repository.ring), places, PackList(), name="t"))
    assert [(record.attributes.path, record.begin) for record in read] == [
        (b"another", 0), (b"another", RECORD_COVERS_BYTES), (b"kept", 0), (b"kept", RECORD_COVERS_BYTES)
    ]  # fmt: skip
    assert [record.attributes.size_bytes for record in read] == [70, 70, 70, 70]
    assert [record.attributes.extra for record in read] == [b"extra", b"", b"extra", b""]


def a_file(number: int, chunk: int = 0) -> TableRecord:
    path = f"base/{number // 100}/{number:06}".encode()
    rows = np.array([(200_000, n % 3, number * 8 + n + chunk, 0) for n in range(8)], dtype=EXTENT)
    return TableRecord(
        attributes=Attributes(
            path=path, kind=EntryKind.FILE, mode=0o600, uid=1, gid=1, modified_ns=number,
            size_bytes=1_600_000,
        ),
        extents=rows,
    )  # fmt: skip


def chunks_of(rows: list[TableRecord], order: list[int]) -> list[bytes]:
    """The table's plain chunks, when the packs were met in `order`."""
    packs = PackList()
    for n in order:
        packs.index_of(PACKS[n])
    writer = TableWriter(packs)
    for record in rows:
        moved = record.extents.copy()
        moved["pack"] = [packs.index_of(PACKS[int(n)]) for n in record.extents["pack"]]
        writer.add(TableRecord(attributes=record.attributes, extents=moved))
    plain: list[bytes] = []

    def store(chunk: bytes) -> ChunkPlace:
        plain.append(chunk)
        return ChunkPlace(bytes(16), len(plain))

    writer.finish(store)
    return plain


def test_a_change_of_one_file_changes_few_chunks_of_the_table() -> None:
    before = chunks_of([a_file(n) for n in range(4000)], [0, 1, 2])
    changed = [a_file(n, chunk=1_000_000 if n == 2000 else 0) for n in range(4000)]
    grown = [a_file(n) for n in range(4000) if n != 1000]

    assert len(before) > 8
    assert len(set(chunks_of(changed, [0, 1, 2])) - set(before)) <= 2
    assert len(set(chunks_of(grown, [0, 1, 2])) - set(before)) <= 3


def test_chunks_of_the_table_do_not_depend_on_the_order_in_which_packs_were_met() -> None:
    """Another backup counts its packs otherwise: what did not change must come out the same."""
    rows = [a_file(n) for n in range(1000)]

    assert chunks_of(rows, [0, 1, 2]) == chunks_of(rows, [2, 4, 1, 0])


def test_a_table_larger_than_memory_allows_is_written_through_a_file() -> None:
    packs = PackList()
    packs.index_of(PACKS[0])
    rows = np.array([(8192, 0, n, 0) for n in range(32_768)], dtype=EXTENT)
    writer = TableWriter(packs)
    for number in reversed(range(80)):
        entry = a_file(number).attributes
        writer.add(TableRecord(attributes=entry, extents=rows))
    sizes: list[int] = []

    def store(chunk: bytes) -> ChunkPlace:
        sizes.append(len(chunk))
        return ChunkPlace(bytes(16), len(sizes))

    places, referred = writer.finish(store)

    assert (len(places), referred) == (80, {0})
    assert max(sizes) < 2 << 20


def test_a_record_that_covers_too_much_is_refused() -> None:
    rows = np.array([(RECORD_COVERS_BYTES, 0, 0, 0), (1, 0, 0, 0)], dtype=EXTENT)

    with pytest.raises(ValueError, match="covers"):
        TableWriter(PackList()).add(TableRecord(attributes=a_file(1).attributes, extents=rows))


@pytest.mark.parametrize("cut", [1, 5, 40, 100])
def test_a_table_chunk_that_does_not_add_up_is_damage(cut: int) -> None:
    repository = new_repository()
    shelf = ChunkShelf(repository)
    [plain] = chunks_of([a_file(n) for n in range(3)], [0, 1, 2])
    place = shelf.store(plain[:-cut])
    shelf.close()
    reader = ChunkReader(repository.store, repository.ring)

    with pytest.raises(IntegrityError, match="file table"):
        list(Table(reader, [place], PackList(), name="backups/main/x"))


def test_digests_come_back_one_for_each_page() -> None:
    repository = new_repository()
    shelf = ChunkShelf(repository)
    digests = np.arange(7, dtype=np.uint64) + 2**63
    place = shelf.store(b"before.." + encode_digests(digests))
    shelf.close()
    packs = PackList()
    record = TableRecord(
        attributes=a_file(1).attributes,
        extents=np.array([(6 * 8192 + 1, 0, 0, 0)], dtype=EXTENT),
        digests=DigestPlace(packs.index_of(place.pack_id), place.number, 8),
    )
    reader = DigestReader(ChunkReader(repository.store, repository.ring), packs)

    assert list(reader.read(record)) == list(digests)
    assert len(reader.read(TableRecord(attributes=record.attributes))) == 0
