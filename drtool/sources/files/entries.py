"""What stands in a tree: entries with all that a restore needs, and what had to be left out."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from drtool.model.finding import Finding, Severity

ACL_ATTRIBUTES = (b"system.posix_acl_access", b"system.posix_acl_default")
Attribute = tuple[bytes, bytes]


class TreeKind(StrEnum):
    """What an entry is; everything else is left out with a finding."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


class TreeEntry(NamedTuple):
    """A file, directory or symbolic link. `path` is relative to the root, which itself is `b""`.

    `mode` holds the permission bits alone. Times are nanoseconds since 1970; `changed_ns` is the
    ctime. `owner` and `group` are None for numbers without a name. `xattrs` are sorted and hold the
    ACLs as the kernel's own bytes (`ACL_ATTRIBUTES`). `is_sparse` says that the file occupies less
    than its size: where its holes are is asked when it is read, since an earlier answer may be old.
    """

    # A tuple: a walk makes one for each file, and a frozen dataclass takes four times as long.
    path: bytes
    kind: TreeKind
    mode: int
    uid: int
    gid: int
    owner: str | None
    group: str | None
    modified_ns: int
    changed_ns: int
    inode: int
    device: int
    links: int
    size_bytes: int
    is_sparse: bool = False
    link: bytes = b""
    xattrs: tuple[Attribute, ...] = ()

    @property
    def link_group(self) -> tuple[int, int] | None:
        """What all names of one file or symbolic link share; None for what has one name."""
        if self.kind is TreeKind.DIRECTORY or self.links <= 1:
            return None
        return self.device, self.inode

    @property
    def acls(self) -> tuple[Attribute, ...]:
        """The POSIX ACLs among the extended attributes."""
        return tuple(pair for pair in self.xattrs if pair[0] in ACL_ATTRIBUTES)


class Omission(StrEnum):
    """Why something that was met is not among the entries, or not whole."""

    SPECIAL = "special"
    UNREADABLE = "unreadable"
    VANISHED = "vanished"
    TORN = "torn"
    OTHER_FILE_SYSTEM = "other file system"
    ALL_EXCLUDED = "all excluded"
    TOO_LONG = "too long"


_SEVERITY = {
    Omission.SPECIAL: Severity.NOTE,
    Omission.UNREADABLE: Severity.PROBLEM,
    Omission.VANISHED: Severity.NOTE,
    Omission.TORN: Severity.WARNING,
    Omission.OTHER_FILE_SYSTEM: Severity.WARNING,
    Omission.ALL_EXCLUDED: Severity.PROBLEM,
    Omission.TOO_LONG: Severity.PROBLEM,
}
_FIX = {
    Omission.UNREADABLE: "Let the user that runs drtool read it, or exclude it in the policy.",
    Omission.TORN: "Back it up while nothing writes to it, or exclude it in the policy.",
    Omission.OTHER_FILE_SYSTEM: "Make it a source of its own, or exclude it in the policy.",
    Omission.ALL_EXCLUDED: "Correct the exclude patterns of this source in the policy.",
    Omission.TOO_LONG: "Rename the directories above it, or exclude it in the policy.",
}


@dataclass(frozen=True, slots=True)
class Omitted:
    """Something that is not in the snapshot, or (`TORN`) not as it was at any one moment."""

    path: bytes
    why: Omission
    fact: str

    @property
    def is_incomplete(self) -> bool:
        """Whether a snapshot with this in it is less than the tree. What vanished was not in it."""
        return _SEVERITY[self.why] is Severity.PROBLEM

    @property
    def finding(self) -> Finding:
        """The same as a sentence for a person."""
        return Finding(
            severity=_SEVERITY[self.why],
            subject=shown(self.path),
            fact=self.fact,
            fix=_FIX.get(self.why, ""),
        )


def shown(path: bytes) -> str:
    """A path as a person can read it, on one line, whatever bytes are in it."""
    text = path.decode("utf-8", "backslashreplace") or "."
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def join(directory: bytes, name: bytes) -> bytes:
    """The path of `name` in `directory`, both relative to the root."""
    return directory + b"/" + name if directory else name


def kind_of(mode: int) -> TreeKind | None:
    """The kind that a mode from stat(2) says; None for FIFOs, sockets and devices."""
    return _KINDS.get(stat.S_IFMT(mode))


_KINDS = {
    stat.S_IFREG: TreeKind.FILE,
    stat.S_IFDIR: TreeKind.DIRECTORY,
    stat.S_IFLNK: TreeKind.SYMLINK,
}
_SPECIAL_NAMES = {
    stat.S_IFIFO: "is a FIFO",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


def special(path: bytes, mode: int) -> Omitted:
    """What is said of a FIFO, a socket or a device."""
    fact = _SPECIAL_NAMES.get(stat.S_IFMT(mode), "is of an unknown kind")
    return Omitted(path, Omission.SPECIAL, f"{fact}, which holds no content to save")


def omitted(path: bytes, error: OSError, *, doing: str) -> Omitted:
    """What is said when `doing` ("open", "list") an entry failed: gone meanwhile, or not readable."""
    if isinstance(error, FileNotFoundError):
        return Omitted(path, Omission.VANISHED, "was removed while the tree was read")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Omitted(path, Omission.VANISHED, "became something else while the tree was read")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return Omitted(path, Omission.UNREADABLE, f"could not {doing} it: {reason}")
