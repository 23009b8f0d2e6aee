"""Something that speaks PostgreSQL's protocol as far as libpq wants, and then answers with given bytes.

It stands for a hostile server, or for whoever is on the way to one: what it says is not PostgreSQL's.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE_SECONDS = 0.5
_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104


def message(kind: bytes, body: bytes) -> bytes:
    """One message of the protocol, version 3."""
    return kind + struct.pack(">I", len(body) + 4) + body


def rows(columns: int, *values: tuple[bytes | None, ...]) -> bytes:
    """The answer of a command: a description of the columns, the rows, and the end."""
    fields = b"".join(b"c\0" + struct.pack(">IHIhih", 0, 0, 25, -1, -1, 0) for _ in range(columns))
    parts = [message(b"T", struct.pack(">H", columns) + fields)]
    for row in values:
        body = struct.pack(">H", len(row))
        for value in row:
            body += (
                struct.pack(">i", -1) if value is None else struct.pack(">I", len(value)) + value
            )
        parts.append(message(b"D", body))
    return b"".join([*parts, message(b"C", b"SELECT\0")])


READY = message(b"Z", b"I")


class AnsweringServer:
    """Sends `answer` up to READY to the first command of a connection, up to the next one to the second,
    and so on, and then closes it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.answer = b""
        self._stopped = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def dsn(self) -> str:
        return f"host={self.directory} port=5432 user=drtool dbname=x"

    def close(self) -> None:
        self._stopped.set()
        with suppress(OSError), socket.socket(socket.AF_UNIX) as waker:
            waker.connect(str(self.directory / ".s.PGSQL.5432"))
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._stopped.is_set():
                    return
                connection.settimeout(5)
                with suppress(OSError, struct.error):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        while True:
            length, code = struct.unpack(">II", _exactly(connection, 8))
            _exactly(connection, length - 8)
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            connection.sendall(b"N")
        settings = {b"server_version": b"15.4", b"client_encoding": b"UTF8"}
        told = b"".join(message(b"S", b"\0".join([*pair, b""])) for pair in settings.items())
        connection.sendall(message(b"R", struct.pack(">I", 0)) + told + READY)
        pieces = self.answer.removesuffix(READY).split(READY)
        if self.answer.endswith(READY):
            pieces[-1] += READY
        for number, piece in enumerate(pieces, start=1):
            kind, length = struct.unpack(">cI", _exactly(connection, 5))
            _exactly(connection, length - 4)
            if kind != b"Q":
                return
            connection.sendall(piece if number == len(pieces) else piece + READY)
            # Who waits for more of an answer that was cut asks no further.
            connection.settimeout(_PATIENCE_SECONDS)
        connection.shutdown(socket.SHUT_WR)
        # Closed only once libpq has read: what is on its way would be lost with a reset.
        connection.recv(1 << 16)


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        more = connection.recv(count - len(received))
        if not more:
            raise OSError("it has gone")
        received += more
    return received


@contextmanager
def answering(directory: Path) -> Iterator[AnsweringServer]:
    """A server on a socket in `directory`."""
    server = AnsweringServer(directory)
    try:
        yield server
    finally:
        server.close()
