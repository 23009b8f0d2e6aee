"""TCP ports of loopback for the servers that tests start.

A port that the kernel picks (`bind` to port 0) is out of the range from which it also takes the
local ports of outgoing connections (`ip_local_port_range`, 32768 to 60999 here): between the
moment a test learns the number and the moment its server binds it, any connection on the machine
may have it. So ports come from below that range, and each process of tests has a block of its own:
the block is held by a socket with an abstract name, which the kernel frees with the process.
"""

from __future__ import annotations

import socket
from functools import cache

# The bus of a Redis cluster's server listens this far above its port.
BUS = 10_000

_FIRST = 10_240
_IN_A_BLOCK = 500
_BLOCKS = 20
# All ports, those of the bus included, are below the kernel's own range.
assert _FIRST + _BLOCKS * _IN_A_BLOCK <= _FIRST + BUS
assert _FIRST + _BLOCKS * _IN_A_BLOCK + BUS <= 32_768


class _Block:
    """The ports of this process, given in turn: one comes again after all others have been."""

    def __init__(self) -> None:
        self._held, self._first = _take_block()
        self._next = 0

    def take(self, count: int) -> int:
        """The first of `count` ports in a row; nobody listens on them or on their buses."""
        for _ in range(_IN_A_BLOCK):
            if self._next + count > _IN_A_BLOCK:
                self._next = 0
            first = self._first + self._next
            row = range(first, first + count)
            if all(_is_free(port) and _is_free(port + BUS) for port in row):
                self._next += count
                return first
            self._next += 1
        raise AssertionError(f"no {count} free ports in a row from {self._first}")


def free_port() -> int:
    """A TCP port of loopback that nobody uses, and no other process of tests will."""
    return free_row(1)


def free_ports(count: int) -> list[int]:
    """Different TCP ports of loopback that nobody uses."""
    return [free_port() for _ in range(count)]


def free_row(count: int) -> int:
    """The first of `count` such ports in a row, as the servers of a cluster have them."""
    return _block().take(count)


@cache
def _block() -> _Block:
    return _Block()


def _take_block() -> tuple[socket.socket, int]:
    for number in range(_BLOCKS):
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0drtool-tests-ports-{number}")
        except OSError:
            held.close()
            continue
        return held, _FIRST + number * _IN_A_BLOCK
    raise AssertionError(f"{_BLOCKS} processes of tests hold all blocks of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: connections of the last one that are still being forgotten do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
