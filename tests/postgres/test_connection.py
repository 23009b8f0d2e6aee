"""Each way a server can refuse us is told apart, with what to do, and without a secret."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from drtool.errors import DrtoolError, PolicyError, SourceUnavailable, SourceUnsuitable
from drtool.sources.postgres.connection import connect, connect_replication
from drtool.sources.postgres.facts import read_facts, require_ready
from drtool.sources.postgres.readiness import read_data_directory
from tests.servers.ports import free_port
from tests.servers.postgres import TRUST, MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres

SECRET = "s3cr3t-never-shown"


def _refusal(attempt: Callable[[], object]) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as caught:
        attempt()
    assert SECRET not in caught.value.message + caught.value.hint + repr(caught.value.__cause__)
    assert caught.value.hint
    return caught.value


@contextmanager
def _fake_server(answer: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """A listener on loopback that reads one startup packet and answers it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                answer(connection, connection.recv(4096))
                # Until the client has gone, so that it reads the answer and not a reset.
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def _error(sqlstate: str, text: str) -> bytes:
    fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0"
    return _message(b"E", fields.encode())


def test_a_server_that_is_not_there_is_unavailable_and_may_be_tried_again() -> None:
    port = free_port()

    error = _refusal(
        lambda: connect(f"host=127.0.0.1 port={port} password={SECRET}", purpose="test")
    )

    assert error.retryable
    assert f"127.0.0.1:{port}" in error.message
    assert "cannot be reached" in error.message


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        error = _refusal(
            lambda: connect(f"host=127.0.0.1 port={port}", purpose="test", timeout_seconds=2)
        )

    assert error.retryable


