"""The commands that a report prints start and stop a Redis copy, as printed, beside its source."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from drtool.model.outcome import RestoreOutcome
from drtool.policy.secrets import Secret
from drtool.policy.sources import RedisTopology
from drtool.repository.repository import Repository
from drtool.sources.redis.address import Login
from tests.restore.printed import started_as_printed
from tests.restore.redis_rig import restore, servers_of, take_snapshot
from tests.servers.redis import ClusterGroup, MakeRedis, wait_for

pytestmark = pytest.mark.redis


def ports_of(outcome: RestoreOutcome) -> list[int]:
    told = {changed.name: changed.value for changed in outcome.changed_settings}["port"]
    return [int(port) for port in told.split(", ")]


def pids_of(root: Path) -> list[int]:
    return [int(path.read_text()) for path in root.glob("*/redis.pid")]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def client_of(port: int, password: str | None = None) -> redis.Redis:
    client = redis.Redis(port=port, password=password, socket_timeout=20)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    wait_for(answers, what="the started copy")
    return client


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_copy_with_a_password_starts_and_stops_as_printed(
    make_redis: MakeRedis, repository: Repository, root: Path, version: str
) -> None:
    source = make_redis(version, settings={"save": "3600 1"}, password="known")
    with source.client() as client:
        client.set("one", 1)
    take_snapshot(repository, servers_of(source, login=Login(password=Secret("known"))))
    outcome = restore(repository, root / "it's the copy")

    with started_as_printed(outcome), client_of(ports_of(outcome)[0], "known") as copy:
        found = copy.get("one")
        copy.set("two", 2)
        pids = pids_of(root / "it's the copy")
    wait_for(lambda: not any(is_alive(pid) for pid in pids), what="the copy's end")
    with started_as_printed(outcome), client_of(ports_of(outcome)[0], "known") as copy:
        second = copy.mget("one", "two")
        pids = [*pids, *pids_of(root / "it's the copy")]
    # One whose directory is gone before it has saved refuses to end.
    wait_for(lambda: not any(is_alive(pid) for pid in pids), what="the copy's second end")

    assert found == b"1"
    assert len(set(pids)) == 2
    assert second == [b"1", b"2"]
    with source.client() as client:
        assert client.dbsize() == 1


def test_a_cluster_with_replicas_starts_and_stops_as_printed(
    redis_cluster: ClusterGroup, repository: Repository, root: Path
) -> None:
    take_snapshot(repository, servers_of(*redis_cluster.nodes, kind=RedisTopology.CLUSTER))
    outcome = restore(repository, root / "copy")

    with started_as_printed(outcome):
        roles = []
        for port in ports_of(outcome):
            with client_of(port) as copy:
                roles.append(copy.info("replication")["role"])
        pids = pids_of(root / "copy")

    wait_for(lambda: not any(is_alive(pid) for pid in pids), what="the copies' end")
    assert roles == ["master"] * 3 + ["slave"] * 3
    assert len(pids) == 6
