"""What a server answers, read within limits: whoever answers may be nobody that we know."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Any

import redis
from redis.connection import DefaultParser

from drtool.system.clock import Stopwatch, SystemClock

# The largest answer that is asked for are the functions of a server, which is code that people wrote.
MOST_REPLY_BYTES = 64 << 20
_MOST_LINE_BYTES = 64 << 10
_MOST_ELEMENTS = 1 << 20
# COMMAND goes five deep.
_MOST_DEPTH = 16
# Each wait for bytes is limited by the connection; this is for an answer that comes byte by byte.
_MOST_WAITS = 20
_RECEIVE_BYTES = 64 << 10
_NUMBER = re.compile(rb"-?[0-9]{1,19}")
_SILENT = (TimeoutError, BlockingIOError, ssl.SSLWantReadError)

# Bytes, numbers, None, lists of these, and errors of the library, which raises them.
Answer = Any


class BoundedParser:
    """Reads RESP2 in the library's place; redis.InvalidResponse for what has no end, or no sense."""

    def __init__(self, socket_read_size: int) -> None:
        self._receive_bytes = min(socket_read_size, _RECEIVE_BYTES)
        self._socket: socket.socket | None = None
        self._each_seconds: float | None = None
        self._content = bytearray()
        self._begin = 0
        self._left_bytes = self._left_elements = 0
        self._watch = Stopwatch(SystemClock())

    def on_connect(self, connection: Any) -> None:  # of several classes of the library
        """The library has connected."""
        self._socket = connection._sock  # noqa: SLF001 - what a parser of the library is given
        self._each_seconds = connection.socket_timeout
        self._content, self._begin = bytearray(), 0

    def on_disconnect(self) -> None:
        """The library has let go of the connection."""
        self._socket = None
        self._content, self._begin = bytearray(), 0

    def can_read(self, timeout: float = 0) -> bool:
        """Whether something waits that nobody asked for, or the server has hung up."""
        if self._begin < len(self._content):
            return True
        if self._socket is None:
            return False
        self._socket.settimeout(timeout)
        try:
            self._receive()
        except _SILENT:
            return False
        finally:
            self._socket.settimeout(self._each_seconds)
        return True

    def read_response(self, **_: object) -> Answer:
        """The next answer; answers are left as bytes in any case."""
        self._left_bytes = MOST_REPLY_BYTES
        self._left_elements = _MOST_ELEMENTS
        self._watch = Stopwatch(SystemClock())
        answer = self._read(0)
        del self._content[: self._begin]
        self._begin = 0
        return answer

    def _read(self, depth: int) -> Answer:
        line = self._line()
        kind, told = line[:1], line[1:]
        if kind == b"-":
            return _error(told)
        if kind == b"+":
            return told
        if kind not in (b":", b"$", b"*") or not _NUMBER.fullmatch(told):
            raise redis.InvalidResponse(f"{line[:40]!r} is no answer")
        number = int(told)
        if kind == b":":
            return number
        if number == -1:
            return None
        if kind == b"$":
            return self._bulk(number)
        self._left_elements -= max(number, 0)
        if number < 0 or self._left_elements < 0 or depth >= _MOST_DEPTH:
            raise redis.InvalidResponse(f"a list of {number} elements, {depth} deep")
        return [self._read(depth + 1) for _ in range(number)]

    def _line(self) -> bytes:
        """The next line without its end."""
        looked = self._begin
        while (end := self._content.find(b"\r\n", looked)) < 0:
            # The carriage return may be here already.
            looked = max(self._begin, len(self._content) - 1)
            if len(self._content) - self._begin > _MOST_LINE_BYTES:
                raise redis.InvalidResponse("a line without an end")
            self._receive()
        line = bytes(self._content[self._begin : end])
        self._take(end + 2)
        return line

    def _bulk(self, size: int) -> bytes:
        if not 0 <= size <= self._left_bytes:
            raise redis.InvalidResponse(f"a string of {size} bytes")
        end = self._begin + size
        while len(self._content) < end + 2:
            self._receive()
        if self._content[end : end + 2] != b"\r\n":
            raise redis.InvalidResponse("a string is longer than it says")
        content = bytes(self._content[self._begin : end])
        self._take(end + 2)
        return content

    def _take(self, end: int) -> None:
        self._left_bytes -= end - self._begin
        self._begin = end
        if self._left_bytes < 0:
            raise redis.InvalidResponse(f"more than {MOST_REPLY_BYTES >> 20} MiB")

    def _receive(self) -> None:
        """What comes next: each wait is the connection's, and all together are not for ever."""
        limit = self._each_seconds
        if limit is not None and self._watch.seconds() > limit * _MOST_WAITS:
            raise TimeoutError("the answer does not end")
        if self._socket is None:
            raise redis.ConnectionError("there is no connection")
        part = self._socket.recv(self._receive_bytes)
        if not part:
            raise redis.ConnectionError("Connection closed by server.")
        self._content += part


def _error(told: bytes) -> Exception:
    """What the library makes of an error of the server; it raises those of a connection at once."""
    error: Exception = DefaultParser.parse_error(told.decode("utf-8", "replace"))  # type: ignore[no-untyped-call,unused-ignore] # untyped there
    if isinstance(error, redis.ConnectionError):
        raise error
    return error
