"""Two stacks that use one repository and the same names of sources: neither gets the other's data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drtool.repository.backups import backup_ids, commit_backup, new_backup_id, read_manifest
from drtool.repository.keys import NO_SECRET
from drtool.repository.repository import open_repository
from drtool.stores.local import LocalStore
from drtool.system import identity
from drtool.system.clock import SystemClock
from tests.acceptance.site import Site
from tests.servers.postgres import PostgresServer, new_server, server_directory
from tests.servers.redis import MakeRedis, RedisServer, make_replica

CLOCK = SystemClock()
POLICY = """\
version: 1
stack: {stack}
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: none}}
sources: {{{source}}}
"""
TREE = 'uploads: {{kind: files, path: "{path}"}}'


@dataclass(frozen=True)
class Stacks:
    """One machine and one repository, and policies by file name."""

    site: Site

    def write(self, name: str, *, stack: str, source: str) -> None:
        text = POLICY.format(stack=stack, root=self.site.root, source=source)
        (self.site.root / f"{name}.yaml").write_text(text)

    def tree(self, name: str, *, stack: str) -> Path:
        """A policy with a tree of the same name of source, with files of its own."""
        path = self.site.root / f"tree-{name}"
        path.mkdir()
        for number in range(5):
            (path / str(number)).write_text(f"of {name}")
        self.write(name, stack=stack, source=TREE.format(path=path))
        return path

    def run(self, name: str, *words: str, code: int = 0) -> str:
        """Run a command with a policy; all that it said."""
        ran = self.site.run(*words, "--policy", str(self.site.root / f"{name}.yaml"), code=code)
        return ran.out + ran.err

    def restored(self, name: str, *words: str, code: int = 0) -> str:
        """The first restored file; what was said if nothing was restored."""
        into = self.site.root / "back"
        shutil.rmtree(into, ignore_errors=True)
        said = self.run(
            name, "restore", *(words or ("--to", "latest")), "--into", str(into), code=code
        )
        return (into / "0").read_text() if code == 0 else said

    def newest(self, source: str = "uploads") -> str:
        store = LocalStore(self.site.root / "repository", clock=CLOCK)
        return backup_ids(open_repository(store, NO_SECRET), source)[-1]

    def forget_origin(self, source: str = "uploads") -> str:
        """Put the newest backup once more as an earlier drtool would have, in place of itself."""
        store = LocalStore(self.site.root / "repository", clock=CLOCK)
        repository = open_repository(store, NO_SECRET)
        newest = self.newest(source)
        manifest = read_manifest(repository, source, newest)
        store.delete(f"backups/{source}/{newest}")
        old = replace(manifest, origin=None, backup_id=new_backup_id(CLOCK.now()))
        commit_backup(repository, old)
        return old.backup_id


@pytest.fixture
def stacks() -> Iterator[Stacks]:
    root = server_directory()
    site = Site(root=root)
    (root / "repository").mkdir()
    try:
        yield Stacks(site)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("stack", ["shop", "archive"], ids=["same stack name", "own stack name"])
def test_the_second_stack_is_refused_at_its_first_backup_and_restores_nothing_of_the_first(
    stacks: Stacks, stack: str
) -> None:
    """Issue 8.15: A's restore gave B's files, MET."""
    stacks.tree("a", stack="shop")
    stacks.tree("b", stack=stack)
    stacks.run("a", "repository", "init")
    stacks.run("a", "backup")

    refused = stacks.run("b", "backup", code=5)
    not_its_own = stacks.restored("b", code=4)
    status = stacks.run("b", "status", code=4)
    checked = stacks.run("b", "check", code=4)

    assert "may be another one than the repository has backups of" in refused
    assert "a name or a repository of its own" in refused
    assert "drtool backup uploads --accept-source" in refused
    assert "may be of another source" in not_its_own
    assert "may be of another source" in status
    assert "may be of another source" in checked
    assert stacks.restored("a") == "of a"


def test_a_source_that_has_moved_is_accepted_once_and_its_old_backups_stay_its_own(
    stacks: Stacks,
) -> None:
    stacks.tree("a", stack="shop")
    moved = stacks.tree("b", stack="shop-eu")
    stacks.run("a", "repository", "init")
    stacks.run("a", "backup")
    before = stacks.newest()

    stacks.run("b", "backup", "--accept-source")
    (moved / "new").write_text("x")
    said = stacks.run("b", "backup")

    assert "another" not in said
    assert stacks.restored("b") == "of b"
    assert stacks.restored("b", "--backup", before) == "of a"
    assert "another" not in stacks.run("b", "check", code=0)


def test_backups_of_an_earlier_drtool_are_adopted_and_told(stacks: Stacks) -> None:
    stacks.tree("a", stack="shop")
    stacks.run("a", "repository", "init")
    stacks.run("a", "backup")
    stacks.forget_origin()

    assert stacks.restored("a") == "of a"
    said = stacks.run("a", "backup")
    again = stacks.run("a", "backup")

    assert "taken for those of stack shop" in said
    assert "taken for" not in again


def test_where_two_trees_were_mixed_by_an_earlier_drtool_the_other_one_is_not_restored(
    stacks: Stacks,
) -> None:
    """The case of the issue itself: both have backups, and the newest is the other's."""
    stacks.tree("a", stack="shop")
    stacks.tree("b", stack="shop")
    stacks.run("a", "repository", "init")
    stacks.run("a", "backup")
    of_a = stacks.forget_origin()
    stacks.run("b", "backup", "--accept-source")
    stacks.forget_origin()

    said = stacks.restored("a", code=4)

    assert "it is of the tree" in said
    assert stacks.restored("a", "--backup", of_a) == "of a"
    assert stacks.restored("a", "--to", "latest", "--accept-source") == "of b"


