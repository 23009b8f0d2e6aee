"""The local catalogue of a mirror: what each file was when its content was last read and stored.

It saves reading and listing; it proves nothing. Lost or damaged, it is begun anew, and the next run
reads every file again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from drtool.errors import DrtoolError, ExitCode, LeaseHeld
from drtool.sources.files.guard import PlaceSigns
from drtool.sources.files.unchanged import Signs
from drtool.system.durable import make_directory

SCHEMA_VERSION = 1
_PAGE_ROWS = 1000
_MOST_NAMES_A_QUERY = 500
_MOST_INTEGER = 1 << 63

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, began_ns INTEGER NOT NULL, ended INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE files (
    path BLOB PRIMARY KEY, size_bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL, inode INTEGER NOT NULL, content BLOB NOT NULL,
    entropy REAL, version TEXT, run INTEGER NOT NULL
) WITHOUT ROWID;
"""
_COLUMNS = "path, size_bytes, modified_ns, changed_ns, inode, content, entropy, version, run"


class CatalogueUnavailable(DrtoolError):
    """The catalogue cannot be read or written: no room, no right, a disk that fails."""

    exit_code = ExitCode.SOURCE_UNAVAILABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """A file as it is stored in the mirror.

    `content` is the hash of what was stored; `entropy` that of its first 64 KiB; `version` the
    bucket's version id, None where it has none; `run` the last run that saw the file.
    """

    path: bytes
    signs: Signs
    content: bytes
    entropy: float | None
    version: str | None
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueRun:
    """A run of the mirror: its number, and when it began by the wall clock."""

    run: int
    began_ns: int


def default_place(identity: str, cache: Path | None = None) -> Path:
    """Where the catalogue of this source and mirror lies: below `cache`, or the user's own cache.

    `identity` names both ("SOURCE URL"); it goes into the name only as a digest, since it may hold
    any sign.
    """
    if cache is None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        cache = Path(base) / "drtool"
    return cache / f"catalogue-{sha256(identity.encode()).hexdigest()[:16]}.sqlite"


class Catalogue:
    """One file, for one run at a time. For one thread.

    Each call that changes something is durable when it returns, whole or not at all. A run that was
    killed is resumed by the next `begin_run`, with the files it has done already.
    Raises CatalogueUnavailable for a disk that is full or refuses.
    """

    def __init__(self, database: sqlite3.Connection, lock: int, *, begun_anew: str | None) -> None:
        """Made by `open_catalogue`. `begun_anew` says why nothing is known, None if something may be."""
        self._database = database
        self._lock = lock
        self.begun_anew = begun_anew

    def last_ended(self) -> CatalogueRun | None:
        """The newest run that came to its end: its beginning is the horizon for `is_unchanged`."""
        return self._run("WHERE ended = 1")

    def unfinished(self) -> CatalogueRun | None:
        """A run that was killed or gave up, if it is the newest."""
        newest, ended = self._run(""), self.last_ended()
        return newest if newest != ended else None

    def begin_run(self, began_ns: int) -> CatalogueRun:
        """A new run; or the unfinished one, under its own number and with its own beginning.

        The old beginning is the safe one: what was read since may have been written to since.
        """
        unfinished = self.unfinished()
        if unfinished is not None:
            return unfinished
        with self._change() as database:
            cursor = database.execute("INSERT INTO runs (began_ns) VALUES (?)", (began_ns,))
            return CatalogueRun(run=int(cursor.lastrowid or 0), began_ns=began_ns)

    def end_run(self, run: CatalogueRun) -> None:
        """The run saw the whole tree, and what it did is stored. Older runs are forgotten."""
        with self._change() as database:
            database.execute("UPDATE runs SET ended = 1 WHERE run = ?", (run.run,))
            database.execute("DELETE FROM runs WHERE run < ?", (run.run,))

    def abandon_run(self, run: CatalogueRun) -> None:
        """Begin the next run anew, after one that an alarm stopped. What it stored stays known."""
        with self._change() as database:
            database.execute("DELETE FROM runs WHERE run = ? AND ended = 0", (run.run,))

    def find(self, paths: Sequence[bytes]) -> dict[bytes, KnownFile]:
        """What is known of these paths."""
        found = {}
        with self._speaking():
            for begin in range(0, len(paths), _MOST_NAMES_A_QUERY):
                some = paths[begin : begin + _MOST_NAMES_A_QUERY]
                marks = ",".join("?" * len(some))
                query = f"SELECT {_COLUMNS} FROM files WHERE path IN ({marks})"  # noqa: S608 - marks only
                for row in self._database.execute(query, some):
                    known = _known(row)
                    found[known.path] = known
        return found

    def record(self, files: Iterable[KnownFile]) -> None:
        """Remember files that are stored now, in place of what was known of them."""
        rows = [
            (
                file.path, file.signs.size_bytes, file.signs.modified_ns, file.signs.changed_ns,
                _signed(file.signs.inode), file.content, file.entropy, file.version, file.run,
            )
            for file in files
        ]  # fmt: skip
        with self._change() as database:
            database.executemany(f"REPLACE INTO files ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", rows)  # noqa: S608 - constant  # fmt: skip

    def saw(self, paths: Iterable[bytes], run: CatalogueRun) -> None:
        """These are there, and unchanged."""
        with self._change() as database:
            rows = [(run.run, path) for path in paths]
            database.executemany("UPDATE files SET run = ? WHERE path = ?", rows)

    def not_seen(self, run: CatalogueRun) -> Iterator[KnownFile]:
        """Files that earlier runs saw and this one did not, in order of path: gone, once it is whole."""
        return self._pages("AND run <> ?", (run.run,))

    def forget(self, paths: Iterable[bytes]) -> None:
        """Nothing is known of these any more."""
        with self._change() as database:
            database.executemany("DELETE FROM files WHERE path = ?", [(path,) for path in paths])

    def __iter__(self) -> Iterator[KnownFile]:
        """All files in order of path, a thousand in memory; changes meanwhile may be seen or not."""
        return self._pages("", ())

    def counts(self) -> tuple[int, int]:
        """Files known, and bytes in them."""
        with self._speaking():
            query = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM files"
            files, size_bytes = self._database.execute(query).fetchone()
        return int(files), int(size_bytes)

    def place(self) -> PlaceSigns | None:
        """Where the source lay when `remember_place` was called; None before."""
        with self._speaking():
            rows = dict(self._database.execute("SELECT name, value FROM about").fetchall())
        if "device" not in rows:
            return None
        return PlaceSigns(
            is_mount_point=bool(rows["is_mount_point"]),
            device=int(rows["device"]),
            file_system_id=int(rows["file_system_id"]),
        )

    def remember_place(self, place: PlaceSigns) -> None:
        """Where the source lies: the next run is held against it."""
        rows = [
            ("is_mount_point", int(place.is_mount_point)),
            # As text: statvfs gives 64 bits without a sign.
            ("device", str(place.device)),
            ("file_system_id", str(place.file_system_id)),
        ]
        with self._change() as database:
            database.executemany("REPLACE INTO about (name, value) VALUES (?, ?)", rows)

    def close(self) -> None:
        """Let the file go, and let another run have it."""
        self._database.close()
        os.close(self._lock)

    def _run(self, which: str) -> CatalogueRun | None:
        with self._speaking():
            query = f"SELECT run, began_ns FROM runs {which} ORDER BY run DESC LIMIT 1"  # noqa: S608 - constants
            row = self._database.execute(query).fetchone()
        return CatalogueRun(run=row[0], began_ns=row[1]) if row else None

    def _pages(self, condition: str, values: tuple[int, ...]) -> Iterator[KnownFile]:
        # Page by page from the last path on: a cursor left open would hold up every change.
        after, sign = b"", ">="
        while True:
            query = (
                f"SELECT {_COLUMNS} FROM files WHERE path {sign} ? {condition}"  # noqa: S608 - constants
                f" ORDER BY path LIMIT {_PAGE_ROWS}"
            )
            with self._speaking():
                rows = self._database.execute(query, (after, *values)).fetchall()
            for row in rows:
                yield _known(row)
            if len(rows) < _PAGE_ROWS:
                return
            after, sign = rows[-1][0], ">"

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._speaking(), self._database:
            yield self._database

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _unavailable(error) from error