@pytest.mark.parametrize(
    "dsn",
    [
        f"host=x password={SECRET} bogus=1",
        f"postgresql://role:{SECRET} with space@host/db",
        f"host=x password='{SECRET}",
    ],
)
def test_a_malformed_dsn_is_refused_without_quoting_it(dsn: str) -> None:
    with pytest.raises(PolicyError) as caught:
        connect(dsn, purpose="test")

    assert SECRET not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_password_that_was_not_given_is_told_apart_from_a_wrong_one(
    make_postgres: MakePostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial: no ~/.pgpass, or one that libpq ignores for its mode, was a password that was refused."""
    server = make_postgres(15)
    server.query(f"CREATE ROLE secured LOGIN REPLICATION PASSWORD '{SECRET}'")
    server.write_hba("local all all trust\nhost all,replication secured 127.0.0.1/32 scram-sha-256")
    server.query("SELECT pg_reload_conf()")
    file, dsn = tmp_path / "pgpass", server.dsn(user="secured")
    monkeypatch.setenv("PGPASSFILE", str(file))

    absent = _refusal(lambda: connect(dsn, purpose="test"))
    file.write_text(f"127.0.0.1:{server.port}:*:secured:{SECRET}\n")
    file.chmod(0o644)
    readable = _refusal(lambda: connect_replication(dsn, purpose="test"))
    file.chmod(0o600)
    connect(dsn, purpose="test").close()
    connect_replication(dsn, purpose="test").close()
    file.write_text(f"*:*:*:*:{SECRET}-old\n")
    wrong = _refusal(lambda: connect(dsn, purpose="test"))

    for error in (absent, readable):
        assert "none was given" in error.message
        assert "refused" not in error.message
        assert "~/.pgpass" in error.hint
        assert "mode 0600" in error.hint
    assert "refused the password" in wrong.message
    assert "taken from that file" in wrong.hint
    assert "into the DSN" not in wrong.hint


def test_each_refusal_of_the_server_has_its_own_answer(make_postgres: MakePostgres) -> None:
    server = make_postgres(15, settings={"max_wal_senders": "1", "max_connections": "30"})
    server.query(f"CREATE ROLE secured LOGIN REPLICATION PASSWORD '{SECRET}'")
    server.query("CREATE ROLE ordinary LOGIN")
    server.make_role("replicator")
    server.write_hba(
        "local all all trust\nlocal replication all trust\n"
        "host all secured 127.0.0.1/32 scram-sha-256\nhost all replicator 127.0.0.1/32 trust"
    )
    server.query("SELECT pg_reload_conf()")
    secured = server.dsn(user="secured", password=SECRET)

    password = _refusal(lambda: connect(server.dsn(user="secured", password="x"), purpose="test"))
    database = _refusal(lambda: connect(secured + " dbname=missing", purpose="test"))
    role = _refusal(lambda: connect(server.socket_dsn(user="absent"), purpose="test"))
    hba = _refusal(lambda: connect(server.dsn(user="ordinary"), purpose="test"))
    hba_replication = _refusal(
        lambda: connect_replication(server.dsn(user="replicator"), purpose="test")
    )
    attribute = _refusal(
        lambda: connect_replication(server.socket_dsn(user="ordinary"), purpose="test")
    )
    with connect_replication(server.socket_dsn(user="replicator"), purpose="test"):
        senders = _refusal(
            lambda: connect_replication(server.socket_dsn(user="replicator"), purpose="test")
        )

    assert "refused the password" in password.message
    assert "into the DSN" in password.hint
    assert "no such database" in database.message
    assert "no such role" in role.message
    assert "pg_hba.conf" in hba.message
    assert "replication" not in hba.message
    assert "replication connections" in hba_replication.message
    assert "all' does not cover replication" in hba_replication.hint
    assert "ALTER ROLE" in attribute.hint
    assert "max_wal_senders are all in use" in senders.message
    assert senders.retryable
    assert not attribute.retryable


@pytest.mark.parametrize("major", [15, 18])
def test_a_role_without_replication_is_told_how_to_get_it(
    make_postgres: MakePostgres, major: int
) -> None:
    server = make_postgres(major)
    server.query("CREATE ROLE ordinary LOGIN")

    error = _refusal(lambda: read_facts(server.dsn(user="ordinary")))

    assert isinstance(error, SourceUnsuitable)
    assert "ALTER ROLE the_role WITH REPLICATION" in error.hint


def test_minimal_wal_is_refused_with_the_commands_that_change_it(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres(15, settings={"wal_level": "minimal", "max_wal_senders": "0"})
    server.make_role("drtool")

    error = _refusal(lambda: read_facts(server.dsn(user="drtool")))

    assert isinstance(error, SourceUnsuitable)
    assert "ALTER SYSTEM SET wal_level = 'replica'" in error.hint


def test_a_single_walsender_is_not_enough(make_postgres: MakePostgres) -> None:
    server = make_postgres(18, settings={"max_wal_senders": "1"})

    facts = read_facts(server.dsn())

    with pytest.raises(SourceUnsuitable, match="max_wal_senders = 1"):
        require_ready(facts)


def test_a_server_older_than_15_is_refused_by_its_version() -> None:
    def answer(connection: socket.socket, startup: bytes) -> None:
        assert struct.unpack(">I", startup[4:8])[0] >> 16 == 3
        parameters = b"".join(
            _message(b"S", f"{name}\0{value}\0".encode())
            for name, value in (("server_version", "14.11"), ("client_encoding", "UTF8"))
        )
        connection.sendall(_message(b"R", struct.pack(">I", 0)) + parameters + _message(b"Z", b"I"))

    with _fake_server(answer) as port:
        dsn = f"host=127.0.0.1 port={port} sslmode=disable gssencmode=disable"
        error = _refusal(lambda: connect_replication(dsn, purpose="test"))

    assert isinstance(error, SourceUnsuitable)
    assert "PostgreSQL 14" in error.message
    assert "15 or newer" in error.message


def test_a_connection_pooler_is_told_apart_from_a_server() -> None:
    with _fake_server(
        lambda connection, _: connection.sendall(
            _error("08P01", "unsupported startup parameter: options")
        )
    ) as port:
        dsn = f"host=127.0.0.1 port={port} sslmode=disable gssencmode=disable"
        error = _refusal(lambda: connect(dsn, purpose="test"))

    assert isinstance(error, SourceUnsuitable)
    assert "pooler" in error.message


def test_something_that_is_no_postgresql_at_all_is_told_so() -> None:
    with _fake_server(
        lambda connection, _: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    ) as port:
        dsn = f"host=127.0.0.1 port={port} sslmode=disable gssencmode=disable"
        error = _refusal(lambda: connect(dsn, purpose="test"))

    assert isinstance(error, SourceUnsuitable)
    assert "does not speak PostgreSQL's protocol" in error.message


@pytest.mark.parametrize("major", [15, 18])
def test_time_outs_of_the_role_and_of_the_server_do_not_reach_our_sessions(
    make_postgres: MakePostgres, major: int
) -> None:
    """PITFALLS 31: a role's idle and statement time-outs do not kill a backup's sessions."""
    server = make_postgres(major, settings={"idle_session_timeout": "50ms"})
    unhurried = {"options": "-c idle_session_timeout=0"}  # the test's own sessions
    server.make_role("hurried", **unhurried)
    for name in ("idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"):
        server.query(f"ALTER ROLE hurried SET {name} = '50ms'", **unhurried)
    server.query("ALTER ROLE hurried SET search_path = 'elsewhere'", **unhurried)
    server.query("ALTER ROLE hurried SET client_encoding = 'LATIN1'", **unhurried)

    with (
        connect(server.dsn(user="hurried"), purpose="test") as connection,
        connect_replication(server.dsn(user="hurried"), purpose="test") as replication,
    ):
        with connection.transaction():
            connection.execute("SELECT pg_sleep(0.2)")
            server.query("SELECT pg_sleep(0.2)", **unhurried)
        row = connection.execute("SHOW search_path").fetchone()
        encoding = connection.info.encoding
        system = replication.rows("IDENTIFY_SYSTEM")

    assert row == ("pg_catalog",)
    assert encoding == "utf-8"
    assert system[0][0] is not None


def test_a_session_of_ours_changes_nothing_at_a_source(postgres: PostgresServer) -> None:
    """As superuser too, and whatever its own default is."""
    with connect(postgres.dsn(), purpose="check") as connection:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE ROLE stays")

        assert connection.execute("SELECT count(*) > 0 FROM pg_roles").fetchone() == (True,)


def test_a_replication_session_goes_on_after_a_command_that_failed(
    postgres: PostgresServer,
) -> None:
    with connect_replication(postgres.dsn(user="drtool"), purpose="test") as connection:
        with pytest.raises(SourceUnsuitable, match="42501"):
            connection.rows("SHOW data_directory")

        assert connection.rows("SHOW wal_segment_size") == [("16MB",)]


def test_a_session_that_dies_under_us_is_unavailable_not_a_traceback(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres(15)
    with connect_replication(server.dsn(), purpose="test") as connection:
        server.kill9()

        with pytest.raises(SourceUnavailable) as caught:
            connection.rows("IDENTIFY_SYSTEM")

    assert caught.value.retryable


def test_facts_need_no_more_than_the_replication_right(postgres: PostgresServer) -> None:
    facts = read_facts(postgres.dsn(user="drtool"))
    more = read_facts(postgres.dsn())
    with connect(postgres.dsn(user="drtool"), purpose="test") as connection:
        mine = read_data_directory(connection)
    with connect(postgres.dsn(), purpose="test") as connection:
        theirs = read_data_directory(connection)

    assert (mine, theirs) == (None, str(postgres.data))
    assert facts.major == postgres.major
    assert facts.timeline == 1
    assert facts.segment_bytes == 16 << 20
    assert facts.has_checksums
    assert not facts.is_standby
    assert facts.bootstrap_role == "postgres"
    assert facts.tablespaces == ()
    assert facts.system_id == more.system_id
    require_ready(facts)


def test_facts_without_any_sql_connection_leave_out_what_only_catalogs_know(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres(15)
    server.make_role("drtool")
    server.write_hba("local all all trust\nhost replication drtool 127.0.0.1/32 trust")
    server.query("SELECT pg_reload_conf()")

    facts = read_facts(server.dsn(user="drtool"))

    assert facts.bootstrap_role is None
    assert facts.tablespaces is None
    assert facts.system_id > 0


@pytest.mark.parametrize("major", [15, 18])
def test_fifty_failures_leave_no_session_behind(make_postgres: MakePostgres, major: int) -> None:
    """PITFALLS 80: whatever fails, the server's list of sessions is clean afterwards."""
    server = make_postgres(major)
    server.query("CREATE ROLE ordinary LOGIN")
    server.write_hba(TRUST)

    for attempt in range(25):
        with pytest.raises(DrtoolError):
            read_facts(server.dsn(user="ordinary"))
        with pytest.raises(DrtoolError):
            _ask_amiss(
                server, "START_REPLICATION PHYSICAL 0/1000000" if attempt % 2 else "NONSENSE"
            )

    assert _ours(server) == []


def _ask_amiss(server: PostgresServer, command: str) -> None:
    with connect_replication(server.dsn(), purpose="test") as connection:
        connection.rows(command)


def _ours(server: PostgresServer) -> list[tuple[str]]:
    query = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'drtool%%'"
    rows: list[tuple[str]] = []
    for _ in range(200):
        rows = server.query(query)
        if not rows:
            break
        server.query("SELECT pg_sleep(0.05)")
    return rows
