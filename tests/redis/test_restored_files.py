"""What was archived becomes files that Redis replays: equal to the source, at any moment of it."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from drtool.errors import NotRecoverable
from drtool.sources.redis.aof import AofLayout, cut, drop_open_transaction, write_aof
from drtool.sources.redis.binaries import (
    Checking,
    check_aof,
    check_rdb,
    find_binaries,
    look,
    reachable_by,
    server_user,
)
from drtool.sources.redis.commands import safe_cut
from drtool.sources.redis.expiries import absolute_expiries
from drtool.sources.redis.rdb import file_parts, stream_database
from drtool.sources.redis.rdbwrite import drop_expired, rewrite, shift_ttl
from drtool.sources.redis.release import Product, parse_release
from drtool.sources.redis.server import ScratchPlan, ScratchServer, start_scratch
from tests.redis.filling import fill, fill_databases
from tests.redis.linking import CLOCK, Archive, join, keys_of
from tests.servers.postgres import server_directory
from tests.servers.redis import MakeRedis, RedisServer, make_replica, wait_for
from tests.servers.redis_programs import redis_program

pytestmark = pytest.mark.redis


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the servers' user owns."""
    directory = server_directory("drtool-redis-")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def restored(
    place: Path, archive: Archive, version: str, *, size: int | None = None
) -> ScratchServer:
    """A private server on what was archived, its stream cut after `size` bytes; it has loaded."""
    binaries = look(redis_program(version).parent)
    assert binaries is not None
    user = server_user(place)
    size = len(archive.stream) if size is None else size
    files = write_aof(
        place,
        [archive.rdb],
        cut([archive.stream], size),
        layout=AofLayout.of(binaries.version),
        database=stream_database([archive.rdb]),
        owner=user,
    )
    safe = safe_cut([archive.stream], begin=0, until=size)
    assert (
        check_aof(files.startable, Checking(binaries=binaries, scratch=place)).dropped_bytes
        == size - safe
    )
    server = start_scratch(
        ScratchPlan(directory=place, binaries=binaries, run_as=user, uses_aof=True), clock=CLOCK
    )
    try:
        server.wait_loaded(timeout_seconds=60)
    except BaseException:
        server.stop()
        raise
    return server


def sizes_of(server: RedisServer) -> dict[int, int]:
    with server.client() as client:
        told = client.info("keyspace")
    return {int(name[2:]): one["keys"] for name, one in told.items()}


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_everything_comes_back_as_it_was(make_redis: MakeRedis, place: Path, version: str) -> None:
    """Every type, in the snapshot and in the stream, in 16 databases."""
    server = make_redis(version)
    archive = Archive()
    with server.client() as client:
        fill(client, has_functions=version == "7.0")
        fill_databases(client)
        with join(server) as link:
            archive.follow(link, lambda: archive.end is not None)
            client.flushdb()
            fill(client, seed=2, has_functions=version == "7.0")
            fill_databases(client)
            archive.catch_up(link, server)

    with restored(place, archive, version) as copy:
        assert copy.database_sizes() == sizes_of(server)
        assert copy.digest() == server.digest()


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_what_was_archived_from_a_replica_goes_into_the_right_databases(
    make_redis: MakeRedis, place: Path, version: str
) -> None:
    """A replica passes its master's stream on, and that does not begin with a SELECT for us."""
    master = make_redis(version)
    with master.client(db=5) as client:
        client.set("before", 1)
        replica = make_replica(make_redis, master)
        client.set("selected", 5)
        # From here on the master's stream goes on in database 5 without saying so again.
        with replica.client(db=5) as reader:
            wait_for(lambda: reader.exists("selected"), what="the replica")
        archive = Archive()
        with join(replica) as link:
            archive.follow(link, lambda: archive.end is not None)
            client.set("after", 2)
            archive.catch_up(link, master)

    assert stream_database([archive.rdb]) == 5
    with restored(place, archive, version) as copy:
        assert copy.database_sizes() == {5: 3}
        assert copy.digest() == master.digest()


