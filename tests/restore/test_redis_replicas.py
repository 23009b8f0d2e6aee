"""The same shape means the replicas too: they follow the masters of the copy, and nobody else."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from drtool.model.finding import Severity
from drtool.model.target import ToTime
from drtool.policy.secrets import Secret
from drtool.policy.sources import RedisTopology
from drtool.repository.extents import RedisShard
from drtool.repository.repository import Repository
from drtool.sources.redis.address import Login
from tests.archiving.redis_rig import wait_for_more, wait_held
from tests.restore.redis_rig import (
    digest_of,
    restore,
    servers_of,
    started,
    streamed,
    take_snapshot,
)
from tests.servers.redis import ClusterGroup, MakeRedis, RedisServer, make_replica, wait_for

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis


def is_linked(client: redis.Redis) -> bool:
    return bool(client.info("replication").get("master_link_status") == "up")


def port_of(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


def test_a_cluster_comes_back_with_its_replicas_and_they_take_over(
    redis_cluster: ClusterGroup, repository: Repository, root: Path
) -> None:
    """Epochs, slots and roles are right only if the copy survives the loss of a master as well."""
    sources, nodes = redis_cluster.masters(), redis_cluster.nodes
    for master in sources:
        with master.client() as client:
            client.flushall()
    with redis_cluster.client() as client, streamed(repository, *nodes, kind=RedisTopology.CLUSTER):
        take_snapshot(repository, servers_of(*nodes, kind=RedisTopology.CLUSTER))
        for number in range(300):
            client.set(f"key:{number}", number)
        for master in sources:
            wait_held(repository, master)
        moment = datetime.now(UTC)
        for master in sources:
            wait_for_more(repository, master)
    expected = digest_of([master.client() for master in sources])

    outcome = restore(repository, root / "copy", ToTime(moment))

    with started(outcome, replicas=True) as copies:
        masters, replicas = copies[:3], copies[3:]
        assert len(replicas) == 3
        for replica in replicas:
            wait_for(lambda one=replica: is_linked(one), what="a replica's link")  # type: ignore[misc] # a default binds the loop's value
        assert digest_of(masters) == expected
        followed = [int(one.info("replication")["master_port"]) for one in replicas]
        assert followed == [port_of(one) for one in masters]
        check = ["redis-cli", "--cluster", "check", f"127.0.0.1:{port_of(masters[0])}"]
        told = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
        assert told.returncode == 0, told.stdout
        assert "[OK] All 16384 slots covered" in told.stdout
        masters[0].shutdown(nosave=True)
        wait_for(
            lambda: replicas[0].info("replication")["role"] == "master",
            what="the replica that takes over",
            seconds=60,
        )
        assert digest_of([replicas[0], *masters[1:]]) == expected


def test_a_replica_of_the_copy_follows_the_copy_and_not_the_source(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    """PITFALLS 82."""
    master = make_redis(password="known-to-both")
    make_replica(make_redis, master, password="known-to-both")
    with master.client() as client:
        client.mset({f"key:{number}": number for number in range(100)})
        client.wait(1, 5000)
    take_snapshot(repository, servers_of(master, login=Login(password=Secret("known-to-both"))))
    before = _followers(master)

    outcome = restore(repository, root / "copy")

    with started(outcome, replicas=True, password="known-to-both") as [copy, replica]:
        wait_for(lambda: is_linked(replica), what="the replica's link")
        assert int(replica.info("replication")["master_port"]) == port_of(copy)
        assert replica.dbsize() == copy.dbsize() == 100
        assert _followers(master) == before


def test_a_replica_is_not_told_to_follow_whoever_listens_on_its_masters_port(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    """The port of the copy may be that of the source, on the same machine."""
    master = make_redis()
    make_replica(make_redis, master)
    take_snapshot(repository, servers_of(master))

    outcome = restore(repository, root / "copy", first_port=master.port)

    text = (root / "copy" / "main-replica-1" / "redis.conf").read_text()
    assert not [line for line in text.splitlines() if line.startswith("replicaof")]
    [finding] = [one for one in outcome.findings if one.subject == "ports"]
    assert finding.severity is Severity.WARNING
    assert str(master.port) in finding.fact


def test_a_snapshot_from_before_replicas_were_counted_says_not_known() -> None:
    document = {
        "name": "main", "rdb": "main/dump.rdb", "replication_id": "a" * 40, "offset": 1,
        "taken_at": "2024-05-01T10:00:00+00:00", "keys": [], "slots": [], "node_id": "", "epoch": 0,
    }  # fmt: skip

    assert RedisShard.from_json(document).replicas is None


def _followers(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("replication")["connected_slaves"])