def open_catalogue(path: Path, *, identity: str) -> Catalogue:
    """The catalogue at `path`, made if it is not there.

    One that is damaged, of another schema, or of another source or mirror is thrown away and begun
    anew (`begun_anew` says why). LeaseHeld if another run has it open.
    """
    try:
        make_directory(path.parent)
    except OSError as error:
        raise _unavailable(error) from error
    lock = _lock(path.with_name(path.name + ".lock"))
    try:
        begun_anew = "there was none" if not path.exists() else _why_unusable(path, identity)
        if begun_anew is not None:
            _throw_away(path)
        database = _connect(path)
        if begun_anew is not None:
            _create(database, identity)
        return Catalogue(database, lock, begun_anew=begun_anew)
    except (sqlite3.Error, OSError) as error:
        os.close(lock)
        raise _unavailable(error) from error
    except BaseException:
        os.close(lock)
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
            f"catalogue {path} is in use by another run",
            hint="Wait for it to end; `drtool status` shows what is running.",
        ) from error
    return descriptor


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    # With NORMAL a power cut takes the last batches back, and a run would take them for undone.
    database.execute("PRAGMA synchronous = FULL")
    return database


def _create(database: sqlite3.Connection, identity: str) -> None:
    with database:
        database.executescript("BEGIN;" + _SCHEMA)
        database.execute("INSERT INTO about VALUES ('identity', ?)", (identity,))
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _why_unusable(path: Path, identity: str) -> str | None:
    try:
        with contextlib.closing(_connect(path)) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                return f"it was of schema version {version}"
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                return f"it was damaged: {verdict}"
            query = "SELECT value FROM about WHERE name = 'identity'"
            if database.execute(query).fetchone() != (identity,):
                return "it was of another source or mirror"
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        return f"it was damaged: {error}"
    return None


def _throw_away(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _unavailable(error: Exception) -> CatalogueUnavailable:
    return CatalogueUnavailable(
        f"the mirror's local catalogue cannot be used: {error}",
        hint="See that its directory has room and may be written; to begin anew, delete the file.",
    )


def _known(
    row: tuple[bytes, int, int, int, int, bytes, float | None, str | None, int],
) -> KnownFile:
    path, size_bytes, modified_ns, changed_ns, inode, content, entropy, version, run = row
    signs = Signs(
        size_bytes=size_bytes,
        modified_ns=modified_ns,
        changed_ns=changed_ns,
        inode=inode % (1 << 64),
    )
    return KnownFile(
        path=path, signs=signs, content=content, entropy=entropy, version=version, run=run
    )


def _signed(number: int) -> int:
    """An inode number may take all of 64 bits; SQLite's integers have a sign."""
    return number - (1 << 64) if number >= _MOST_INTEGER else number
