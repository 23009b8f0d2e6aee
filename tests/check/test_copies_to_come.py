"""What a source has that hinders its copies, and a standby that backups are taken from."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from drtool.model.finding import Finding, Severity
from drtool.model.wal import Lsn
from drtool.sources.postgres.obstacles import Obstacles, check_obstacles, read_obstacles
from drtool.sources.postgres.standby import Standing, check_standing
from tests.check.rig import Stack, facts, look, part, told
from tests.servers.postgres import MakePostgres, server_directory

_SOURCE = """\
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    backup_from: {{dsn: env:REPLICA_DSN}}
    checks: ["SELECT true", {{sql: SELECT true, database: named}}]
    checks_database: {database}
"""


@pytest.mark.postgres
def test_a_source_is_looked_at_with_the_eyes_of_its_copies(
    make_postgres: MakePostgres, tmp_path: Path
) -> None:
    """By a role whose settings would break our own questions."""
    server = make_postgres(
        15, segment_mb=1, settings={"fsync": "on", "max_prepared_transactions": "5"}
    )
    server.make_role("drtool")
    server.make_role("nobody", "NOLOGIN")
    server.query("GRANT nobody TO drtool")
    for setting in (
        "statement_timeout = '1ms'", "lock_timeout = '1ms'", "role = 'nobody'",
        "default_transaction_read_only = on", "search_path = 'nowhere'", "datestyle = 'German'",
    ):  # fmt: skip
        server.query(f"ALTER ROLE drtool SET {setting}")
    server.query("CREATE DATABASE half")
    server.query("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'")
    with server.connect() as session:
        session.execute("BEGIN")
        session.execute("CREATE TABLE waits (id int)")
        session.execute("PREPARE TRANSACTION 'waits'")
        prepared = read_obstacles(session)
    standby = server.make_standby(server_directory())
    try:
        stack = Stack(
            root=tmp_path,
            sources=_SOURCE.format(database="gone"),
            environ={
                "MAIN_DB_DSN": server.dsn(user="drtool"),
                "REPLICA_DSN": standby.dsn(user="drtool"),
            },
        )
        stack.init()

        report = stack.check()

        server_looks = part(report, "main-db").looks[0]
        assert [f for f in server_looks.findings if f.severity is Severity.PROBLEM] == []
        warnings = facts(report, Severity.WARNING)
        assert told(warnings, "to be asked in database gone, and there is none")
        assert told(warnings, "to be asked in database named, and there is none")
        assert told(
            warnings, "invalid databases, left by a DROP DATABASE that was interrupted: half"
        )
        assert look(report, "main-db", "standby").findings == ()

        standby.query("SELECT pg_wal_replay_pause()")
        stack.sources = _SOURCE.format(database="half")
        report = stack.check()

        assert told(facts(report, Severity.WARNING), "in database half, which takes no connections")
        assert told(facts(report, Severity.WARNING), "its replay is pause")
    finally:
        standby.close()
    assert (prepared.prepared, prepared.oldest) == (1, "waits")
    assert prepared.age is not None


def obstacles(age: timedelta | None) -> Obstacles:
    return Obstacles(
        prepared=1 if age else 0, oldest="x" if age else None, age=age,
        databases=("postgres",), closed=(), invalid=(),
    )  # fmt: skip


def words(findings: list[Finding]) -> list[str]:
    assert all(one.severity is Severity.WARNING and one.fix for one in findings)
    return [one.fact for one in findings]


def test_only_a_prepared_transaction_that_was_left_behind_is_told() -> None:
    for age, count in ((None, 0), (timedelta(minutes=1), 0), (timedelta(hours=2), 1)):
        assert len(words([*check_obstacles("here", obstacles(age), asked_in=())])) == count
    [fact] = words([*check_obstacles("here", obstacles(timedelta(hours=2)), asked_in=())])
    assert "1 is open, the oldest ('x') for 2 h" in fact


@pytest.mark.parametrize(
    ("pause", "behind", "receives", "age", "expected"),
    [
        ("not paused", 0, True, timedelta(days=1), ""),  # nothing is written at the primary
        ("not paused", 1, True, timedelta(minutes=1), ""),
        ("not paused", 1, True, timedelta(minutes=6), "behind its primary"),
        ("not paused", 2 << 30, True, timedelta(seconds=1), "2.15 GB of WAL behind"),
        ("not paused", 0, False, None, ""),  # from an archive
        ("not paused", 1, False, None, "receives no WAL"),
        ("paused", 0, True, None, "its replay is paused"),
    ],
)
def test_a_standby_is_judged_by_what_it_lacks_of_its_primary(
    pause: str, behind: int, receives: bool, age: timedelta | None, expected: str
) -> None:
    standing = Standing(pause=pause, replayed=Lsn(1 << 40), is_receiving=receives, age=age)

    found = words([*check_standing("there", standing, primary=Lsn((1 << 40) + behind))])

    assert [expected in fact for fact in found] == ([True] if expected else [])
