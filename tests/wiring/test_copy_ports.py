"""A copy is at no port where it would be taken for a source, and no two copies are at the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.model.finding import Severity
from drtool.model.outcome import RestoreOutcome, RestoreReport
from drtool.model.request import RestoreRequest
from drtool.model.target import ToLatest
from drtool.restore.copy_ports import CHOSEN, CopyPorts
from drtool.wiring.copy_ports import copy_ports
from drtool.wiring.restore import restore
from tests.check.rig import Stack
from tests.servers.ports import free_port
from tests.servers.postgres import MakePostgres, server_directory
from tests.servers.redis import RedisServer

SOURCES = """\
  main-db: {{kind: postgres, dsn: env:MAIN_DB_DSN}}
  cache: {{kind: redis, nodes: ["127.0.0.1:{redis}"]{more}}}
restore_root: {root}/restored
"""


@pytest.fixture
def root() -> Iterator[Path]:
    root = server_directory()
    yield root
    shutil.rmtree(root, ignore_errors=True)


def copies(stack: Stack, into: Path | None, *names: str) -> list[RestoreOutcome]:
    request = RestoreRequest(
        sources=names, target=ToLatest(), into=into, report=None, is_plan=False, each_latest=True
    )
    report = restore(request, stack.policy, stack.around)
    assert isinstance(report, RestoreReport)
    return list(report.outcomes)


def ports_of(outcomes: list[RestoreOutcome]) -> list[int]:
    """As they were told, if also what is in the copy's configuration."""
    told = []
    for outcome in outcomes:
        [setting] = [one for one in outcome.changed_settings if one.name == "port"]
        assert setting.reason == CHOSEN
        place = Path(outcome.destination)
        files = [place / "postgresql.auto.conf", *place.glob("*/redis.conf")]
        text = "".join(path.read_text() for path in files if path.exists())
        assert f"port = '{setting.value}'" in text or f"\nport {setting.value}\n" in text
        told.append(int(setting.value))
    return told


@pytest.mark.postgres
@pytest.mark.redis
def test_a_copy_is_not_at_its_source_s_port_though_the_source_is_down_nor_at_another_copy_s(
    make_postgres: MakePostgres, redis7: RedisServer, root: Path
) -> None:
    server = make_postgres(15, segment_mb=1)
    with (server.data / "postgresql.conf").open("a") as settings:
        settings.write(f"port = {server.port}\n")
    sources = SOURCES.format(redis=redis7.port, root=root, more="")
    stack = Stack(root=root, sources=sources, environ={"MAIN_DB_DSN": server.dsn()})
    stack.init()
    stack.backup()
    server.stop()

    first = copies(stack, None, "main-db", "cache")
    beside = copies(stack, root / "one", "main-db") + copies(stack, root / "two", "cache")

    ports = ports_of([*first, *beside])
    assert len(set(ports)) == 4
    assert not {server.port, redis7.port} & set(ports)


@pytest.mark.redis
def test_a_port_that_the_policy_asks_for_is_said_to_be_so_and_warned_of_if_it_is_a_source_s(
    redis7: RedisServer, root: Path
) -> None:
    more = f", restore: {{port: {redis7.port}}}"
    stack = Stack(root=root, sources=SOURCES.format(redis=redis7.port, root=root, more=more))
    stack.init()
    stack.backup("cache")

    [outcome] = copies(stack, None, "cache")

    [setting] = [one for one in outcome.changed_settings if one.name == "port"]
    assert (setting.value, setting.reason) == (
        str(redis7.port),
        "as `restore: {port: N}` of the source says",
    )
    warned = [one.fact for one in outcome.findings if one.severity is Severity.WARNING]
    assert any("by which it reaches a source" in fact for fact in warned)


def test_every_port_by_which_a_policy_reaches_a_source_is_kept(tmp_path: Path) -> None:
    text = """\
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    backup_from: {dsn: env:STANDBY_DSN}
  unknown: {kind: postgres, dsn: env:NOT_SET_DSN}
  cache: {kind: redis, nodes: ["a:6379", "b:6380"]}
  shards: {kind: redis, topology: cluster, nodes: ["a:7001"]}
"""
    environ = {"MAIN_DB_DSN": "host=a,b port=5433,5434", "STANDBY_DSN": "postgresql://x@c/postgres"}
    stack = Stack(root=tmp_path, sources=text, environ=environ)

    ports = copy_ports(None, stack.policy, stack.around)

    assert ports.kept == {5432, 5433, 5434, 6379, 6380, 7001, 17001}


def test_ports_are_those_of_no_other_copy_started_or_not(tmp_path: Path) -> None:
    first = free_port()
    database, shard = tmp_path / "shop-1" / "main-db", tmp_path / "shop-1" / "cache" / "slots-0"
    for place in (database, shard):
        place.mkdir(parents=True)
    (database / "PG_VERSION").write_text("15\n")
    (database / "postgresql.auto.conf").write_text(f"port = '1'\nport = '{first}'\n")
    (shard / "redis.conf").write_text(f"cluster-enabled yes\nport {first + 1}\n")
    ports = CopyPorts(kept=frozenset({first + 2}), roots=(tmp_path,))

    given = [ports.choose(first), ports.choose(first), ports.choose(first, kept={first})]
    as_a_bus = CopyPorts(roots=(tmp_path,)).choose(first + 10_001)

    assert len({first, first + 1, first + 2, *given}) == 6
    assert as_a_bus != first + 10_001
