"""A restored cluster does not act: no worker of it reaches the publisher, no trigger and no planted function
of it runs, and whatever could act later is told.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from drtool.model.finding import Severity
from drtool.model.outcome import RestoreOutcome
from drtool.restore.outbound import cut_off
from drtool.sources.postgres.binaries import find_binaries
from drtool.sources.postgres.entrance import Access, Entrance
from drtool.sources.postgres.server import ServerPlan
from drtool.sources.postgres.single_user import read_names
from drtool.stores.memory import MemoryStore
from drtool.system.users import choose_user
from tests.restore.printed import started_as_printed
from tests.restore.rig import protected, restore, rows, settle, started, take_backup, wait_for
from tests.servers.postgres import PostgresServer, new_server, server_directory

pytestmark = pytest.mark.postgres

_SLOT = (
    "SELECT confirmed_flush_lsn::text, active FROM pg_replication_slots WHERE slot_name = 'orders'"
)
# The event trigger fires always, whatever session_replication_role is, and runs a program of its own.
_AUDIT = """
CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN COPY (SELECT 'event') TO PROGRAM 'cat >> {place}/trigger'; END $$;
CREATE EVENT TRIGGER at_start ON ddl_command_start EXECUTE FUNCTION audit();
CREATE EVENT TRIGGER at_end ON ddl_command_end EXECUTE FUNCTION audit();
CREATE EVENT TRIGGER at_drop ON sql_drop EXECUTE FUNCTION audit();
ALTER EVENT TRIGGER at_start ENABLE ALWAYS;
ALTER EVENT TRIGGER at_end ENABLE REPLICA;
"""
# What a plain role with CREATE in amcheck's schema can plant: an exact match of what pg_amcheck calls.
_PLANTED = """
CREATE FUNCTION checks.bt_index_check(index oid, heapallindexed boolean) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN COPY (SELECT current_user) TO PROGRAM 'cat >> {place}/planted'; END $$;
CREATE FUNCTION checks.verify_heapam(relation oid, on_error_stop boolean, check_toast boolean, skip text,
  OUT blkno bigint, OUT offnum int, OUT attnum int, OUT msg text) RETURNS SETOF record LANGUAGE plpgsql
