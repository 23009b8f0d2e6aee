"""A backup of a real server restores byte for byte, and the next one stores only what changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.model.outcome import BackupKind
from drtool.pipeline.pages import MOST_CHUNKS_A_REGION, PAGE_BYTES, REGION_PAGES, expand
from drtool.repository.backups import open_table, read_manifest
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from tests.backup.reading import (
    assert_holds,
    assert_same_relations,
    assert_sound,
    contents,
    read_back,
    relation_files,
    start_copy,
)
from tests.backup.taking import SOURCE, manifest_of, new_repository, take_backup
from tests.servers.postgres import PostgresServer, give_to_server_user, new_server

pytestmark = pytest.mark.postgres

# Nobody writes a page but those whom a test asks to: then the files on disk are those that were read.
STILL = {
    "autovacuum": "off",
    "bgwriter_lru_maxpages": "0",
    "checkpoint_timeout": "1d",
    "shared_buffers": "64MB",
    "wal_keep_size": "1GB",
}
ROWS = 60_000


@pytest.fixture(scope="module", params=[15, 18], ids=["pg15", "pg18"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A cluster of about 40 MB that is quiet unless a test writes."""
    server = new_server(request.param, settings=STILL)
    try:
        _fill(server)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def still15() -> Iterator[PostgresServer]:
    """A quiet PostgreSQL 15 that tests change, each with a repository of its own."""
    server = new_server(15, settings=STILL)
    try:
        _fill(server)
        yield server
    finally:
        server.close()


def _fill(server: PostgresServer) -> None:
    server.query(
        "create table events as select i as id, md5(i::text) as name, repeat(md5((i * 7)::text), 4)"
        f" as note, 0 as touched from generate_series(1, {ROWS}) i"
    )
    server.query("alter table events add primary key (id)")
    server.query("vacuum freeze analyze events")
    server.query("checkpoint")


def _path_of(server: PostgresServer, relation: str) -> str:
    path: str = server.query(f"select pg_relation_filepath('{relation}')")[0][0]
    return path


def _extent_pages(repository: Repository, outcome_id: str, path: str) -> list[tuple[int, int]]:
    """(pack, chunk) of every page of a file, as the backup's table says."""
    table = open_table(
        read_manifest(repository, SOURCE, outcome_id),
        ChunkReader(repository.store, repository.ring),
    )
    [record] = [one for one in table if one.attributes.path == path.encode()]
    return [(int(place["pack"]), int(place["chunk"])) for place in expand(record.extents)]


def test_a_backup_read_back_is_the_source_byte_for_byte(
    server: PostgresServer, tmp_path: Path
) -> None:
    repository = new_repository()

    outcome = take_backup(server.dsn(), repository)

    restored = read_back(manifest_of(repository, outcome), repository, tmp_path / "restored")
    assert outcome.kind is BackupKind.FULL
    assert assert_same_relations(restored, server.data) > 500
    for name in ("PG_VERSION", "postgresql.conf", "pg_hba.conf", "base/1/PG_VERSION"):
        assert (restored / name).read_bytes() == (server.data / name).read_bytes()


