"""Connections to a server: one for SQL, one for the replication protocol; both with limits.

Sources: PostgreSQL docs, "libpq connection control functions" and "Streaming Replication Protocol".
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from drtool.errors import PolicyError, SourceUnavailable, SourceUnsuitable
from drtool.model.link import Link
from drtool.sources.postgres.links import connect_guarded, link_of
from drtool.sources.postgres.refusals import (
    OLDEST_VERSION,
    Failure,
    command_failed,
    refused,
    too_old,
)

ANSWER_SECONDS = 60.0
_BUSY = (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_BOTH)
# A peer that vanished is noticed within half a minute, whoever has bytes in flight.
_TRANSPORT = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
DEFAULT_PORT = 5432
# For the settings of a session that may write.
WRITING = {"default_transaction_read_only": "off"}
_BLANK = re.compile(r"[\s\\]")
_TEXTS = ("text", "name", "varchar", "bpchar")
Notice = Callable[[pq.abc.PGresult], None]


def place_of(dsn: str) -> str:
    """`server HOST:PORT`, for messages: no user, no password, nothing of the text itself.

    PolicyError for a text that is no connection string. Its parser's message is dropped because
    it may quote the password.
    """
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.Error:
        raise PolicyError(
            "the DSN is not a connection string that libpq understands",
            hint="Write it as postgresql://ROLE@HOST:PORT/DATABASE or 'host=... user=...'; encode"
            " special characters of the password (%20 for a space).",
        ) from None
    host = given.get("host") or given.get("hostaddr") or "localhost"
    ports = str(given.get("port") or DEFAULT_PORT)
    for port in ports.split(","):
        # libpq takes several hosts, and looks at their ports only as it connects.
        if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
            raise PolicyError(
                "the DSN names a port that is no number from 1 to 65535",
                hint="Write it as postgresql://ROLE@HOST:PORT/DATABASE or 'host=... port=...'.",
            )
    return f"server {host}:{ports}"


def database_of(dsn: str) -> str | None:
    """The database that a DSN names; None if it names none or is no connection string."""
    try:
        name = conninfo_to_dict(dsn).get("dbname")
    except psycopg.Error:
        return None
    return str(name) if name else None


def ports_of(dsn: str) -> tuple[int, ...]:
    """The ports that a DSN leads to, one a host; PolicyError for a text that is no connection string."""
    told = place_of(dsn).rpartition(":")[2]
    return tuple(int(port or DEFAULT_PORT) for port in told.split(","))


def connect(
    dsn: str,
    *,
    purpose: str,
    timeout_seconds: float = 10,
    statement_seconds: float = ANSWER_SECONDS,
    search_path: str = "pg_catalog",
    settings: Mapping[str, str] | None = None,
) -> psycopg.Connection:
    """A connection for SQL, in autocommit and read-only, named `drtool PURPOSE`; the caller closes it.

    A statement may take `statement_seconds`, a lock as long. The role's own time-outs do not
    count: a start-up option outranks ALTER ROLE ... SET and postgresql.conf; so do `settings`, of
    which some need a superuser. SourceUnavailable or SourceUnsuitable say why there is none;
    PolicyError if `dsn` is no connection string.
    """
    limit = f"{int(statement_seconds * 1000)}"
    own = {
        "statement_timeout": limit,
        "lock_timeout": limit,
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
        "search_path": search_path,
        # Whoever writes says so for its transaction, as a mark does; nothing else of ours changes a source.
        "default_transaction_read_only": "on",
        "client_encoding": "UTF8",
        "DateStyle": "ISO",
    }
    connection = _open(
        dsn, purpose=purpose, timeout_seconds=timeout_seconds, settings={**own, **(settings or {})}
    )
    for kind in _TEXTS:
        connection.adapters.register_loader(kind, _Text)
    if connection.info.server_version >= 170000:
        try:
            connection.execute("SET transaction_timeout = 0")
        except psycopg.Error as error:  # it stops just now, or ended this session
            connection.close()
            raise refused(place_of(dsn), str(error)) from None
    return connection


class _Text(Loader):
    """Text as it came, `\ufffd` where it is no UTF-8: names that all databases share, and those of
    prepared transactions, may come from a database of another encoding, and must not end a look at them.
    """

    def load(self, data: Buffer) -> str:
        """One value."""
        return bytes(data).decode("utf-8", "replace")


def connect_replication(
    dsn: str, *, purpose: str, timeout_seconds: float = 10, application_name: str | None = None
) -> ReplicationConnection:
    """A connection that speaks the replication protocol; the caller closes it. Errors as `connect`.

    `application_name` is what synchronous_standby_names would call us; `drtool PURPOSE` if None.
    """
    settings = {"statement_timeout": "0", "idle_session_timeout": "0", "wal_sender_timeout": "60s"}
    connection = _open(
        dsn,
        purpose=purpose,
        timeout_seconds=timeout_seconds,
        settings=settings,
        replication="true",
        application_name=application_name or f"drtool {purpose}",
    )
    return ReplicationConnection(connection, place_of(dsn))


def _open(
    dsn: str, *, purpose: str, timeout_seconds: float, settings: dict[str, str], **more: str
) -> psycopg.Connection:
    place = place_of(dsn)
    given = conninfo_to_dict(dsn)
    options = f"{given.get('options') or ''} {startup_options(settings)}"
    conninfo = make_conninfo(
        dsn,
        **_TRANSPORT,
        connect_timeout=max(2, round(timeout_seconds)),
        options=options.strip(),
        **{"application_name": f"drtool {purpose}", **more},
    )
    try:
        connection = connect_guarded(conninfo)
    except psycopg.Error as error:
        # libpq's messages name host, port, role and database, never the password.
        raise refused(place, str(error)) from None
    version = connection.info.server_version
    if version < OLDEST_VERSION:
        connection.close()
        raise too_old(place, version)
    return connection


def startup_options(settings: Mapping[str, str]) -> str:
    """Settings as libpq's `options` and PGOPTIONS take them; a blank and a backslash are quoted."""
    quoted = {name: _BLANK.sub(r"\\\g<0>", value) for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in quoted.items())


