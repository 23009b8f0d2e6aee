"""Archiving a group: replicas are joined, failovers followed, and every shard of a cluster kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from drtool.archiving.redis import StreamSettings
from drtool.policy.sources import RedisTopology
from drtool.repository.repository import Repository
from drtool.repository.streambranch import find_path
from drtool.sources.redis.psync import Position
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from tests.archiving.redis_rig import (
    SOURCE,
    Witness,
    archived,
    attached,
    inventory,
    missing,
    position_of,
    receiving,
    settings_for,
    wait_held,
    write,
)
from tests.archiving.rig import new_repository, until
from tests.servers.redis import (
    ClusterGroup,
    MakeRedis,
    RedisServer,
    SentinelGroup,
    make_replica,
)

pytest_plugins = ["tests.servers.redis"]


def test_a_replica_is_joined_and_a_coordinated_failover_followed(make_redis: MakeRedis) -> None:
    master = make_redis()
    replica = make_replica(make_redis, master)
    repository = new_repository()
    with receiving(repository, settings_for([master, replica])) as running:
        until(lambda: attached(replica), "the replica is joined")
        assert attached(master) == []
        write(master, 200)
        start = wait_held(repository, master)
        with master.client() as client:
            client.execute_command("FAILOVER")
        until(lambda: position_of(replica).replid != start.replid, "the failover")
        until(lambda: _role(replica) == "master", "the replica leads")
        write(replica, 200)
        end = wait_held(repository, replica)

    assert running.result is not None
    assert running.result.shards[0].gaps == 0
    assert running.result.shards[0].links >= 1
    assert find_path(inventory(repository), start.replid, begin=start.offset - 1).end >= end.offset


def test_a_master_is_left_for_its_replica_as_soon_as_that_is_back(make_redis: MakeRedis) -> None:
    master = make_redis()
    replica = make_replica(make_redis, master)
    repository = new_repository()
    with receiving(repository, settings_for([master, replica])) as running:
        until(lambda: attached(replica), "the replica is joined")
        write(master, 200)
        start = wait_held(repository, master)
        replica.kill9()
        until(lambda: attached(master), "the master is joined")
        write(master, 200)
        wait_held(repository, master)
        replica.start()
        until(lambda: attached(replica) and not attached(master), "the replica is joined again")
        write(master, 200)
        end = wait_held(repository, master)

    assert running.result is not None
    assert running.result.shards[0].gaps == running.result.shards[0].links == 0
    assert find_path(inventory(repository), start.replid, begin=start.offset - 1).end >= end.offset


def test_where_a_replica_lets_nobody_follow_it_its_master_is_joined(make_redis: MakeRedis) -> None:
    """ACLs are not replicated: it answers INFO and refuses PSYNC."""
    master = make_redis()
    replica = make_replica(make_redis, master)
    with replica.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-psync")
    repository = new_repository()
    with receiving(repository, settings_for([master, replica])) as running:
        until(lambda: attached(master), "the master is joined")
        write(master, 200)
        wait_held(repository, master)
    assert running.result is not None
    assert running.result.shards[0].gaps == 0


def _role(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])


def test_behind_sentinel_the_stream_goes_on_over_a_failover() -> None:
    group = SentinelGroup()
    try:
        repository = new_repository()
        settings = settings_for(group.sentinels, RedisTopology.SENTINEL)
        with receiving(repository, settings) as running:
            old = group.master
            until(lambda: any(attached(node) for node in group.nodes if node is not old), "joined")
            assert attached(old) == []
            write(old, 500)
            start = wait_held(repository, old)
            old.kill9()
            until(lambda: group.master is not old, "the failover")
            until(lambda: _role(group.master) == "master", "it leads")
            write(group.master, 500)
            end = wait_held(repository, group.master)
    finally:
        group.close()

    assert running.result is not None
    assert running.result.shards[0].gaps == 0, running.warnings
    path = find_path(inventory(repository), start.replid, begin=start.offset - 1)
    assert path.end >= end.offset
    assert path.last_id == end.replid
    # Marks or not: what the receiver archived of the new master is missed once it is gone.
    for found in [*repository.store.list(f"log/{SOURCE}/{end.replid}/")]:
        repository.store.delete(found.key)
    told = [one.fact for one in missing(repository)]
    assert any("nothing of it is held, and was archived up to" in one for one in told), told
    assert any("it is missing: that it was recorded" in one for one in told), told


def test_a_master_that_sentinel_watches_is_spared_while_a_replica_may_come_back() -> None:
    """Sentinel would list whoever joins it as one more replica, port 0, for ever down."""
    group = SentinelGroup()
    try:
        replicas = [node for node in group.nodes if node is not group.master]
        for replica in replicas:
            replica.kill9()
        settings = settings_for(group.sentinels, RedisTopology.SENTINEL)
        with receiving(new_repository(), settings) as running:
            until(lambda: running.warned("is joined only after"), "it waits")
            assert attached(group.master) == []
            for replica in replicas:
                replica.start()
            until(lambda: any(attached(replica) for replica in replicas), "a replica is joined")
        assert attached(group.master) == []
        assert group.is_whole()  # nobody but the two is known to the sentinels
    finally:
        group.close()


def test_every_shard_of_a_cluster_is_archived_over_the_loss_of_a_master() -> None:
    group = ClusterGroup()
    try:
        repository = new_repository()
        settings = settings_for(group.nodes[:2], RedisTopology.CLUSTER, key="drtool:mark")
        with receiving(repository, settings) as running:
            masters = group.masters()
            replicas = [node for node in group.nodes if node not in masters]
            until(lambda: all(attached(node) for node in replicas), "all are joined")
            _write_cluster(group, 600)
            starts = [wait_held(repository, node) for node in masters]
            masters[0].kill9()
            until(lambda: len(group.masters()) == 3, "the failover")
            until(lambda: _is_ok(group), "the cluster is whole")
            _write_cluster(group, 600)
            ends = {one.replid: wait_held(repository, node) for node in group.masters()
                    for one in [position_of(node)]}  # fmt: skip
    finally:
        group.close()

    assert running.result is not None
    assert [one.gaps for one in running.result.shards] == [0, 0, 0], running.warnings
    assert all(one.marks > 0 for one in running.result.shards)
    found = inventory(repository)
    for start in starts:
        path = find_path(found, start.replid, begin=start.offset - 1)
        assert path.last_id in ends
        assert path.end >= ends[path.last_id].offset


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedOver:
    """A cluster of which all is archived up to `start`; since then `heir` has taken over from `old`."""

    repository: Repository
    settings: StreamSettings
    old: RedisServer
    heir: RedisServer
    start: Position


@pytest.fixture
def failed_over() -> Iterator[FailedOver]:
    """The old master comes back empty, as containers do, and knows the new history alone."""
    group = ClusterGroup()
    try:
        repository = new_repository()
        settings = settings_for(group.nodes, RedisTopology.CLUSTER)
        old = group.masters()[0]
        with receiving(repository, settings):
            until(lambda: sum(len(attached(node)) for node in group.nodes) == 3, "all are joined")
            _write_cluster(group, 600)
            start = wait_held(repository, old)
        heir = _fail_over(group, old)
        _write_cluster(group, 600)
        yield FailedOver(repository=repository, settings=settings, old=old, heir=heir, start=start)
    finally:
        group.close()


def test_a_replica_that_has_had_all_data_anew_since_the_failover_makes_no_gap(
    failed_over: FailedOver,
) -> None:
    repository, old, heir = failed_over.repository, failed_over.old, failed_over.heir
    with receiving(repository, failed_over.settings) as running:
        until(lambda: attached(heir), "the heir is joined, for it knows both histories")
        end = wait_held(repository, heir)
        until(lambda: attached(old) and not attached(heir), "the replica is, from then on")

    assert running.result is not None
    assert [one.gaps for one in running.result.shards] == [0, 0, 0], running.warnings
    start = failed_over.start
    assert find_path(inventory(repository), start.replid, begin=start.offset - 1).end >= end.offset


def test_a_gap_is_not_believed_while_the_server_that_may_have_the_bytes_is_away(
    failed_over: FailedOver,
) -> None:
    heir = failed_over.heir
    with heir.client() as way_back:
        way_back.config_set("maxclients", 1)  # the heir turns everyone else away
        with receiving(failed_over.repository, failed_over.settings) as running:
            try:
                until(lambda: running.warned("has what comes next"), "the replica is asked")
            finally:
                way_back.config_set("maxclients", 10_000)
            wait_held(failed_over.repository, heir)

    assert running.result is not None
    assert [one.gaps for one in running.result.shards] == [0, 0, 0], running.warnings


def _fail_over(group: ClusterGroup, old: RedisServer) -> RedisServer:
    """Kill a master and bring it back as the replica of its heir, who is returned; the last failover."""
    led = {node.port for node in group.masters()}
    old.kill9()
    until(lambda: len(group.masters()) == 3, "the failover")
    [heir] = [node for node in group.masters() if node.port not in led]
    old.start()
    until(group.is_whole, "the cluster is whole")
    for node in group.nodes:
        with node.client() as client:
            client.config_set("cluster-node-timeout", 60_000)
    return heir


def _is_ok(group: ClusterGroup) -> bool:
    for node in group.nodes[1:]:
        if node.is_running:
            with node.client() as client:
                client.response_callbacks.clear()
                if b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                    return False
    return True


def _write_cluster(group: ClusterGroup, count: int) -> None:
    import redis

    port = next(node.port for node in group.nodes if node.is_running)
    with redis.RedisCluster(host="127.0.0.1", port=port) as client:
        for number in range(count):
            client.set(f"key:{number}", b"x" * 100)


PROGRAM = textwrap.dedent(
    """
    import sys, threading
    from pathlib import Path
    from drtool.archiving.redis import receive_stream
    from drtool.repository.keys import NO_SECRET
    from drtool.repository.repository import open_repository
    from drtool.stores.local import LocalStore
    from drtool.system.clock import SystemClock
    from tests.archiving.redis_rig import settings_for

    class Server:
        address = sys.argv[2]

    repository = open_repository(LocalStore(Path(sys.argv[1]), clock=SystemClock()), NO_SECRET)
    receive_stream(
        repository, settings_for([Server()]), stop=threading.Event(), clock=SystemClock()
    )
    """
)


def test_a_receiver_that_was_killed_is_followed_by_one_that_loses_nothing(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    """kill -9 in the middle of writes; the next one waits for the lease to run out."""
    server = make_redis(settings={"repl-backlog-size": "64mb"})
    root = tmp_path / "store"
    root.mkdir()
    store = LocalStore(root, clock=SystemClock())
    made = new_repository(store)
    command = [sys.executable, "-c", PROGRAM, str(root), server.address]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environ) as first:
        until(lambda: attached(server), "it joins")
        witness = Witness(server)
        write(server, 1000)
        wait_held(made, server)
        write(server, 5000)
        first.send_signal(signal.SIGKILL)
    _expire_lease(root)

    with receiving(made, settings_for([server])) as second:
        write(server, 1000)
        end = wait_held(made, server)
        sent = witness.upto(end.offset)
        witness.close()

    assert archived(made, witness.begin, end=end.offset) == sent
    assert second.result is not None
    assert second.result.shards[0].gaps == 0


def _expire_lease(root: Path) -> None:
    """As if its minute had passed: the test need not wait for it."""
    for path in root.glob("leases/redis-*"):
        path.unlink()
