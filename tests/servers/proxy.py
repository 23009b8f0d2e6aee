"""A TCP proxy that misbehaves as told: cuts, delays, resets, answers errors in the server's place."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_BLOCK_BYTES = 65536
_WAIT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """Close the connection after this many bytes of the server's answer."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class CutRequest:
    """Close the connection after this many bytes of the client's request."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """Let the server do what was asked, and reset the connection instead of answering."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection as soon as the request begins."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Hold the request back for so long, then pass it on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Silence:
    """Take the request and never answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the request without asking the server."""

    status: int
    code: str
    content: str = ""  # an error with `code`, if it is not named

    def encoded(self) -> bytes:
        content = self.content or f"<Error><Code>{self.code}</Code></Error>"
        body = f"<?xml version='1.0'?>{content}".encode()
        head = (
            f"HTTP/1.1 {self.status} {self.code}\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Answer that a put has succeeded, and keep nothing."""

    def encoded(self) -> bytes:
        etag = "d41d8cd98f00b204e9800998ecf8427e"
        head = (
            f'HTTP/1.1 200 OK\r\nETag: "{etag}"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
        )
        return head.encode()


Fault = CutAnswer | CutRequest | LoseAnswer | Reset | Delay | Silence | Answer | Acknowledge
# The fault for a request, by its number (from 1) and first line; None lets it pass.
Choice = Callable[[int, str], Fault | None]


def always(fault: Fault) -> Choice:
    return lambda _number, _line: fault


def first(count: int, fault: Fault, *, method: str = "") -> Choice:
    """`fault` for the first `count` requests of a method (of any, if it is not named)."""
    seen = 0

    def choose(_number: int, line: str) -> Fault | None:
        nonlocal seen
        if not line.startswith(method):
            return None
        seen += 1
        return fault if seen <= count else None

    return choose


def every_other(fault: Fault) -> Choice:
    """`fault` for the first request, the third, the fifth..."""
    seen = 0

    def choose(_number: int, _line: str) -> Fault | None:
        nonlocal seen
        seen += 1
        return fault if seen % 2 else None

    return choose


class FaultProxy:
    """In front of `address`; what it does to requests is decided by `choice`, which tests set.

    Every connection carries one request: the proxy asks both sides to close it.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.choice: Choice = lambda _number, _line: None
        # By header of the request, in small letters: what every request that bears it meets.
        self.by_header: dict[str, Fault] = {}
        # Headers of requests, in small letters, that the server does not get to see: it cannot heed them.
        self.hidden_headers: frozenset[str] = frozenset()
        self.lines: list[str] = []
        self._address = address
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(0.2)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(_WAIT_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                client.settimeout(_WAIT_SECONDS)
                head = _head(client)
                if head:
                    self._pass_on(client, head)
            except OSError:
                return  # a side hung up, which is what this is about

    def _pass_on(self, client: socket.socket, head: bytes) -> None:
        line = head.split(b"\r\n", 1)[0].decode(errors="replace")
        with self._lock:
            self.lines.append(line)
            fault = self.choice(len(self.lines), line) or self._fault_by_header(head)
        if isinstance(fault, Reset):
            _reset(client)
        elif isinstance(fault, Silence):
            self._stopped.wait(_WAIT_SECONDS)
        elif isinstance(fault, Answer | Acknowledge):
            _drain_body(client, head)
            client.sendall(fault.encoded())
        else:
            if isinstance(fault, Delay):
                time.sleep(fault.seconds)
            self._relay(client, _closing(_without(head, self.hidden_headers)), fault)

    def _fault_by_header(self, head: bytes) -> Fault | None:
        names = {field.partition(b":")[0].strip().lower() for field in head.split(b"\r\n")[1:]}
        met = (fault for name, fault in self.by_header.items() if name.encode() in names)
        return next(met, None)

    def _relay(self, client: socket.socket, head: bytes, fault: Fault | None) -> None:
        sent = received = 0
        with socket.create_connection(self._address, timeout=_WAIT_SECONDS) as server:
            server.sendall(head)
            while not self._stopped.is_set():
                ready, _, _ = select.select([client, server], [], [], _WAIT_SECONDS)
                if not ready:
                    return
                if client in ready:
                    block = client.recv(_BLOCK_BYTES)
                    if not block:
                        return
                    sent += len(block)
                    if isinstance(fault, CutRequest) and sent > fault.after_bytes:
                        _reset(client)
                        return
                    server.sendall(block)
                if server in ready:
                    block = server.recv(_BLOCK_BYTES)
                    if isinstance(fault, LoseAnswer):
                        _reset(client)
                        return
                    if not block:
                        return
                    if isinstance(fault, CutAnswer):
                        client.sendall(block[: max(0, fault.after_bytes - received)])
                        if received + len(block) > fault.after_bytes:
                            return
                    else:
                        client.sendall(block)
                    received += len(block)


@contextmanager
def proxied(address: tuple[str, int]) -> Iterator[FaultProxy]:
    proxy = FaultProxy(address)
    try:
        yield proxy
    finally:
        proxy.close()


def _head(client: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        block = client.recv(_BLOCK_BYTES)
        if not block:
            return b""
        head += block
    return head


def _closing(head: bytes) -> bytes:
    """The request with `Connection: close`, so that the next one comes on its own connection."""
    line, rest = head.split(b"\r\n", 1)
    return line + b"\r\nConnection: close\r\n" + rest


def _without(head: bytes, hidden: frozenset[str]) -> bytes:
    """The request without some of its headers; what came of its body with the head is left alone."""
    fields, end, body = head.partition(b"\r\n\r\n")
    names = {name.encode() for name in hidden}
    shown = [
        field for field in fields.split(b"\r\n") if field.partition(b":")[0].lower() not in names
    ]
    return b"\r\n".join(shown) + end + body


def _drain_body(client: socket.socket, head: bytes) -> None:
    """Read what the client sends, or it would see a reset instead of the answer."""
    fields, _, body = head.partition(b"\r\n\r\n")
    left = -len(body)
    for field in fields.split(b"\r\n")[1:]:
        name, _, value = field.partition(b":")
        if name.strip().lower() == b"content-length":
            left += int(value)
    while left > 0:
        block = client.recv(_BLOCK_BYTES)
        if not block:
            return
        left -= len(block)


def _reset(client: socket.socket) -> None:
    """Close so that the other side gets RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
