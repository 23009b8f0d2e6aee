"""What a restored copy is like: on its own, harmless, and looked at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from drtool.model.finding import Severity
from drtool.model.objective import Verdict
from drtool.model.outcome import RestoreOutcome
from drtool.model.target import RecoveryTarget, ToBackup, ToLatest, ToLsn, ToName, ToTime, ToXid
from drtool.model.wal import Lsn
from drtool.stores.memory import MemoryStore
from tests.archiving.rig import flushed
from tests.restore.rig import (
    moment_of,
    protected,
    restore,
    rows,
    settle,
    started,
    streaming,
    take_backup,
)
from tests.servers.postgres import (
    MakePostgres,
    PostgresServer,
    give_to_server_user,
    new_server,
    server_directory,
)

pytestmark = pytest.mark.postgres

QUESTIONS = (
    "SELECT count(*) = 1000 FROM spread",
    "SELECT false",
    "SELECT 1",
    "SELECT true WHERE false",
    "SELECT * FROM nowhere",
)


@dataclass(frozen=True)
class Restored:
    """A running source, and a copy of it that was restored beside it."""

    source: PostgresServer
    space: Path
    before: dict[str, bytes]
    archived: Path
    outcome: RestoreOutcome
    data: Path


def content_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def make_difficult(server: PostgresServer, space: Path, archived: Path) -> None:
    """A tablespace, settings that would lead a copy astray, and a configuration kept elsewhere."""
    server.query(f"CREATE TABLESPACE fast LOCATION '{space}'")
    server.query("CREATE TABLE spread (id int PRIMARY KEY) TABLESPACE fast")
    server.query("INSERT INTO spread SELECT generate_series(1, 1000)")
    server.query("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = 'postgres'")
    for name, value in {
        "archive_command": f"cp %p {archived}/%f",
        "primary_conninfo": "host=127.0.0.1 port=1",
        "restore_command": "false",
        "recovery_target_time": "2001-01-01 00:00:00+00",
        "synchronous_standby_names": "nobody_follows",
        "shared_preload_libraries": "is_not_there",
    }.items():
        server.query(f"ALTER SYSTEM SET {name} = '{value}'")
    for name in ("postgresql.conf", "pg_ident.conf"):
        (server.data / name).rename(server.root / name)


@pytest.fixture(scope="module")
def restored() -> Iterator[Restored]:
    """PITFALLS 25, 54, 55, 58, 60: everything odd about a source at once."""
    settings = {
        "max_connections": "250",
        "max_worker_processes": "30",
        "max_prepared_transactions": "17",
        "max_locks_per_transaction": "128",
        "archive_mode": "on",
    }
    root = server_directory()
    source = new_server(15, settings=settings)
    try:
        space, archived = source.root / "space", source.root / "archived"
        for directory in (space, archived):
            directory.mkdir()
            give_to_server_user(directory)
        make_difficult(source, space, archived)
        with protected(source, MemoryStore()) as repository:
            take_backup(repository, source)
            settle(repository, source)
        source.query("CHECKPOINT")
        before = content_of(space)
        outcome = restore(repository, root / "it's a 100% copy", questions=QUESTIONS)
        yield Restored(source, space, before, archived, outcome, root / "it's a 100% copy")
    finally:
        source.close()
        shutil.rmtree(root, ignore_errors=True)


def test_the_sources_tablespace_is_left_as_it_was(restored: Restored) -> None:
    """PITFALLS 25: tablespace_map and links lead to the copy's own directories."""
    [link] = (restored.data / "pg_tblspc").iterdir()

    assert content_of(restored.space) == restored.before
    assert (
        Path(link.readlink())
        == restored.data.with_name(restored.data.name + "-tablespaces") / link.name
    )
    assert restored.source.query("SELECT count(*) FROM spread") == [(1000,)]


