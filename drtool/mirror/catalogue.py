"""What the mirror holds, kept on this machine so that a run need neither list the bucket nor read files.

It saves work and proves nothing: what it says can be read back from the runs' manifests in the
bucket, and is whenever it is lost, damaged or behind them.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from drtool.errors import DrtoolError, ExitCode, LeaseHeld
from drtool.mirror import tables
from drtool.mirror.entries import MirrorEntry, from_line, to_line
from drtool.sources.files.entries import TreeEntry, TreeKind
from drtool.sources.files.unchanged import MARGIN_NS, Signs
from drtool.system.durable import make_directory

_PAGE_ROWS = 1000
_MOST_NAMES_A_QUERY = 500


class CatalogueUnavailable(DrtoolError):
    """The catalogue cannot be read or written: no room, no right, a disk that fails."""

    exit_code = ExitCode.SOURCE_UNAVAILABLE


class Known(NamedTuple):
    """A file as it was when it was read. `read_ns` is when that run began: the horizon of its signs."""

    # A tuple as the database gives it: a run makes one for each file of the tree.
    path: bytes
    size_bytes: int
    modified_ns: int
    changed_ns: int
    signed_inode: int
    read_ns: int
    is_file: int
    line: str

    @property
    def signs(self) -> Signs:
        """What tells whether the file was touched since."""
        return Signs(
            size_bytes=self.size_bytes,
            modified_ns=self.modified_ns,
            changed_ns=self.changed_ns,
            inode=self.signed_inode % (1 << 64),
        )

    @property
    def entry(self) -> MirrorEntry:
        """All that is known."""
        return from_line(self.line)


@dataclass(frozen=True, slots=True)
class Job:
    """A file to put; or, with `line`, a directory or link whose attributes are to be noted."""

    path: bytes
    size_bytes: int
    line: str | None = None


@dataclass(frozen=True, slots=True)
class FilesPlanned:
    """How many files are to be read, and what they hold together."""

    new: int
    changed: int
    size_bytes: int


def default_place(identity: str) -> Path:
    """Where the catalogue of this source and mirror lies: in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "drtool" / f"mirror-{sha256(identity.encode()).hexdigest()[:16]}.sqlite"


