"""Clusters that are healthy, and forbid what a look at their copy needs: none of them counts as damaged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from drtool.cli.verdicts import code_of
from drtool.errors import ExitCode
from drtool.model.finding import Severity
from drtool.model.outcome import RestoreOutcome, RestoreReport
from drtool.model.target import ToLsn
from drtool.model.wal import Lsn
from drtool.repository.repository import Repository
from drtool.stores.memory import MemoryStore
from tests.restore.rig import protected, restore, settle, take_backup
from tests.servers.postgres import MakePostgres, PostgresServer, new_server, server_directory

pytestmark = pytest.mark.postgres

QUESTION = "SELECT count(*) = 3 FROM ledger"
_FUNCTION = (
    "CREATE FUNCTION {}() RETURNS event_trigger LANGUAGE plpgsql"
    " AS $$ BEGIN RAISE EXCEPTION 'nobody does that here'; END $$"
)
_REFUSE = (
    _FUNCTION.format("refuse"),
    "CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()",
)
_READ_ONLY = "SET default_transaction_read_only = on"
_LIBRARY = "SET session_preload_libraries = 'is_not_there'"


@dataclass(frozen=True)
class Odd:
    """What is done to a cluster, and undone; `since` is the first version that has it, `until` the last.
    `told` begins what a finding must say.
    """

    do: tuple[str, ...]
    undo: tuple[str, ...] = ()
    since: int = 15
    until: int = 18
    measured: bool = True
    code: ExitCode = ExitCode.DONE
    told: str = ""


ODD = {
    "event trigger": Odd(_REFUSE, ("DROP EVENT TRIGGER refuse", "DROP FUNCTION refuse")),
    "event trigger that always fires": Odd(
        (*_REFUSE, "ALTER EVENT TRIGGER refuse ENABLE ALWAYS"),
        ("DROP EVENT TRIGGER refuse", "DROP FUNCTION refuse"),
    ),
    "login trigger": Odd(
        (
            _FUNCTION.format("turn_away"),
            "CREATE EVENT TRIGGER turn_away ON login EXECUTE FUNCTION turn_away()",
        ),
        ("DROP EVENT TRIGGER turn_away", "DROP FUNCTION turn_away"),
        since=17,
    ),
    "read-only role": Odd(
        (f"ALTER ROLE postgres {_READ_ONLY}",), ("ALTER ROLE postgres RESET ALL",)
    ),
    "read-only database": Odd(
        (f"ALTER DATABASE control {_READ_ONLY}",), ("ALTER DATABASE control RESET ALL",)
    ),
    "role of the role": Odd(
        ("CREATE ROLE nobody", "ALTER ROLE postgres SET role = 'nobody'"),
        ("ALTER ROLE postgres RESET ALL", "DROP ROLE nobody"),
    ),
    "session preload library": Odd(
        (f"ALTER ROLE ALL {_LIBRARY}", f"ALTER DATABASE control {_LIBRARY}"),
        ("ALTER ROLE ALL RESET ALL", "ALTER DATABASE control RESET ALL"),
    ),
    "local preload library": Odd(
        ("ALTER ROLE postgres SET local_preload_libraries = 'is_not_there'",),
        ("ALTER ROLE postgres RESET ALL",),
    ),
    "time-outs": Odd(
        (
            "ALTER ROLE postgres SET statement_timeout = '1ms'",
            "ALTER ROLE postgres SET lock_timeout = '1ms'",
            "ALTER ROLE postgres SET idle_session_timeout = '1ms'",
            "ALTER ROLE postgres SET idle_in_transaction_session_timeout = '1ms'",
            "ALTER ROLE postgres SET row_security = off",
        ),
        ("ALTER ROLE postgres RESET ALL",),
    ),
    "transaction time-out": Odd(
        ("ALTER ROLE postgres SET transaction_timeout = '1ms'",),
        ("ALTER ROLE postgres RESET ALL",),
        since=17,
    ),
    "database postgres closed": Odd(
        ("ALTER DATABASE postgres ALLOW_CONNECTIONS false",),
        ("ALTER DATABASE postgres ALLOW_CONNECTIONS true",),
    ),
    "database template1 closed": Odd(
        ("ALTER DATABASE template1 ALLOW_CONNECTIONS false",),
        ("ALTER DATABASE template1 ALLOW_CONNECTIONS true",),
    ),
    "invalid database": Odd(
        (
            "CREATE DATABASE half",
            "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'",
        ),
        ("DROP DATABASE half",),
    ),
    "bootstrap role renamed": Odd(
        ("ALTER ROLE postgres RENAME TO \"the 'boss' = x\"",),
        ("ALTER ROLE \"the 'boss' = x\" RENAME TO postgres",),
    ),
    "bootstrap role without login": Odd(
        ("ALTER ROLE postgres NOLOGIN",), ("ALTER ROLE postgres LOGIN",)
    ),
    "bootstrap role no superuser": Odd(
        ("ALTER ROLE postgres NOSUPERUSER",), ("ALTER ROLE postgres SUPERUSER",), until=15
    ),
    "library of a type missing": Odd(
        ("UPDATE pg_proc SET probin = '$libdir/is_not_there' WHERE probin = '$libdir/citext'",),
        ("UPDATE pg_proc SET probin = '$libdir/citext' WHERE probin = '$libdir/is_not_there'",),
        measured=False,
    ),
    "no superuser with login": Odd(
        ("ALTER ROLE postgres NOLOGIN", "ALTER ROLE admin NOLOGIN"),
        ("ALTER ROLE postgres LOGIN", "ALTER ROLE admin LOGIN"),
        measured=False,
        code=ExitCode.OBJECTIVE_MISSED,
    ),
    "subscription": Odd(
        (
            "CREATE SUBSCRIPTION away CONNECTION 'host=/none' PUBLICATION p WITH (connect = false)",
            "UPDATE pg_subscription SET subenabled = true",
        ),
        (
            "ALTER SUBSCRIPTION away DISABLE",
            "ALTER SUBSCRIPTION away SET (slot_name = NONE)",
            "DROP SUBSCRIPTION away",
        ),
        told="1 disabled",
    ),
}
# Together they need one restore; the rest exclude each other. Each by itself is a campaign.
TOGETHER = {
    "settings and triggers": (
        "login trigger", "read-only role", "read-only database", "role of the role",
        "session preload library", "local preload library", "time-outs", "transaction time-out",
        "database postgres closed", "database template1 closed", "invalid database",
        "event trigger",
    ),
    "other roles": (
        "library of a type missing", "bootstrap role renamed", "event trigger that always fires",
    ),
    "nobody": ("subscription", "no superuser with login"),
}  # fmt: skip


@dataclass
class Cluster:
    """A server that is received, and a superuser's session that outlives whatever is forbidden."""

    server: PostgresServer
    repository: Repository
    session: psycopg.Connection
    root: Path
    places: dict[str, Lsn] = field(default_factory=dict)

    def be(self, name: str, oddities: list[Odd]) -> None:
        """Be odd for a moment, and remember which."""
        for odd in oddities:
            for statement in odd.do:
                self.session.execute(statement.encode())
        row = self.session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        self.places[name] = Lsn.parse(str(row[0]))
        for odd in reversed(oddities):
            for statement in odd.undo:
                self.session.execute(statement.encode())


