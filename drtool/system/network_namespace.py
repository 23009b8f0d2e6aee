"""Programs without a network: each in a network namespace of its own, where this machine gives one.

Nothing in such a namespace reaches another address, 127.0.0.1 of this machine included, and nothing reaches
it. Unix sockets in the file system work across: that is how we talk to a server there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

from drtool.system.changeable import trusted_program
from drtool.system.process import Enclosure, ProgramFailed, run_program
from drtool.system.users import RunAs

_PROBE_SECONDS = 30.0


def without_network(user: RunAs) -> Enclosure:
    """How to start programs as `user`. Whether this machine gives namespaces is tried once."""
    unshare = trusted_program("unshare")
    if unshare is None:
        return Enclosure((), user, "the program unshare (util-linux) is not installed")
    refused = ""
    for enclosed in _ways(unshare, user):
        told = _refusal(enclosed)
        if told is None:
            return enclosed
        refused = refused or told
    return Enclosure((), user, refused)


def _ways(unshare: str, user: RunAs) -> Iterator[Enclosure]:
    """The ways into a namespace, the plainest first. A namespace of users, in which everybody keeps his
    number, gives the right to one of the network: without root, and to root in a container without
    CAP_SYS_ADMIN.
    """
    of_users = (unshare, "--user", "--map-current-user", "--net", "--")
    setpriv = trusted_program("setpriv")
    if os.geteuid() == 0 and setpriv is not None and not user.is_us:
        # Root's rights are given up behind the namespace, which needs them.
        become = (f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups")
        prefix = (unshare, "--net", "--", setpriv, *become, "--no-new-privs", "--")
        yield Enclosure(prefix, None)
    elif os.geteuid() == 0 and user.is_us:
        yield Enclosure((unshare, "--net", "--"), user)
    yield Enclosure(of_users, user)


@functools.cache
def _refusal(enclosed: Enclosure) -> str | None:
    """What the kernel, or whoever limits us, says against it; None if it works."""
    try:
        done = run_program(
            [*enclosed.prefix, "true"], timeout_seconds=_PROBE_SECONDS, run_as=enclosed.run_as
        )
    except ProgramFailed as error:
        return error.message
    if done.code == 0:
        return None
    return " ".join(done.errors.split()) or f"unshare ended with exit code {done.code}"
