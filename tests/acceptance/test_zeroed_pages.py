"""Pages that a disk lost and gave back as zeros: no checksum tells, and the backup does."""

from __future__ import annotations

import pytest

from drtool.model.finding import Severity
from tests.acceptance.site import SOURCE, Ran, Site
from tests.backup.taking import new_repository, take_backup
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres

PAGE = 8192
QUIET = {"autovacuum": "off", "full_page_writes": "on"}


def make_tables(server: PostgresServer) -> dict[str, str]:
    """Tables of some pages each; where they lie."""
    paths = {}
    for name, rows in (("big", 20_000), ("small", 10), ("shrinking", 20_000)):
        server.query(f"CREATE TABLE {name} AS SELECT n FROM generate_series(1, {rows}) n")
        paths[name] = server.query("SELECT pg_relation_filepath(%s)", name)[0][0]
    server.query("CHECKPOINT")
    return paths


def lose(server: PostgresServer, path: str, block: int) -> bytes:
    """What a disk or a file system does: the page reads as zeros. What it was is given back."""
    with (server.data / path).open("r+b") as file:
        file.seek(block * PAGE)
        was = file.read(PAGE)
        file.seek(block * PAGE)
        file.write(bytes(PAGE))
    assert any(was)
    return was


def damage(server: PostgresServer, path: str, *, block: int) -> None:
    """One bit of a page is another, and its checksum tells."""
    with (server.data / path).open("r+b") as file:
        file.seek(block * PAGE + PAGE - 100)
        was = file.read(1)[0]
        file.seek(block * PAGE + PAGE - 100)
        file.write(bytes([was ^ 1]))


def grow(server: PostgresServer, path: str, pages: int) -> None:
    """What PostgreSQL does before it writes new pages, and what a crash then leaves."""
    with (server.data / path).open("ab") as file:
        file.write(bytes(pages * PAGE))


def zeroed(ran: Ran) -> list[tuple[str, str]]:
    answer = ran.answer
    found = answer["findings"] if "findings" in answer else answer["rows"][0]["findings"]
    return [(one["severity"], one["subject"]) for one in found if "is all zero" in one["fact"]]


def test_a_page_that_became_zero_is_a_problem_of_the_backup_until_it_is_back(
    make_postgres: MakePostgres, site: Site
) -> None:
    """By the WAL `big` and `small` were not truncated; `shrinking` was, and grew again."""
    server = make_postgres(18, settings=QUIET)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy()
    site.run("repository", "init")
    paths = make_tables(server)
    site.run("backup", SOURCE)
    server.query("DELETE FROM shrinking WHERE ctid >= '(2,0)'")
    server.query("VACUUM shrinking")
    server.stop()
    lost = {name: lose(server, paths[name], block) for name, block in (("big", 3), ("small", 0))}
    grow(server, paths["shrinking"], 5)
    grow(server, paths["big"], 2)
    server.start()
    expected = [("problem", f"{paths['big']}, block 3"), ("problem", f"{paths['small']}, block 0")]

    second = site.run("backup", SOURCE, "--json", code=7)
    status = site.run("status", "--json", code=7)
    third = site.run("backup", SOURCE, "--json", code=7)

    assert sorted(zeroed(second)) == sorted(expected)
    assert sorted(zeroed(status)) == sorted(expected)
    assert sorted(zeroed(third)) == sorted(expected)
    server.stop()
    for name, block in (("big", 3), ("small", 0)):
        with (server.data / paths[name]).open("r+b") as file:
            file.seek(block * PAGE)
            file.write(lost[name])
    server.start()
    assert zeroed(site.run("backup", SOURCE, "--json")) == []
    site.run("status", code=3)  # nobody receives

    server.stop()
    damage(server, paths["big"], block=3)
    server.start()
    site.run("backup", SOURCE, code=7)
    listed = site.run("status", code=7)

    assert f"{paths['big']}, block 3" in listed.out


def test_where_the_wal_does_not_tell_it_is_a_warning(make_postgres: MakePostgres) -> None:
    server = make_postgres(15, settings=QUIET)
    repository = new_repository()
    paths = make_tables(server)
    take_backup(server.dsn(), repository)
    server.stop()
    lose(server, paths["big"], 3)
    server.start()

    [finding] = take_backup(server.dsn(), repository).findings

    assert finding.severity is Severity.WARNING
    assert finding.subject == f"{paths['big']}, block 3"
    assert "the WAL that is held does not tell" in finding.fact