@pytest.fixture(scope="module", params=[15, 18], ids=["pg15", "pg18"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A base backup, and after it one oddity after the other."""
    server, root = new_server(request.param), server_directory()
    try:
        server.make_role("admin", "SUPERUSER LOGIN")
        server.query("CREATE DATABASE control")
        with (
            server.connect(user="admin", dbname="control") as session,
            protected(server, MemoryStore()) as repository,
        ):
            session.execute("CREATE TABLE ledger AS SELECT generate_series(1, 3) AS id")
            with suppress(psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported):
                session.execute("CREATE EXTENSION citext")
                session.execute("CREATE TABLE names (name citext PRIMARY KEY)")
                session.execute("INSERT INTO names SELECT 'n' || i FROM generate_series(1, 2000) i")
            take_backup(repository, server)
            yield Cluster(server, repository, session, root)
    finally:
        server.close()
        shutil.rmtree(root, ignore_errors=True)


def code(outcome: RestoreOutcome) -> ExitCode:
    now = datetime.now(UTC)
    return code_of(
        RestoreReport(stack="s", timezone="UTC", written=now, tool_version="", outcomes=(outcome,))
    )


def look_at(cluster: Cluster, name: str, oddities: list[Odd]) -> None:
    """Be odd, restore to that moment, and hold the outcome against what is expected."""
    cluster.be(name, oddities)
    settle(cluster.repository, cluster.server)

    outcome = restore(
        cluster.repository,
        cluster.root / name,
        target=ToLsn(cluster.places[name]),
        questions=[QUESTION],
        database="control",
    )

    shutil.rmtree(cluster.root / name)
    wanted = max(odd.code for odd in oddities)
    assert [f for f in outcome.findings if f.severity is Severity.PROBLEM] == [], name
    assert code(outcome) == wanted, (name, outcome.findings)
    assert [one.passed for one in outcome.questions] == [True if wanted is ExitCode.DONE else None]
    assert outcome.is_writable == (wanted is ExitCode.DONE), name
    for odd in oddities:
        assert any(f.fact.startswith(odd.told) for f in outcome.findings), (name, outcome.findings)
    told = [f for f in outcome.findings if f.subject.startswith(("pg_amcheck", "connection"))]
    expected = Severity.NOTE if all(odd.measured for odd in oddities) else Severity.WARNING
    assert max((f.severity is Severity.WARNING, f.severity) for f in told)[1] is expected, told


@pytest.mark.parametrize("name", list(TOGETHER))
def test_a_healthy_cluster_that_forbids_what_we_ask_is_not_called_damaged(
    cluster: Cluster, name: str
) -> None:
    """Promise 7: worked around, or not measured and told."""
    here = cluster.server.major
    oddities = [ODD[one] for one in TOGETHER[name] if ODD[one].since <= here <= ODD[one].until]

    look_at(cluster, name, oddities)


@pytest.mark.soak
@pytest.mark.parametrize("name", list(ODD))
def test_each_oddity_by_itself(cluster: Cluster, name: str) -> None:
    odd = ODD[name]
    if odd.since <= cluster.server.major <= odd.until:
        look_at(cluster, name, [odd])


def test_damage_that_no_checksum_shows_is_still_told(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """PITFALLS 36: found by pg_amcheck, in a cluster without page checksums."""
    server = make_postgres(15, checksums=False)
    server.query("CREATE TABLE ledger AS SELECT generate_series(1, 5000) AS id")
    file = str(server.query("SELECT pg_relation_filepath('ledger')")[0][0])
    server.stop()
    with (server.data / file).open("r+b") as heap:
        heap.seek(3 * 8192 + 24)
        heap.write(b"\x01\x20\xff\x7f" * 40)
    server.start()
    with protected(server, MemoryStore()) as repository:
        take_backup(repository, server)
        settle(repository, server)

    outcome = restore(repository, server_root / "copy")

    assert [f.subject for f in outcome.findings if f.severity is Severity.PROBLEM] == ["pg_amcheck"]
    assert code(outcome) is ExitCode.INTEGRITY
