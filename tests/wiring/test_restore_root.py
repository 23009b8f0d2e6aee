"""The places that a first user is given: every server's user gets through what drtool makes above a copy."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.config.policy_file import parse_policy
from drtool.model.checked import Look
from drtool.model.finding import Severity
from drtool.model.outcome import RestoreOutcome, RestoreReport
from drtool.model.request import InitRequest, RestoreRequest
from drtool.model.target import ToLatest
from drtool.restore.destination import make_place
from drtool.sources.redis.binaries import server_user
from drtool.system.users import choose_user
from drtool.wiring.init import run_init
from drtool.wiring.restore import restore
from tests.check.rig import Stack, look
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

# Nobody else chooses whose a copy is.
IS_ROOT = os.geteuid() == 0
SOURCES = """\
  main-db: {{kind: postgres, dsn: env:MAIN_DB_DSN}}
  cache: {{kind: redis, nodes: ["{redis}"]}}
  uploads: {{kind: files, path: "{tree}"}}
restore_root: {root}/state/restore
"""


@pytest.fixture
def machine() -> Iterator[Path]:
    """A directory of ours into which everybody may look, as /var/lib is root's."""
    root = Path(tempfile.mkdtemp(prefix="drtool-test-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def stack_in(machine: Path, postgres: PostgresServer, redis: RedisServer) -> Stack:
    (machine / "tree").mkdir(exist_ok=True)
    (machine / "tree" / "a").write_text("a")
    sources = SOURCES.format(root=machine, redis=redis.address, tree=machine / "tree")
    stack = Stack(root=machine / "state", sources=sources)
    stack.environ["MAIN_DB_DSN"] = postgres.dsn()
    return stack


def restored(stack: Stack, *names: str) -> list[RestoreOutcome]:
    request = RestoreRequest(
        sources=names, target=ToLatest(), into=None, report=None, is_plan=False, each_latest=True
    )
    report = restore(request, stack.policy, stack.around)
    assert isinstance(report, RestoreReport)
    return list(report.outcomes)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.postgres
@pytest.mark.redis
def test_the_first_restore_into_the_default_places_works_and_leaves_them_to_the_next(
    machine: Path, postgres15: PostgresServer, redis7: RedisServer, narrow_umask: None
) -> None:
    stack = stack_in(machine, postgres15, redis7)
    stack.init()
    stack.backup()

    database, cache, uploads = (restored(stack, name)[0] for name in stack.policy.sources)

    state = machine / "state"
    above = [state, state / "restore"]
    above += [Path(one.destination).parent for one in (database, cache, uploads)]
    assert [mode(place) for place in above] == [0o711] * len(above)
    assert {place.stat().st_uid for place in above} == {os.geteuid()}
    assert mode(state / "repository") == 0o700
    copies = [Path(one.destination) for one in (database, cache)]
    assert [mode(place) for place in copies] == [0o700, 0o700]
    users = [choose_user(machine), server_user(machine)]
    assert [place.stat().st_uid for place in copies] == [user.uid for user in users]
    assert f"-u {users[1].name}" in cache.how_to_start[0] or users[1].is_us


def test_whose_a_copy_is_does_not_depend_on_the_copies_before_it(machine: Path) -> None:
    """What drtool made in somebody's directory leaves it to that, and to nobody in root's."""
    somebodys = machine / "somebodys"
    somebodys.mkdir()
    if IS_ROOT:
        os.chown(somebodys, 4321, 4321)

    for place in (machine, somebodys):
        before = [choose(place / "new" / "first") for choose in (choose_user, server_user)]
        make_place(place / "new" / "first", before[0])
        after = [choose(place / "new" / "second") for choose in (choose_user, server_user)]

        assert before == after
        assert [user.uid == 4321 for user in after] == [IS_ROOT and place == somebodys] * 2


@pytest.mark.postgres
@pytest.mark.redis
def test_a_check_says_where_a_restore_would_go_and_who_cannot_get_there(
    machine: Path, postgres15: PostgresServer, redis7: RedisServer
) -> None:
    stack = stack_in(machine, postgres15, redis7)
    stack.init()

    def looks() -> list[Look]:
        report = stack.check()
        return [look(report, str(name), "restores to") for name in stack.policy.sources]

    before = looks()
    (machine / "state").chmod(0o700)
    closed = looks()
    (machine / "state").chmod(0o711)
    stack.sources = stack.sources.replace("/state/restore", "/state/repository/restore")
    inside = looks()

    root = machine / "state" / "restore"
    database, cache = choose_user(root), server_user(root)
    assert [one.seen for one in before] == [
        f"below {root}, as user {database.name}",
        f"below {root}, as user {cache.name}",
        f"below {root}",
    ]
    assert [one.findings for one in before] == [(), (), ()]
    for one, user in zip(closed, (database, cache), strict=False):
        facts = [found.fact for found in one.findings if found.severity is Severity.WARNING]
        assert user.is_us or f"user {user.name}, who will run the server, cannot reach" in facts[0]
    assert closed[2].findings == ()
    assert all("the repository" in one.findings[0].fact for one in inside)


def test_a_starter_policy_names_where_restores_go(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shop.yaml"
    request = InitRequest(
        path=path, stack="shop", timezone="UTC", repository=None, is_dry_run=False
    )

    sheet = run_init(request, Stack(root=tmp_path, sources="").around)

    policy = parse_policy(path.read_text(), str(path))
    told = {fact.name: fact.value for fact in sheet.facts}
    assert "\nrestore_root: " in path.read_text()
    assert told["restore_root"] == str(policy.restore_root)
    assert policy.restore_root.parent == Path(policy.repository.url.removeprefix("file://")).parent
