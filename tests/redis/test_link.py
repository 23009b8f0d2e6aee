"""drtool as a replica of real servers: snapshots, the stream, outages, failovers, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.policy.secrets import Secret
from drtool.sources.redis.address import Login, NodeAddress, TlsSettings
from drtool.sources.redis.connection import connect
from drtool.sources.redis.psync import Continued, FullResync, Position, open_link
from drtool.sources.redis.rdb import Batch, LargeEntry, RdbWalker
from tests.redis.filling import fill
from tests.redis.linking import ANONYMOUS, BRIEF, CLOCK, Archive, address_of, join
from tests.servers.redis import MakeRedis, RedisServer, make_replica, wait_for

pytestmark = pytest.mark.redis


def count(rdb: bytes | bytearray) -> int:
    """How many keys an RDB holds."""
    found = 0
    for item in RdbWalker([rdb]):
        if isinstance(item, Batch):
            found += len(item.entries)
        found += isinstance(item, LargeEntry)
    return found


@pytest.mark.parametrize("version", ["7.0", "6.2"])
@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_snapshot_comes_whole_in_both_forms_of_transfer(
    make_redis: MakeRedis, version: str, diskless: str
) -> None:
    """With its length before it, or with a mark behind it; the stream follows at the right byte."""
    server = make_redis(version, settings={"repl-diskless-sync": diskless})
    with server.client() as client:
        fill(client, has_functions=version == "7.0")
        keys = client.dbsize()
        archive = Archive()
        with join(server) as link:
            archive.follow(link, lambda: archive.end is not None)
            client.set("after", "snapshot")
            archive.catch_up(link, server)

    assert archive.end is not None
    assert archive.end.is_verified
    assert archive.end.size_bytes == len(archive.rdb)
    assert count(archive.rdb) == keys
    # The master says now and then that it lives, and may say so first.
    first = bytes(archive.stream).replace(b"*1\r\n$4\r\nping\r\n", b"")
    assert first.startswith(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$5\r\nafter")


def test_a_snapshot_under_load_and_its_stream_fit_together(make_redis: MakeRedis) -> None:
    server = make_redis()
    command = ["redis-benchmark", "-p", str(server.port), "-q", "-n", "60000", "-r", "20000"]
    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", 50_000, "key", 200)
    load = subprocess.Popen(
        [*command, "-P", "8", "-d", "100", "-t", "set,incr,lpush"], stdout=subprocess.DEVNULL
    )
    archive = Archive()
    with join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        archive.follow(link, lambda: load.poll() is not None)
        archive.catch_up(link, server)

    assert load.wait(30) == 0
    assert count(archive.rdb) >= 50_000
    assert archive.base is not None
    assert archive.base.offset + len(archive.stream) == link.offset


def test_an_rdb_without_checksums_is_received_and_known_as_one(make_redis: MakeRedis) -> None:
    server = make_redis(settings={"rdbchecksum": "no", "repl-diskless-sync": "no"})
    archive = Archive()

    archive.take(server)

    assert archive.end is not None
    assert not archive.end.is_verified


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_snapshot_alone_leaves_no_replica_behind(make_redis: MakeRedis, version: str) -> None:
    server = make_redis(version)
    archive = Archive()

    with join(server, rdb_only=True) as link:
        archive.follow(link, lambda: archive.end is not None)

    with server.client() as client:
        wait_for(
            lambda: client.info("replication")["connected_slaves"] == 0, what="the replica's end"
        )


def test_what_is_acknowledged_is_what_wait_counts(make_redis: MakeRedis) -> None:
    """Nothing is acknowledged before it is durable: WAIT then means archived."""
    server = make_redis()
    archive = Archive()
    with server.client() as client, join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        client.set("a", 1)
        goal = client.info("replication")["master_repl_offset"]
        while link.offset < goal:
            link.receive(0.05)
        before = client.execute_command("WAIT", 1, 50)
        link.acknowledge(link.offset)
        after = client.execute_command("WAIT", 1, 5000)

    assert (before, after) == (0, 1)


def test_nothing_can_be_acknowledged_that_was_not_received(redis7: RedisServer) -> None:
    with join(redis7) as link, pytest.raises(ValueError, match="not received"):
        link.acknowledge(link.offset + 1)


def test_after_an_outage_the_stream_goes_on_where_it_was_left(make_redis: MakeRedis) -> None:
    server = make_redis()
    archive = Archive()
    archive.take(server)
    with server.client() as client:
        for number in range(100):
            client.set(f"missed:{number}", number)

    with join(server, position=archive.position) as link:
        assert isinstance(link.begun, Continued)
        archive.catch_up(link, server)

    assert archive.stream.count(b"missed:") == 100


def test_a_backlog_that_was_overrun_gives_a_new_snapshot(make_redis: MakeRedis) -> None:
    server = make_redis(settings={"repl-backlog-size": "16kb"})
    archive = Archive()
    archive.take(server)
    with server.client() as client:
        for number in range(100):
            client.set("overrun", "x" * 1000 + str(number))

    with join(server, position=archive.position) as link:
        assert isinstance(link.begun, FullResync)
        assert archive.position is not None
        assert link.begun.position.offset > archive.position.offset


def test_a_history_that_the_server_never_had_gives_a_new_snapshot(redis7: RedisServer) -> None:
    with join(redis7, position=Position("a" * 40, 12345)) as link:
        assert isinstance(link.begun, FullResync)


def test_a_failover_gives_the_history_a_new_name_and_no_gap(make_redis: MakeRedis) -> None:
    """kill -9 of the master; its replica is promoted; drtool was attached to another replica."""
    master = make_redis()
    heir, ours = make_replica(make_redis, master), make_replica(make_redis, master)
    archive = Archive()
    with master.client() as client:
        client.set("before", 1)
    with join(ours) as link:
        archive.follow(link, lambda: archive.end is not None)
        archive.catch_up(link, master)
    old = archive.position
    assert old is not None
    # What only we had received would be a history of our own.
    with heir.client() as client:
        wait_for(
            lambda: client.info("replication")["slave_repl_offset"] >= old.offset, what="the heir"
        )

    master.kill9()
    with heir.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.set("after", 1)
    with join(heir, position=old) as link:
        assert isinstance(link.begun, Continued)
        assert link.begun.position.offset == old.offset
        assert link.begun.position.replid != old.replid
        archive.catch_up(link, heir)

    assert b"after" in archive.stream


def test_a_restart_that_saved_its_place_goes_on_without_a_gap(make_redis: MakeRedis) -> None:
    server = make_redis(settings={"save": "3600 1"})
    archive = Archive()
    with join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        with server.client() as client:
            client.set("before", 1)
        archive.catch_up(link, server)
        # The server waits at its end until replicas have all; ours acknowledges.
        assert server._process is not None
        server._process.send_signal(signal.SIGTERM)
        with pytest.raises(SourceUnavailable):
            archive.follow(link, lambda: False)
    server.stop()
    server.start()

    with join(server, position=archive.position) as link:
        assert isinstance(link.begun, Continued)


def test_a_password_an_acl_user_and_tls_let_us_in(make_redis: MakeRedis) -> None:
    server = make_redis(tls=True, password="sesame open")
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "drtool", "on", ">secret", "+psync", "+replconf", "+info", "+ping"
        )
    assert server.tls_port is not None
    tls = TlsSettings(ca_file=server.root / "server.crt")
    address = NodeAddress("127.0.0.1", server.tls_port)
    for login in (
        Login(password=Secret("sesame open"), tls=tls),
        Login(username="drtool", password=Secret("secret"), tls=tls),
    ):
        archive = Archive()
        with open_link(address, login, clock=CLOCK) as link:
            archive.follow(link, lambda archive=archive: archive.end is not None)  # type: ignore[misc] # binds the loop's value
        with connect(address, login) as connection:
            assert connection.info("server")["redis_version"].startswith("7.0")


def test_refusals_say_what_to_do_and_tell_no_secret(make_redis: MakeRedis) -> None:
    server = make_redis(password="sesame open")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "+ping", "+info")
    logins = {
        "wants a password": ANONYMOUS,
        "refuses the user name or the password": Login(password=Secret("nonsense")),
        "may not run replconf": Login(username="weak", password=Secret("secret")),
    }
    for fact, login in logins.items():
        with pytest.raises(SourceUnsuitable, match=fact) as caught:
            join(server, login)
        assert caught.value.hint
        assert "nonsense" not in str(caught.value) + caught.value.hint
    with pytest.raises(SourceUnsuitable, match="wants a password"):
        connect(address_of(server), ANONYMOUS)
    with (
        connect(address_of(server), logins["may not run replconf"]) as weak,
        pytest.raises(SourceUnsuitable, match="may not run config") as caught,
    ):
        weak.settings("save")
    assert "+config|get" in caught.value.hint


def test_a_server_that_is_not_there_is_an_outage() -> None:
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        open_link(NodeAddress("127.0.0.1", 1), ANONYMOUS, clock=CLOCK)
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        connect(NodeAddress("127.0.0.1", 1), ANONYMOUS)


def test_a_replica_without_its_master_is_not_ready(make_redis: MakeRedis) -> None:
    lonely = make_redis(settings={"replicaof": "127.0.0.1 1"})

    with pytest.raises(SourceUnavailable, match="is not ready") as caught:
        join(lonely)

    assert caught.value.retryable


def test_a_server_that_falls_silent_is_given_up_within_the_limit(make_redis: MakeRedis) -> None:
    server = make_redis()
    archive = Archive()
    with join(server, limits=BRIEF) as link:
        archive.follow(link, lambda: archive.end is not None)
        server._process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr] # it runs
        try:
            with pytest.raises(SourceUnavailable, match="has sent nothing"):
                archive.follow(link, lambda: False, seconds=20)
        finally:
            server._process.send_signal(signal.SIGCONT)  # type: ignore[union-attr] # it runs


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_server_that_dies_in_the_middle_of_its_snapshot_leaves_no_snapshot(
    make_redis: MakeRedis, diskless: str
) -> None:
    """PITFALLS 83: half an RDB is never taken for a whole one."""
    server = make_redis(settings={"repl-diskless-sync": diskless, "rdb-key-save-delay": "20"})
    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", 100_000, "key", 500)
        archive = Archive()
        with join(server) as link:
            if diskless == "yes":
                archive.follow(link, lambda: len(archive.rdb) > 100_000)
            server.kill9()
            with pytest.raises(SourceUnavailable, match="ended the connection"):
                archive.follow(link, lambda: False)

    assert archive.end is None


def test_a_child_that_dies_in_the_middle_of_its_snapshot_leaves_no_snapshot(
    make_redis: MakeRedis,
) -> None:
    server = make_redis(settings={"rdb-key-save-delay": "20"})
    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", 100_000, "key", 500)
        archive = Archive()
        with join(server) as link:
            archive.follow(link, lambda: len(archive.rdb) > 100_000)
            for child in children_of(server.pid):
                os.kill(child, signal.SIGKILL)
            with pytest.raises(SourceUnavailable, match="ended the connection"):
                archive.follow(link, lambda: False)

    assert archive.end is None


def children_of(pid: int) -> list[int]:
    """The processes that a server has forked."""
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in told.split()]