def test_any_recorded_offset_can_be_returned_to(make_redis: MakeRedis, place: Path) -> None:
    server = make_redis()
    archive = Archive()
    moments = []
    with server.client() as client, join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        for number in range(3):
            for _ in range(50):
                with client.pipeline(transaction=True) as pipe:
                    pipe.incr("a").incr("b").lpush("list", number).execute()
            archive.catch_up(link, server)
            moments.append((len(archive.stream), server.digest()))

    for number, (size, digest) in enumerate(moments):
        directory = place / str(number)
        directory.mkdir()
        shutil.chown(directory, place.stat().st_uid, place.stat().st_gid)
        with restored(directory, archive, "7.0", size=size) as copy:
            assert copy.digest() == digest


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_cut_at_any_byte_never_leaves_half_a_transaction(
    make_redis: MakeRedis, place: Path, version: str
) -> None:
    server = make_redis(version)
    archive = Archive()
    with server.client() as client, join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        for _ in range(30):
            with client.pipeline(transaction=True) as pipe:
                pipe.incr("a").incr("b").incr("c").execute()
        archive.catch_up(link, server)

    chance = random.Random(11)
    for number in range(4):
        size = chance.randrange(len(archive.stream))
        directory = place / str(number)
        directory.mkdir()
        shutil.chown(directory, place.stat().st_uid, place.stat().st_gid)
        with restored(directory, archive, version, size=size) as copy:
            values = copy.connection().ask("MGET", "a", "b", "c")
        assert isinstance(values, list)
        assert len({str(value) for value in values}) == 1, f"cut at {size}: {values}"


_MULTI, _SET, _EXEC = (
    b"*1\r\n$5\r\nMULTI\r\n",
    b"*2\r\n$3\r\nSET\r\n$1\r\na\r\n",
    b"*1\r\n$4\r\nEXEC\r\n",
)


@pytest.mark.parametrize(
    ("end", "is_dropped"),
    [
        (_MULTI, True),
        (_MULTI + _SET + _SET, True),
        (_MULTI + _SET + _SET[:9], False),
        (_SET, False),
        (_MULTI + _SET + _EXEC, False),
        (_MULTI + _SET + _EXEC + _MULTI, False),
        (_SET + _MULTI, False),
        (_MULTI + b"no command", False),
        (b"\0" * 40, False),
        (b"", False),
    ],
)
def test_only_a_transaction_without_an_end_is_dropped_from_the_files(
    tmp_path: Path, end: bytes, is_dropped: bool
) -> None:
    files = write_aof(tmp_path, [b"REDIS"], [_SET, end], layout=AofLayout.MULTI_PART)

    assert drop_open_transaction(files, len(end)) is is_dropped

    left = _SET if is_dropped else _SET + end
    assert files.changes.read_bytes() == left
    assert not drop_open_transaction(files, 1000)


def test_a_key_that_lived_at_the_moment_is_there_though_its_time_is_over(
    make_redis: MakeRedis, place: Path
) -> None:
    server = make_redis()
    archive = Archive()
    with server.client() as client:
        client.set("short", 1, px=300)
        with join(server) as link:
            archive.follow(link, lambda: archive.end is not None)
            client.set("brief", 1, px=300)
            goal = client.info("replication")["master_repl_offset"]
            archive.follow(link, lambda: link.offset >= goal)
            size = len(archive.stream)
            archive.follow(link, lambda: client.dbsize() == 0)

    with restored(place, archive, "7.0", size=size) as copy:
        assert copy.database_sizes() == {0: 2}
        path = copy.save()
        binaries = look(redis_program("7.0").parent)
        assert binaries is not None
        assert "2 already expired" in check_rdb(path, Checking(binaries=binaries, scratch=place))


