"""Redis 6.2 to 7.4, and Valkey: what one release wrote comes back by a program that loads it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from drtool.archiving.redis_status import stream_status
from drtool.backup.plan import Accepted
from drtool.backup.redis import RedisServers
from drtool.errors import NotRecoverable, SourceUnsuitable
from drtool.model.request import TtlMode
from drtool.model.target import ToLatest, ToTime
from drtool.policy.sources import RedisTopology
from drtool.repository.backups import backup_ids, read_manifest
from drtool.repository.extents import RedisExtent
from drtool.repository.repository import Repository
from drtool.restore.redis_fetch import release_of_plan, release_on_way
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_plan import plan_redis_restore
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.binaries import find_binaries, look
from drtool.sources.redis.release import Product, Release, parse_release
from tests.archiving.redis_rig import wait_for_more, wait_held
from tests.redis.filling import fill_expiring_fields
from tests.restore.redis_rig import (
    SOURCE,
    restore,
    servers_of,
    started,
    streamed,
    take_snapshot,
)
from tests.servers.redis import MakeRedis, RedisServer, is_linked, wait_for
from tests.servers.redis_programs import VALKEY, bin_dir, redis_module
from tests.servers.rewriting import rewritten

pytestmark = pytest.mark.redis

REDIS_74 = parse_release(Product.REDIS, "7.4.1")
FIELDS = ("FIELDS", 3, "f0", "f1", "f2")


def extent_of(repository: Repository) -> RedisExtent:
    [backup_id] = backup_ids(repository, SOURCE)
    return read_manifest(repository, SOURCE, backup_id).redis


def in_database_0(keys: RedisExtent) -> int | None:
    return dict(keys.shards[0].keys).get(0)


def serves(node: redis.Redis) -> bool:
    """Whether a node knows of all slots."""
    told = node.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call] # theirs
    return "'cluster_state': 'ok'" in str(told) or "cluster_state:ok" in str(told)


@pytest.fixture(params=["7.4", VALKEY])
def one_node_cluster(request: pytest.FixtureRequest, make_redis: MakeRedis) -> RedisServer:
    """A cluster of one master that holds all slots: its RDB tells the size of each slot."""
    server = make_redis(str(request.param), settings={"cluster-enabled": "yes"})
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_for(lambda: serves(client), what="the cluster")
    return server


@pytest.mark.parametrize(
    ("version", "release"),
    [("7.4", "Redis 7.4.1"), (VALKEY, "Valkey 8.1.8"), ("6.2", "Redis 6.2.14")],
)
def test_a_snapshot_says_which_program_wrote_it(
    make_redis: MakeRedis, repository: Repository, version: str, release: str
) -> None:
    server = make_redis(version)
    with server.client() as client:
        client.set("a", 1)

    take_snapshot(repository, servers_of(server))

    extent = extent_of(repository)
    assert str(parse_release(Product(extent.product), extent.server_version)) == release
    assert in_database_0(extent) == 1


def test_a_cluster_of_7_4_and_of_valkey_is_dealt_anew_with_its_expiry_times_shifted(
    one_node_cluster: RedisServer, repository: Repository, root: Path
) -> None:
    """Split by slot, sizes of slots left out, and times of fields moved with those of keys."""
    server = one_node_cluster
    has_fields = server.version == "7.4"
    with (
        server.client() as client,
        streamed(repository, server, kind=RedisTopology.CLUSTER),
    ):
        for number in range(500):
            client.set(f"key:{number}", number, ex=5000)
        take_snapshot(repository, servers_of(server, kind=RedisTopology.CLUSTER))
        if has_fields:
            fill_expiring_fields(client)
        client.set("later", 1, ex=5000)
        wait_held(repository, server)
        expected = client.dbsize()

    outcome = restore(
        repository, root / "copy", masters=2, ttl=TtlMode.SHIFT, bin_dir=bin_dir(server.version)
    )

    assert all(question.passed for question in outcome.questions)
    with started(outcome) as copies:
        for copy in copies:
            wait_for(lambda node=copy: serves(node), what="the copy")  # type: ignore[misc] # a default binds the loop's value
        assert sum(copy.dbsize() for copy in copies) == expected
        owner = _owner(copies, "later")
        assert owner.ttl("later") > 4990
        if has_fields:
            times = _owner(copies, "fields:table").execute_command(  # type: ignore[no-untyped-call] # theirs
                "HPEXPIRETIME", "fields:table", *FIELDS
            )
            assert times[0] > 4_000_000_000_000
            assert (times[1] - times[0], times[2]) == (1, -1)


def _owner(copies: list[redis.Redis], key: str) -> redis.Redis:
    for copy in copies:
        try:
            if copy.exists(key):
                return copy
        except redis.exceptions.MovedError:
            continue
    raise AssertionError(f"nobody has {key}")


def test_a_replica_of_7_0_passes_on_the_spans_of_its_master_of_6_2(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    """The receiver joins the replica, whose version says nothing of who wrote the stream."""
    master = make_redis("6.2")
    replica = make_redis("7.0", settings={"replicaof": f"127.0.0.1 {master.port}"})
    wait_for(lambda: is_linked(replica), what="the replica's link")
    with master.client() as client, streamed(repository, master, replica):
        take_snapshot(repository, servers_of(master))
        client.set("gone", 1, px=1000)
        client.set("long", 1, ex=1000)
        client.execute_command("RESTORE", "restored", 1_000_000, client.dump("long"))
        wait_for(lambda: not client.exists("gone"), what="the end of a key")
        client.set("end", 1)
        wait_held(repository, replica)
        shift_ms = time.time() * 1000
        ends = {key: shift_ms + client.pttl(key) for key in ("long", "restored")}
    assert extent_of(repository).shards[0].writer_version.startswith("6.2")

    outcome = restore(repository, root / "copy")

    with started(outcome) as [copy]:
        assert not copy.exists("gone")
        found = {key: copy.execute_command("PEXPIRETIME", key) for key in ends}  # type: ignore[no-untyped-call] # theirs
    for key, end in ends.items():
        assert abs(found[key] - end) < 700, key


FUNCTION = "#!lua name=mine\nredis.register_function('one', function() return 1 end)"


@pytest.mark.parametrize(
    ("before", "after", "command"),
    [
        ("6.2", "7.0", ("FUNCTION", "LOAD", FUNCTION)),
        ("7.0", "7.4", ("HPEXPIRE", "table", 10_000_000, "FIELDS", 1, "field")),
    ],
)
def test_what_a_newer_master_wrote_is_replayed_by_a_server_that_knows_it(
    make_redis: MakeRedis,
    repository: Repository,
    root: Path,
    *,
    before: str,
    after: str,
    command: tuple[str | int, ...],
) -> None:
    """An upgrade by failover: the snapshot knows of the old release alone."""
    master = make_redis(before)
    with streamed(repository, master), master.client() as client:
        client.hset("table", "field", 1)
        take_snapshot(repository, servers_of(master))
        client.set("old", 1)
        wait_held(repository, master)
        middle = datetime.now(UTC)
        wait_for_more(repository, master)
    heir = make_redis(after, settings={"replicaof": f"127.0.0.1 {master.port}"})
    wait_for(lambda: is_linked(heir), what="the replica's link")
    with heir.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
        master.kill9()
        with streamed(repository, heir):
            client.execute_command(*command)
            client.set("new", 1)
            wait_held(repository, heir)
        expected = heir.digest()
    old, new = look(bin_dir(before)), look(bin_dir(after))
    assert old is not None
    assert new is not None
    plans = [
        plan_redis_restore(look_redis(repository, SOURCE, target), target)
        for target in (ToTime(middle), ToLatest())
    ]

    outcome = restore(repository, root / "copy", bin_dir=bin_dir(after))

    assert [release_of_plan(plan) for plan in plans] == [old.release, new.release]
    [status] = stream_status(repository, SOURCE).shards
    assert status.path is not None
    assert release_on_way(extent_of(repository), [status.path]) == new.release
    with pytest.raises(NotRecoverable, match=f"what {new.release.series} wrote needs"):
        restore(repository, root / "too old", bin_dir=bin_dir(before))
    with started(outcome) as [copy]:
        assert copy.exists("old", "new") == 2
        assert digest(copy) == expected


def digest(client: redis.Redis) -> str:
    return str(client.execute_command("DEBUG", "DIGEST").decode())  # type: ignore[no-untyped-call] # theirs


def test_data_of_modules_is_counted_and_comes_back_where_the_module_is(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    module = redis_module("redisbloom.so")
    server = make_redis("7.4", settings={"loadmodule": str(module)})
    with server.client() as client, streamed(repository, server):
        client.execute_command("BF.ADD", "seen", "one")
        take_snapshot(repository, servers_of(server))
        client.execute_command("BF.ADD", "seen", "two")
        wait_held(repository, server)
    extent = extent_of(repository)

    assert in_database_0(extent) == 1
    assert extent.modules == ("MBbloom--",)
    for number, ttl in enumerate((TtlMode.ABSOLUTE, TtlMode.PERSIST)):
        outcome = restore(
            repository, root / str(number), ttl=ttl, bin_dir=bin_dir("7.4"), modules=(module,)
        )
        with started(outcome) as [copy]:
            for word, there in (("one", 1), ("two", 1), ("six", 0)):
                found = copy.execute_command("BF.EXISTS", "seen", word)  # type: ignore[no-untyped-call] # theirs
                assert found == there


@pytest.mark.parametrize(
    ("writer", "program"),
    [
        (Release(Product.REDIS, (7, 0, 1)), "Redis 7.0"),
        (Release(Product.REDIS, (6, 2, 1)), "Redis 6.2"),
        # Valkey loads all that Redis wrote up to 7.2, and nothing else here is new enough.
        (Release(Product.REDIS, (7, 2, 4)), "Valkey 8.1"),
        (Release(Product.VALKEY, (8, 0, 1)), "Valkey 8.1"),
    ],
)
def test_the_nearest_program_that_loads_it_is_found(writer: Release, program: str) -> None:
    assert find_binaries(writer).release.series == program


@pytest.mark.parametrize(
    "writer", [REDIS_74, Release(Product.VALKEY, (9, 0, 0)), Release(Product.REDIS, (8, 0, 0))]
)
def test_what_no_program_here_loads_is_refused_with_the_program_that_does(writer: Release) -> None:
    with pytest.raises(NotRecoverable, match=f"{writer.series} or later") as refused:
        find_binaries(writer)

    assert "Redis 7.0.15" in refused.value.message
    assert writer.product.server_program in refused.value.hint


@pytest.fixture
def unchecked(make_redis: MakeRedis) -> RedisServer:
    """A server of 7.0 whose snapshots bear no checksum, so that a test can change them."""
    server = make_redis("7.0", settings={"rdbchecksum": "no"})
    with server.client() as client:
        client.set("a", 1)
    return server


def behind(port: int) -> RedisServers:
    return RedisServers(
        kind=RedisTopology.STANDALONE, nodes=(NodeAddress("127.0.0.1", port),), login=Login()
    )


def test_a_version_that_is_not_known_is_refused_by_name_unless_it_is_kept_unread(
    unchecked: RedisServer, repository: Repository
) -> None:
    changes = {b"redis_version:7.0.15": b"redis_version:8.0.99", b"REDIS0010": b"REDIS0099"}
    with rewritten(unchecked.port, changes) as port:
        with pytest.raises(SourceUnsuitable, match=r"Redis 8\.0\.99") as refused:
            take_snapshot(repository, behind(port))
        assert "--unread" in refused.value.hint
        assert backup_ids(repository, SOURCE) == []

        outcome = take_snapshot(repository, behind(port), accepts=Accepted(unread=True))

    extent = extent_of(repository)
    assert not extent.is_read
    assert extent.keys is None
    assert any("version 99" in finding.fact for finding in outcome.findings)


def test_a_snapshot_that_cannot_be_read_is_refused_whatever_its_server_says(
    unchecked: RedisServer, repository: Repository
) -> None:
    with (
        rewritten(unchecked.port, {b"REDIS0010": b"VALKEY080"}) as port,
        pytest.raises(SourceUnsuitable, match="VALKEY080"),
    ):
        take_snapshot(repository, behind(port))

    assert backup_ids(repository, SOURCE) == []
