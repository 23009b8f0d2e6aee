"""The thread that makes marks: whatever ends a session of its, it goes on or somebody learns of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from drtool.archiving.beating import Heart
from drtool.errors import SourceUnavailable
from drtool.model.progress import Event
from drtool.repository.layout import Lineage
from drtool.sources.postgres.connection import connect
from drtool.system.clock import SystemClock
from tests.archiving.rig import SOURCE, flushed, new_repository, until
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.postgres

# The statements of a session that makes marks, from its first to its last.
STATEMENTS = (
    b"transaction_timeout",
    b"pg_is_in_recovery",
    b"BEGIN",
    b"pg_logical_emit_message",
    b"pg_current_wal_flush_lsn",
    b"synchronous_standby_names",
)


class Relay:
    """Carries sessions to a server, and cuts the first in which a client says `cut_at`."""

    def __init__(self, server: PostgresServer, cut_at: bytes) -> None:
        self.port = free_port()
        self.has_cut = threading.Event()
        self._server, self._cut_at = server, cut_at
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def dsn(self) -> str:
        return self._server.dsn(port=str(self.port))

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server.port))
                for source, target in ((client, server), (server, client)):
                    carry = threading.Thread(
                        target=self._carry, args=(source, target, source is client), daemon=True
                    )
                    carry.start()

    def _carry(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                if is_client and self._cut_at in content and not self.has_cut.is_set():
                    self.has_cut.set()
                    break
                target.sendall(content)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def relayed(server: PostgresServer, cut_at: bytes) -> Iterator[Relay]:
    relay = Relay(server, cut_at)
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def beating(dsn: str, events: list[Event]) -> Iterator[Heart]:
    heart = Heart(dsn, application_name="drtool", seconds=0.05, clock=SystemClock())
    heart.start(at_once=threading.Event(), emit=events.append)
    try:
        yield heart
    finally:
        heart.close()


def keeps(heart: Heart, server: PostgresServer) -> Callable[[], int]:
    repository, lineage = new_repository(), Lineage(SOURCE, 1, 1)
    return lambda: heart.keep(repository, lineage, flushed(server))


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.decode())
def test_marks_go_on_after_a_session_that_ended_at_any_statement(
    postgres18: PostgresServer, statement: bytes
) -> None:
    events: list[Event] = []
    with relayed(postgres18, statement) as relay, beating(relay.dsn, events) as heart:
        until(relay.has_cut.is_set, "the session is cut")
        # What was made before the cut is kept first.
        kept = keeps(heart, postgres18)
        until(lambda: len(events) == 1, "it is told")
        kept()
        until(kept, "a mark is made by another session")


def test_a_connection_that_ends_as_it_is_set_up_is_an_unavailable_source(
    postgres18: PostgresServer,
) -> None:
    with (
        relayed(postgres18, STATEMENTS[0]) as relay,
        pytest.raises(SourceUnavailable, match=f"127.0.0.1:{relay.port} cannot be reached"),
    ):
        connect(relay.dsn, purpose="test")


def test_a_bug_that_ends_the_heartbeat_is_raised_to_the_receiver(
    postgres15: PostgresServer,
) -> None:
    """A thread that died in silence would leave a receiver that makes no marks any more."""

    def broken(event: Event) -> None:
        raise RuntimeError(f"nobody can be told of {event}")

    heart = Heart(
        postgres15.dsn(dbname="nowhere"),
        application_name="drtool",
        seconds=0.05,
        clock=SystemClock(),
    )
    heart.start(at_once=threading.Event(), emit=broken)
    kept = keeps(heart, postgres15)

    def is_told() -> bool:
        with suppress(RuntimeError):
            kept()
            return False
        return True

    until(is_told, "it is raised")
    with pytest.raises(RuntimeError, match="nobody can be told"):
        kept()
    heart.close()
