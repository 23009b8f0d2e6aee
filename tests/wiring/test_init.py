"""`drtool init` writes a source of the kind that a variable NAME_DSN leads to."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from drtool.config.policy_file import parse_policy
from drtool.errors import UsageError
from drtool.model.outcome import FactSheet
from drtool.model.progress import silent
from drtool.model.request import InitRequest
from drtool.policy.secrets import Redactor
from drtool.policy.sources import PostgresSource, RedisSource, RedisTopology
from drtool.system.clock import SystemClock
from drtool.wiring.init import run_init
from drtool.wiring.surroundings import Surroundings
from tests.servers.ports import free_port
from tests.servers.redis import ClusterGroup, MakeRedis, RedisServer

pytestmark = pytest.mark.redis


def init(path: Path, **environ: str) -> FactSheet:
    around = Surroundings(
        environ=environ,
        redactor=Redactor(),
        emit=silent,
        clock=SystemClock(),
        stop=threading.Event(),
    )
    request = InitRequest(
        path=path, stack="shop", timezone="UTC", repository=None, is_dry_run=False
    )
    return run_init(request, around)


def source_in(path: Path, name: str = "cache") -> RedisSource:
    source = parse_policy(path.read_text(), str(path)).source(name)
    assert isinstance(source, RedisSource)
    return source


def test_a_variable_with_a_redis_in_it_becomes_a_source_of_kind_redis(
    valkey: RedisServer, tmp_path: Path
) -> None:
    sheet = init(tmp_path / "shop.yaml", CACHE_DSN=f"redis://127.0.0.1:{valkey.port}/0")

    source = source_in(tmp_path / "shop.yaml")
    assert source.nodes == (valkey.address,)
    assert source.topology is RedisTopology.STANDALONE
    assert source.password is None
    [fact] = [fact for fact in sheet.facts if fact.name == "cache"]
    assert fact.value == f"Valkey 8.1.8, standalone, {valkey.address}"
    assert sheet.findings == ()


def test_a_node_of_a_cluster_becomes_a_cluster(redis_cluster: ClusterGroup, tmp_path: Path) -> None:
    init(tmp_path / "shop.yaml", CACHE_DSN=f"redis://{redis_cluster.nodes[0].address}")

    assert source_in(tmp_path / "shop.yaml").topology is RedisTopology.CLUSTER


def test_a_password_is_referred_to_and_never_written_down(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(password="s3cret pass")
    path = tmp_path / "shop.yaml"

    sheet = init(path, CACHE_DSN=f"redis://:s3cret%20pass@{server.address}")

    source = source_in(path)
    assert str(source.password) == "env:CACHE_PASSWORD"
    assert "s3cret" not in path.read_text()
    assert ["CACHE_PASSWORD" in finding.fix for finding in sheet.findings] == [True]


def test_a_redis_that_does_not_answer_is_told_and_still_no_postgres(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"

    sheet = init(
        path,
        CACHE_DSN=f"redis://127.0.0.1:{free_port()}",
        MAIN_DB_DSN=f"postgresql://127.0.0.1:{free_port()}/postgres",
    )

    assert any("cannot be reached" in finding.fact for finding in sheet.findings)
    assert source_in(path).nodes
    policy = parse_policy(path.read_text(), str(path))
    assert isinstance(policy.source("main-db"), PostgresSource)


def test_a_string_without_a_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CACHE_DSN"):
        init(tmp_path / "shop.yaml", CACHE_DSN="redis://:6379")