def test_a_copy_started_by_hand_neither_archives_nor_follows_nor_waits(restored: Restored) -> None:
    """PITFALLS 2, 54, 55, 58: with nothing but its own files, and whatever the source's say."""
    conf = (restored.data / "postgresql.auto.conf").read_text()
    (restored.data / "postgresql.auto.conf").write_text(
        conf.replace("shared_preload_libraries", "#shared_preload_libraries")
    )
    before = sorted(restored.archived.iterdir())

    with started(15, restored.data) as copy:
        shown = dict(
            copy.query(
                "SELECT name, setting FROM pg_settings WHERE name IN ('archive_mode', 'primary_conninfo',"
                " 'restore_command', 'recovery_target_time', 'synchronous_standby_names')"
            )
        )
        copy.query("SELECT pg_switch_wal()")
        copy.query("CREATE TABLE after_it (id int)")
        count = copy.query("SELECT count(*) FROM spread")

    assert shown == {
        "archive_mode": "off",
        "primary_conninfo": "",
        "restore_command": "",
        "recovery_target_time": "",
        "synchronous_standby_names": "",
    }
    assert count == [(1000,)]
    assert sorted(restored.archived.iterdir()) == before


def test_configuration_kept_elsewhere_is_replaced_and_said(restored: Restored) -> None:
    """PITFALLS 58: Debian keeps it in /etc."""
    said = {finding.subject for finding in restored.outcome.findings}

    assert {"postgresql.conf", "pg_ident.conf"} <= said
    assert (restored.data / "postgresql.conf").exists()


def test_files_belong_to_the_servers_user_and_to_nobody_else(restored: Restored) -> None:
    """PITFALLS 61: 0700 and 0600, the owner that runs the server, directories that are often empty."""
    owner = restored.data.stat().st_uid
    spaces = restored.data.with_name(restored.data.name + "-tablespaces")
    found = [restored.data, *restored.data.rglob("*"), *spaces.rglob("*")]

    assert {path.lstat().st_uid for path in found} == {owner}
    assert {path.stat().st_mode & 0o077 for path in found if not path.is_symlink()} == {0}
    assert (restored.data / "pg_notify").is_dir()


def test_nothing_of_the_restore_is_left_in_the_copy(restored: Restored) -> None:
    assert not (restored.data / "recovery.signal").exists()
    assert not list(restored.data.rglob(".drtool*"))
    assert "refus" not in (restored.data / "postgresql.auto.conf").read_text()


def test_a_question_passes_only_with_true(restored: Restored) -> None:
    """PITFALLS 62, promise 7: false, a number, no row and an error are failures."""
    answers = [(question.passed, question.answer) for question in restored.outcome.questions]

    assert [passed for passed, _ in answers] == [True, False, False, False, False]
    assert "no row" in answers[3][1]
    assert "nowhere" in answers[4][1]
    assert restored.outcome.verdict is Verdict.MISSED


def test_indexes_of_another_collation_version_are_a_problem(restored: Restored) -> None:
    """PITFALLS 59."""
    problems = [f for f in restored.outcome.findings if f.severity is Severity.PROBLEM]

    assert len(problems) == 1
    assert "0.1" in problems[0].fact
    assert "REINDEX" in problems[0].fix


def test_the_phases_add_up(restored: Restored) -> None:
    outcome = restored.outcome

    assert outcome.unaccounted_seconds < 0.5
    assert outcome.bytes_restored > 20_000_000
    assert outcome.reached.timeline == 2
    assert outcome.reached.lsn is not None


