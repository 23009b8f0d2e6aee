"""The same shape means the replicas too: they follow the masters of the copy, and nobody else."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from drtool.errors import DestinationRefused
from drtool.model.finding import Severity
from drtool.model.progress import Event, PhaseBegan
from drtool.model.target import ToLatest, ToTime
from drtool.policy.secrets import Secret
from drtool.policy.sources import RedisTopology
from drtool.repository.extents import RedisShard
from drtool.repository.repository import Repository
from drtool.restore.destination import check_directory
from drtool.restore.redis_fetch import release_of
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_places import RedisSite, replica_places, server_places
from drtool.restore.redis_plan import RedisPlan, plan_redis_restore
from drtool.restore.redis_settle import findings
from drtool.sources.redis.address import Login
from drtool.sources.redis.binaries import find_binaries, server_user
from tests.archiving.redis_rig import wait_for_more, wait_held
from tests.restore.redis_rig import (
    SOURCE,
    digest_of,
    restore,
    servers_of,
    started,
    streamed,
    take_snapshot,
)
from tests.servers.ports import free_row
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


def test_a_replica_of_a_cluster_does_not_follow_whoever_listens_on_its_masters_port(
    redis_cluster: ClusterGroup, make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    """PITFALLS 82: a node that is told of its master in nodes.conf follows any server at that address."""
    take_snapshot(repository, servers_of(*redis_cluster.nodes, kind=RedisTopology.CLUSTER))
    production = make_redis(is_started=False)
    production.port = free_row(6)
    production.start()

    outcome = restore(repository, root / "copy", first_port=production.port)

    [finding] = [one for one in outcome.findings if one.subject == "ports"]
    assert str(production.port) in finding.fact
    assert "nodes.conf.port-in-use" in finding.fix
    places = {path.parent.name for path in (root / "copy").glob("*-replica-1/nodes.conf")}
    assert places == {"slots-5461-replica-1", "slots-10923-replica-1"}
    lines = [line for line in outcome.how_to_start if "/slots-0-replica-1/redis.conf" in line]
    with started(replace(outcome, how_to_start=tuple(lines)), replicas=True) as [replica]:
        # A node looks for its master ten times a second; the unfixed one had it after a tenth.
        wait_for(lambda: replica.info("server")["uptime_in_seconds"] >= 2, what="two seconds")
        assert replica.info("replication")["role"] == "master"
        assert _followers(production) == 0


def test_a_replica_logs_in_as_the_user_that_replicas_of_the_source_log_in_as(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    settings = {"user": "repl on >secret +psync +replconf +ping", "masterauth": "secret"}
    settings["masteruser"] = "repl"
    master = make_redis(settings=settings, password="known")
    follows = {"replicaof": f"127.0.0.1 {master.port}"}
    source = make_redis(settings=settings | follows, password="known")
    with source.client() as client:
        wait_for(lambda: is_linked(client), what="the source's link")
    take_snapshot(repository, servers_of(master, login=Login(password=Secret("known"))))

    outcome = restore(repository, root / "copy")

    with started(outcome, replicas=True, password="known") as [_, replica]:
        wait_for(lambda: is_linked(replica), what="the replica's link")


def test_a_restore_that_fails_at_its_configuration_leaves_no_server_to_start(
    redis_cluster: ClusterGroup, repository: Repository, root: Path
) -> None:
    """A configuration without its data starts an empty master."""
    take_snapshot(repository, servers_of(*redis_cluster.nodes, kind=RedisTopology.CLUSTER))
    in_the_way = root / "copy" / "slots-10923-replica-1" / "nodes.conf"

    def obstruct(event: Event) -> None:
        if isinstance(event, PhaseBegan) and event.phase == "finish":
            in_the_way.mkdir()

    with pytest.raises(DestinationRefused):
        restore(repository, root / "copy", emit=obstruct)

    assert in_the_way.is_dir()
    assert not list(root.rglob("redis.conf"))
    assert not list(root.rglob("*.manifest"))


@pytest.mark.parametrize(
    ("replicas", "masters", "reason"),
    [
        (None, None, "from before drtool recorded"),
        (0, None, "the source had none"),
        (1, 2, "another number of masters"),
    ],
)
def test_a_cluster_without_replicas_says_why(
    redis_cluster: ClusterGroup,
    repository: Repository,
    root: Path,
    replicas: int | None,
    masters: int | None,
    reason: str,
) -> None:
    take_snapshot(repository, servers_of(*redis_cluster.nodes, kind=RedisTopology.CLUSTER))
    plan, site = _with_replicas(repository, root, replicas, masters)

    places = server_places(plan, site)
    found = [one.fact for one in findings(plan, places, []) if one.subject == "cluster"]

    assert replica_places(plan, site, places) == ()
    assert len(found) == 1
    assert reason in found[0]


def test_a_master_says_so_where_nobody_knows_whether_it_had_replicas(
    redis7: RedisServer, repository: Repository, root: Path
) -> None:
    take_snapshot(repository, servers_of(redis7))
    for replicas, count in ((None, 1), (0, 0)):
        plan, site = _with_replicas(repository, root, replicas, None)
        found = list(findings(plan, server_places(plan, site), []))
        assert sum(one.subject == "replicas" for one in found) == count


def test_as_many_masters_as_there_were_have_their_replicas(
    redis_cluster: ClusterGroup, repository: Repository, root: Path
) -> None:
    take_snapshot(repository, servers_of(*redis_cluster.nodes, kind=RedisTopology.CLUSTER))
    plan, site = _with_replicas(repository, root, 1, 3)

    assert len(replica_places(plan, site, server_places(plan, site))) == 3


def _with_replicas(
    repository: Repository, root: Path, replicas: int | None, masters: int | None
) -> tuple[RedisPlan, RedisSite]:
    """The newest snapshot as if each shard had been recorded with so many."""
    plan = plan_redis_restore(look_redis(repository, SOURCE, ToLatest()), ToLatest())
    shards = tuple(replace(one, shard=replace(one.shard, replicas=replicas)) for one in plan.shards)
    site = RedisSite(
        destination=check_directory(root / "copy", owner=server_user(root), needed_bytes=0),
        binaries=find_binaries(release_of(plan.manifest.redis)),
        masters=masters,
        first_port=free_row(6),
    )
    return replace(plan, shards=shards), site


def test_a_snapshot_from_before_replicas_were_counted_says_not_known() -> None:
    document = {
        "name": "main", "rdb": "main/dump.rdb", "replication_id": "a" * 40, "offset": 1,
        "taken_at": "2024-05-01T10:00:00+00:00", "keys": [], "slots": [], "node_id": "", "epoch": 0,
    }  # fmt: skip

    assert RedisShard.from_json(document).replicas is None


def _followers(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("replication")["connected_slaves"])
