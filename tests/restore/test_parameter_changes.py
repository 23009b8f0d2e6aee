"""The source was started with other settings after the backup: a replay comes to that in the WAL."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtool.errors import NotRecoverable
from drtool.model.target import ToLatest
from tests.restore.rig import (
    local_store,
    plan_for,
    protected,
    restore,
    rows,
    settle,
    started,
    take_backup,
)
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres

PREPARED = 5
# Everything that PostgreSQL writes into WAL when it is started with other settings, one by one.
RAISED = {
    "max_connections": "300",
    "max_worker_processes": "20",
    "max_wal_senders": "20",
    "max_prepared_transactions": str(PREPARED),
    "max_locks_per_transaction": "200",
    "track_commit_timestamp": "on",
}


def prepare(server: PostgresServer, number: int) -> None:
    with server.connect() as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO ledger VALUES (%s)", (number,))
        session.execute(f"PREPARE TRANSACTION 'number {number}'".encode())


def test_raised_settings_do_not_end_a_recovery_and_minimal_wal_ends_it_where_it_begins(
    make_postgres: MakePostgres, server_root: Path, tmp_path: Path
) -> None:
    """PITFALLS 60, 99, 111."""
    server = make_postgres(18)
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    with protected(server, local_store(tmp_path)) as repository:
        take_backup(repository, server)
        for name, value in RAISED.items():
            server.restart(**{name: value})
        for number in range(PREPARED):
            prepare(server, number)
        server.query("INSERT INTO ledger VALUES (100)")
        settle(repository, server)
        stamps = "SELECT id, pg_xact_commit_timestamp(xmin) FROM ledger ORDER BY id"
        expected = server.query(stamps)
        server.restart(wal_level="minimal", max_wal_senders="0")
        server.query("INSERT INTO ledger VALUES (101)")
        server.restart(wal_level="replica", max_wal_senders="10")
        server.query("INSERT INTO ledger VALUES (102)")
        settle(repository, server)

    with pytest.raises(NotRecoverable, match=r"wal_level = minimal and lacks changes") as refused:
        plan_for(repository, ToLatest())
    plan = plan_for(repository, ToLatest(), accepts_gap=True)
    outcome = restore(repository, server_root / "copy", plan=plan)

    assert "--accept-gap" in refused.value.hint
    assert any("is given up" in finding.fact for finding in outcome.findings)
    with started(18, server_root / "copy", **RAISED) as copy:
        assert copy.query(stamps) == expected
        assert len(copy.query("SELECT gid FROM pg_prepared_xacts")) == PREPARED
        assert rows(copy) == [100]
