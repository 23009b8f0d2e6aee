"""A base backup arrives whole, with the same files as pg_basebackup's, or says why it did not."""

from __future__ import annotations

import os
import shutil
import signal
import tarfile
import threading
from pathlib import Path

import pytest

from drtool.errors import IntegrityError, SourceUnavailable
from drtool.model.finding import Severity
from drtool.sources.postgres.basebackup import (
    BackupBegan,
    BackupEnded,
    BackupItem,
    BackupLimits,
    BaseBackup,
    MemberBytes,
    MemberEnded,
)
from drtool.sources.postgres.connection import connect_replication
from drtool.sources.postgres.manifest import check_manifest, parse_manifest
from tests.postgres.unpack import unpack_backup
from tests.servers.postgres import MakePostgres, PostgresServer, give_to_server_user

pytestmark = pytest.mark.postgres


def _make_tablespace(server: PostgresServer, directory: Path, name: str) -> int:
    directory.mkdir(mode=0o700)
    give_to_server_user(directory)
    server.query(f"CREATE TABLESPACE {name} LOCATION '{directory}'")
    oid: int = server.query("SELECT oid::int FROM pg_tablespace WHERE spcname = %s", name)[0][0]
    return oid


def _kill_time(server: PostgresServer) -> None:
    """Things that no backup may hold: slots, temporary and unlogged tables, statistics."""
    server.query("SELECT pg_create_physical_replication_slot('left_out')")
    server.query("CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000)")
    server.query("CREATE TABLE logged AS SELECT generate_series(1, 100000) AS n")
    server.query('CREATE DATABASE "ödd"')
    server.query("CHECKPOINT")


@pytest.mark.parametrize("major", [15, 18])
def test_the_files_are_exactly_those_of_pg_basebackup(
    make_postgres: MakePostgres, server_root: Path, major: int
) -> None:
    """PITFALLS 38: slots, temporary files, postmaster.pid and unlogged forks stay behind, as there."""
    server = make_postgres(major)
    _make_tablespace(server, server_root / "odd space ż", "odd")
    server.query("CREATE TABLE elsewhere TABLESPACE odd AS SELECT generate_series(1, 1000) AS n")
    _kill_time(server)

    ours = unpack_backup(server.socket_dsn(), server_root / "ours", label="it's ż")
    theirs = server_root / "theirs"
    server.run(
        "pg_basebackup", "-D", str(theirs), "-d", server.socket_dsn(), "-c", "fast", "-X", "none",
        "--no-sync", "-Ft",
    )  # fmt: skip

    listed = _names_in_tars(theirs)
    assert set(ours.members) == listed
    assert list(ours.members)[-1] == b"global/pg_control"
    assert b"backup_label" in ours.sizes
    assert b"tablespace_map" in ours.sizes
    assert b"it's \xc5\xbc" in (ours.directory / "backup_label").read_bytes()
    assert not any(path.startswith(b"pg_replslot/") for path in ours.members)


def _names_in_tars(directory: Path) -> set[bytes]:
    names = set()
    for path in directory.glob("*.tar"):
        prefix = "" if path.name == "base.tar" else f"pg_tblspc/{path.stem}/"
        with tarfile.open(path) as tar:
            names |= {os.fsencode(prefix + name.removeprefix("./")) for name in tar.getnames()}
    return names