def test_a_server_starts_on_what_was_read_back_and_is_sound(server: PostgresServer) -> None:
    repository = new_repository()
    outcome = take_backup(server.dsn(), repository)

    copy = start_copy(manifest_of(repository, outcome), repository, server)

    try:
        assert copy.query("select count(*), sum(id) from events") == [
            (ROWS, ROWS * (ROWS + 1) // 2)
        ]
        assert_sound(copy)
    finally:
        copy.close()


def test_a_second_backup_of_an_unchanged_cluster_stores_almost_nothing(
    server: PostgresServer,
) -> None:
    repository = new_repository()
    first = take_backup(server.dsn(), repository)

    second = take_backup(server.dsn(), repository)

    assert second.kind is BackupKind.INCREMENTAL
    assert second.previous == first.backup_id
    assert second.stored_bytes < first.stored_bytes / 50
    assert second.pages_changed is not None
    assert second.pages_changed < 200


def test_files_that_grew_shrank_vanished_and_end_within_a_page_come_back_as_they_are(
    still15: PostgresServer,
) -> None:
    """PITFALLS 34: the boundary of a file that changed its length is where increments go wrong."""
    repository = new_repository()
    still15.query("create table shrinking as select * from events")
    still15.query("create table emptied as select * from events limit 5000")
    still15.query("create table dropped as select * from events limit 5000")
    stray = still15.data / "base" / "1" / "990001"
    stray.write_bytes(b"a" * (3 * PAGE_BYTES + 100))
    notes = still15.data / "notes.txt"
    notes.write_bytes(b"x" * 10)
    take_backup(still15.dsn(), repository)
    still15.query("insert into events select id + 1000000, name, note, 1 from events limit 9000")
    still15.query("delete from shrinking where id > 1000")
    still15.query("vacuum (truncate) shrinking")
    still15.query("truncate emptied")
    still15.query("drop table dropped")
    stray.write_bytes(b"a" * (3 * PAGE_BYTES + 900))
    notes.write_bytes(b"")

    second = take_backup(still15.dsn(), repository)

    assert_holds(manifest_of(repository, second), repository, still15.data)
    held = contents(manifest_of(repository, second), repository)
    assert held["base/1/990001"] == b"a" * (3 * PAGE_BYTES + 900)
    assert held["notes.txt"] == b""
    stray.write_bytes(b"a" * (2 * PAGE_BYTES + 100))
    third = take_backup(still15.dsn(), repository)
    assert_holds(manifest_of(repository, third), repository, still15.data)


def test_a_chain_of_five_holds_every_page_of_each_backup(
    still15: PostgresServer,
) -> None:
    """PITFALLS 34: skewed updates and inserts, each backup compared with the source, then all again."""
    repository = new_repository()
    copies = []
    for number in range(5):
        still15.query(
            "update events set touched = touched + 1, note = md5(note || random()::text)"
            f" where id in (select 1 + floor({ROWS} * power(random(), 6))::int"
            " from generate_series(1, 400))"
        )
        still15.query(
            f"insert into events select {number + 2} * 1000000 + i, 'new', 'new', 0"
            " from generate_series(1, 200) i"
        )

        outcome = take_backup(still15.dsn(), repository)

        assert_holds(manifest_of(repository, outcome), repository, still15.data)
        if number:
            assert outcome.kind is BackupKind.INCREMENTAL
            assert 0 < outcome.stored_bytes < outcome.read_bytes / 10
        copies.append((outcome, contents(manifest_of(repository, outcome), repository)))
    for outcome, held in copies:
        assert contents(manifest_of(repository, outcome), repository) == held


def test_a_page_overwritten_in_place_under_the_same_time_is_stored(
    still15: PostgresServer,
) -> None:
    """PITFALLS 35: size and mtime say nothing; only the bytes count."""
    repository = new_repository()
    take_backup(still15.dsn(), repository)
    path = still15.data / "base" / "1" / "990002"
    path.write_bytes(os.urandom(40 * PAGE_BYTES))
    take_backup(still15.dsn(), repository)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(17 * PAGE_BYTES + 123)
        file.write(b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    outcome = take_backup(still15.dsn(), repository)

    assert_holds(manifest_of(repository, outcome), repository, still15.data)


def test_a_region_that_would_need_more_than_four_chunks_is_stored_whole_again(
    still15: PostgresServer,
) -> None:
    repository = new_repository()
    path = still15.data / "base" / "1" / "990003"
    path.write_bytes(os.urandom(2 * REGION_PAGES * PAGE_BYTES))
    chunks = []
    outcome = take_backup(still15.dsn(), repository)
    for number in range(9):
        with path.open("r+b") as file:
            file.seek(number * PAGE_BYTES)
            file.write(os.urandom(PAGE_BYTES))

        outcome = take_backup(still15.dsn(), repository)

        pages = _extent_pages(repository, outcome.backup_id, "base/1/990003")
        chunks.append(len(set(pages[:REGION_PAGES])))
        assert len(set(pages[REGION_PAGES:])) == 1
    assert chunks == [2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert_holds(manifest_of(repository, outcome), repository, still15.data)
    assert MOST_CHUNKS_A_REGION == 4


def test_a_file_longer_than_a_record_is_put_together_right(
    still15: PostgresServer,
) -> None:
    """A record covers 256 MiB; a relation's segment is four of them, and the last may be short."""
    repository = new_repository()
    path = still15.data / "base" / "1" / "990004"
    with path.open("wb") as file:
        file.truncate((256 << 20) + 5 * PAGE_BYTES)
        for at in (0, (256 << 20) - PAGE_BYTES, 256 << 20, (256 << 20) + 4 * PAGE_BYTES):
            file.seek(at)
            file.write(os.urandom(PAGE_BYTES))
    take_backup(still15.dsn(), repository)
    with path.open("r+b") as file:
        file.seek((256 << 20) + PAGE_BYTES)
        file.write(b"changed")

    outcome = take_backup(still15.dsn(), repository)

    assert_holds(manifest_of(repository, outcome), repository, still15.data)
    assert outcome.stored_bytes < 1 << 20


def test_a_copied_database_is_found_again_by_its_content(still15: PostgresServer) -> None:
    repository = new_repository()
    take_backup(still15.dsn(), repository)
    still15.query("create database copied template postgres strategy file_copy")

    outcome = take_backup(still15.dsn(), repository)

    assert len(relation_files(still15.data)) > 1000
    assert outcome.stored_bytes < outcome.read_bytes / 20


def test_tablespaces_come_along(still15: PostgresServer) -> None:
    """PITFALLS 25."""
    repository = new_repository()
    place = still15.root / "space"
    place.mkdir()
    give_to_server_user(place)
    still15.query(f"create tablespace fast location '{place}'")
    still15.query("create table elsewhere tablespace fast as select * from events limit 5000")

    outcome = take_backup(still15.dsn(), repository)

    manifest = manifest_of(repository, outcome)
    assert [location for _, location in manifest.postgres.tablespaces] == [str(place)]
    assert any(name.startswith("pg_tblspc/") for name in relation_files(still15.data))
    assert_holds(manifest, repository, still15.data)