class Catalogue:
    """One file, for one run at a time and one thread.

    What it was told outlives the process when a call returns, and the machine a little later: the
    end of it may be lost with the power, and what was put since is then put once more.
    CatalogueUnavailable for a disk that is full or refuses.
    """

    def __init__(self, database: sqlite3.Connection, lock: int) -> None:
        """Made by `open_catalogue`."""
        self._database = database
        self._lock = lock
        database.executescript(tables.WORK)

    def about(self, name: str) -> str | None:
        """A value by its name; None before it was ever set."""
        rows = self._rows("SELECT value FROM about WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def set_about(self, **values: str) -> None:
        """Remember values by their names."""
        with self._change() as database:
            database.executemany("REPLACE INTO about VALUES (?, ?)", values.items())

    def count(self) -> int:
        """How many files it knows, directories and links aside."""
        return int(self._rows("SELECT count(*) FROM entries WHERE is_file")[0][0])

    def size_bytes(self) -> int:
        """What the files hold together."""
        query = "SELECT coalesce(sum(size_bytes), 0) FROM entries WHERE is_file"
        return int(self._rows(query)[0][0])

    def find(self, paths: Sequence[bytes]) -> dict[bytes, Known]:
        """What is known of these paths."""
        found: dict[bytes, Known] = {}
        for begin in range(0, len(paths), _MOST_NAMES_A_QUERY):
            some = paths[begin : begin + _MOST_NAMES_A_QUERY]
            marks = ",".join("?" * len(some))
            columns = "path, size_bytes, modified_ns, changed_ns, inode, read_ns, is_file, line"
            query = f"SELECT {columns} FROM entries WHERE path IN ({marks})"  # noqa: S608 - marks only
            for row in self._rows(query, some):
                known = Known._make(row)
                found[known.path] = known
        return found

    def record(self, entries: Iterable[MirrorEntry], *, read_ns: int, is_pending: bool) -> None:
        """Remember what the mirror holds now; with `is_pending`, what differs is not in a manifest yet."""
        rows = [
            (
                entry.path, entry.tree.kind is TreeKind.FILE, entry.tree.size_bytes,
                *tables.signs(entry.tree), read_ns, to_line(entry), is_pending,
            )
            for entry in entries
        ]  # fmt: skip
        with self._change() as database:
            database.executemany(tables.RECORD, rows)

    def remove(self, paths: Iterable[bytes], *, is_pending: bool) -> None:
        """These are no longer part of the mirror."""
        rows = [(path,) for path in paths]
        with self._change() as database:
            database.executemany("DELETE FROM entries WHERE path = ?", rows)
            if is_pending:
                database.executemany("REPLACE INTO gone VALUES (?)", rows)

    def clear(self) -> None:
        """Nothing is known of the mirror any more; where the source lay is still known."""
        with self._change() as database:
            database.execute("DELETE FROM entries")
            database.execute("DELETE FROM gone")
            database.execute("DELETE FROM about WHERE name NOT IN ('identity', 'place')")

    def published(self, **values: str) -> None:
        """A manifest tells of everything now; `values` are remembered with it, at once."""
        with self._change() as database:
            database.execute("UPDATE entries SET pending = 0 WHERE pending")
            database.execute("DELETE FROM gone")
            database.executemany("REPLACE INTO about VALUES (?, ?)", values.items())

    def lines(self, *, pending_only: bool) -> Iterator[str]:
        """Entries as lines of a manifest, in order of path, a thousand in memory."""
        condition = "AND pending" if pending_only else ""
        for _path, line in self._pages("entries", "path, line", condition):
            yield str(line)

    def gone(self) -> Iterator[bytes]:
        """Deletions that no manifest tells of yet, in order of path."""
        for [path] in self._pages("gone", "path", ""):
            yield path

    def pending_count(self) -> int:
        """Entries and deletions that no manifest tells of yet."""
        query = "SELECT (SELECT count(*) FROM entries WHERE pending) + (SELECT count(*) FROM gone)"
        return int(self._rows(query)[0][0])

    def close(self) -> None:
        """Let the file go, and let another run have it."""
        self._database.close()
        os.close(self._lock)

    # The work of one run, forgotten at its end.

    def saw(self, entries: Iterable[TreeEntry]) -> None:
        """These are in the tree."""
        rows = [(e.path, tables.KINDS[e.kind], e.size_bytes, *tables.signs(e)) for e in entries]
        with self._change() as database:
            database.executemany("REPLACE INTO seen VALUES (?,?,?,?,?,?)", rows)

    def end_work(self, *, vanished: Iterable[bytes] = ()) -> None:
        """Forget the jobs that were planned so far; these were seen, and could not be read any more."""
        with self._change() as database:
            database.execute("DELETE FROM work")
            database.executemany("REPLACE INTO vanished VALUES (?)", [(one,) for one in vanished])
            database.execute(tables.INDEX_SEEN)
            database.execute(tables.UNSEE_RENAMED)

    def plan_files(self, *, trusts_signs: bool) -> FilesPlanned:
        """Add the seen files that are not known, or not unchanged, to the work of this run."""
        with self._change() as database:
            database.execute(tables.PLAN_FILES, (not trusts_signs, MARGIN_NS))
        [row] = self._rows(
            "SELECT coalesce(sum(is_new), 0), coalesce(sum(NOT is_new), 0),"
            " coalesce(sum(size_bytes), 0) FROM work WHERE line IS NULL"
        )
        return FilesPlanned(*row)

    def shield(self, path: bytes) -> None:
        """Nobody could look at this path, or at what is below it: it is not gone for that."""
        with self._change() as database:
            database.execute("REPLACE INTO shielded VALUES (?)", (path,))

    def met(self, paths: Iterable[bytes]) -> None:
        """The objects of these files are in the bucket, as they were put."""
        with self._change() as database:
            database.executemany("REPLACE INTO met VALUES (?)", [(path,) for path in paths])

    def not_met(self, paths: Sequence[bytes]) -> set[bytes]:
        """Those of `paths` whose objects are not."""
        found = {row[0] for path in paths for row in self._rows(tables.MET, (path,))}
        return {path for path in paths if path not in found}

    def count_not_met(self) -> int:
        """How many known files have no object in the bucket, or another one than was put."""
        query = (
            "SELECT count(*) FROM entries WHERE is_file"
            " AND NOT EXISTS (SELECT 1 FROM met WHERE met.path = entries.path)"
        )
        return int(self._rows(query)[0][0])

    def plan(self, jobs: Iterable[Job]) -> None:
        """Add to the work of this run."""
        rows = [(job.path, job.size_bytes, job.line) for job in jobs]
        with self._change() as database:
            database.executemany("INSERT INTO work (path, size_bytes, line) VALUES (?,?,?)", rows)

    def jobs(self, *, step: int = 1) -> Iterator[Job]:
        """The work of this run in the order in which it was planned; with `step`, one in so many."""
        last = 0
        while True:
            query = (
                "SELECT number, path, size_bytes, line FROM work"
                " WHERE number > ? AND number % ? = 0 ORDER BY number LIMIT ?"
            )
            rows = self._rows(query, (last, step, _PAGE_ROWS))
            for _number, path, size_bytes, line in rows:
                yield Job(path, size_bytes, line)
            last = rows[-1][0] if rows else last
            if len(rows) < _PAGE_ROWS:
                return

    def unseen(self) -> Iterator[tuple[bytes, bool]]:
        """What is known, was not seen as that, and could have been: (path, whether it is a file)."""
        condition = (
            "AND NOT EXISTS (SELECT 1 FROM seen WHERE seen.path = entries.path"
            " AND (seen.kind = 0 OR NOT entries.is_file))"
        )
        shields = [bytes(row[0]) for row in self._rows("SELECT path FROM shielded")]
        for path, is_file in self._pages("entries", "path, is_file", condition):
            if not any(not top or path == top or path.startswith(top + b"/") for top in shields):
                yield path, bool(is_file)

    def moved(self) -> int:
        """How many files that were not seen stand in the plan under a new name: the same inode, size
        and time of modification.
        """
        [(count,)] = self._rows(tables.MOVED)
        return int(count)

    def renamed(self) -> list[tuple[bytes, bool]]:
        """As `unseen`, of files that are stored under the names they have now."""
        self.end_work()
        return [(path, True) for (path,) in self._rows(tables.RENAMED)]

    def seen_as(self, path: bytes) -> TreeKind | None:
        """What stands at a path of the tree, if anything was seen there."""
        rows = self._rows("SELECT kind FROM seen WHERE path = ?", (path,))
        return tables.kind_of(rows[0][0]) if rows else None

    def sample(self, most: int) -> Iterator[MirrorEntry]:
        """At most `most` known files, spread evenly over all paths."""
        step = max(1, self.count() // most)
        query = (
            "SELECT line FROM (SELECT line, row_number() OVER (ORDER BY path) AS number"
            " FROM entries WHERE is_file) WHERE number % ? = 0 LIMIT ?"
        )
        for [line] in self._rows(query, (step, most)):
            yield from_line(line)

    def _rows(
        self, query: str, values: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:  # the types of the query's columns
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    def _pages(
        self, table: str, columns: str, condition: str
    ) -> Iterator[tuple[Any, ...]]:  # the types of the columns
        # Page by page from the last path on: a cursor left open would hold up every change.
        after, sign = b"", ">="
        while True:
            query = (
                f"SELECT {columns} FROM {table} WHERE path {sign} ? {condition}"  # noqa: S608 - constants
                f" ORDER BY path LIMIT {_PAGE_ROWS}"
            )
            rows = self._rows(query, (after,))
            yield from rows
            if len(rows) < _PAGE_ROWS:
                return
            after, sign = rows[-1][0], ">"

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._database:
                yield self._database
        except sqlite3.Error as error:
            raise _unavailable(error) from error


def open_catalogue(path: Path, *, identity: str) -> Catalogue:
    """The catalogue at `path`, made if it is not there.

    One that is damaged, of another schema, or of another source or mirror is begun anew. LeaseHeld
    if another run on this machine has it open.
    """
    make_directory(path.parent)
    lock = _lock(path.with_name(path.name + ".lock"))
    try:
        try:
            return Catalogue(_usable(path, identity), lock)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            # Damaged, or not ours: the manifests in the bucket know all that it knew.
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return Catalogue(_usable(path, identity), lock)
    except (sqlite3.Error, OSError) as error:
        os.close(lock)
        raise _unavailable(error) from error
    except BaseException:
        os.close(lock)
        raise


def _usable(path: Path, identity: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # A commit need not wait for the disk, where it would stand behind what the store writes there.
        # Whatever is lost with the power is put again, or read from the bucket's manifests.
        database.execute("PRAGMA synchronous = NORMAL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(tables.SCHEMA)
            with database:
                database.execute("INSERT INTO about VALUES ('identity', ?)", (identity,))
        elif version != tables.SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"schema version {version}")
        found = database.execute("SELECT value FROM about WHERE name = 'identity'").fetchone()
        if found not in ((identity,), None):
            raise sqlite3.DatabaseError("another source or mirror")
        return database
    except BaseException:
        database.close()
        raise


def _lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unavailable(error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LeaseHeld(
            f"catalogue {path.with_suffix('')} is in use by another run",
            hint="Wait for it to end; `ps` shows which `drtool sync` is running.",
        ) from error
    return descriptor


def _unavailable(error: Exception) -> CatalogueUnavailable:
    return CatalogueUnavailable(
        f"the mirror's local catalogue cannot be used: {error}",
        hint="See that its directory has room and may be written; to begin anew, delete the file.",
    )