def test_a_key_lives_as_long_after_the_restore_as_it_would_have(
    make_redis: MakeRedis, place: Path
) -> None:
    """`--ttl shift`: what had expired at the moment is gone, the rest gets its time back."""
    server = make_redis()
    archive = Archive()
    with server.client() as client:
        client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        client.set("gone", 1, px=1)
        client.set("short", 1, px=400)
        client.set("never", 1)
        wait_for(lambda: client.pttl("short") < 350, what="some time")
        moment = datetime.now(UTC)
        archive.take(server)
        wait_for(lambda: client.exists("short") == 0, what="the end of its time")

    out = bytearray()
    with restored(place, archive, "7.0") as copy:
        rule = drop_expired(moment, shift_ttl(timedelta(hours=1)))
        done = rewrite(file_parts(copy.save()), out.extend, ttl=rule)

    assert (done.keys_read, done.keys_dropped) == (3, 1)
    target = make_redis()
    target.kill9()
    (target.root / "dump.rdb").write_bytes(out)
    target.start()
    with target.client() as client:
        assert set(client.keys("*")) == {b"short", b"never"}
        assert 3_500_000 < client.pttl("short") <= 3_600_400


def test_rewrites_of_the_aof_do_not_disturb_a_snapshot(make_redis: MakeRedis, place: Path) -> None:
    """PITFALLS 84: files that are copied while they are rewritten are torn; a link has no files."""
    server = make_redis(settings={"appendonly": "yes"})
    archive = Archive()
    over = threading.Event()

    def rewriting() -> None:
        with server.client() as client:
            while not over.wait(0.01):
                with contextlib.suppress(redis.ResponseError):
                    client.bgrewriteaof()

    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", 20_000, "key", 100)
        thread = threading.Thread(target=rewriting)
        thread.start()
        try:
            with join(server) as link:
                archive.follow(link, lambda: archive.end is not None)
                for number in range(500):
                    client.incr(f"counter:{number % 7}")
                archive.catch_up(link, server)
        finally:
            over.set()
            thread.join(30)

    with restored(place, archive, "7.0") as copy:
        assert copy.digest() == server.digest()


def test_a_restore_that_stopped_half_way_cannot_be_started(place: Path) -> None:
    """The manifest comes last: without it Redis refuses to start on what lies there."""

    def broken() -> Iterator[bytes]:
        yield b"*1\r\n"
        raise OSError("the disk is full")

    user = server_user(place)
    with pytest.raises(OSError, match="full"):
        write_aof(place, [b"REDIS0010"], broken(), layout=AofLayout.MULTI_PART, owner=user)
    assert not (place / "appendonlydir" / "appendonly.aof.manifest").exists()
    assert list((place / "appendonlydir").glob("*.tmp")) == []

    with pytest.raises(OSError, match="full"):
        write_aof(place, [b"REDIS0010"], broken(), layout=AofLayout.SINGLE, owner=user)
    assert not (place / "appendonly.aof").exists()


def test_a_server_that_cannot_load_says_why(make_redis: MakeRedis, place: Path) -> None:
    archive = Archive(rdb=bytearray(b"REDIS0010 and then nonsense"))

    with pytest.raises(Exception, match=r"damaged|does not start|cannot be read"):
        restored(place, archive, "7.0")


def test_a_private_server_listens_on_no_port_and_takes_no_writes(
    make_redis: MakeRedis, place: Path
) -> None:
    server = make_redis()
    archive = Archive()
    archive.take(server)

    with restored(place, archive, "7.0") as copy:
        settings = copy.connection().settings("port") | copy.connection().settings("save")
        sockets = Path(copy.address.host)
        assert settings == {"port": "0", "save": ""}
        assert sockets.parent.stat().st_mode & 0o777 == 0o700
        with pytest.raises(Exception, match="READONLY"):
            copy.connection().ask("SET", "a", 1)
    assert not sockets.parent.exists()


