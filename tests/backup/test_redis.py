"""The snapshot of a Redis: all of it is in the repository, or there is no backup."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from drtool.errors import DrtoolError, Interrupted, SourceUnavailable, SourceUnsuitable
from drtool.model.progress import Event, PhaseAdvanced
from drtool.policy.secrets import Secret
from drtool.policy.sources import RedisTopology
from drtool.repository.backups import backup_ids, read_manifest
from drtool.repository.extents import RedisExtent
from drtool.repository.keys import NO_SECRET
from drtool.repository.repository import Repository, create_repository
from drtool.restore.redis_content import SnapshotFiles
from drtool.restore.redis_settle import config_path
from drtool.sources.redis.address import Login, NodeAddress, TlsSettings
from drtool.sources.redis.capture import CapturedServer
from drtool.sources.redis.rdb import RdbWalker
from drtool.stores.memory import MemoryStore
from tests.backup.stores import Died, FailsAt
from tests.backup.taking import ABLE, CLOCK, new_repository, through
from tests.redis.filling import fill, fill_databases
from tests.redis.linking import keys_of
from tests.restore.redis_rig import SOURCE, servers_of, take_snapshot
from tests.servers.redis import (
    ClusterGroup,
    MakeRedis,
    RedisServer,
    SentinelGroup,
    is_linked,
    make_replica,
    wait_for,
)

pytestmark = pytest.mark.redis
# A snapshot that is under way for long enough to be disturbed.
SLOW = {"rdb-key-save-delay": "300", "rdbcompression": "no"}


@pytest.fixture
def repository() -> Repository:
    return new_repository()


@pytest.fixture
def own_cluster() -> Iterator[ClusterGroup]:
    """Three masters without replicas, for a test that breaks them."""
    group = ClusterGroup(masters=3, replicas=0)
    yield group
    group.close()


def extent_of(repository: Repository, backup_id: str) -> RedisExtent:
    return read_manifest(repository, SOURCE, backup_id).redis


def rdbs_of(repository: Repository, backup_id: str) -> list[bytes]:
    """The snapshot of each shard, as it lies in the repository."""
    manifest = read_manifest(repository, SOURCE, backup_id)
    files = SnapshotFiles(manifest, repository)
    return [files.content(shard.rdb) for shard in manifest.redis.shards]


def keys_in(server: RedisServer) -> dict[int, int]:
    with server.client() as client:
        return {int(name[2:]): one["keys"] for name, one in client.info("keyspace").items()}


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_snapshot_holds_every_key_and_says_how_many_there_are(
    make_redis: MakeRedis, repository: Repository, version: str
) -> None:
    server = make_redis(version)
    with server.client() as client:
        fill(client, has_functions=version == "7.0")
        fill_databases(client)

    outcome = take_snapshot(repository, servers_of(server))

    [shard] = extent_of(repository, outcome.backup_id).shards
    [rdb] = rdbs_of(repository, outcome.backup_id)
    assert dict(shard.keys) == keys_in(server)
    assert len(keys_of(rdb)) == sum(keys_in(server).values())
    walker = RdbWalker([rdb])
    list(walker)
    assert walker.is_verified


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_both_ways_of_sending_a_snapshot_are_understood(
    make_redis: MakeRedis, repository: Repository, diskless: str
) -> None:
    """With its length before it, and with a mark at its end (PITFALLS 83: never short)."""
    server = make_redis(settings={"repl-diskless-sync": diskless})
    with server.client() as client:
        fill(client)

    outcome = take_snapshot(repository, servers_of(server))

    [rdb] = rdbs_of(repository, outcome.backup_id)
    assert len(keys_of(rdb)) == keys_in(server)[0]


def test_an_unchanged_server_is_not_stored_twice(
    make_redis: MakeRedis, repository: Repository
) -> None:
    server = make_redis()
    with server.client() as client:
        client.set("large", b"x" * 3_000_000)
        client.config_set("rdbcompression", "no")

    first = take_snapshot(repository, servers_of(server))
    second = take_snapshot(repository, servers_of(server))

    assert second.previous == first.backup_id
    assert second.reused_bytes > 0.8 * second.read_bytes
    assert [keys_of(rdb) for rdb in rdbs_of(repository, second.backup_id)] == [{(0, b"large"): -1}]


def test_a_snapshot_comes_from_a_replica_where_there_is_one(
    make_redis: MakeRedis, repository: Repository
) -> None:
    master = make_redis()
    with master.client() as client:
        fill(client)
    replica = make_replica(make_redis, master)

    outcome = take_snapshot(repository, servers_of(master))

    with master.client() as client, replica.client() as other:
        assert client.info("stats")["sync_full"] == 1
        assert other.info("stats")["sync_full"] == 1
    assert not [one for one in outcome.findings if "no healthy replica" in one.fact]


def test_a_replica_that_takes_writes_brings_no_keys_of_its_own(
    make_redis: MakeRedis, repository: Repository
) -> None:
    master = make_redis()
    with master.client() as client:
        client.set("a", 1)
    replica = make_replica(make_redis, master, settings={"replica-read-only": "no"})

    with replica.client() as client:
        client.set("stray", 1)
        passed_over = take_snapshot(repository, servers_of(master))
        # What the finding says to do about it.
        client.config_set("replica-read-only", "yes")
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.execute_command("REPLICAOF", "127.0.0.1", master.port)
        wait_for(lambda: is_linked(replica), what="its new link")
        mended = take_snapshot(repository, servers_of(master))

    for outcome in (passed_over, mended):
        [rdb] = rdbs_of(repository, outcome.backup_id)
        assert keys_of(rdb) == {(0, b"a"): -1}
    [finding] = [one for one in passed_over.findings if "replica-read-only is no" in one.fact]
    assert "CONFIG SET replica-read-only yes" in finding.fix
    assert not [one for one in mended.findings if "passed over" in one.fact]
    with replica.client() as client:
        assert client.info("stats")["sync_full"] == 1


def test_the_configuration_is_kept_sealed(make_redis: MakeRedis, repository: Repository) -> None:
    """PITFALLS 85: users, the number of databases and settings come along."""
    server = make_redis(password="sesame", settings={"databases": "20"})
    with server.client() as client:
        client.acl_setuser("ann", enabled=True, passwords=["+hers"], keys=["a:*"])
    login = Login(password=Secret("sesame"))

    outcome = take_snapshot(repository, servers_of(server, login=login))

    manifest = read_manifest(repository, SOURCE, outcome.backup_id)
    [shard] = manifest.redis.shards
    content = SnapshotFiles(manifest, repository).content(config_path(shard))
    captured = CapturedServer.from_sealed(content)
    assert manifest.redis.databases == 20
    assert captured.secrets["requirepass"].reveal() == "sesame"
    assert any(rule.reveal().startswith("user ann on") for rule in captured.acl_rules)


def test_a_repository_without_a_key_gets_no_passwords(make_redis: MakeRedis) -> None:
    repository = create_repository(MemoryStore(), NO_SECRET, now=CLOCK.now(), capabilities=ABLE)
    server = make_redis(password="sesame")

    outcome = take_snapshot(repository, servers_of(server, login=Login(password=Secret("sesame"))))

    manifest = read_manifest(repository, SOURCE, outcome.backup_id)
    [shard] = manifest.redis.shards
    content = SnapshotFiles(manifest, repository).content(config_path(shard))
    assert b"sesame" not in content
    assert CapturedServer.from_sealed(content).acl_rules == ()
    assert any("left out" in finding.fact for finding in outcome.findings)


def test_a_snapshot_is_taken_over_tls(make_redis: MakeRedis, repository: Repository) -> None:
    server = make_redis(tls=True)
    with server.client() as client:
        client.set("a", 1)
    login = Login(tls=TlsSettings(ca_file=server.root / "server.crt"))
    servers = servers_of(server, login=login)
    assert server.tls_port is not None
    secured = type(servers)(
        kind=servers.kind, nodes=(NodeAddress("127.0.0.1", server.tls_port),), login=login
    )

    outcome = take_snapshot(repository, secured)

    assert [keys_of(rdb) for rdb in rdbs_of(repository, outcome.backup_id)] == [{(0, b"a"): -1}]


def test_a_group_under_sentinel_is_found_through_its_sentinels(
    redis_sentinel: SentinelGroup, repository: Repository
) -> None:
    master = redis_sentinel.master
    with master.client() as client:
        client.flushall()
        client.set("a", 1)
        client.wait(2, 5000)

    outcome = take_snapshot(
        repository, servers_of(*redis_sentinel.sentinels, kind=RedisTopology.SENTINEL)
    )

    assert [keys_of(rdb) for rdb in rdbs_of(repository, outcome.backup_id)] == [{(0, b"a"): -1}]
    with redis_sentinel.sentinels[0].client() as client:
        told = client.execute_command("SENTINEL", "REPLICAS", "main")
    # No ghost of ours stays behind among the replicas.
    assert len(told) == 2


def test_a_cluster_is_taken_whole(redis_cluster: ClusterGroup, repository: Repository) -> None:
    for master in redis_cluster.masters():
        with master.client() as client:
            client.flushall()
    with redis_cluster.client() as client:
        for number in range(300):
            client.set(f"key:{number}", number)
    for master in redis_cluster.masters():
        with master.client() as client:
            client.wait(1, 5000)

    outcome = take_snapshot(
        repository, servers_of(*redis_cluster.nodes, kind=RedisTopology.CLUSTER)
    )

    extent = extent_of(repository, outcome.backup_id)
    slots = [slot for shard in extent.shards for low, high in shard.slots for slot in (low, high)]
    found = [key for rdb in rdbs_of(repository, outcome.backup_id) for _, key in keys_of(rdb)]
    assert len(extent.shards) == 3
    assert all(shard.node_id and shard.epoch for shard in extent.shards)
    assert (min(slots), max(slots)) == (0, 16383)
    assert sorted(found) == sorted(f"key:{number}".encode() for number in range(300))


def test_a_missing_shard_is_a_failed_backup_and_not_a_smaller_one(
    own_cluster: ClusterGroup, repository: Repository
) -> None:
    own_cluster.nodes[1].kill9()

    with pytest.raises(SourceUnavailable):
        take_snapshot(repository, servers_of(*own_cluster.nodes, kind=RedisTopology.CLUSTER))

    assert backup_ids(repository, SOURCE) == []


def test_a_server_of_another_kind_than_the_policy_says_is_refused(
    redis7: RedisServer, repository: Repository
) -> None:
    with pytest.raises(SourceUnsuitable, match="cluster"):
        take_snapshot(repository, servers_of(redis7, kind=RedisTopology.CLUSTER))


def test_a_server_that_no_sentinel_watches_is_no_group_under_sentinel(
    redis7: RedisServer, repository: Repository
) -> None:
    with pytest.raises(SourceUnsuitable, match="watched by no sentinel") as refused:
        take_snapshot(repository, servers_of(redis7, kind=RedisTopology.SENTINEL))

    assert "topology: standalone" in refused.value.hint
    assert backup_ids(repository, SOURCE) == []


def test_a_master_that_dies_in_mid_snapshot_leaves_no_backup(
    make_redis: MakeRedis, repository: Repository
) -> None:
    """PITFALLS 83: what came until then is no short RDB in a backup."""
    server = make_redis(settings=SLOW)
    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", 5000, "key", 1000)
    threads: list[threading.Thread] = []

    def kill_once_it_flows(event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and event.done > 500_000 and not threads:
            threads.append(threading.Thread(target=server.kill9))
            threads[0].start()

    with pytest.raises(DrtoolError) as caught:
        take_snapshot(repository, servers_of(server), emit=kill_once_it_flows)
    threads[0].join()

    assert isinstance(caught.value, SourceUnavailable)
    assert backup_ids(repository, SOURCE) == []


def test_a_snapshot_that_is_asked_to_stop_ends_by_itself_and_leaves_no_backup(
    make_redis: MakeRedis, repository: Repository
) -> None:
    server = make_redis(settings=SLOW)
    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", 5000, "key", 1000)
    servers = servers_of(server)
    told: list[int] = []

    def ask_once_it_flows(event: Event) -> None:
        if isinstance(event, PhaseAdvanced):
            told.append(event.done)
            servers.stop.set()

    with pytest.raises(Interrupted):
        take_snapshot(repository, servers, emit=ask_once_it_flows)

    assert len(told) == 1
    assert backup_ids(repository, SOURCE) == []


def test_a_failover_in_mid_snapshot_is_a_failed_backup(
    make_redis: MakeRedis, repository: Repository
) -> None:
    """Here by hand: the replica that the snapshot does not come from becomes the master."""
    master = make_redis()
    with master.client() as client:
        client.execute_command("DEBUG", "POPULATE", 5000, "key", 1000)
    replicas = [make_replica(make_redis, master, settings=SLOW) for _ in range(2)]
    promoted: list[RedisServer] = []

    def fail_over(event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and event.done > 500_000 and not promoted:
            for replica in replicas:
                with replica.client() as client:
                    if not promoted and client.info("replication")["connected_slaves"] == 0:
                        client.execute_command("REPLICAOF", "NO", "ONE")
                        promoted.append(replica)
            with master.client() as client:
                client.execute_command("REPLICAOF", "127.0.0.1", promoted[0].port)

    # Seen at the end, or earlier when the new history reaches the replica that we read from.
    with pytest.raises(SourceUnavailable, match=r"changed|no master|ended the connection"):
        take_snapshot(repository, servers_of(*replicas), emit=fail_over)

    assert backup_ids(repository, SOURCE) == []


def test_a_crash_at_any_put_leaves_the_whole_backup_or_none(
    make_redis: MakeRedis,
) -> None:
    server = make_redis()
    with server.client() as client:
        fill(client)
    puts = 0
    repository = new_repository()
    for number in range(1, 20):
        broken = FailsAt(repository.store, number, Died())

        try:
            take_snapshot(through(broken, repository), servers_of(server))
        except BaseException as error:
            if not isinstance(error, Died):
                raise
            assert backup_ids(repository, SOURCE) == []
            outcome = take_snapshot(repository, servers_of(server))
            assert len(rdbs_of(repository, outcome.backup_id)) == 1
            puts += 1
            repository = new_repository()
        else:
            break

    assert puts >= 3
    assert len(backup_ids(repository, SOURCE)) == 1


def test_a_snapshot_under_writes_is_one_moment_of_the_server(
    make_redis: MakeRedis, repository: Repository
) -> None:
    """Two counters that one transaction writes are equal in it."""
    server = make_redis()
    stop = threading.Event()

    def write() -> None:
        with server.client() as client:
            while not stop.is_set():
                with client.pipeline(transaction=True) as pipe:
                    pipe.rpush("a", "x").rpush("b", "x").set("n", "1").execute()

    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", 50_000, "key", 100)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        outcome = take_snapshot(repository, servers_of(server))
    finally:
        stop.set()
        writer.join()

    [rdb] = rdbs_of(repository, outcome.backup_id)
    [shard] = extent_of(repository, outcome.backup_id).shards
    assert dict(shard.keys) == {0: len(keys_of(rdb))}
