"""Tablespaces younger than the backup come to lie in the copy, and the source's are left as they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from drtool.model.outcome import RestoreOutcome
from drtool.model.target import RecoveryTarget, ToLatest, ToTime
from drtool.model.wal import WalSegment, segments_between
from drtool.repository.layout import Lineage
from drtool.repository.log import read_segment
from drtool.repository.repository import Repository
from drtool.stores.memory import MemoryStore
from tests.archiving.rig import SOURCE
from tests.restore.rig import (
    moment_of,
    protected,
    restore,
    settle,
    started,
    take_backup,
)
from tests.servers.postgres import (
    PostgresServer,
    give_to_server_user,
    new_server,
    server_directory,
)

pytestmark = pytest.mark.postgres


def content_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Past:
    """A source with a tablespace that its backup does not know, and moments of its life."""

    source: PostgresServer
    repository: Repository
    root: Path
    live: Path
    before: datetime
    filled: datetime


def space(server: PostgresServer, name: str) -> Path:
    place = server.root / name
    place.mkdir()
    give_to_server_user(place)
    return place


@pytest.fixture(scope="module", params=[15, 16, 18], ids=["pg15", "pg16", "pg18"])
def past(request: pytest.FixtureRequest) -> Iterator[Past]:
    """The case of the issue: backup, CREATE TABLESPACE, rows, T1, update, vacuum, checkpoint."""
    root = server_directory()
    source = new_server(request.param, segment_mb=1)
    try:
        live, other = space(source, "live"), space(source, "other")
        with protected(source, MemoryStore()) as repository:
            take_backup(repository, source)
            before = moment_of(source)
            # The commit that a recovery to that moment stops at.
            source.query("CREATE TABLE after_it (id int)")
            source.query(f"CREATE TABLESPACE fast LOCATION '{live}'")
            source.query("CREATE TABLE t (id int, n int) TABLESPACE fast")
            source.query("INSERT INTO t SELECT g, 0 FROM generate_series(1, 20000) g")
            source.query("CREATE DATABASE moved")
            source.query("ALTER DATABASE moved SET TABLESPACE fast")
            filled = moment_of(source)
            source.query("UPDATE t SET n = 1")
            source.query("VACUUM t")
            # Dropped, and its place used again by another one.
            source.query(f"CREATE TABLESPACE short LOCATION '{other}'")
            source.query("CREATE TABLE s (id int) TABLESPACE short")
            source.query("DROP TABLE s")
            source.query("DROP TABLESPACE short")
            source.query(f"CREATE TABLESPACE again LOCATION '{other}'")
            source.query("CREATE TABLE a TABLESPACE again AS SELECT 7 AS id")
            source.query("CHECKPOINT")
            settle(repository, source)
        yield Past(source, repository, root, live, before, filled)
    finally:
        source.close()
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def copy_of(
    past: Past, name: str, target: RecoveryTarget
) -> Iterator[tuple[PostgresServer, RestoreOutcome]]:
    outcome = restore(past.repository, past.root / name, target=target)
    with started(past.source.major, past.root / name) as copy:
        yield copy, outcome


def test_a_tablespace_younger_than_the_backup_comes_to_lie_in_the_copy(past: Past) -> None:
    """The live table had 20,000 rows, and had 39,990 after the restore."""
    past.source.query("CHECKPOINT")
    live = content_of(past.live)

    with copy_of(past, "filled", ToTime(past.filled)) as (copy, outcome):
        counted = copy.query("SELECT count(*), sum(n) FROM t")
        [place] = copy.query(
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"
        )
        copy.query("SELECT count(*) FROM pg_class", dbname="moved")
        copy.query("INSERT INTO t VALUES (1, 1)")
        copy.query("DROP TABLE t")
        copy.query("CHECKPOINT")

    assert counted == [(20000, 0)]
    assert Path(place[0]).parent == past.root / "filled-tablespaces"
    assert content_of(past.live) == live
    assert past.source.query("SELECT count(*), sum(n) FROM t") == [(20000, 20000)]
    [told] = [one for one in outcome.findings if str(past.live) in one.fact]
    assert place[0] in told.fact


def test_before_its_creation_nothing_of_it_is_in_the_copy(past: Past) -> None:
    with copy_of(past, "before", ToTime(past.before)) as (copy, _):
        spaces = copy.query("SELECT count(*) FROM pg_tablespace")

    assert spaces == [(2,)]
    assert not list((past.root / "before" / "pg_tblspc").iterdir())
    assert not (past.root / "before-tablespaces").exists()


def test_a_tablespace_that_was_dropped_gives_its_place_to_another(past: Past) -> None:
    with copy_of(past, "latest", ToLatest()) as (copy, _):
        found = copy.query("SELECT id FROM a")
        names = copy.query("SELECT spcname FROM pg_tablespace WHERE oid >= 16384 ORDER BY 1")

    assert found == [(7,)]
    assert names == [("again",), ("fast",)]
    assert len(list((past.root / "latest-tablespaces").iterdir())) == 2
    assert past.source.query("SELECT id FROM a") == [(7,)]


def test_the_wal_left_in_the_copy_is_what_the_server_wrote(past: Past) -> None:
    """What was changed for the replay never comes into a repository, on no timeline."""
    outcome = restore(past.repository, past.root / "wal")
    size = 1 << 20
    control = take_system_id(past)
    wal = past.root / "wal" / "pg_wal"
    compared = 0
    assert outcome.log is not None
    assert outcome.log.repository_end is not None
    for segment in segments_between(
        1, outcome.log.backup_start, outcome.log.repository_end, segment_bytes=size
    ):
        written = read_segment(
            past.repository, Lineage(SOURCE, control, 1), segment, segment_bytes=size
        )
        path = wal / segment.name(size)
        if path.is_file():
            compared += 1
            assert path.read_bytes() == written
        later = wal / WalSegment(2, segment.number).name(size)
        if later.is_file() and outcome.reached.lsn is not None:
            until = outcome.reached.lsn - segment.begin(size)
            if 0 < until < size:
                compared += 1
                # Page headers tell of the new timeline; the records are the old one's.
                assert later.read_bytes()[64:until][-512:] == written[64:until][-512:]

    assert compared


def take_system_id(past: Past) -> int:
    return int(past.source.query("SELECT system_identifier FROM pg_control_system()")[0][0])
