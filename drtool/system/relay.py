"""A Unix socket in front of another one: so much time, so many bytes, and one process at its other end.

A client library reads a message of any length into memory before anybody can look at it, and waits for
a server that goes on for ever. What it is connected to through a relay can do neither to it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import struct
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_PIECE = 1 << 16
_CREDENTIALS = struct.Struct("3i")
_JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """From its start to its end, and of what the server sends in all."""

    seconds: float
    answer_bytes: int


def process_behind(descriptor: int) -> int | None:
    """As `peer_pid`, of a connected socket's descriptor, which stays open."""
    with socket.socket(fileno=os.dup(descriptor)) as connected:
        return peer_pid(connected)


def peer_pid(connected: socket.socket) -> int | None:
    """The process that listens at the other end, as the kernel says; None if it is none of this machine."""
    if connected.family != socket.AF_UNIX:
        return None
    told = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(told)[0]
    return pid or None


class Relay:
    """Leads one connection to `server`, and only if process `pid` listens there; to be closed.

    `fault` is why it ended the connection by itself; None while it did not. `is_late`: the time was over.
    """

    def __init__(self, server: Path, *, pid: int, limits: RelayLimits) -> None:
        self._server = server
        self._pid = pid
        self._limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self.fault: str | None = None
        self.is_late = False
        self.directory = Path(tempfile.mkdtemp(prefix="drtool-q-"))
        self._over, self._end = socket.socketpair()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(self.directory / server.name))
            self._listener.listen(1)
        except BaseException:
            self._clear()
            raise
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the connection, and remove the socket."""
        with contextlib.suppress(OSError):
            self._end.send(b"!")
        self._thread.join(_JOIN_SECONDS)
        self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _clear(self) -> None:
        for one in (self._listener, self._end, self._over):
            one.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self) -> None:
        try:
            self._readable(self._listener)
            client, _ = self._listener.accept()
            self._listener.close()
            with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
                server.settimeout(self._left())
                server.connect(str(self._server))
                if peer_pid(server) != self._pid:
                    self.fault = f"process {peer_pid(server)} listens there, and not {self._pid}"
                    return
                self._pass_on(client, server)
        except TimeoutError:
            self.is_late = True
            self.fault = f"it took longer than {self._limits.seconds:g} s"
        except OSError:
            # One end is gone: the other learns it as its own is closed.
            return

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        told = 0
        while True:
            for source in self._readable(client, server):
                piece = source.recv(_PIECE)
                if not piece:
                    return
                if source is server:
                    told += len(piece)
                    if told > self._limits.answer_bytes:
                        self.fault = f"it is longer than {self._limits.answer_bytes} bytes"
                        return
                sink = client if source is server else server
                sink.settimeout(self._left())
                sink.sendall(piece)

    def _readable(self, *sockets: socket.socket) -> list[socket.socket]:
        """Those that can be read; TimeoutError when the time is over, another OSError once it is to end."""
        poll = select.poll()
        for one in (self._over, *sockets):
            poll.register(one, select.POLLIN)
        ready = {number for number, _ in poll.poll(self._left() * 1000)}
        if not ready:
            raise TimeoutError
        if self._over.fileno() in ready:
            raise ConnectionAbortedError
        return [one for one in sockets if one.fileno() in ready]

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