AS $$ BEGIN COPY (SELECT current_user) TO PROGRAM 'cat >> {place}/planted'; END $$;
"""
# Functions of a table's owner, harmless when its indexes are built: an expression, one with a constant
# that a planner folds, a predicate, a domain.
_EXPRESSIONS = """
CREATE FUNCTION checks.twice(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN 2; END $$;
CREATE DOMAIN checks.small AS int CHECK (checks.twice(VALUE) = 2);
CREATE TABLE checks.numbers (id checks.small PRIMARY KEY);
INSERT INTO checks.numbers SELECT generate_series(1, 100);
CREATE INDEX ON checks.numbers (checks.twice(id));
CREATE INDEX ON checks.numbers (id, checks.twice(7));
CREATE INDEX ON checks.numbers (id) WHERE checks.twice(id) = 2;
CREATE OR REPLACE FUNCTION checks.twice(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql
AS $$ BEGIN COPY (SELECT current_user) TO PROGRAM 'cat >> {place}/expression'; RETURN 2; END $$;
"""


@dataclass(frozen=True)
class Pair:
    """A publisher that runs, its subscriber, which is stopped, and a copy of that."""

    publisher: PostgresServer
    subscriber: PostgresServer
    outcome: RestoreOutcome
    data: Path
    place: Path

    @property
    def blocks(self) -> Path:
        """What the worker of the job library leaves when it ends."""
        return self.data / "autoprewarm.blocks"


@dataclass(frozen=True)
class Listening:
    """A started copy, as whoever asks a copy knows it."""

    copy: PostgresServer

    @property
    def socket_directory(self) -> Path:
        return self.copy.root

    @property
    def socket(self) -> Path:
        return self.copy.root / f".s.PGSQL.{self.copy.port}"

    @property
    def pid(self) -> int:
        return self.copy.pid

    def dsn(self, *, dbname: str = "postgres", user: str = "postgres") -> str:
        return self.copy.socket_dsn(user=user, dbname=dbname)


def _job_library(subscriber: PostgresServer, root: Path) -> str:
    """A library with a background worker that writes, under a name that stands for jobs, in the
    source's own configuration.
    """
    library = root / "pg_cron.so"
    found = subscriber.run("pg_config", "--pkglibdir").strip()
    # The worker loads it by its own name, and must find that it is the same file.
    library.symlink_to(Path(found) / "pg_prewarm.so")
    with (subscriber.data / "postgresql.conf").open("a") as conf:
        conf.write(f"shared_preload_libraries = '{library}, pg_stat_statements'\n")
    return str(library)


# Names are shared by all databases: one of another encoding gives them bytes that are no UTF-8.
_OF_ANOTHER_ENCODING = (
    b'CREATE DATABASE "caf\xe9"',
    b"CREATE SUBSCRIPTION \"caf\xe9\" CONNECTION 'host=/none' PUBLICATION p WITH (connect = false)",
    b"UPDATE pg_subscription SET subenabled = true WHERE subslotname = 'caf\xe9'",
    b"CREATE EXTENSION postgres_fdw",
    b'CREATE SERVER "caf\xe9" FOREIGN DATA WRAPPER postgres_fdw',
)


def _name_in_another_encoding(subscriber: PostgresServer) -> None:
    subscriber.query("CREATE DATABASE latin ENCODING 'SQL_ASCII' TEMPLATE template0")
    with subscriber.connect(dbname="latin", options="-c client_encoding=SQL_ASCII") as session:
        for statement in _OF_ANOTHER_ENCODING:
            session.execute(statement)


def _publish(publisher: PostgresServer) -> None:
    publisher.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    publisher.query("INSERT INTO ledger VALUES (1)")
    publisher.query("CREATE PUBLICATION orders FOR TABLE ledger")


def _subscribe(subscriber: PostgresServer, publisher: PostgresServer, place: Path) -> None:
    subscriber.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    conninfo = publisher.dsn(password="secret-of-it")
    subscriber.query(f"CREATE SUBSCRIPTION orders CONNECTION '{conninfo}' PUBLICATION orders")
    wait_for(lambda: rows(subscriber) == [1], "the subscriber follows")
    subscriber.query("CREATE EXTENSION postgres_fdw")
    subscriber.query("CREATE EXTENSION dblink")
    subscriber.query("CREATE SERVER warehouse FOREIGN DATA WRAPPER postgres_fdw")
    subscriber.query("CREATE SCHEMA checks")
    subscriber.query("CREATE EXTENSION amcheck SCHEMA checks")
    subscriber.make_role("eve", "LOGIN")
    subscriber.query("GRANT CREATE, USAGE ON SCHEMA checks TO eve")
    subscriber.query(_PLANTED.format(place=place), user="eve")
    subscriber.query(_EXPRESSIONS.format(place=place), user="eve")
    subscriber.query("CREATE DATABASE shop")
    subscriber.query("ALTER DATABASE shop SET session_preload_libraries = 'is_not_there'")
    for database in ("template1", "postgres"):
        subscriber.query(_AUDIT.format(place=place), dbname=database)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    root, place = server_directory(), server_directory()
    place.chmod(0o777)
    publisher = new_server(15, settings={"wal_level": "logical"})
    subscriber = new_server(15)
    try:
        _publish(publisher)
        _subscribe(subscriber, publisher, place)
        library = _job_library(subscriber, root)
        _name_in_another_encoding(subscriber)
        with protected(subscriber, MemoryStore()) as repository:
            take_backup(repository, subscriber)
            settle(repository, subscriber)
        subscriber.stop()
        for mark in place.iterdir():
            mark.unlink()
        publisher.query("INSERT INTO ledger VALUES (2)")
        data = root / "copy"
        outcome = restore(repository, data, preload=(library,))
        yield Pair(publisher, subscriber, outcome, data, place)
    finally:
        publisher.close()
        subscriber.close()
        for directory in (root, place):
            shutil.rmtree(directory, ignore_errors=True)


def test_a_copy_of_a_subscriber_leaves_the_publishers_rows_to_the_subscriber(pair: Pair) -> None:
    """Neither the restore nor the copy that runs moves the slot, though somebody allows workers again."""
    pair.subscriber.start()
    wait_for(lambda: rows(pair.subscriber) == [1, 2], "the subscriber gets what was left to it")
    pair.subscriber.stop()
    wait_for(lambda: pair.publisher.query(_SLOT)[0][1] is False, "the slot is free")
    pair.publisher.query("INSERT INTO ledger VALUES (3)")
    before = pair.publisher.query(_SLOT)

    with started(15, pair.data, max_logical_replication_workers="4") as copy:
        copy.query("SELECT pg_sleep(1.5)")
        in_copy = rows(copy)
        enabled = copy.query("SELECT subenabled FROM pg_subscription")

    assert enabled == [(False,), (False,)]
    assert in_copy == [1]
    assert pair.publisher.query(_SLOT) == before


def test_no_code_of_the_copy_ran(pair: Pair) -> None:
    told = [f for f in pair.outcome.findings if f.subject.startswith("pg_amcheck")]

    assert {path.name: path.read_text() for path in pair.place.iterdir()} == {}
    assert [f.severity for f in told] == [Severity.NOTE], told


def test_the_copy_is_left_with_its_triggers_and_extensions(pair: Pair) -> None:
    with started(15, pair.data) as copy:
        modes = copy.query("SELECT evtname, evtenabled FROM pg_event_trigger ORDER BY 1")
        [schema] = copy.query(
            "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'amcheck'"
        )
        added = copy.query(
            "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'", dbname="template1"
        )

    assert modes == [("at_drop", "O"), ("at_end", "R"), ("at_start", "A")]
    assert schema == ("checks",)
    assert added == [(0,)]


def test_what_could_act_later_is_told_and_how_to_let_it(pair: Pair) -> None:
    said = {f.subject: f for f in pair.outcome.findings if f.severity is Severity.WARNING}

    assert "orders of database postgres" in said["subscriptions"].fact
    assert "ALTER SUBSCRIPTION" in said["subscriptions"].fix
    assert "warehouse (postgres_fdw)" in said["foreign servers"].fact
    assert "dblink" in said["extensions that reach out"].fact
    assert "database shop" in said["session_preload_libraries"].fact
    assert "event triggers" in {f.subject for f in pair.outcome.findings}
    assert not any("secret-of-it" in str(f) for f in pair.outcome.findings)


def test_a_name_in_another_encoding_ends_no_restore(pair: Pair) -> None:
    """Whoever may create a database could have denied every restore."""
    told = {f.subject: f for f in pair.outcome.findings}
    plan = ServerPlan(
        data_directory=pair.data,
        binaries=find_binaries(15),
        run_as=choose_user(pair.data),
        settings={"shared_preload_libraries": ""},
    )
    names = read_names(plan)

    assert [f for f in pair.outcome.findings if f.severity is Severity.PROBLEM] == []
    assert told["database caf\ufffd"].severity is Severity.WARNING
    assert "2 disabled" in told["subscriptions"].fact
    assert not isinstance(names, str)
    assert "caf\ufffd" in names.databases


def test_what_cannot_be_disabled_or_read_is_told_and_ends_no_restore(pair: Pair) -> None:
    """A prepared transaction may hold whatever it locked at the source."""
    entrance = Entrance(role="postgres", database="postgres", open=("postgres", "is_not_there"))
    with started(15, pair.data) as copy, copy.connect() as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE pg_subscription IN EXCLUSIVE MODE")
        server = Listening(copy)
        access = Access(server=server, entrance=entrance, major=15, lock_seconds=0.1)
        said = {found.subject: found.fact for found in cut_off(access)}

    assert "could not be disabled" in said["subscriptions"]
    assert "is_not_there" in said["foreign servers and event triggers"]
    assert "warehouse" in said["foreign servers"]


def test_no_background_worker_of_a_library_starts_while_the_copy_is_restored(pair: Pair) -> None:
    """The policy named the library for its WAL; its worker would write when the server ends."""
    assert not pair.blocks.exists()


def test_the_printed_command_starts_a_copy_without_workers(pair: Pair) -> None:
    before = pair.publisher.query(_SLOT)

    with started_as_printed(pair.outcome):
        pass

    told = [f.fact for f in pair.outcome.findings if f.subject == "shared_preload_libraries"]
    changed = {one.name: one for one in pair.outcome.changed_settings}
    assert pair.publisher.query(_SLOT) == before
    assert "logical replication" not in (pair.data / "server.log").read_text()
    assert not pair.blocks.exists()
    assert changed["shared_preload_libraries"].value == "pg_stat_statements"
    assert [("pg_cron" in fact) for fact in told] == [True]
