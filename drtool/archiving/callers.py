"""Who is connected to the socket that WAL is pushed to: known at once, and kept waiting by nobody.

The kernel says which user connects before a byte or a descriptor is taken from them. A connection
that has not asked yet occupies no thread, is closed after a time, and makes way for a newer one.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
from collections import Counter
from dataclasses import dataclass

from drtool.errors import RepositoryUnavailable, UsageError
from drtool.system.clock import Clock

# Of one user at a time, those included whose file is being stored. PostgreSQL's archiver has one.
MOST_CONNECTIONS = 16
# A client sends its request at once; one that was stopped for longer than this pushes again.
IDLE_SECONDS = 10.0
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """A connection, and the user whose process it is."""

    connection: socket.socket
    user_id: int
    since: float


class Callers:
    """Accepts connections of `user_ids` at `listener` and holds them until they ask. For one thread,
    `done` aside.
    """

    def __init__(self, listener: socket.socket, user_ids: frozenset[int], *, clock: Clock) -> None:
        self._listener = listener
        self._user_ids = user_ids
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._idle: list[Caller] = []
        self._busy: list[Caller] = []

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self._idle:
            caller.connection.close()
        self._selector.close()

    def asking(self, seconds: float) -> list[Caller]:
        """Those that have sent something, within `seconds`; from now on they are the caller's to close,
        and count as busy until they are `done`.
        """
        asking = []
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                for _ in range(MOST_CONNECTIONS):
                    self._accept()
                continue
            caller = key.data
            # Not one that made way for another in this very round.
            if caller in self._idle:
                self._forget(caller)
                self._busy.append(caller)
                asking.append(caller)
        for caller in list(self._idle):
            if self._clock.monotonic() - caller.since > IDLE_SECONDS:
                self._turn_away(caller, f"no request within {IDLE_SECONDS:g} s")
        return asking

    def done(self, caller: Caller) -> None:
        """Its request was answered. Any thread."""
        self._busy.remove(caller)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has gone again, or this process has no descriptor left: the next time
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        _, user_id, _ = _CREDENTIALS.unpack(credentials)
        caller = Caller(connection, user_id, self._clock.monotonic())
        connection.setblocking(False)
        if user_id not in self._user_ids:
            code = int(UsageError.exit_code)
            _say_and_close(connection, f"{code} user {user_id} may not push WAL here")
            return
        self._selector.register(connection, selectors.EVENT_READ, caller)
        self._idle.append(caller)
        self._make_way(caller)

    def _make_way(self, newest: Caller) -> None:
        """The oldest of the same user that waits for nothing goes; the newest itself if all are busy."""
        busy = Counter(caller.user_id for caller in list(self._busy))[newest.user_id]
        idle = [caller for caller in self._idle if caller.user_id == newest.user_id]
        if busy + len(idle) > MOST_CONNECTIONS:
            self._turn_away(idle[0], "too many connections of this user at a time")

    def _turn_away(self, caller: Caller, why: str) -> None:
        self._forget(caller)
        _say_and_close(caller.connection, f"{int(RepositoryUnavailable.exit_code)} {why}")

    def _forget(self, caller: Caller) -> None:
        self._idle.remove(caller)
        self._selector.unregister(caller.connection)


def _say_and_close(connection: socket.socket, text: str) -> None:
    """An answer to whoever listens for it; what they sent is never received."""
    with connection, contextlib.suppress(OSError):
        connection.send(text.encode() + b"\n")


def allow_users(path: str, user_ids: frozenset[int]) -> bool:
    """Let these users, beside its owner, connect to the socket `path`, and nobody else.

    By an access control list; False where its file system has none, and nothing is changed.
    """
    entries = [
        (_OWNER, _READ_WRITE, _NO_ID),
        *((_USER, _READ_WRITE, user_id) for user_id in sorted(user_ids)),
        (_GROUP, 0, _NO_ID),
        (_MASK, _READ_WRITE, _NO_ID),
        (_OTHERS, 0, _NO_ID),
    ]
    packed = struct.pack("<I", _ACL_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", packed, follow_symlinks=False)
    except OSError:
        return False
    return True


# The kernel's form of a list, include/uapi/linux/posix_acl_xattr.h and posix_acl.h.
_ACL_VERSION = 2
_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_READ_WRITE, _NO_ID = 0o6, 0xFFFFFFFF