def test_a_server_that_is_handed_over_takes_writes(make_redis: MakeRedis, place: Path) -> None:
    server = make_redis()
    archive = Archive()
    archive.take(server)
    restored(place, archive, "7.0").stop()
    binaries = look(redis_program("7.0").parent)
    assert binaries is not None
    plan = ScratchPlan(
        directory=place,
        binaries=binaries,
        run_as=server_user(place),
        uses_aof=True,
        keeps_expired=False,
    )

    with start_scratch(plan, clock=CLOCK) as copy:
        copy.wait_loaded(timeout_seconds=30)
        assert copy.connection().text("SET", "a", 1) == "OK"


def test_a_server_program_of_the_right_version_is_found() -> None:
    assert find_binaries(parse_release(Product.REDIS, "7.0.0")).version[:2] == (7, 0)
    assert find_binaries(parse_release(Product.REDIS, "6.2.0")).version[:2] == (6, 2)
    with pytest.raises(NotRecoverable, match=r"99\.0"):
        find_binaries(parse_release(Product.REDIS, "99.0.0"))


def test_a_program_that_the_user_cannot_reach_is_copied(place: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copy2(redis_program("6.2"), hidden / "redis-server")
    binaries = look(hidden)
    assert binaries is not None

    found = reachable_by(binaries, server_user(place), place)

    assert found.server.parent in (place, hidden)
    assert found.version == binaries.version


def test_a_span_of_redis_6_2_becomes_a_moment(make_redis: MakeRedis, place: Path) -> None:
    """Its stream says `EXPIRE key 100`: replayed later, the key would live on from then."""
    server = make_redis("6.2")
    archive = Archive()
    with server.client() as client, join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        client.set("set ex", "x" * 100, ex=1000)
        client.set("set px", "EX", px=1_000_000, nx=True)
        client.execute_command("SETEX", "setex", 1000, "v")
        client.execute_command("PSETEX", "psetex", 1_000_000, "v")
        client.set("expire", 1)
        client.expire("expire", 1000)
        client.set("getex", 1)
        client.execute_command("GETEX", "getex", "PX", 1_000_000)
        client.eval("redis.call('set', 'lua', 1) redis.call('expire', 'lua', 1000)", 0)
        payload = client.dump("expire")
        client.execute_command("RESTORE", "restore" * 900, 1_000_000, payload)
        words = ("RESTORE-ASKING", "asking", 1_000_000, payload, "REPLACE", "IDLETIME", 5)
        client.execute_command(*words)
        client.execute_command("MULTI")
        client.execute_command("RESTORE", "in multi", 1_000_000, payload)
        client.execute_command("EXEC")
        client.execute_command("RESTORE", "absolute", 4_000_001_000_000, payload, "ABSTTL")
        client.execute_command("RESTORE", "no span", 0, payload)
        client.set("plain", "EX")
        client.rpush("list", "EXPIRE", "PX", "1")
        expected = set(client.keys("*")) - {b"plain", b"list", b"no span"}
        archive.catch_up(link, server)
    moment = 4_000_000_000_000
    for size in (1, 7, 1 << 20):
        pieces = [
            (moment, archive.stream[at : at + size]) for at in range(0, len(archive.stream), size)
        ]
        changed = b"".join(absolute_expiries(pieces, begin=0))
        directory = place / str(size)
        directory.mkdir()
        shutil.chown(directory, place.stat().st_uid, place.stat().st_gid)
        moved = Archive(rdb=archive.rdb, stream=bytearray(changed))
        with restored(directory, moved, "6.2") as copy:
            with_expiry = {}
            for key, expires_ms in keys_of(copy.save().read_bytes()).items():
                with_expiry[key[1]] = expires_ms

        assert {key for key, at in with_expiry.items() if at == moment + 1_000_000} == expected
        assert with_expiry[b"plain"] == with_expiry[b"list"] == -1
