"""Backups of servers that write, that are damaged, idle, or set up so that sessions are cut."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from drtool.model.finding import Severity
from drtool.model.wal import Lsn
from drtool.repository.backups import backup_ids
from tests.backup.reading import assert_holds, assert_sound, contents, start_copy
from tests.backup.taking import SOURCE, WalElsewhere, manifest_of, new_repository, take_backup
from tests.servers.postgres import PostgresServer, new_server

pytestmark = pytest.mark.postgres

_CHURN = (
    "create table churned (id int primary key, body text)",
    "insert into churned select i, repeat(md5(i::text), 20) from generate_series(1, 3000) i",
    "update kept set n = n + 1 where id % 3 = 0",
    "delete from churned where id % 2 = 0",
    "vacuum full churned",
    "truncate churned",
    "insert into churned select i, 'again' from generate_series(1, 500) i",
    "vacuum full kept",
    "drop table churned",
    "create database churned_db",
    "drop database churned_db",
)


@contextmanager
def _churning(server: PostgresServer) -> Iterator[list[int]]:
    """Files come, go, shrink and grow for as long as the block lasts; yields a list of one count."""
    stop, rounds, failures = threading.Event(), [0], list[BaseException]()

    def churn() -> None:
        try:
            with server.connect() as connection:
                while not stop.is_set():
                    for statement in _CHURN:
                        connection.execute(statement.encode())
                    rounds[0] += 1
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join(120)
    assert not failures


def _wait_for_round(rounds: list[int], beyond: int) -> None:
    deadline = time.monotonic() + 60
    while rounds[0] <= beyond:
        assert time.monotonic() < deadline, "the churn stands still"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("major", "backups"), [(15, 2), (18, 1), pytest.param(15, 8, marks=pytest.mark.soak)]
)
def test_every_backup_taken_while_files_come_and_go_is_sound(major: int, backups: int) -> None:
    """PITFALLS 30: CREATE, DROP, TRUNCATE, VACUUM FULL and CREATE DATABASE all the while."""
    server = new_server(major, settings={"wal_keep_size": "4GB", "shared_buffers": "64MB"})
    try:
        server.query("create table kept (id int primary key, n int, body text)")
        server.query(
            "insert into kept select i, 0, repeat(md5(i::text), 6) from generate_series(1, 60000) i"
        )
        repository = new_repository()
        outcomes = []
        with _churning(server) as rounds:
            for _ in range(backups):
                _wait_for_round(rounds, rounds[0])
                outcomes.append(take_backup(server.dsn(), repository))
        for outcome in outcomes:
            copy = start_copy(manifest_of(repository, outcome), repository, server)
            try:
                assert (
                    copy.query("select count(*), count(distinct n) <= 2 from kept")[0][0] == 60000
                )
                assert_sound(copy)
            finally:
                copy.close()
    finally:
        server.close()


def test_a_damaged_page_is_a_finding_with_its_file_and_block_and_older_backups_stay() -> None:
    """PITFALLS 36: a corrupt page of the source must not be copied for weeks unseen."""
    server = new_server(15, settings={"autovacuum": "off"})
    try:
        server.query("create table t as select i, repeat('x', 500) from generate_series(1, 5000) i")
        server.query("checkpoint")
        repository = new_repository()
        good = take_backup(server.dsn(), repository)
        kept = contents(manifest_of(repository, good), repository)
        path = server.query("select pg_relation_filepath('t')")[0][0]
        with (server.data / path).open("r+b") as file:
            file.seek(7 * 8192 + 4000)
            file.write(b"\xff\x00\xff")

        bad = take_backup(server.dsn(), repository)

        finding = manifest_of(repository, bad).findings[0]
        assert finding.severity is Severity.PROBLEM
        assert finding.subject == f"{path}, block 7"
        assert bad.findings[0] == finding
        assert manifest_of(repository, good).findings == ()
        assert backup_ids(repository, SOURCE) == [good.backup_id, bad.backup_id]
        assert contents(manifest_of(repository, good), repository) == kept
    finally:
        server.close()


class _Slow(WalElsewhere):
    """Takes its time in the middle of the backup."""

    def begin(self, start: Lsn, timeline: int) -> None:
        super().begin(start, timeline)
        time.sleep(2.5)


def test_time_outs_of_the_role_do_not_end_a_backup() -> None:
    """PITFALLS 31: the role's time-outs are a second, the backup takes more."""
    server = new_server(15, settings={"autovacuum": "off"})
    try:
        server.make_role("drtool")
        for name in (
            "idle_in_transaction_session_timeout", "idle_session_timeout", "statement_timeout",
            "lock_timeout",
        ):  # fmt: skip
            server.query(f"alter role drtool set {name} = '1s'")
        repository = new_repository()

        outcome = take_backup(server.dsn(user="drtool"), repository, wal=_Slow())

        assert outcome.seconds > 2
        assert_holds(manifest_of(repository, outcome), repository, server.data)
    finally:
        server.close()


def test_a_backup_of_an_idle_server_whose_archiving_fails_ends() -> None:
    """PITFALLS 23: nobody switches a segment, and the archive_command never succeeds."""
    server = new_server(15, settings={"archive_mode": "on", "archive_command": "/bin/false"})
    try:
        repository = new_repository()

        outcomes = [take_backup(server.dsn(), repository) for _ in range(2)]

        assert backup_ids(repository, SOURCE) == [outcome.backup_id for outcome in outcomes]
        assert all(outcome.seconds < 30 for outcome in outcomes)
    finally:
        server.close()