def test_the_same_path_on_another_machine_is_another_tree(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two web servers with one policy; a container without a machine's id says nothing."""
    for name, content in (("one", "1" * 32), ("two", "2" * 32), ("none", "")):
        (tmp_path / name).write_text(content + "\n")
    signs = []
    for name in ("one", "two", "none", "missing"):
        monkeypatch.setattr(identity, "_MACHINE_ID", tmp_path / name)
        signs.append(identity.machine_sign())

    assert len(set(signs[:2])) == 2
    assert all("1" * 8 not in sign for sign in signs)
    assert signs[2:] == ["", ""]


def redis_source(server: RedisServer) -> str:
    return (
        f'cache: {{kind: redis, topology: standalone, nodes: ["{server.address}"], stream: false}}'
    )


def test_another_redis_is_refused_and_one_that_moved_by_a_failover_is_not(
    stacks: Stacks, make_redis: MakeRedis
) -> None:
    """Addresses and replication ids: neither is known of the other; a promoted replica knows its past."""
    first, other = make_redis(), make_redis()
    replica = make_replica(make_redis, first)
    for name, server in (("a", first), ("b", other), ("moved", replica)):
        stacks.write(name, stack="shop", source=redis_source(server))
    with first.client() as client:
        client.set("of", "first")
    stacks.run("a", "repository", "init")
    stacks.run("a", "backup")
    with replica.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")

    refused = stacks.run("b", "backup", code=5)
    receiving = stacks.run("b", "redis", "receive", "cache", "--dry-run", code=5)
    stacks.run("moved", "backup")

    assert "no server has an address or a history that is known here" in refused
    assert "no server has an address or a history that is known here" in receiving


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    found = new_server(15, segment_mb=1)
    yield found
    found.close()


@pytest.mark.postgres
def test_a_cluster_of_another_stack_is_neither_received_nor_restored(
    stacks: Stacks, server: PostgresServer
) -> None:
    """The same cluster even: the policy was copied, and its `stack:` is what tells them apart."""
    stacks.site.environ["MAIN_DB_DSN"] = server.dsn()
    source = "main-db: {kind: postgres, dsn: 'env:MAIN_DB_DSN'}"
    stacks.write("a", stack="shop", source=source)
    stacks.write("b", stack="archive", source=source)
    stacks.run("a", "repository", "init")
    stacks.run("a", "backup")

    for words in (("backup",), ("wal", "receive", "main-db", "--dry-run")):
        assert "this policy is of stack archive" in stacks.run("b", *words, code=5)
    said = stacks.run("b", "restore", "--to", "latest", "--plan", code=4)
    stacks.run("b", "restore", "--to", "latest", "--plan", "--accept-source")
    stacks.run("a", "backup")

    assert "stack shop" in said
