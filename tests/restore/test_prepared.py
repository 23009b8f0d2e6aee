"""Transactions that were prepared, and neither committed nor rolled back, at a timeline switch."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from drtool.model.finding import Severity
from drtool.model.target import RecoveryTarget, ToLatest, ToLsn
from drtool.model.wal import Lsn
from drtool.stores.memory import MemoryStore
from drtool.verify.cluster import CheckLimits
from tests.restore.rig import protected, restore, rows, settle, started, take_backup
from tests.restore.test_copy import promote_in_place
from tests.servers.postgres import MakePostgres, PostgresServer

MIB = 1 << 20
pytestmark = pytest.mark.postgres


def prepare(server: PostgresServer, row: int) -> None:
    """A transaction that goes on without a session."""
    with server.connect() as session:
        session.execute("BEGIN")
        session.execute(f"INSERT INTO ledger VALUES ({row})".encode())
        session.execute(f"PREPARE TRANSACTION 'row {row}'".encode())


def switches(server: PostgresServer, timeline: int) -> list[Lsn]:
    """Where each timeline before `timeline` ended."""
    history = (server.data / "pg_wal" / f"{timeline:08X}.history").read_text()
    return [Lsn.parse(line.split()[1]) for line in history.splitlines() if line.strip()]


@pytest.mark.parametrize("major", [15, 18])
def test_a_transaction_prepared_across_timeline_switches_comes_back(
    make_postgres: MakePostgres, server_root: Path, major: int
) -> None:
    """PITFALLS 41, 49: at a switch PostgreSQL reads it from the segment under its old name."""
    server = make_postgres(major, segment_mb=1, settings={"max_prepared_transactions": "5"})
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    with protected(server, MemoryStore()) as repository:
        take_backup(repository, server)
        server.query("INSERT INTO ledger VALUES (1)")
        prepare(server, 2)
        for timeline in (2, 3):
            promote_in_place(server)
            server.query(f"INSERT INTO ledger VALUES ({10 * timeline})")
            settle(repository, server, timeline=timeline)
    first, second = switches(server, 3)
    targets: dict[str, tuple[RecoveryTarget, list[int]]] = {
        "first": (ToLsn(first), [1, 2]),
        "second": (ToLsn(second), [1, 2, 20]),
        "latest": (ToLatest(), [1, 2, 20, 30]),
    }

    for name, (target, expected) in targets.items():
        outcome = restore(repository, server_root / name, target=target)

        assert [f for f in outcome.findings if f.severity is Severity.PROBLEM] == []
        with started(major, server_root / name, max_prepared_transactions="5") as copy:
            assert copy.query("SELECT gid FROM pg_prepared_xacts") == [("row 2",)], name
            copy.query("COMMIT PREPARED 'row 2'")
            assert rows(copy) == expected, name
    assert first // MIB == second // MIB, "both timelines ended within one segment"


def test_a_lock_that_a_prepared_transaction_holds_is_told_and_no_damage(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """Nobody can ask a table that is locked in the copy as at the source: not measured, and soon."""
    server = make_postgres(15, segment_mb=1, settings={"max_prepared_transactions": "5"})
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    with server.connect() as session:
        session.execute("BEGIN")
        session.execute("ALTER TABLE ledger ADD COLUMN more int")
        session.execute("PREPARE TRANSACTION 'locked'")
    with protected(server, MemoryStore()) as repository:
        take_backup(repository, server)
        settle(repository, server)

    outcome = restore(
        repository,
        server_root / "copy",
        questions=["SELECT count(*) = 0 FROM ledger", "SELECT true"],
        checks=CheckLimits(lock_seconds=0.2),
    )

    told = {f.subject: f for f in outcome.findings if f.severity is not Severity.NOTE}
    assert [f for f in told.values() if f.severity is Severity.PROBLEM] == []
    assert "the oldest, 'locked', was prepared at" in told["prepared transactions"].fact
    assert "lock timeout" in told["pg_amcheck"].fact
    assert [one.passed for one in outcome.questions] == [None, True]


@pytest.mark.soak
@pytest.mark.parametrize("major", [15, 18])
def test_random_moments_around_switches_with_a_prepared_transaction_come_back(
    make_postgres: MakePostgres, server_root: Path, major: int
) -> None:
    """PITFALLS 41: 2 of 16, one at each switch, could not be restored."""
    server = make_postgres(major, segment_mb=1, settings={"max_prepared_transactions": "5"})
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    committed: list[tuple[Lsn, int]] = []

    def write(row: int) -> None:
        server.query(f"INSERT INTO ledger VALUES ({row})")
        [(place,)] = server.query("SELECT pg_current_wal_flush_lsn()")
        committed.append((Lsn.parse(str(place)), row))

    with protected(server, MemoryStore()) as repository:
        take_backup(repository, server)
        prepare(server, 1000)
        for timeline in (1, 2, 3):
            if timeline > 1:
                promote_in_place(server)
            for number in range(12):
                write(100 * timeline + number)
            settle(repository, server, timeline=timeline)
    picked = [*switches(server, 3), *(place for place, _ in random.sample(committed, 14))]

    for number, target in enumerate(picked):
        restore(repository, server_root / str(number), target=ToLsn(target))

        with started(major, server_root / str(number), max_prepared_transactions="5") as copy:
            assert copy.query("SELECT gid FROM pg_prepared_xacts") == [("row 1000",)]
            assert rows(copy) == [row for place, row in committed if place <= target], str(target)
        shutil.rmtree(server_root / str(number))
