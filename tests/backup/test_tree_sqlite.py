"""SQLite databases in a tree: a copy that may not be whole is told, and one that is whole is not."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from drtool.model.finding import Finding, Severity
from drtool.sources.files.beneath import open_tree
from drtool.sources.files.entries import TreeEntry
from drtool.sources.files.sqlite import SqliteWatch
from drtool.sources.files.walk import walk_tree
from tests.backup.tree_taking import CLOCK, bring_back, snapshot
from tests.repository.building import new_repository

HOUR_NS = 3600 * 10**9


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """In WAL mode, with a transaction that stands in the -wal file alone."""
    (tmp_path / "tree" / "app").mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "tree" / "app" / "shop.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("CREATE TABLE orders (id INTEGER)")
        connection.commit()
        connection.execute("INSERT INTO orders VALUES (1)")
        connection.commit()
        yield connection


def watched(tree: Path, *, since_ns: int) -> list[Finding]:
    watch = SqliteWatch()
    for item in walk_tree(tree):
        if isinstance(item, TreeEntry):
            watch.meet(item)
    with open_tree(tree) as root:
        return list(watch.findings(root, since_ns=since_ns))


def age(tree: Path) -> int:
    """A moment at which nothing of the tree was written any more: an hour from now."""
    return max(os.stat(path).st_ctime_ns for path in tree.rglob("*")) + HOUR_NS


def test_a_database_that_is_written_meanwhile_is_a_warning_with_the_remedy(
    tmp_path: Path, database: sqlite3.Connection
) -> None:
    outcome = snapshot(new_repository(), tmp_path / "tree", clock=CLOCK)

    [finding] = outcome.findings
    assert finding.severity is Severity.WARNING
    assert finding.subject == "SQLite database app/shop.db"
    assert "shop.db-wal" in finding.fact
    assert "exclude" in finding.fix


def test_a_database_that_rests_comes_back_with_what_its_wal_holds_and_without_a_warning(
    tmp_path: Path, database: sqlite3.Connection
) -> None:
    tree, repository = tmp_path / "tree", new_repository()
    since_ns = age(tree)

    snapshot(repository, tree, clock=CLOCK)
    bring_back(repository, tmp_path / "copy")

    assert watched(tree, since_ns=since_ns) == []
    with closing(sqlite3.connect(tmp_path / "copy" / "app" / "shop.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copy.execute("SELECT id FROM orders").fetchall() == [(1,)]


def test_a_database_that_takes_its_wal_in_meanwhile_is_told(
    tmp_path: Path, database: sqlite3.Connection
) -> None:
    tree = tmp_path / "tree"
    watch = SqliteWatch()
    for item in walk_tree(tree):
        if isinstance(item, TreeEntry):
            watch.meet(item)
    since_ns = age(tree)
    database.close()  # the last connection takes the -wal file in, and removes it

    with open_tree(tree) as root:
        assert len(list(watch.findings(root, since_ns=since_ns))) == 1


@pytest.mark.parametrize("kind", ["link", "fifo", "text", "directory"])
def test_what_is_no_database_is_not_told_and_never_followed(tmp_path: Path, kind: str) -> None:
    """A name beside a -wal file leads elsewhere, or would block whoever opens it."""
    (tmp_path / "x-wal").write_bytes(b"something")
    place = tmp_path / "x"
    match kind:
        case "link":
            with closing(sqlite3.connect(tmp_path / "elsewhere")) as connection:
                connection.execute("CREATE TABLE t (id INTEGER)")
            place.symlink_to("elsewhere")
        case "fifo":
            os.mkfifo(place)
        case "text":
            place.write_text("no database")
        case _:
            place.mkdir()

    assert watched(tmp_path, since_ns=0) == []


def test_of_many_databases_twenty_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number}.db").write_bytes(b"SQLite format 3\0" + bytes(84))
        (tmp_path / f"{number}.db-journal").write_bytes(b"x")

    found = watched(tmp_path, since_ns=0)

    assert len(found) == 21
    assert "5 more" in found[-1].fact
