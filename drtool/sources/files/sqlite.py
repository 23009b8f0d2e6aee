"""SQLite databases in a tree: one that is written while its files are read may not be whole in the copy.

A database in WAL mode is two files, X and X-wal, and one in the middle of a transaction is X and
X-journal. Each is read as of one moment, but not both as of the same one: a checkpoint in between
leaves a copy that SQLite calls malformed, or that lacks transactions. Nothing is opened as a database
here: a file that another user owns must not run code of SQLite's with rights of ours.

Source: https://www.sqlite.org/fileformat2.html (1.3 and 4) and walformat.html.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from drtool.model.finding import Finding, Severity
from drtool.sources.files.entries import TreeEntry, TreeKind
from drtool.sources.files.unchanged import MARGIN_NS
from drtool.system.beneath import Beneath

_MAGIC = b"SQLite format 3\0"
_SIDE_FILES = (b"-wal", b"-journal")
# Of each run so many databases are looked at, and so many are named.
_MOST_LOOKED_AT = 10_000
_MOST_NAMED = 20


class SqliteWatch:
    """Remembers which files may belong to a SQLite database, and tells at the end which were written.

    For one thread. Memory: the paths of 10,000 files named X-wal or X-journal.
    """

    def __init__(self) -> None:
        self._side_files: list[bytes] = []
        self._more = 0

    def meet(self, entry: TreeEntry) -> None:
        """An entry of the tree; only files beside a database that hold something count."""
        if not entry.path.endswith(_SIDE_FILES):
            return
        if entry.kind is not TreeKind.FILE or not entry.size_bytes:
            return
        if len(self._side_files) < _MOST_LOOKED_AT:
            self._side_files.append(entry.path)
        else:
            self._more += 1

    def findings(self, root: int, *, since_ns: int) -> Iterator[Finding]:
        """A warning for each database that was written since the run began to read, the first twenty.

        `since_ns` is that moment in nanoseconds since 1970. All reading must be over. Where the clock of
        a network file system is behind ours by more than two seconds, a warning may be missing.
        """
        written = 0
        with Beneath(root) as beneath:
            for path in self._side_files:
                database = path[: path.rindex(b"-")]
                if not _was_written(beneath, database, path, since_ns=since_ns - MARGIN_NS):
                    continue
                written += 1
                if written <= _MOST_NAMED:
                    yield _finding(database, path)
        if written > _MOST_NAMED:
            yield Finding(
                severity=Severity.WARNING,
                subject="SQLite databases",
                fact=f"{written - _MOST_NAMED:,} more were written while they were read",
                fix=_FIX,
            )
        if self._more:
            yield Finding(
                severity=Severity.WARNING,
                subject="SQLite databases",
                fact=f"nobody looked whether {self._more:,} more files named -wal or -journal were"
                " written while they were read",
                fix=_FIX,
            )


_FIX = (
    "Let a job copy it beforehand with `sqlite3 DATABASE \".backup 'COPY'\"`, protect the copy, and"
    " exclude the live files."
)


def _finding(database: bytes, side_file: bytes) -> Finding:
    name = os.fsdecode(database)
    other = os.fsdecode(side_file.rpartition(b"/")[2])
    return Finding(
        severity=Severity.WARNING,
        subject=f"SQLite database {name}",
        fact=f"it was written while it and {other} were read: the copy may be malformed, or lack"
        " transactions",
        fix=_FIX,
    )


def _was_written(beneath: Beneath, database: bytes, side_file: bytes, *, since_ns: int) -> bool:
    """Whether it is a database of SQLite and one of its two files changed at `since_ns` or later."""
    try:
        descriptor = beneath.open(database, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False  # no such database: the snapshot tells what it could not read
    try:
        mine = os.fstat(descriptor)
        if not stat.S_ISREG(mine.st_mode):
            return False
        if os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
            return False
    except OSError:
        return False
    finally:
        os.close(descriptor)
    directory, _, name = side_file.rpartition(b"/")
    try:
        other = os.stat(name, dir_fd=beneath.directory(directory), follow_symlinks=False)
    except FileNotFoundError:
        return True  # it was there: the database took it in meanwhile
    except OSError:
        return False
    return max(mine.st_ctime_ns, mine.st_mtime_ns, other.st_ctime_ns, other.st_mtime_ns) >= since_ns
