"""An answer comes from the copy, and not from a server that the environment or a file leads to."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from drtool.sources.postgres.binaries import find_binaries
from drtool.sources.postgres.entrance import KnownNames, NoEntrance, find_entrance
from tests.servers.postgres import PostgresServer, server_directory
from tests.verify.copies import Copy, running_copy

pytestmark = pytest.mark.postgres

MAJOR = 15
QUESTION = "SELECT count(*) = 3 FROM ledger"


@pytest.fixture(scope="module")
def copy() -> Iterator[Copy]:
    with running_copy(MAJOR) as running:
        running.run("CREATE TABLE ledger AS SELECT generate_series(1, 3) AS id")
        yield running


@pytest.fixture(scope="module")
def production() -> Iterator[PostgresServer]:
    """Listens where a DSN without a port leads; on an address that no other test has."""
    server = PostgresServer(server_directory(), MAJOR)
    server.port = 5432
    address = f"127.{os.getpid() >> 16 & 255}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 | 2}"
    try:
        server.initdb()
        server.start(listen_addresses=address)
        server.query("CREATE TABLE ledger AS SELECT 1 AS id")
        server.query("ALTER SYSTEM SET log_connections = on")
        server.query("SELECT pg_reload_conf()")
        yield server
    finally:
        server.close()


def test_what_the_environment_says_of_connections_is_not_about_copies(
    copy: Copy, production: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PITFALLS 126: with PGHOSTADDR libpq asked production, as superuser, and wrote to it."""
    identifier = copy.run("SELECT system_identifier FROM pg_control_system()")[0][0]
    monkeypatch.setenv("PGHOSTADDR", production.settings["listen_addresses"])
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    monkeypatch.setenv("PGREQUIREAUTH", "scram-sha-256")
    monkeypatch.setenv("PGREQUIREPEER", "nobody-of-that-name")
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    monkeypatch.setenv("PGSSLNEGOTIATION", "direct")
    monkeypatch.setenv("PGGSSENCMODE", "require")
    monkeypatch.setenv("PGMINPROTOCOLVERSION", "3.2")
    monkeypatch.setenv("PGOPTIONS", "-c role=nobody")

    found = copy.ask(QUESTION)

    assert [(one.passed, one.answer) for one in found.questions] == [(True, "true")]
    [told] = found.findings
    assert f"process {copy.server.pid}," in told.fact
    assert told.fact.endswith(f"cluster {identifier}")
    assert "application_name=drtool" not in production.log_text()
    assert "host=127" not in production.log_text()


def test_another_process_behind_the_copys_socket_is_not_asked(
    copy: Copy, production: PostgresServer
) -> None:
    """The server's user may write where its socket lies."""
    socket = copy.server.socket
    socket.rename(socket.with_suffix(".aside"))
    socket.symlink_to(production.root / socket.name)
    try:
        entrance = find_entrance(
            copy.server,
            KnownNames(roles=("postgres",), databases=("postgres",)),
            major=find_binaries(MAJOR).major,
            statement_seconds=10,
        )
    finally:
        socket.unlink()
        socket.with_suffix(".aside").rename(socket)

    assert isinstance(entrance, NoEntrance)
    assert f"process {production.pid} answered there" in entrance.reasons[0]
