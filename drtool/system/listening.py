"""TCP ports of this machine: which are free for a server that is about to be started."""

from __future__ import annotations

import socket
from collections.abc import Iterable

_LAST_PORT = 65_535


def is_port_free(port: int) -> bool:
    """Whether a server could listen there, on loopback, now."""
    with socket.socket() as probe:
        # As servers do it: connections of the last one that are still being forgotten do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def first_free_ports(first: int, *, offsets: Iterable[int] = (0,), tries: int = 200) -> int | None:
    """The first port from `first` on that is free together with those `offsets` above it; None if
    none of `tries` is.
    """
    above = tuple(offsets)
    for port in range(first, min(first + tries, _LAST_PORT + 1 - max(above))):
        if all(is_port_free(port + offset) for offset in above):
            return port
    return None