class ReplicationConnection:
    """One walsender session: simple commands, then at most one stream. Not for two threads.

    It answers within a limit or raises SourceUnavailable; after that it must be closed.
    """

    def __init__(self, connection: psycopg.Connection, place: str) -> None:
        # psycopg closes the PGconn when its connection is collected, so hold on to both.
        self._connection = connection
        self.pgconn: pq.abc.PGconn = connection.pgconn
        self.place = place
        self.server_version: int = connection.info.server_version
        self.host: str = connection.info.host

    @property
    def link(self) -> Link:
        """How this connection is protected on its way."""
        return link_of(self._connection)

    def on_notice(self, handler: Notice | None) -> None:
        """Give every notice and warning of the server to `handler`, in the thread that reads."""
        self.pgconn.notice_handler = handler

    def rows(
        self, command: str, *, timeout_seconds: float = ANSWER_SECONDS
    ) -> list[tuple[str | None, ...]]:
        """The rows that `command` answers with, as text."""
        self.send(command)
        rows: list[tuple[str | None, ...]] = []
        try:
            while (result := self.result(timeout_seconds=timeout_seconds)) is not None:
                if result.status in _BUSY:
                    raise SourceUnsuitable(f"{self.place} began a stream for a plain command")
                rows.extend(rows_of(result))
        finally:
            self._drain(timeout_seconds)
        return rows

    def _drain(self, timeout_seconds: float) -> None:
        # A session goes on after an error; the next command needs this one read to its end.
        # Where that fails too, the session is dead, and the first error has said why.
        try:
            while self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                result = self.result(timeout_seconds=timeout_seconds)
                if result is None or result.status in _BUSY:
                    return
        except SourceUnavailable:
            return

    def send(self, command: str) -> None:
        """Send one command without waiting for its answer."""
        try:
            self.pgconn.send_query(command.encode())
            self.flush(ANSWER_SECONDS)
        except psycopg.Error as error:
            raise refused(self.place, str(error)) from None

    def result(self, *, timeout_seconds: float = ANSWER_SECONDS) -> pq.abc.PGresult | None:
        """The next result of the command in flight, None after its last; its error is raised."""
        try:
            while self.pgconn.is_busy():
                self.await_bytes(timeout_seconds)
            result = self.pgconn.get_result()
        except psycopg.Error as error:
            raise refused(self.place, str(error)) from None
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise command_failed(self.place, failure_of(result))
        return result

    def await_bytes(self, timeout_seconds: float) -> None:
        """Wait until the server has sent something, and take it; SourceUnavailable if it does not."""
        if not self.wait(timeout_seconds):
            raise SourceUnavailable(
                f"{self.place} has sent nothing for {timeout_seconds:g} s",
                hint="Look at the server's log and at the network between; then try again.",
            )

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for bytes and take them; return whether there were any."""
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        if not poll.poll(max(0, timeout_seconds) * 1000):
            return False
        try:
            self.pgconn.consume_input()
        except psycopg.Error as error:
            raise refused(self.place, str(error)) from None
        return True

    def flush(self, timeout_seconds: float) -> None:
        """Send what libpq still holds back; SourceUnavailable if the server does not take it."""
        try:
            while self.pgconn.flush():
                poll = select.poll()
                poll.register(self.pgconn.socket, select.POLLIN | select.POLLOUT)
                ready = poll.poll(timeout_seconds * 1000)
                if not ready:
                    raise SourceUnavailable(
                        f"{self.place} has taken nothing for {timeout_seconds:g} s",
                        hint="Look at the server's log and at the network between; then try again.",
                    )
                # A server that sends while we send must be read, or both would wait.
                if ready[0][1] & select.POLLIN:
                    self.pgconn.consume_input()
        except psycopg.Error as error:
            raise refused(self.place, str(error)) from None

    def cancel(self, *, timeout_seconds: float = 5) -> None:
        """Ask the server to stop what it does for us; whether it heard is not told."""
        try:
            self._connection.cancel_safe(timeout=timeout_seconds)
        except psycopg.Error:
            return

    def close(self) -> None:
        """End the session at once, in mid-stream too: the server notices by itself."""
        self.on_notice(None)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def failure_of(result: pq.abc.PGresult) -> Failure:
    """What the server says of an error or a notice."""
    field = pq.DiagnosticField
    return Failure(
        sqlstate=_text(result.error_field(field.SQLSTATE)),
        message=_text(result.error_field(field.MESSAGE_PRIMARY)) or result.get_error_message(),
        detail=_text(result.error_field(field.MESSAGE_DETAIL)),
        source_file=_text(result.error_field(field.SOURCE_FILE)),
    )


def rows_of(result: pq.abc.PGresult) -> list[tuple[str | None, ...]]:
    """The rows of one result, as text."""
    return [
        tuple(_text(result.get_value(row, column)) for column in range(result.nfields))
        for row in range(result.ntuples)
    ]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "surrogateescape")
