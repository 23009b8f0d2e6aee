"""What is restored of an entry that nobody vouches for: its content, name and times, and no rights.

Whoever can write the bucket can have written it: a program with a set-user-ID bit and root as its owner
would be theirs to run. So an entry gets what a file copied by an ordinary user would get.
"""

from __future__ import annotations

import os

from drtool.sources.files.entries import TreeEntry
from drtool.sources.files.shortfall import Shortfalls
from drtool.system.access import umask_now

_FIX = (
    "Set them by hand, or restore again with --accept-unsigned if nobody else writes to the bucket."
)
_PERMISSIONS = 0o777


class Reducer:
    """Takes from entries what could give rights to somebody; counts of which, in `shortfalls`."""

    def __init__(self) -> None:
        self._owner = os.geteuid(), os.getegid()
        self._allowed = _PERMISSIONS & ~(umask_now() | 0o022)
        self.shortfalls = Shortfalls()

    def __call__(self, entry: TreeEntry) -> TreeEntry:
        """The entry as it may be restored."""
        mode = entry.mode & self._allowed
        kept = tuple(pair for pair in entry.xattrs if pair[0].startswith(b"user."))
        uid, gid = self._owner
        lost = [
            *(["set-id bits"] if entry.mode & 0o6000 else []),
            *(["owner"] if (entry.uid, entry.gid) != self._owner else []),
            *(["mode"] if entry.mode & 0o1777 & ~self._allowed and not entry.link else []),
            *(["extended attributes"] if kept != entry.xattrs else []),
        ]
        if lost:
            fact = f"restored without its {', '.join(lost)}: its run is not signed"
            self.shortfalls.add(entry.path, fact, _FIX)
        return entry._replace(mode=mode, uid=uid, gid=gid, owner=None, group=None, xattrs=kept)