def test_pages_that_were_damaged_at_the_source_are_a_problem(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """PITFALLS 36, 62: a copy of a damaged page is found by its checksum."""
    server = make_postgres(15)
    server.query("CREATE TABLE ledger AS SELECT generate_series(1, 5000) AS id")
    file = str(server.query("SELECT pg_relation_filepath('ledger')")[0][0])
    server.query("CHECKPOINT")
    server.stop()
    with (server.data / file).open("r+b") as heap:
        heap.seek(3 * 8192 + 5000)
        heap.write(b"damaged")
    server.start()
    with protected(server, MemoryStore()) as repository:
        take_backup(repository, server)
        settle(repository, server)

    outcome = restore(repository, server_root / "copy")

    pages = [f for f in outcome.findings if f.subject.startswith("page checksums")]
    assert pages[0].severity is Severity.PROBLEM
    assert "block 3" in pages[0].fact


def test_what_could_not_be_measured_is_not_passed(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """Promise 7: a cluster without page checksums."""
    server = make_postgres(18, checksums=False)
    with protected(server, MemoryStore()) as repository:
        take_backup(repository, server)
        settle(repository, server)

    outcome = restore(repository, server_root / "copy")

    [pages] = [f for f in outcome.findings if f.subject.startswith("page checksums")]
    assert pages.severity is Severity.WARNING
    assert pages.fact.startswith("not measured")


def promote_in_place(server: PostgresServer) -> None:
    """The same cluster goes on on a new timeline, as after a failover."""
    server.stop()
    (server.data / "standby.signal").touch()
    give_to_server_user(server.data / "standby.signal")
    server.start()
    server.query("SELECT pg_promote()")


def test_a_backup_of_the_old_timeline_is_carried_over_a_failover(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """PITFALLS 41, 43, 46: WAL of both timelines, and the copy gets a timeline nobody has."""
    server = make_postgres(15, segment_mb=1)
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    with protected(server, MemoryStore()) as repository:
        take_backup(repository, server)
        server.query("INSERT INTO ledger VALUES (1)")
        before = moment_of(server)
        server.query("INSERT INTO ledger VALUES (2)")
        settle(repository, server)
        promote_in_place(server)
        server.query("INSERT INTO ledger VALUES (3)")
        settle(repository, server, timeline=2)

    latest = restore(repository, server_root / "latest")
    early = restore(repository, server_root / "early", target=ToTime(before))

    assert latest.reached.timeline == 3
    assert early.reached.timeline == 3
    with started(15, server_root / "latest") as copy:
        assert rows(copy) == [1, 2, 3]
    with started(15, server_root / "early") as copy:
        assert rows(copy) == [1]


def test_each_kind_of_target_stops_where_it_says(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """PITFALLS 43: every target makes a recovery, none of them a plain start."""
    server = make_postgres(15)
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    with protected(server, MemoryStore()) as repository:
        manifest = take_backup(repository, server)
        server.query("INSERT INTO ledger VALUES (1)")
        position = flushed(server)
        with server.connect() as session, session.transaction():
            session.execute("INSERT INTO ledger VALUES (2)")
            row = session.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        server.query("SELECT pg_create_restore_point('before 3')")
        server.query("INSERT INTO ledger VALUES (3)")
        settle(repository, server)
    assert row is not None
    targets: dict[RecoveryTarget, list[int]] = {
        ToBackup(manifest.backup_id): [],
        ToLsn(Lsn(position)): [1],
        ToXid(int(row[0])): [1, 2],
        ToName("before 3"): [1, 2],
        ToLatest(): [1, 2, 3],
    }

    for number, (target, expected) in enumerate(targets.items()):
        restore(repository, server_root / f"copy {number}", target=target)

        with started(15, server_root / f"copy {number}") as copy:
            assert rows(copy) == expected, target


def test_a_copy_that_was_restored_can_be_backed_up_and_restored_again(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """PITFALLS 55: leftovers of the first recovery do not steer the second."""
    server = make_postgres(15)
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    with protected(server, MemoryStore()) as repository:
        take_backup(repository, server)
        server.query("INSERT INTO ledger VALUES (1)")
        middle = moment_of(server)
        settle(repository, server)
    restore(repository, server_root / "first", target=ToTime(middle))
    server.stop()

    with started(15, server_root / "first") as copy:
        (server_root / "first" / "pg_hba.conf").write_text(
            "local all all trust\nhost all all 127.0.0.1/32 trust\n"
            "host replication all 127.0.0.1/32 trust\n"
        )
        copy.query("SELECT pg_reload_conf()")
        with streaming(repository, copy):
            take_backup(repository, copy, timeline=2)
            copy.query("INSERT INTO ledger VALUES (2)")
            settle(repository, copy, timeline=2)
    restore(repository, server_root / "second")

    with started(15, server_root / "second") as copy:
        assert rows(copy) == [1, 2]
