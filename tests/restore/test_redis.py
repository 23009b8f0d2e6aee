"""A Redis comes back: equal to the source at the moment, in any shape, started as the report says."""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from drtool.errors import DestinationRefused, DrtoolError, NotRecoverable
from drtool.model.request import TtlMode
from drtool.model.target import ToBackup, ToName, ToTime
from drtool.policy.sources import RedisTopology
from drtool.repository import layout
from drtool.repository.backups import read_manifest
from drtool.repository.repository import Repository
from drtool.system.clock import SystemClock
from tests.archiving.redis_rig import wait_for_more, wait_held
from tests.redis.filling import fill, fill_databases
from tests.restore.redis_rig import (
    SOURCE,
    digest_of,
    restore,
    servers_of,
    started,
    streamed,
    take_snapshot,
)
from tests.servers.redis import (
    ClusterGroup,
    MakeRedis,
    RedisServer,
    SentinelGroup,
    make_replica,
)
from tests.servers.redis_programs import VALKEY, bin_dir

pytestmark = pytest.mark.redis


def now() -> datetime:
    return datetime.now(UTC)


def full_digest(server: RedisServer) -> str:
    return server.digest()


@pytest.mark.parametrize("version", ["7.0", "6.2", "7.4", VALKEY])
def test_a_snapshot_comes_back_equal_and_starts_as_the_report_says(
    make_redis: MakeRedis, repository: Repository, root: Path, version: str
) -> None:
    """PITFALLS 81, 82, 85: AOF on, nobody's replica, all 20 databases, and nothing is lost at a save."""
    server = make_redis(version, settings={"databases": "20"})
    with server.client() as client:
        fill(client, has_functions=version != "6.2")
        fill_databases(client, 20)
    take_snapshot(repository, servers_of(server))

    outcome = restore(repository, root / "copy", bin_dir=bin_dir(version))

    assert outcome.is_writable
    assert outcome.questions
    assert all(question.passed for question in outcome.questions)
    assert [phase.name for phase in outcome.phases] == [
        "provision", "fetch", "replay", "answer", "verify", "finish",
    ]  # fmt: skip
    with started(outcome) as [copy]:
        assert copy.info("replication")["role"] == "master"
        assert copy.config_get("appendonly") == {"appendonly": "yes"}
        reply = copy.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call] # theirs
        assert reply.decode() == full_digest(server)
        copy.set("after", 1)


