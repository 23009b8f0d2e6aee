"""Gives what was restored its owner, mode, extended attributes and times, as far as we may."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable
from functools import partial

from drtool.sources.files.attributes import held_path, read_xattrs
from drtool.sources.files.entries import Attribute, TreeEntry, TreeKind
from drtool.sources.files.shortfall import Shortfalls

OwnerOf = Callable[[TreeEntry], tuple[int, int]]

_SET_ID = stat.S_ISUID | stat.S_ISGID
_AS_ROOT = "Restore as root, or set it by hand."
_REFUSED = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}


def owners_by_number(entry: TreeEntry) -> tuple[int, int]:
    """The numbers that the tree had: for the same machine, or one with the same accounts."""
    return entry.uid, entry.gid


class OwnersByName:
    """The numbers that this machine has for the names; the tree's own where it has no such name."""

    def __init__(self) -> None:
        self._users: dict[str, int | None] = {}
        self._groups: dict[str, int | None] = {}

    def __call__(self, entry: TreeEntry) -> tuple[int, int]:
        uid, gid = None, None
        if entry.owner is not None:
            if entry.owner not in self._users:
                self._users[entry.owner] = _number(lambda: pwd.getpwnam(str(entry.owner)).pw_uid)
            uid = self._users[entry.owner]
        if entry.group is not None:
            if entry.group not in self._groups:
                self._groups[entry.group] = _number(lambda: grp.getgrnam(str(entry.group)).gr_gid)
            gid = self._groups[entry.group]
        return entry.uid if uid is None else uid, entry.gid if gid is None else gid


def _number(look: Callable[[], int]) -> int | None:
    try:
        return look()
    except KeyError:
        return None


def is_far_time(nanoseconds: int) -> bool:
    """Whether there are file systems that cannot hold this time: before 1901, or after 2038."""
    return not -(1 << 31) <= nanoseconds // 1_000_000_000 < 1 << 31


class AttributeSetter:
    """Sets attributes; what it may not set, it adds to `shortfalls` and goes on. Any thread may use it."""

    def __init__(self, owner_of: OwnerOf, shortfalls: Shortfalls) -> None:
        self._owner_of = owner_of
        self._shortfalls = shortfalls

    def set_open(self, descriptor: int, entry: TreeEntry) -> None:
        """Of an open file or directory. The order matters: each step undoes part of the ones after it.

        A new owner takes set-user-ID bits and capabilities away; an ACL changes the group's bits of
        the mode; anything changes times.
        """
        is_owned = self._own(entry, descriptor)
        self._set_xattrs(entry, descriptor)
        mode = entry.mode
        if not is_owned and mode & _SET_ID:
            # A program that runs as somebody else than it was made for is worse than one that does not.
            mode &= ~_SET_ID
            fact = "is restored without its set-user-ID or set-group-ID bit, since its owner is another"
            self._shortfalls.add(entry.path, fact, _AS_ROOT)
        self._try(entry, "mode", lambda: os.fchmod(descriptor, mode))
        # Time of access: that of the last change; it was not recorded, and now would be a lie too.
        times = entry.modified_ns, entry.modified_ns
        self._try(entry, "time of modification", lambda: os.utime(descriptor, ns=times))
        if is_far_time(entry.modified_ns):
            self._check_time(entry, os.fstat(descriptor))

    def set_link(self, directory: int, name: bytes, entry: TreeEntry) -> None:
        """Of a symbolic link itself. It has no mode of its own.

        Whose directory it is can put another file in its place: it is held, and nothing else is touched.
        """
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not stat.S_ISLNK(os.fstat(held).st_mode):
                self._shortfalls.add(entry.path, "was replaced while it was restored")
                return
            place = held_path(held)
            self._own(entry, place)
            self._set_xattrs(entry, place)
            times = entry.modified_ns, entry.modified_ns
            self._try(entry, "time of modification", lambda: os.utime(place, ns=times))
            if is_far_time(entry.modified_ns):
                self._check_time(entry, os.fstat(held))
        finally:
            os.close(held)

    def differs(self, entry: TreeEntry, found: TreeEntry) -> bool:
        """Whether `set_open` would change anything of what is `found` in the entry's place."""
        if entry.kind is TreeKind.SYMLINK:
            return (
                found.modified_ns != entry.modified_ns
                or _without_labels(entry, found.xattrs) != entry.xattrs
            )
        owner = found.uid, found.gid
        return (
            (os.geteuid() == 0 and owner != self._owner_of(entry))
            or found.mode != entry.mode
            or found.modified_ns != entry.modified_ns
            or _without_labels(entry, found.xattrs) != entry.xattrs
        )

    def _check_time(self, entry: TreeEntry, found: os.stat_result) -> None:
        """The kernel takes any time, and sets the nearest that the file system can hold."""
        if found.st_mtime_ns != entry.modified_ns:
            fact = "has another time of modification: the file system cannot hold the one it had"
            self._shortfalls.add(entry.path, fact)

    def _own(self, entry: TreeEntry, place: int | bytes) -> bool:
        """Set owner and group; whether both are right now."""
        uid, gid = self._owner_of(entry)
        status = os.stat(place)
        if (status.st_uid, status.st_gid) == (uid, gid):
            return True
        is_owned = True
        if status.st_gid != gid:
            # On its own: a user may give a file to another group of theirs, but to nobody else.
            change = partial(os.chown, place, -1, gid)
            is_owned = self._try(entry, "group", change)
        if status.st_uid != uid:
            change = partial(os.chown, place, uid, -1)
            is_owned = self._try(entry, "owner", change) and is_owned
        return is_owned

    def _set_xattrs(self, entry: TreeEntry, place: int | bytes) -> None:
        found = dict(_without_labels(entry, read_xattrs(place, is_held=True)))
        for name in found.keys() - dict(entry.xattrs).keys():
            # Inherited from the directory (a default ACL), or left from before.
            what = f"extended attribute {name.decode(errors='replace')} (to remove)"
            self._try(entry, what, partial(os.removexattr, place, name))
        for name, value in entry.xattrs:
            if found.get(name) != value:
                what = f"extended attribute {name.decode(errors='replace')}"
                change = partial(os.setxattr, place, name, value)
                self._try(entry, what, change)

    def _try(self, entry: TreeEntry, what: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            reason = os.strerror(error.errno or 0).lower()
            self._shortfalls.add(entry.path, f"could not set {what}: {reason}", _AS_ROOT)
            return False
        return True


def _without_labels(entry: TreeEntry, xattrs: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
    """Less the labels that this machine's own security gave (SELinux), where the entry has none.

    A capability is no label: one that the entry lacks has to go.
    """
    wanted = dict(entry.xattrs)
    return tuple(pair for pair in xattrs if pair[0] in wanted or not _is_label(pair[0]))


def _is_label(name: bytes) -> bool:
    return name.startswith(b"security.") and name != b"security.capability"
