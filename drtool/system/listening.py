"""TCP ports of this machine: which are free for a server that is about to be started."""

from __future__ import annotations

import socket
from collections.abc import Container, Iterable
from itertools import chain, islice

# Those below are for root alone.
_FIRST_PORT, _LAST_PORT = 1024, 65_535


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


def first_free_ports(
    first: int, *, offsets: Iterable[int] = (0,), taken: Container[int] = (), tries: int = 2_000
) -> int | None:
    """The first port from `first` on, then from the lowest on, that is free with those `offsets` above.

    None of them is in `taken`. None if none of `tries` is.
    """
    above = tuple(offsets)
    highest = _LAST_PORT - max(above)
    wanted = chain(range(first, highest + 1), range(_FIRST_PORT, min(first, highest + 1)))
    for port in islice(wanted, tries):
        wished = [port + offset for offset in above]
        if not any(one in taken for one in wished) and all(map(is_port_free, wished)):
            return port
    return None
