"""How a link is protected is seen on the link itself; a password goes in clear text over none."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from psycopg.conninfo import make_conninfo

from drtool.check.links import check_link
from drtool.errors import DrtoolError
from drtool.model.finding import Severity
from drtool.model.link import Link
from drtool.sources.postgres.connection import connect
from drtool.sources.postgres.facts import read_facts
from drtool.system.network import stays_on_this_machine
from tests.servers.postgres import PostgresServer, new_server
from tests.servers.redis import make_certificates

PASSWORD = "gr8-s3cret-of-ours"
_LOCAL = "local all all trust"


def own_address() -> str:
    """An address of this machine that is not loopback: what goes there counts as crossing a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("203.0.113.1", 9))  # a route is looked up; nothing is sent
        address: str = probe.getsockname()[0]
    return address


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server with TLS whose role `asked` gives its password in clear text."""
    server = new_server(15, settings={"listen_addresses": f"127.0.0.1,{own_address()}"})
    make_certificates(server.data)
    lines = (_LOCAL, "host all asked all password", "host replication,all postgres all trust")
    server.write_hba("\n".join(lines))
    server.restart(ssl="on")
    server.query(f"CREATE ROLE asked LOGIN PASSWORD '{PASSWORD}'")
    yield server
    server.close()


def test_a_link_is_called_encrypted_and_verified_by_what_it_is(server: PostgresServer) -> None:
    root = server.data / "server.crt"
    asked = {
        "disable": (False, False),
        "require": (True, False),
        "verify-full": (True, True),
    }

    for mode, (is_encrypted, is_verified) in asked.items():
        dsn = server.dsn(sslmode=mode, sslrootcert=str(root))
        assert read_facts(dsn).link == Link(
            stays_here=True, is_encrypted=is_encrypted, is_verified=is_verified
        )


def test_check_warns_of_a_link_that_crosses_a_network_unverified(server: PostgresServer) -> None:
    for mode, word in {"disable": "in clear text", "require": "nobody checks whose"}.items():
        facts = read_facts(server.dsn(host=own_address(), sslmode=mode))

        (finding,) = check_link(facts.place, facts.link, fix="sslmode=verify-full")
        assert finding.severity is Severity.WARNING
        assert word in finding.fact
    here = read_facts(server.dsn())
    assert not list(check_link(here.place, here.link, fix=""))


@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_over_tls_a_server_that_asks_for_the_password_itself_gets_it(
    server: PostgresServer, mode: str
) -> None:
    dsn = asking(server.port, sslmode=mode)

    with closing(connect(dsn, purpose="test")) as connection:
        assert connection.pgconn.ssl_in_use


def test_in_clear_text_it_gets_the_password_only_if_the_dsn_says_so(server: PostgresServer) -> None:
    with pytest.raises(DrtoolError, match="clear text over a link without TLS") as refused:
        connect(asking(server.port, sslmode="disable"), purpose="test")
    assert "require_auth=password" in refused.value.hint

    dsn = asking(server.port, sslmode="disable", require_auth="password")
    with closing(connect(dsn, purpose="test")) as connection:
        assert not connection.pgconn.ssl_in_use


@pytest.mark.parametrize("mode", ["", "disable", "allow", "prefer"])
def test_whoever_stands_in_the_servers_place_is_told_no_password(mode: str) -> None:
    with impostor() as (port, heard), pytest.raises(DrtoolError):
        connect(asking(port, **({"sslmode": mode} if mode else {})), purpose="test")

    assert heard
    assert PASSWORD.encode() not in b"".join(heard)


def test_only_loopback_and_sockets_stay_on_this_machine() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "/run/postgresql", "127.8.0.1"):
        assert stays_on_this_machine(host), host
    for host in (own_address(), "192.0.2.7", "no-such-host.invalid", "a" * 300, "\udcff"):
        assert not stays_on_this_machine(host), host


def asking(port: int, **more: str) -> str:
    return make_conninfo(
        host="127.0.0.1", port=port, user="asked", password=PASSWORD, dbname="postgres", **more
    )


@contextmanager
def impostor() -> Iterator[tuple[int, list[bytes]]]:
    """Listens as a server without TLS would, and asks everybody for the password in clear text."""
    heard: list[bytes] = []
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        thread = threading.Thread(target=_serve, args=(listener, heard, is_over))
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            is_over.set()
            thread.join()


def _serve(listener: socket.socket, heard: list[bytes], is_over: threading.Event) -> None:
    while not is_over.is_set():
        with suppress(OSError):  # nobody came yet, or whoever came has gone
            client, _ = listener.accept()
            with client:
                client.settimeout(2)
                while said := client.recv(4096):
                    heard.append(said)
                    wants_encryption = len(said) == 8  # SSLRequest, GSSENCRequest
                    client.sendall(b"N" if wants_encryption else b"R" + struct.pack("!II", 8, 3))
