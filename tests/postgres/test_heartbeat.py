"""A mark is true: what was acknowledged before its moment lies before its position."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.errors import SourceUnsuitable
from drtool.model.wal import Lsn
from drtool.sources.postgres.connection import connect
from drtool.sources.postgres.heartbeat import beat
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres


def test_an_ordinary_role_makes_marks_that_ascend(postgres: PostgresServer) -> None:
    if not postgres.query("SELECT 1 FROM pg_roles WHERE rolname = 'ordinary'"):
        postgres.query("CREATE ROLE ordinary LOGIN")
    before = datetime.now(UTC)

    with connect(postgres.dsn(user="ordinary"), purpose="heartbeat") as connection:
        marks = [beat(connection) for _ in range(5)]

    assert marks == sorted(marks)
    assert len({mark.lsn for mark in marks}) == 5
    assert {mark.timeline for mark in marks} == {1}
    assert before <= marks[0].moment <= datetime.now(UTC)
    assert marks[0].moment.tzinfo is not None


def test_commits_acknowledged_before_a_mark_lie_before_its_position(
    postgres: PostgresServer,
) -> None:
    """Even those that were acknowledged before they were flushed (synchronous_commit = off)."""
    with (
        connect(postgres.dsn(), purpose="heartbeat") as connection,
        postgres.connect(options="-c synchronous_commit=off") as writer,
    ):
        writer.execute("CREATE TABLE IF NOT EXISTS early ()")
        row = writer.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None

        mark = beat(connection)

    assert mark.lsn >= Lsn.parse(row[0])


def test_a_mark_can_be_written_where_transactions_are_read_only_by_default(
    postgres: PostgresServer,
) -> None:
    dsn = postgres.dsn(options="-c default_transaction_read_only=on")

    with connect(dsn, purpose="heartbeat") as connection:
        assert beat(connection).lsn > 0


def test_a_mark_never_waits_for_a_synchronous_standby(make_postgres: MakePostgres) -> None:
    server = make_postgres(18, settings={"synchronous_standby_names": "nobody"})

    with connect(server.dsn(), purpose="heartbeat", statement_seconds=20) as connection:
        assert beat(connection).lsn > 0


def test_a_standby_makes_no_marks_and_its_successor_does_on_the_new_timeline(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    primary = make_postgres(15)
    standby = primary.make_standby(server_root)
    try:
        with connect(standby.dsn(), purpose="heartbeat") as connection:
            with pytest.raises(SourceUnsuitable, match="is a standby"):
                beat(connection)
            standby.query("SELECT pg_promote()")
            mark = beat(connection)
    finally:
        standby.stop()

    assert mark.timeline == 2


def test_a_revoked_right_is_told_with_the_grant_that_gives_it_back(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres(15)
    server.query("CREATE ROLE ordinary LOGIN")
    function = "FUNCTION pg_logical_emit_message(boolean, text, text)"
    server.query(f"REVOKE EXECUTE ON {function} FROM PUBLIC")

    with connect(server.dsn(user="ordinary"), purpose="heartbeat") as connection:
        with pytest.raises(SourceUnsuitable) as caught:
            beat(connection)
        assert f"GRANT EXECUTE ON {function}" in caught.value.hint

        server.query(f"GRANT EXECUTE ON {function} TO ordinary")
        assert beat(connection).lsn > 0
