"""The tables of the catalogue, and the statements on them that are a rule of their own."""

from __future__ import annotations

from drtool.sources.files.entries import TreeEntry, TreeKind

SCHEMA_VERSION = 1

# `pending`: not in any manifest yet. `gone` are deletions that no manifest tells of yet.
SCHEMA = f"""
BEGIN;
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    path BLOB PRIMARY KEY, is_file INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    read_ns INTEGER NOT NULL, line TEXT NOT NULL, pending INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX unpublished ON entries (path) WHERE pending;
CREATE TABLE gone (path BLOB PRIMARY KEY) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
# Of one run; in a file of its own that goes with the connection, so that it may be large.
WORK = """
PRAGMA temp_store = FILE;
CREATE TEMP TABLE seen (
    path BLOB PRIMARY KEY, kind INTEGER NOT NULL, size_bytes INTEGER, modified_ns INTEGER,
    changed_ns INTEGER, inode INTEGER
) WITHOUT ROWID;
CREATE TEMP TABLE work (
    number INTEGER PRIMARY KEY, path BLOB, size_bytes INTEGER, line TEXT, is_new INTEGER
);
CREATE TEMP TABLE shielded (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE met (path BLOB PRIMARY KEY) WITHOUT ROWID;
-- Of names that were gone when they were to be read, and of all former names of files that are
-- stored under a name that they were seen under.
CREATE TEMP TABLE vanished (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP VIEW renamed AS
SELECT DISTINCT former.path
FROM entries AS former
CROSS JOIN seen ON seen.inode = former.inode AND seen.size_bytes = former.size_bytes
    AND seen.modified_ns = former.modified_ns AND seen.path <> former.path
CROSS JOIN entries AS now ON now.path = seen.path AND now.inode = former.inode
    AND now.size_bytes = former.size_bytes AND now.modified_ns = former.modified_ns
WHERE former.is_file AND now.is_file
    AND NOT EXISTS (SELECT 1 FROM vanished WHERE vanished.path = now.path);
"""

MET = "SELECT path FROM met WHERE path = ?"
KINDS = {TreeKind.FILE: 0, TreeKind.DIRECTORY: 1, TreeKind.SYMLINK: 2}
# The rule of `is_unchanged`, in one pass over two sorted tables: a call a file took half of a run in
# which nothing had changed. `?1` trusts no sign, `?2` is the margin of the horizon.
PLAN_FILES = """
INSERT INTO work (path, size_bytes, is_new)
SELECT seen.path, seen.size_bytes, entries.path IS NULL
FROM seen LEFT JOIN entries ON entries.path = seen.path AND entries.is_file
WHERE seen.kind = 0 AND NOT coalesce(
    NOT ?1
    AND entries.size_bytes = seen.size_bytes AND entries.modified_ns = seen.modified_ns
    AND entries.changed_ns = seen.changed_ns AND entries.inode = seen.inode
    AND max(seen.modified_ns, seen.changed_ns) < entries.read_ns - ?2, FALSE)
ORDER BY seen.path
"""
MOVED = """
SELECT count(DISTINCT entries.path)
FROM work JOIN seen ON seen.path = work.path
JOIN entries ON entries.inode = seen.inode AND entries.size_bytes = seen.size_bytes
    AND entries.modified_ns = seen.modified_ns
WHERE work.is_new AND entries.is_file
    AND NOT EXISTS (SELECT 1 FROM seen AS still WHERE still.path = entries.path)
"""
RENAMED = """
SELECT path FROM renamed WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.path = renamed.path)
"""
UNSEE_RENAMED = """
DELETE FROM seen WHERE path IN
    (SELECT renamed.path FROM vanished CROSS JOIN renamed ON renamed.path = vanished.path)
"""
# Needed by `renamed`; a run in which nothing moved does without.
INDEX_SEEN = "CREATE INDEX IF NOT EXISTS temp.seen_inode ON seen (inode)"
RECORD = """
INSERT INTO entries VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (path) DO UPDATE SET
    is_file = excluded.is_file, size_bytes = excluded.size_bytes,
    modified_ns = excluded.modified_ns, changed_ns = excluded.changed_ns, inode = excluded.inode,
    read_ns = excluded.read_ns, line = excluded.line,
    pending = excluded.pending AND (pending OR line <> excluded.line)
"""
_MOST_INTEGER = 1 << 63


def signed(number: int) -> int:
    """An inode number may take all of 64 bits; SQLite's integers have a sign."""
    return number - (1 << 64) if number >= _MOST_INTEGER else number


def signs(entry: TreeEntry) -> tuple[int, int, int]:
    """The columns modified_ns, changed_ns and inode of an entry."""
    return _held_time(entry.modified_ns), _held_time(entry.changed_ns), signed(entry.inode)


def _held_time(nanoseconds: int) -> int:
    """The nearest time that a column holds (1677 to 2262); an entry's line has the time itself."""
    return min(max(nanoseconds, -_MOST_INTEGER), _MOST_INTEGER - 1)


def kind_of(number: int) -> TreeKind:
    """What a column `kind` says."""
    return next(kind for kind, known in KINDS.items() if known == number)
