"""What a recovery must find as large, or switched on, as the source had it."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtool.sources.postgres.facts import RECORDED_SETTINGS, read_facts
from tests.restore.rig import local_store, protected, restore, settle, started, take_backup
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres

ORIGINS = 30


def needy(major: int) -> dict[str, str]:
    """Settings without which the copy would lose something, or not come up at all."""
    needed = {"track_commit_timestamp": "on", "max_replication_slots": "40"}
    return needed | ({"max_active_replication_origins": "40"} if major >= 18 else {})


def write_with_origin(server: PostgresServer, number: int) -> None:
    with server.connect() as session:
        session.execute("SELECT pg_replication_origin_create(%s)", (f"origin {number}",))
        session.execute("SELECT pg_replication_origin_session_setup(%s)", (f"origin {number}",))
        with session.transaction():
            session.execute("INSERT INTO ledger VALUES (%s)", (number,))
            session.execute(
                "SELECT pg_replication_origin_xact_setup(pg_lsn(%s), now())", (1000 + number,)
            )


@pytest.mark.parametrize("major", [15, 18])
def test_commit_timestamps_and_replication_origins_come_back(
    make_postgres: MakePostgres, server_root: Path, tmp_path: Path, major: int
) -> None:
    server = make_postgres(major, settings=needy(major))
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    progress = "SELECT external_id, remote_lsn FROM pg_replication_origin_status ORDER BY 1"
    stamps = "SELECT id, pg_xact_commit_timestamp(xmin) FROM ledger ORDER BY id"
    with protected(server, local_store(tmp_path)) as repository:
        for number in range(ORIGINS // 2):
            write_with_origin(server, number)
        server.query("CHECKPOINT")
        take_backup(repository, server)
        for number in range(ORIGINS // 2, ORIGINS):
            write_with_origin(server, number)
        settle(repository, server)
        expected = server.query(progress), server.query(stamps)

    restore(repository, server_root / "copy")

    with started(major, server_root / "copy", **needy(major)) as copy:
        assert (copy.query(progress), copy.query(stamps)) == expected
    assert len(expected[0]) == ORIGINS
    assert all(moment is not None for _, moment in expected[1])


def test_a_backup_records_the_settings_that_its_role_may_read(
    make_postgres: MakePostgres,
) -> None:
    """An ordinary replication role sees no shared_preload_libraries, and no error is logged for that."""
    server = make_postgres(15, settings={"max_prepared_transactions": "3"})
    server.make_role("ordinary")

    seen = dict(read_facts(server.dsn(user="ordinary", dbname="postgres")).settings)
    all_seen = dict(read_facts(server.dsn()).settings)

    assert seen["max_prepared_transactions"] == "3"
    assert seen["track_commit_timestamp"] == "off"
    assert "shared_preload_libraries" not in seen
    assert "shared_preload_libraries" in all_seen
    assert set(all_seen) <= set(RECORDED_SETTINGS)
    assert "shared_preload_libraries" not in server.log_text()
