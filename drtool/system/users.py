"""Who a process runs as: PostgreSQL refuses root, and root's rights are given up before it starts."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drtool.errors import PolicyError
from drtool.system.changeable import trusted_program

FALLBACK = "postgres"
# The mode of directories above copies: others may pass to what is theirs, and see nothing of the rest.
PASSED_THROUGH = 0o711


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAs:
    """A user of this machine, never root where `choose_user` chose it."""

    uid: int
    gid: int
    name: str

    @property
    def is_us(self) -> bool:
        """Whether it is the user that we run as already."""
        return self.uid == os.geteuid()


def current_user() -> RunAs:
    """The user that we run as."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        # A container may run as a number that has no name.
        name = str(uid)
    return RunAs(uid=uid, gid=os.getegid(), name=name)


def choose_user(
    destination: Path, configured: str | None = None, *, fallbacks: Sequence[str] = (FALLBACK,)
) -> RunAs:
    """Whom to run a server in `destination` as.

    Without root's rights: ourselves (PolicyError if another user is configured). As root: the
    configured user, else the owner of the destination or of its nearest existing parent unless that
    is root, else the first of `fallbacks`; PolicyError if there is none of them. Never root. A parent
    that drtool made for somebody's copy does not say whose the next is: the one above it does.
    """
    if os.geteuid() != 0:
        us = current_user()
        if configured is not None and configured != us.name:
            raise PolicyError(
                f"cannot run a server as user {configured}: drtool runs as {us.name}",
                hint=f"Run drtool as {configured} or as root, or leave the user out of the policy.",
            )
        return us
    if configured is not None:
        chosen = named_user(configured)
        if chosen is None:
            raise PolicyError(
                f"the user {configured} that servers shall run as does not exist",
                hint=f"Create it with useradd --system {configured}, or name another one.",
            )
        if chosen.uid == 0:
            raise PolicyError(
                "a PostgreSQL server cannot run as root", hint="Name an unprivileged user."
            )
        return chosen
    chosen = _owner(destination) or next(filter(None, map(named_user, fallbacks)), None)
    if chosen is None:
        raise PolicyError(
            f"nobody to run a server in {destination} as: root owns it, and there is no user postgres",
            hint="Give the directory to an unprivileged user with chown, or create the user postgres"
            " with useradd --system postgres.",
        )
    return chosen


def give(path: Path, owner: RunAs) -> None:
    """Make `owner` the owner of `path` itself; nothing to do when it is us."""
    if not owner.is_us:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def command_prefix(user: RunAs) -> list[str]:
    """The words before a command that make it run as `user`, typed by the user that we run as."""
    if user.is_us:
        return []
    if named_user(user.name) is None:
        return ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--"]
    # Whoever is root needs no sudo, which containers do not have; runuser comes with util-linux.
    if os.geteuid() == 0 and trusted_program("runuser") is not None:
        return ["runuser", "-u", user.name, "--"]
    return ["sudo", "-u", user.name]


def named_user(name: str) -> RunAs | None:
    """The user of that name; None if this machine has none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return RunAs(uid=entry.pw_uid, gid=entry.pw_gid, name=name)


def _owner(path: Path) -> RunAs | None:
    place = path.absolute()
    while not place.exists() or _was_made_above_copies(place):
        place = place.parent
    owner = user_of(place)
    return None if owner.uid == 0 else owner


def _was_made_above_copies(place: Path) -> bool:
    """Root's, and open for passing through alone: so drtool makes them, and hardly anybody else."""
    status = place.stat()
    is_ours = status.st_uid == 0 and stat.S_IMODE(status.st_mode) == PASSED_THROUGH
    return is_ours and place != place.parent


def user_of(path: Path) -> RunAs:
    """Whose `path` is; the group is the user's own, or that of the path if the user has no name."""
    status = path.stat()
    try:
        entry = pwd.getpwuid(status.st_uid)
    except KeyError:
        return RunAs(uid=status.st_uid, gid=status.st_gid, name=str(status.st_uid))
    return RunAs(uid=entry.pw_uid, gid=entry.pw_gid, name=entry.pw_name)
