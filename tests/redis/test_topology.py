"""Servers found behind Sentinel and in clusters, followed over failovers, and restored as clusters."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.finding import Severity
from drtool.policy.sources import RedisTopology
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.clusternodes import (
    OpenSlot,
    RestoredNode,
    check_slots,
    nodes_conf,
    parse_nodes,
)
from drtool.sources.redis.keyslot import SlotRange, even_slots
from drtool.sources.redis.node_choice import choose_node
from drtool.sources.redis.psync import Continued
from drtool.sources.redis.rdbwrite import reshape
from drtool.sources.redis.shape import RedisNode, Role, Shape, Shard
from drtool.sources.redis.topology import _read_replica, discover
from tests.redis.linking import ANONYMOUS, Archive, address_of, join, keys_of
from tests.servers.ports import free_port
from tests.servers.redis import (
    ClusterGroup,
    MakeRedis,
    RedisServer,
    SentinelGroup,
    is_linked,
    make_replica,
    new_redis,
    wait_for,
)

pytestmark = pytest.mark.redis

ASKED = NodeAddress("10.0.0.1", 7000)


@pytest.fixture
def own_cluster() -> Iterator[ClusterGroup]:
    """Three masters and three replicas for a test that breaks them."""
    group = ClusterGroup()
    yield group
    group.close()


@pytest.fixture
def own_sentinel() -> Iterator[SentinelGroup]:
    """A group under Sentinel for a test that breaks it."""
    group = SentinelGroup()
    yield group
    group.close()


def offset_of(replica: RedisServer) -> int:
    with replica.client() as client:
        return int(client.info("replication")["slave_repl_offset"])


def test_a_server_alone_is_its_own_master(redis7: RedisServer) -> None:
    shape = discover(RedisTopology.STANDALONE, [address_of(redis7)], ANONYMOUS)

    (shard,) = shape.shards
    choice = choose_node(shape, shard)
    assert (shard.name, shard.master.address, shard.replicas) == ("main", address_of(redis7), ())
    assert choice.node.address == address_of(redis7)
    assert [finding.severity for finding in choice.findings] == [Severity.NOTE]


def test_a_replica_leads_to_its_master_and_is_preferred_to_it(make_redis: MakeRedis) -> None:
    master = make_redis()
    replica = make_replica(make_redis, master)

    shape = discover(RedisTopology.STANDALONE, [address_of(replica)], ANONYMOUS)

    assert shape.shards[0].master.address == address_of(master)
    assert choose_node(shape, shape.shards[0]).node.address == address_of(replica)


def test_a_replica_that_is_cut_off_is_passed_over(make_redis: MakeRedis) -> None:
    master = make_redis()
    replica = make_replica(make_redis, master)
    seen = discover(RedisTopology.STANDALONE, [address_of(replica)], ANONYMOUS)
    # It goes on as a replica of a server that is not there.
    with replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")

    node = _read_replica(address_of(replica), seen.shards[0].master, login=ANONYMOUS)

    assert node.trouble == "its link to its master is down"
    shard = replace(seen.shards[0], replicas=(node,))
    choice = choose_node(seen, shard)
    assert choice.node == shard.master
    assert "link to its master is down" in choice.findings[0].fact


def test_a_replica_that_hangs_is_passed_over(make_redis: MakeRedis) -> None:
    """A stopped process still takes connections: only the limit of an answer tells that it hangs."""
    master = make_redis()
    replica = make_replica(make_redis, master)
    os.kill(replica.pid, signal.SIGSTOP)
    try:
        shape = discover(RedisTopology.STANDALONE, [address_of(master)], ANONYMOUS)
    finally:
        os.kill(replica.pid, signal.SIGCONT)
    [found] = shape.shards[0].replicas
    assert "does not answer in time" in str(found.trouble)
    assert choose_node(shape, shape.shards[0]).node.address == address_of(master)


def test_a_replica_of_another_master_is_passed_over(make_redis: MakeRedis) -> None:
    """As of the master that was, on the far side of a partition: what it has, nobody else will."""
    master, other = make_redis(), make_redis()
    replica = make_replica(make_redis, other)
    shape = discover(RedisTopology.STANDALONE, [address_of(master)], ANONYMOUS)
    node = _read_replica(address_of(replica), shape.shards[0].master, login=ANONYMOUS)
    assert "follows another master" in str(node.trouble)
    with replica.client() as client:
        client.replicaof("127.0.0.1", master.port)
    wait_for(lambda: is_linked(replica), what="its new link")
    shape = discover(RedisTopology.STANDALONE, [address_of(master)], ANONYMOUS)
    assert [one.is_healthy for one in shape.shards[0].replicas] == [True]


def test_a_master_that_sentinel_watches_is_joined_only_with_a_warning() -> None:
    master = RedisNode(address=ASKED, role=Role.MASTER)
    shard = Shard(name="main", master=master, replicas=())

    choice = choose_node(Shape(kind=RedisTopology.SENTINEL, shards=(shard,)), shard)

    assert choice.node == master
    assert choice.findings[0].severity is Severity.WARNING
    assert "SENTINEL RESET" in choice.findings[0].fix


@pytest.mark.parametrize("asked", ["sentinel", "master", "replica"])
def test_sentinel_says_who_the_master_is(redis_sentinel: SentinelGroup, asked: str) -> None:
    master = redis_sentinel.master
    replica = next(node for node in redis_sentinel.nodes if node is not master)
    server = {"sentinel": redis_sentinel.sentinels[2], "master": master, "replica": replica}[asked]

    shape = discover(RedisTopology.SENTINEL, [address_of(server)], ANONYMOUS)

    (shard,) = shape.shards
    assert shard.master.address == address_of(master)
    assert len(shard.replicas) == 2
    assert choose_node(shape, shard).node in shard.replicas
    assert choose_node(shape, shard).findings == ()


def test_drtool_leaves_no_trace_in_sentinel(redis_sentinel: SentinelGroup) -> None:
    """Attached to a master it would linger there as a replica that is down."""
    shape = discover(RedisTopology.SENTINEL, [address_of(redis_sentinel.sentinels[0])], ANONYMOUS)
    node = choose_node(shape, shape.shards[0]).node
    server = next(one for one in redis_sentinel.nodes if address_of(one) == node.address)

    Archive().take(server)

    assert redis_sentinel.is_whole()


def test_a_failover_of_sentinel_is_followed_without_a_gap(own_sentinel: SentinelGroup) -> None:
    asked = [address_of(one) for one in own_sentinel.sentinels]
    old = own_sentinel.master
    before = discover(RedisTopology.SENTINEL, asked, ANONYMOUS)
    node = choose_node(before, before.shards[0]).node
    server = next(one for one in own_sentinel.nodes if address_of(one) == node.address)
    archive = Archive()
    with join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        with old.client() as client:
            client.set("before", 1)
        archive.catch_up(link, old)
    replicas = [one for one in own_sentinel.nodes if one is not old]
    assert archive.position is not None
    reached = archive.position.offset
    wait_for(lambda: all(offset_of(one) >= reached for one in replicas), what="the replicas")

    old.kill9()
    wait_for(lambda: own_sentinel.master is not old, what="the failover", seconds=60)
    master = own_sentinel.master
    with master.client() as client:
        wait_for(lambda: client.info("replication")["role"] == "master", what="the new master")
        client.set("after", 1)

    after = discover(RedisTopology.SENTINEL, asked, ANONYMOUS)
    assert after.shards[0].master.address == address_of(master)
    assert after.differs_from(before) is not None
    with join(master, position=archive.position) as link:
        assert isinstance(link.begun, Continued)
        archive.catch_up(link, master)
    assert b"after" in archive.stream


def test_the_wrong_kind_of_topology_is_said(
    redis_sentinel: SentinelGroup, redis_cluster: ClusterGroup
) -> None:
    sentinel, node = redis_sentinel.sentinels[0], redis_cluster.nodes[0]
    for kind, server in (
        (RedisTopology.STANDALONE, sentinel),
        (RedisTopology.CLUSTER, redis_sentinel.master),
        (RedisTopology.STANDALONE, node),
        (RedisTopology.SENTINEL, node),
    ):
        with pytest.raises(SourceUnsuitable, match="topology"):
            discover(kind, [address_of(server)], ANONYMOUS)


def test_a_cluster_is_known_from_any_of_its_nodes(redis_cluster: ClusterGroup) -> None:
    for server in redis_cluster.nodes:
        shape = discover(RedisTopology.CLUSTER, [address_of(server)], ANONYMOUS)

        assert [shard.name for shard in shape.shards] == ["slots-0", "slots-5461", "slots-10923"]
        assert {str(shard.master.address) for shard in shape.shards} == {
            one.address for one in redis_cluster.masters()
        }
        for shard in shape.shards:
            assert choose_node(shape, shard).node in shard.replicas


def test_a_dead_node_in_the_list_does_not_matter(redis_cluster: ClusterGroup) -> None:
    dead = NodeAddress("127.0.0.1", 1)

    shape = discover(RedisTopology.CLUSTER, [dead, address_of(redis_cluster.nodes[3])], ANONYMOUS)

    assert len(shape.shards) == 3


def test_a_failover_in_a_cluster_is_noticed_and_a_lost_shard_is_no_smaller_backup(
    own_cluster: ClusterGroup,
) -> None:
    asked = [address_of(one) for one in own_cluster.nodes]
    before = discover(RedisTopology.CLUSTER, asked, ANONYMOUS)
    victim = own_cluster.nodes[0]
    heir = before.shards[0].replicas[0].address

    victim.kill9()
    alive = own_cluster.nodes[1:]
    wait_for(
        lambda: any(one.address == str(heir) for one in own_cluster.masters()),
        what="the failover",
        seconds=60,
    )
    wait_for(lambda: _is_ok(alive), what="the cluster", seconds=60)
    after = discover(RedisTopology.CLUSTER, asked, ANONYMOUS)

    assert [shard.name for shard in after.shards] == [shard.name for shard in before.shards]
    assert after.shards[0].master.address == heir
    assert "changed" in str(after.differs_from(before))

    next(one for one in alive if one.address == str(heir)).kill9()
    wait_for(lambda: not _is_ok(alive), what="the loss", seconds=60)
    with pytest.raises(SourceUnavailable):
        discover(RedisTopology.CLUSTER, asked, ANONYMOUS)


def _is_ok(servers: Sequence[RedisServer]) -> bool:
    for server in servers:
        if server.is_running:
            with server.client() as client:
                client.response_callbacks.clear()
                if b"cluster_state:ok" not in client.execute_command("CLUSTER INFO"):
                    return False
    return True


def test_slots_on_the_move_or_held_by_nobody_are_refused(own_cluster: ClusterGroup) -> None:
    first, second = own_cluster.nodes[:2]
    with first.client() as client:
        ours = client.execute_command("CLUSTER MYID")
    with second.client() as client:
        client.execute_command("CLUSTER SETSLOT", 5, "IMPORTING", ours)

    with pytest.raises(SourceUnavailable, match="moves 1 slots, the first is 5"):
        discover(RedisTopology.CLUSTER, [address_of(second)], ANONYMOUS)

    text = "a" * 40 + " :7000@17000 myself,master - 0 0 1 connected 0-5 7-16383 [9->-b]\n"
    (node,) = parse_nodes(text, ASKED)
    assert node.address == ASKED
    assert node.open_slots == (OpenSlot(9, importing=False, other="b"),)
    with pytest.raises(SourceUnsuitable, match="nobody holds 6"):
        check_slots(parse_nodes(text.replace(" [9->-b]", ""), ASKED))


@pytest.mark.parametrize("masters", [3, 2, 5])
def test_a_cluster_comes_back_in_its_shape_or_in_another(
    redis_cluster: ClusterGroup, masters: int
) -> None:
    """No MEET and no ADDSLOTS: each server starts on its nodes.conf and finds the others."""
    archives = []
    with redis_cluster.client() as client:
        client.flushall()
        for number in range(3000):
            client.set(f"key:{number}", "v" * (number % 100))
        client.hset("{tag}hash", mapping={"a": 1, "b": 2})
    for server in redis_cluster.masters():
        archives.append(Archive())
        archives[-1].take(server)
    shares = even_slots(masters)
    parts = [bytearray() for _ in shares]

    done = reshape([[one.rdb] for one in archives], [part.extend for part in parts], shares=shares)

    assert done.keys_read == 3001
    assert done.keys_dropped == 0
    servers = start_restored(parts, shares)
    try:
        wait_for(lambda: _is_ok(servers), what="the restored cluster", seconds=60)
        shape = discover(RedisTopology.CLUSTER, [address_of(servers[0])], ANONYMOUS)
        assert [shard.slots for shard in shape.shards] == list(shares)
        assert content_digest(servers) == content_digest(redis_cluster.masters())
        with servers[0].client() as client:
            client.response_callbacks.clear()
            assert b"->-" not in client.execute_command("CLUSTER NODES")
        assert sum(len(keys_of(bytes(part))) for part in parts) == 3001
    finally:
        for server in servers:
            server.close()


def start_restored(
    parts: Sequence[bytearray], shares: Sequence[Sequence[SlotRange]]
) -> list[RedisServer]:
    """A cluster of masters on these RDBs, with a nodes.conf each."""
    ports = [free_port() for _ in parts]
    nodes = [
        RestoredNode(address=NodeAddress("127.0.0.1", port), slots=tuple(share), epoch=number + 1)
        for number, (port, share) in enumerate(zip(ports, shares, strict=True))
    ]
    servers = []
    for number, (port, part) in enumerate(zip(ports, parts, strict=True)):
        server = new_redis(settings={"cluster-enabled": "yes"}, is_started=False)
        server.port = port
        (server.root / "dump.rdb").write_bytes(part)
        path = server.root / "nodes.conf"
        path.write_text(nodes_conf(nodes, myself=number))
        for file in (path, server.root / "dump.rdb"):
            shutil.chown(file, server.root.stat().st_uid, server.root.stat().st_gid)
        servers.append(server)
        server.start()
    return servers


EMPTY = "aa3098f3aae94baac14e3b8b8dcae989af93f6a2"


def content_digest(servers: Sequence[RedisServer]) -> int:
    """DEBUG DIGEST of all content together, however it is spread: each is a constant xor its keys."""
    constant = int(EMPTY, 16)
    digest = constant
    for server in servers:
        told = int(server.digest(), 16)
        digest ^= told ^ constant if told else 0
    return digest


def test_a_nodes_conf_that_leaves_slots_out_is_refused() -> None:
    one = RestoredNode(address=ASKED, slots=(SlotRange(0, 99),), epoch=1)

    with pytest.raises(ValueError, match="hold 100 of 16384"):
        nodes_conf([one], myself=0)


def test_a_restored_node_has_a_name_of_its_own() -> None:
    """With the old names a copy and production would take each other for members."""
    nodes = [
        RestoredNode(address=ASKED, slots=even_slots(1)[0], epoch=1),
        RestoredNode(address=NodeAddress("10.0.0.2", 7000), replica_of=0),
    ]

    parsed = parse_nodes(nodes_conf(nodes, myself=1).split("vars")[0], ASKED)

    assert [node.node_id for node in parsed] == [node.node_id for node in nodes]
    assert parsed[1].master_id == parsed[0].node_id
