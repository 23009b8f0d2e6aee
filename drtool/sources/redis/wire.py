"""The bytes between us and a Redis server: a socket with limits, and one buffer that is used again."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence

from drtool.errors import SourceUnavailable
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.refusals import hung_up, silent, unreachable

BUFFER_BYTES = 1 << 20
_LINE_BYTES = 64 << 10
# A server that prepares a snapshot sends one such line a second.
_MOST_EMPTY_LINES = 600


class Wire:
    """A connected socket and what was read from it. Not for two threads."""

    def __init__(self, connection: socket.socket, place: str) -> None:
        self._socket = connection
        self.place = place
        self._content = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._content)
        self._begin = 0
        self._end = 0

    @property
    def waiting_bytes(self) -> int:
        """How much was read and not yet taken."""
        return self._end - self._begin

    def waiting(self) -> memoryview:
        """What was read and not yet taken; good until the next `fill`."""
        return self._view[self._begin : self._end]

    def take(self, count: int) -> memoryview:
        """The next `count` bytes of what is waiting; good until the next `fill`."""
        taken = self._view[self._begin : self._begin + count]
        self._begin += len(taken)
        return taken

    def find(self, mark: bytes) -> int:
        """Where `mark` begins in what is waiting, or -1."""
        found = self._content.find(mark, self._begin, self._end)
        return found - self._begin if found >= 0 else -1

    def fill(self, timeout_seconds: float) -> bool:
        """Read more behind what is waiting; False if nothing came in time.

        SourceUnavailable if the server ended the connection.
        """
        if self._begin == self._end:
            self._begin = self._end = 0
        elif len(self._content) - self._end < BUFFER_BYTES // 2:
            count = self._end - self._begin
            # Only what is left of a line or a mark is moved: some dozen bytes.
            self._content[:count] = self._content[self._begin : self._end]
            self._begin, self._end = 0, count
        try:
            self._limit(max(0.001, timeout_seconds))
            count = self._socket.recv_into(self._view[self._end :])
        except TimeoutError:
            return False
        except ssl.SSLWantReadError:
            return False
        except OSError as error:
            raise hung_up(self.place, f"({error})") from error
        if count == 0:
            raise hung_up(self.place, "without a word")
        self._end += count
        return True

    def line(self, timeout_seconds: float) -> str | None:
        """The next line, without its end; None if it has not come in time."""
        while (end := self.find(b"\n")) < 0:
            if self.waiting_bytes > _LINE_BYTES:
                raise SourceUnavailable(
                    f"{self.place} does not speak Redis's protocol",
                    hint="Check the address, and whether the server speaks TLS there.",
                )
            if not self.fill(timeout_seconds):
                return None
        return bytes(self.take(end + 1)).rstrip(b"\r\n").decode("utf-8", "replace")

    def reply(self, timeout_seconds: float) -> str:
        """The next line that says something; SourceUnavailable if there is none in time.

        Empty lines are signs of life of a server that prepares a long answer: each grants
        `timeout_seconds` more.
        """
        for _ in range(_MOST_EMPTY_LINES):
            line = self.line(timeout_seconds)
            if line is None:
                break
            if line:
                return line
        raise silent(self.place, timeout_seconds)

    def send(self, words: Sequence[bytes], timeout_seconds: float) -> None:
        """Send one command; SourceUnavailable if the server does not take it."""
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        try:
            self._limit(timeout_seconds)
            self._socket.sendall(b"".join(parts))
        except OSError as error:
            raise hung_up(self.place, f"({error})") from error

    def _limit(self, timeout_seconds: float) -> None:
        # Each change is a system call, and most calls ask for what the last one did.
        if timeout_seconds != self._socket.gettimeout():
            self._socket.settimeout(timeout_seconds)

    def close(self) -> None:
        """End the connection at once."""
        with contextlib.suppress(OSError):
            self._socket.close()


def open_wire(address: NodeAddress, login: Login, *, timeout_seconds: float) -> Wire:
    """Connect, with TLS if `login` says so; nothing is sent yet. SourceUnavailable says why not."""
    place = f"Redis at {address}"
    context = None if login.tls is None or address.is_socket else login.tls.context()
    connection: socket.socket | None = None
    try:
        if address.is_socket:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(timeout_seconds)
            connection.connect(address.host)
        else:
            connection = socket.create_connection(
                (address.host, address.port), timeout=timeout_seconds
            )
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname=address.host)
    except OSError as error:
        if connection is not None:
            connection.close()
        raise unreachable(place, error) from error
    return Wire(connection, place)