def test_the_members_of_tablespaces_are_those_on_the_servers_disk(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """PITFALLS 25: tablespaces are told apart by oid and keep their original place in words only."""
    server = make_postgres(15)
    oid = _make_tablespace(server, server_root / 'a "quoted" place ż', "odd")
    server.query("CREATE TABLE elsewhere TABLESPACE odd AS SELECT generate_series(1, 1000) AS n")
    (path,) = server.query("SELECT pg_relation_filepath('elsewhere')")[0]
    server.query("CHECKPOINT")

    ours = unpack_backup(server.socket_dsn(), server_root / "ours")

    assert ours.began is not None
    assert [(space.oid, space.location) for space in ours.began.tablespaces] == [
        (oid, str(server_root / 'a "quoted" place ż'))
    ]
    assert [archive.tablespace and archive.tablespace.oid for archive in ours.archives] == [
        oid,
        None,
    ]
    assert path.startswith(f"pg_tblspc/{oid}/")
    assert (ours.directory / path).read_bytes() == (server.data / path).read_bytes()


def test_the_manifest_of_the_server_agrees_with_what_arrived(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    server = make_postgres(18)
    _make_tablespace(server, server_root / "space", "odd")
    server.query("CREATE TABLE elsewhere TABLESPACE odd AS SELECT 1")

    ours = unpack_backup(server.socket_dsn(), server_root / "ours")
    manifest = parse_manifest(ours.manifest)

    assert ours.began is not None
    assert ours.ended is not None
    check_manifest(manifest, ours.sizes)
    (wal,) = manifest.wal_ranges
    assert (wal.timeline, wal.begin, wal.end) == (1, ours.began.start_lsn, ours.ended.stop_lsn)
    assert manifest.system_id is not None
    with pytest.raises(IntegrityError, match="did not arrive: PG_VERSION"):
        check_manifest(manifest, {k: v for k, v in ours.sizes.items() if k != b"PG_VERSION"})
    with pytest.raises(IntegrityError, match="does not list files that arrived: extra"):
        check_manifest(manifest, {**ours.sizes, b"extra": 1})
    with pytest.raises(IntegrityError, match="other sizes"):
        check_manifest(manifest, {**ours.sizes, b"PG_VERSION": 1})
    with pytest.raises(IntegrityError, match="its own SHA-256"):
        parse_manifest(ours.manifest.replace(b"PG_VERSION", b"PG_VERSIOM"))
    with pytest.raises(IntegrityError, match="cut off"):
        parse_manifest(ours.manifest[:-120])


@pytest.mark.parametrize("major", [15, 18])
def test_damaged_pages_become_findings_with_file_and_block(
    make_postgres: MakePostgres, server_root: Path, major: int
) -> None:
    """PITFALLS 36: the server's checksum failures are told, and the backup still arrives whole."""
    server = make_postgres(major)
    server.query("CREATE TABLE damaged AS SELECT generate_series(1, 100000) AS n")
    (path,) = server.query("SELECT pg_relation_filepath('damaged')")[0]
    server.stop()
    with (server.data / path).open("r+b") as file:
        for block in (3, 7):
            file.seek(block * 8192 + 5000)
            file.write(b"\xff\x00\xff\x00")
    server.start()

    ours = unpack_backup(server.socket_dsn(), server_root / "ours")

    assert ours.ended is not None
    subjects = [finding.subject for finding in ours.ended.findings]
    assert subjects == [f"{path}, block 3", f"{path}, block 7", path]
    assert {finding.severity for finding in ours.ended.findings} == {Severity.PROBLEM}
    check_manifest(parse_manifest(ours.manifest), ours.sizes)


def test_a_cluster_without_checksums_is_backed_up_without_findings(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    server = make_postgres(15, checksums=False, segment_mb=64)

    ours = unpack_backup(server.dsn(), server_root / "ours")

    assert ours.ended is not None
    assert ours.ended.findings == ()
    assert (ours.directory / "global/pg_control").stat().st_size == 8192


def test_a_server_that_dies_in_mid_backup_is_an_error_never_an_end(
    make_postgres: MakePostgres,
) -> None:
    """PITFALLS 32: without BackupEnded there is no backup."""
    server = make_postgres(15)
    server.query("CREATE TABLE large AS SELECT repeat('x', 1000) FROM generate_series(1, 50000)")
    items: list[BackupItem] = []

    def take_all() -> None:
        for item in backup:
            items.append(item)
            if len(items) == 300:
                server.kill9()

    backup = BaseBackup(connect_replication(server.dsn(), purpose="backup"), label="test")
    with backup, pytest.raises(SourceUnavailable):
        take_all()

    assert isinstance(items[0], BackupBegan)
    assert not any(isinstance(item, BackupEnded) for item in items)


def test_a_stopped_server_is_given_up_after_the_limit(make_postgres: MakePostgres) -> None:
    """Every wait has a limit: a server that hangs (SIGSTOP) does not hang the backup."""
    server = make_postgres(15)
    server.query("CREATE TABLE large AS SELECT repeat('x', 1000) FROM generate_series(1, 50000)")
    connection = connect_replication(server.dsn(), purpose="backup")
    sender = connection.pgconn.backend_pid
    backup = BaseBackup(connection, label="test", limits=BackupLimits(silence_seconds=0.5))

    def take_all() -> None:
        for number, _ in enumerate(backup):
            if number == 100:
                os.kill(sender, signal.SIGSTOP)

    try:
        with pytest.raises(SourceUnavailable, match=r"sent nothing for 0\.5 s"):
            take_all()
    finally:
        os.kill(sender, signal.SIGCONT)
        backup.close()


@pytest.mark.parametrize("major", [15, 18])
def test_a_backup_that_is_closed_early_is_cancelled_on_the_server(
    make_postgres: MakePostgres, major: int
) -> None:
    """PITFALLS 80: neither the session nor the server's notion of a running backup stays behind."""
    server = make_postgres(major)
    server.query("CREATE TABLE large AS SELECT repeat('x', 1000) FROM generate_series(1, 50000)")

    for stop_after in (1, 2, 50, 500):
        with BaseBackup(
            connect_replication(server.dsn(), purpose="backup"), label="test"
        ) as backup:
            for number, _ in enumerate(backup, 1):
                if number == stop_after:
                    break
    with BaseBackup(connect_replication(server.dsn(), purpose="backup"), label="t") as backup:
        *_, last = backup

    assert isinstance(last, BackupEnded)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'drtool backup'"
    for _ in range(200):
        if server.query(query) == [(0,)]:
            break
        server.query("SELECT pg_sleep(0.05)")
    assert server.query(query) == [(0,)]


@pytest.mark.parametrize("major", [15, 18])
def test_the_data_of_each_member_is_as_long_as_its_header_said_while_tables_come_and_go(
    make_postgres: MakePostgres, server_root: Path, major: int
) -> None:
    """PITFALLS 30: files that vanish, shrink and grow under the backup do not break the stream."""
    server = make_postgres(major)
    server.query("CREATE TABLE kept AS SELECT generate_series(1, 20000) AS n")
    stop = threading.Event()

    def churn() -> None:
        with server.connect() as connection:
            while not stop.is_set():
                connection.execute("CREATE TABLE gone AS SELECT generate_series(1, 20000) AS n")
                connection.execute("VACUUM FULL kept")
                connection.execute("TRUNCATE gone")
                connection.execute("DROP TABLE gone")

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        for number in range(3):
            ours = unpack_backup(server.socket_dsn(), server_root / f"ours{number}")
            check_manifest(parse_manifest(ours.manifest), ours.sizes)
            for path, size in ours.sizes.items():
                assert (ours.directory / os.fsdecode(path)).stat().st_size == size
            shutil.rmtree(ours.directory)
    finally:
        stop.set()
        worker.join()


def test_the_iteration_keeps_nothing_of_what_it_gave(postgres: PostgresServer) -> None:
    given = ended = 0

    with BaseBackup(
        connect_replication(postgres.dsn(user="drtool"), purpose="backup"), label="test"
    ) as backup:
        for item in backup:
            if isinstance(item, MemberBytes):
                given += len(item.data)
            ended += isinstance(item, MemberEnded)

    assert given > 20_000_000
    assert ended > 900


def test_the_parts_of_a_copied_cluster_are_what_initdb_made(
    postgres: PostgresServer, server_root: Path
) -> None:
    """PITFALLS 29, 61: backup_label comes as the server wrote it, with modes and empty directories."""
    ours = unpack_backup(postgres.dsn(user="drtool"), server_root / "ours")

    assert ours.members[b"pg_wal/archive_status"].mode & 0o777 == 0o700
    assert ours.members[b"PG_VERSION"].mode & 0o777 == 0o600
    for empty in (b"pg_twophase", b"pg_notify", b"pg_snapshots", b"pg_stat_tmp"):
        assert empty in ours.members
    label = (ours.directory / "backup_label").read_text()
    assert ours.began is not None
    assert label.startswith(f"START WAL LOCATION: {ours.began.start_lsn} ")


def test_an_error_of_the_server_in_mid_backup_is_told_in_its_own_words(
    postgres: PostgresServer,
) -> None:
    """Not as an archive that is cut short, which would be exit 7 and never tried again."""
    postgres.query("CREATE TABLE IF NOT EXISTS long AS SELECT n, repeat('x', 500) FROM"
                   " generate_series(1, 60000) AS n")  # fmt: skip
    with connect_replication(postgres.socket_dsn(), purpose="test") as connection:
        backup = iter(BaseBackup(connection, label="cancelled"))
        for item in backup:
            if isinstance(item, MemberBytes):
                break
        postgres.query(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'drtool test'"
            " AND backend_type = 'walsender'"
        )

        with pytest.raises(SourceUnavailable) as failed:
            for _ in backup:
                pass
    postgres.query("DROP TABLE long")

    assert "SQLSTATE 57014" in failed.value.message
    assert failed.value.retryable


def test_a_file_that_the_server_may_not_read_is_no_matter_of_rights_of_the_role(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres(15)
    server.query("CREATE TABLE shut AS SELECT 1")
    path = server.query("SELECT pg_relation_filepath('shut')")[0][0]
    server.query("CHECKPOINT")
    (server.data / str(path)).chmod(0)

    with (
        connect_replication(server.socket_dsn(), purpose="test") as connection,
        pytest.raises(SourceUnavailable, match="may not read a file of its own") as failed,
    ):
        for _ in BaseBackup(connection, label="shut"):
            pass
    (server.data / str(path)).chmod(0o600)

    assert str(path) in failed.value.message
    assert "ALTER ROLE" not in failed.value.hint
