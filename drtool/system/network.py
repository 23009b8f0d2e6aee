"""Which addresses lead to this machine itself, so that nothing crosses a network on the way."""

from __future__ import annotations

import socket
from ipaddress import ip_address


def stays_on_this_machine(host: str) -> bool:
    """Whether `host` is a path of a Unix socket, or leads to loopback by all its addresses.

    A name that cannot be looked up is taken for another machine's.
    """
    if not host or host.startswith(("/", "@")):
        return True
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ip_address(str(where[4][0]).partition("%")[0]).is_loopback for where in found)
