"""Nothing is restored into a repository, a protected tree or a server's data; a plan says so too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.errors import DestinationRefused, ExitCode
from drtool.model.request import RestoreRequest, SyncRestore
from drtool.model.target import ToLatest
from drtool.wiring.restore import restore
from drtool.wiring.sync import restore as restore_mirror
from tests.check.rig import Stack
from tests.servers.postgres import PostgresServer, server_directory
from tests.servers.redis import RedisServer

SOURCES = """\
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    restore: {{tablespaces: {{"/srv/space": "{spaces}"}}}}
  cache:
    kind: redis
    nodes: ["127.0.0.1:1"]
  uploads:
    kind: files
    path: {root}/site/uploads
    mirror: "s3://nowhere/uploads"
  site:
    kind: files
    path: {root}/site
    exclude: [uploads/, left-out/]
"""
KINDS = ("main-db", "cache", "uploads")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    root = server_directory()
    (root / "site" / "uploads").mkdir(parents=True)
    (root / "site" / "uploads" / "a").write_text("a")
    stack = Stack(root=root, sources=SOURCES.format(root=root, spaces=root / "spaces"))
    stack.init()
    stack.backup("uploads")
    stack.backup("site")
    yield stack
    shutil.rmtree(root, ignore_errors=True)


def refused(
    stack: Stack, name: str, into: Path, *, is_plan: bool = True, delta: bool = False
) -> str:
    request = RestoreRequest(
        sources=(name,),
        target=ToLatest(),
        into=into,
        report=None,
        is_plan=is_plan,
        is_delta=delta,
    )
    before = sorted(os.listdir(into.parent))
    with pytest.raises(DestinationRefused) as caught:
        restore(request, stack.policy, stack.around)
    assert caught.value.exit_code is ExitCode.DESTINATION_REFUSED
    assert sorted(os.listdir(into.parent)) == before
    return caught.value.message


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("is_plan", [True, False], ids=["plan", "run"])
def test_nothing_is_restored_into_a_repository_or_a_tree(
    stack: Stack, name: str, is_plan: bool
) -> None:
    repository, site = stack.root / "repository", stack.root / "site"
    link = stack.root / f"link-{name}-{is_plan}"
    link.symlink_to(repository)

    assert f"lies in {repository}, the repository" in refused(
        stack, name, repository / "x", is_plan=is_plan
    )
    assert f"lies in {repository}, the repository" in refused(
        stack, name, link / "x", is_plan=is_plan
    )
    assert f"lies in {site}, the tree of source site" in refused(
        stack, name, site / "new", is_plan=is_plan
    )


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("is_plan", [True, False], ids=["plan", "run"])
def test_nothing_is_restored_into_the_data_of_a_server_that_runs(
    stack: Stack, postgres15: PostgresServer, redis7: RedisServer, name: str, is_plan: bool
) -> None:
    data = postgres15.data

    assert f"lies in {data}, a directory with the data of a PostgreSQL" in refused(
        stack, name, data / "x", is_plan=is_plan
    )
    assert f"lies in {redis7.root}, the directory of a Redis that runs, process {redis7.pid}" in (
        refused(stack, name, redis7.root / "x", is_plan=is_plan)
    )


def test_a_tree_is_not_restored_above_a_repository_unless_it_leaves_it_out(stack: Stack) -> None:
    told = refused(stack, "uploads", stack.root, delta=True)

    assert f"is a directory above {stack.root / 'repository'}, the repository" in told


def test_a_tablespace_goes_into_nothing_that_is_in_use_either(stack: Stack) -> None:
    spaces = stack.root / "repository" / "spaces"
    there = Stack(root=stack.root, sources=SOURCES.format(root=stack.root, spaces=spaces))

    assert str(spaces) in refused(there, "main-db", stack.root / "copy")


def test_a_mirror_is_not_brought_back_into_what_is_in_use(stack: Stack) -> None:
    for into in (stack.root / "repository" / "x", stack.root / "site" / "new"):
        request = SyncRestore(source="uploads", moment=None, into=into, is_plan=True)

        with pytest.raises(DestinationRefused, match=f"lies in {into.parent}"):
            restore_mirror(request, stack.policy, stack.around)


def test_a_tree_comes_back_to_the_directory_it_was_taken_from(stack: Stack) -> None:
    """Also where another source's tree lies around it: where it differs, or where nothing is."""
    uploads = stack.root / "site" / "uploads"
    (uploads / "a").write_text("spoiled")

    request = RestoreRequest(
        sources=("uploads",),
        target=ToLatest(),
        into=uploads,
        report=None,
        is_plan=False,
        is_delta=True,
    )
    restore(request, stack.policy, stack.around)

    assert (uploads / "a").read_text() == "a"
    assert "not empty" in refused(stack, "uploads", uploads)
