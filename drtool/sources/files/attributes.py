"""What the kernel says of a file: its status, owner's names and extended attributes."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable

from drtool.errors import SourceUnsuitable
from drtool.sources.files.entries import Attribute, TreeEntry, TreeKind

# Not supported here; gone meanwhile; refused, as `user.` attributes are where the content is too
# (which reading the content then reports).
_NO_ATTRIBUTES = {errno.ENOTSUP, errno.ENODATA, errno.EACCES, errno.EPERM, errno.ENOSYS}


class OwnerNames:
    """Names of users and groups, each looked up once: the answer may come over a network."""

    def __init__(self) -> None:
        self._users: dict[int, str | None] = {}
        self._groups: dict[int, str | None] = {}

    def user(self, uid: int) -> str | None:
        """The user's name, or None if the number has none."""
        if uid not in self._users:
            self._users[uid] = _name(lambda: pwd.getpwuid(uid).pw_name)
        return self._users[uid]

    def group(self, gid: int) -> str | None:
        """The group's name, or None if the number has none."""
        if gid not in self._groups:
            self._groups[gid] = _name(lambda: grp.getgrgid(gid).gr_name)
        return self._groups[gid]


def _name(look: Callable[[], str]) -> str | None:
    try:
        return look()
    except KeyError:
        return None


def read_xattrs(place: int | bytes, *, is_held: bool = False) -> tuple[Attribute, ...]:
    """The extended attributes of an open file, or of a path (a link's own), sorted by name.

    `is_held`: of the very file that the path `held_path` stands for.
    """
    follow = is_held or isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return ()
        raise
    found = []
    for name in names:
        try:
            value = os.getxattr(place, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno in _NO_ATTRIBUTES:
                continue
            raise
        found.append((os.fsencode(name), value))
    return tuple(sorted(found))


def path_in(directory: int, name: bytes) -> bytes:
    """A path of `name` in an open directory, for the calls that know no directory descriptors."""
    return b"/proc/self/fd/%d/%s" % (directory, name)


def held_path(descriptor: int) -> bytes:
    """A path of what is open at a descriptor, a symbolic link included, for calls that know no other way."""
    return b"/proc/self/fd/%d" % descriptor


def check_paths_in(directory: int) -> None:
    """SourceUnsuitable if `path_in` leads nowhere: every entry would then seem to have vanished."""
    try:
        leads_there = os.path.samestat(
            os.stat(b"/proc/self/fd/%d" % directory), os.fstat(directory)
        )
    except OSError:
        leads_there = False
    if not leads_there:
        raise SourceUnsuitable(
            "/proc/self/fd cannot be used, so that extended attributes and ACLs cannot be read",
            hint="Mount /proc where drtool runs: `mount -t proc proc /proc`.",
        )


def make_entry(
    path: bytes,
    kind: TreeKind,
    status: os.stat_result,
    *,
    names: OwnerNames,
    xattrs: tuple[Attribute, ...],
    link: bytes = b"",
) -> TreeEntry:
    """An entry out of what was read."""
    is_file = kind is TreeKind.FILE
    return TreeEntry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        owner=names.user(status.st_uid),
        group=names.group(status.st_gid),
        modified_ns=status.st_mtime_ns,
        changed_ns=status.st_ctime_ns,
        inode=status.st_ino,
        device=status.st_dev,
        links=status.st_nlink,
        size_bytes=status.st_size if is_file else 0,
        is_sparse=is_file and status.st_blocks * 512 < status.st_size,
        link=link,
        xattrs=xattrs,
    )