@pytest.mark.parametrize("version", ["7.0", "6.2", "7.4", VALKEY])
def test_any_moment_of_the_stream_is_reached(
    make_redis: MakeRedis, repository: Repository, root: Path, version: str
) -> None:
    """A prefix: of a ledger's acknowledged writes all up to T are there, none of them is left out."""
    server = make_redis(version)
    chance = random.Random(seed := 7)
    ledger: list[tuple[int, datetime]] = []
    with server.client() as client, streamed(repository, server):
        fill(client, has_functions=version != "6.2")
        take_snapshot(repository, servers_of(server))
        for number in range(300):
            with client.pipeline(transaction=True) as pipe:
                pipe.rpush("ledger", number).set("last", number).incr("count").execute()
            ledger.append((number, now()))
            time.sleep(0.01)
        wait_held(repository, server)
        # The index has a resolution of a tenth of a second, and something has to come after T.
        client.set("end", 1)
        wait_held(repository, server)

    for round_number in range(3):
        position = chance.randrange(50, 280)
        moment = ledger[position][1]
        outcome = restore(
            repository, root / str(round_number), ToTime(moment), bin_dir=bin_dir(version)
        )

        with started(outcome) as [copy]:
            found = [int(one) for one in copy.lrange("ledger", 0, -1)]
            same = copy.mget("last", "count")
        assert found == list(range(len(found))), f"seed {seed}"
        assert [int(one) for one in same if one] == [found[-1], len(found)], "half a transaction"
        assert abs(len(found) - position) <= 30, f"seed {seed}: {len(found)} for {position}"
        assert ledger[len(found) - 1][1] <= moment + timedelta(milliseconds=20)


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_stream_that_ends_anywhere_in_a_transaction_comes_back_without_it(
    make_redis: MakeRedis, repository: Repository, root: Path, version: str
) -> None:
    """A server that meets half a command in a transaction leaves the commands before it in its file,
    where they would swallow what is written next.
    """
    server = make_redis(version)
    with server.client() as client, streamed(repository, server):
        take_snapshot(repository, servers_of(server))
        size = 0
        for number in range(3):
            begin = client.info("replication")["master_repl_offset"]
            with client.pipeline(transaction=True) as pipe:
                pipe.rpush("ledger", number).set("last", number).incr("count").execute()
            size = client.info("replication")["master_repl_offset"] - begin
        wait_held(repository, server)

    for cut_bytes in (1, 20, size // 2, size // 2 + 1, size // 2 + 7, size - 16, size - 1):
        into = root / str(cut_bytes)
        outcome = restore(repository, into, cut_bytes=cut_bytes)

        with started(outcome) as [copy]:
            assert copy.lrange("ledger", 0, -1) == [b"0", b"1"], f"{cut_bytes} bytes cut off"
            assert copy.mget("last", "count") == [b"1", b"2"]
            copy.set("after", "the restore")
        with started(outcome) as [copy]:
            assert copy.get("after") == b"the restore", f"{cut_bytes} bytes cut off"


class Astray(SystemClock):
    """The wall clock of a machine that nobody sets."""

    def __init__(self, seconds: float) -> None:
        self._off = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._off


@pytest.mark.parametrize("seconds", [90, -90])
def test_moments_are_those_of_the_server_whatever_the_clock_of_the_receiver_says(
    make_redis: MakeRedis, repository: Repository, root: Path, seconds: int
) -> None:
    """Else a restore of a stack brings Redis to another moment than PostgreSQL, and nobody notices."""
    server = make_redis()
    ledger: list[datetime] = []
    with (
        server.client() as client,
        streamed(repository, server, clock=Astray(seconds)) as running,
    ):
        take_snapshot(repository, servers_of(server))
        for number in range(100):
            client.rpush("ledger", number)
            ledger.append(now())
            time.sleep(0.01)
        client.set("end", 1)
        wait_held(repository, server)
    moment = ledger[60]

    outcome = restore(repository, root / "copy", ToTime(moment))

    with started(outcome) as [copy]:
        found = [int(one) for one in copy.lrange("ledger", 0, -1)]
    assert found == list(range(len(found)))
    assert 30 <= len(found) <= 62, len(found)
    assert ledger[len(found) - 1] <= moment + timedelta(milliseconds=20)
    assert running.warned("behind this machine's" if seconds > 0 else "ahead of this machine's")


def test_the_latest_moment_is_all_that_was_archived(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    """The heartbeat key is there too, and not from after the moment."""
    master = make_redis()
    replica = make_replica(make_redis, master)
    with master.client(db=5) as client, streamed(repository, master, replica, key="beat"):
        client.set("before", 1)
        client.wait(1, 5000)
        take_snapshot(repository, servers_of(master))
        fill(client)
        fill_databases(client)
        client.execute_command("SELECT", 5)
        client.set("after", 2)
        client.wait(2, 5000)
        wait_held(repository, master)

    outcome = restore(repository, root / "copy", key="beat")

    assert outcome.reached.commit_time is not None
    assert all(question.passed for question in outcome.questions)
    with started(outcome) as [copy]:
        copy.delete("beat")
        with master.client() as client:
            client.delete("beat")
        reply = copy.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call] # theirs
        assert reply.decode() == full_digest(master)


def test_a_moment_that_no_stream_leads_to_is_refused_and_the_nearest_named(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    server = make_redis()
    first = take_snapshot(repository, servers_of(server))
    stopped_at = read_manifest(repository, SOURCE, first.backup_id).redis.stopped_at

    with pytest.raises(NotRecoverable, match="which no stream follows"):
        restore(repository, root / "a", ToTime(now()))
    with pytest.raises(NotRecoverable, match="before the first snapshot"):
        restore(repository, root / "b", ToTime(stopped_at - timedelta(seconds=1)))
    with pytest.raises(NotRecoverable, match="no target"):
        restore(repository, root / "c", ToName("x"))

    assert restore(repository, root / "d", ToTime(stopped_at)).is_writable
    assert restore(repository, root / "e", ToBackup(first.backup_id)).is_writable
    assert not (root / "a").exists()


def test_a_hole_in_the_stream_is_not_passed_over(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    server = make_redis()
    with server.client() as client, streamed(repository, server):
        take_snapshot(repository, servers_of(server))
        for number in range(20):
            client.set(f"key:{number}", number)
            wait_held(repository, server)
        moment = now()
        client.set("end", 1)
        wait_held(repository, server)
    [history] = repository.store.list_directories(layout.source_log(SOURCE))
    names = [
        found.key
        for found in repository.store.list(f"{layout.source_log(SOURCE)}{history}/")
        if isinstance(layout.parse_stream_name(found.key.rsplit("/", 1)[1]), layout.StreamSegment)
    ]
    repository.store.delete(names[len(names) // 2])

    with pytest.raises(NotRecoverable, match="cannot be reached"):
        restore(repository, root / "copy", ToTime(moment))

    assert not (root / "copy").exists()


@pytest.mark.parametrize("ttl", list(TtlMode))
def test_keys_that_lived_at_the_moment_expire_as_was_asked(
    make_redis: MakeRedis, repository: Repository, root: Path, ttl: TtlMode
) -> None:
    server = make_redis()
    with server.client() as client:
        client.set("gone", 1, px=1)
        client.set("short", 1, px=1500)
        client.set("long", 1, ex=1000)
        client.set("ever", 1)
        take_snapshot(repository, servers_of(server))
        deadline = time.monotonic() + 20
        while client.exists("short"):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    outcome = restore(repository, root / "copy", ttl=ttl)

    with started(outcome) as [copy]:
        left = {name: copy.pttl(name) for name in ("gone", "short", "long", "ever")}
    assert left["gone"] == -2
    assert left["ever"] == -1
    if ttl is TtlMode.ABSOLUTE:
        assert left["short"] == -2
        assert left["long"] < 999_000
        assert any("keys expire" in finding.fact for finding in outcome.findings)
    elif ttl is TtlMode.PERSIST:
        assert (left["short"], left["long"]) == (-1, -1)
    else:
        # A machine under load may take longer to start the copy than the key has left.
        assert left["short"] <= 1500
        assert left["long"] > 990_000


def test_a_group_under_sentinel_comes_back(
    redis_sentinel: SentinelGroup, repository: Repository, root: Path
) -> None:
    with redis_sentinel.master.client() as client:
        client.flushall()
        fill(client)
        client.wait(2, 5000)
        expected = [client]
        take_snapshot(
            repository, servers_of(*redis_sentinel.sentinels, kind=RedisTopology.SENTINEL)
        )
        outcome = restore(repository, root / "copy")
        with started(outcome) as [copy]:
            assert copy.dbsize() == expected[0].dbsize()


@pytest.mark.parametrize("masters", [None, 1, 2, 5])
def test_a_cluster_comes_back_in_any_shape(
    redis_cluster: ClusterGroup, repository: Repository, root: Path, masters: int | None
) -> None:
    """Equal digest over the shards; no open slots, 16,384 covered; the stream is replayed before."""
    sources = redis_cluster.masters()
    for master in sources:
        with master.client() as client:
            client.flushall()
    nodes = redis_cluster.nodes
    with redis_cluster.client() as client, streamed(repository, *nodes, kind=RedisTopology.CLUSTER):
        for number in range(200):
            client.set(f"key:{number}", number, ex=5000)
            client.rpush(f"{{tag:{number % 7}}}:list", number)
        take_snapshot(repository, servers_of(*nodes, kind=RedisTopology.CLUSTER))
        for number in range(200, 300):
            client.hset(f"hash:{number}", "field", str(number))
        for master in sources:
            wait_held(repository, master)
        moment = now()
        for master in sources:
            wait_for_more(repository, master)
    clients = [master.client() for master in sources]
    expected = digest_of(clients)

    outcome = restore(repository, root / "copy", ToTime(moment), masters=masters)

    assert all(question.passed for question in outcome.questions)
    with started(outcome) as copies:
        assert len(copies) == (masters or 3)
        assert digest_of(copies) == expected
        assert sum(copy.dbsize() for copy in copies) == 307
        if masters != 1:
            _assert_whole_cluster(copies, known=masters or 6)


def _assert_whole_cluster(copies: list[redis.Redis], *, known: int) -> None:
    for copy in copies:
        deadline = time.monotonic() + 30
        while True:
            reply = copy.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call] # theirs
            told = dict(line.split(":") for line in reply.decode().split())
            if told["cluster_state"] == "ok":
                break
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        assert told["cluster_slots_assigned"] == "16384"
        assert int(told["cluster_known_nodes"]) == known


def test_a_destination_with_something_in_it_is_refused(
    redis7: RedisServer, repository: Repository, root: Path
) -> None:
    """PITFALLS 85: leftovers in the directory would be loaded or written over."""
    take_snapshot(repository, servers_of(redis7))
    (root / "copy").mkdir()
    (root / "copy" / "dump.rdb").write_bytes(b"left over")

    with pytest.raises(DestinationRefused, match="not empty"):
        restore(repository, root / "copy")


def test_damage_in_the_repository_leaves_nothing_that_starts(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    server = make_redis()
    with server.client() as client:
        fill(client)
    outcome = take_snapshot(repository, servers_of(server))
    manifest = read_manifest(repository, SOURCE, outcome.backup_id)
    table_packs = {place.pack_id for place in manifest.table}
    victim = next((pack for pack in manifest.packs if pack not in table_packs), manifest.packs[0])
    key = layout.pack_key(victim)
    content = bytearray(repository.store.read(key))
    content[len(content) // 2] ^= 1
    repository.store.delete(key)
    repository.store.create(key, [bytes(content)])

    with pytest.raises(DrtoolError) as caught:
        restore(repository, root / "copy")

    assert str(root / "copy") in caught.value.hint
    assert not list(root.rglob("*.manifest"))
    assert not list(root.rglob("redis.conf"))


def test_restores_side_by_side_do_not_meet(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    server = make_redis()
    with server.client() as client:
        client.set("a", 1)
    take_snapshot(repository, servers_of(server))
    done: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda name=name: done.append(restore(repository, root / name).is_writable)
        )
        for name in ("one", "two")
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert done == [True, True]
