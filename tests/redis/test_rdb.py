"""RDBs of real servers, walked, split, merged and given other expiry times."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.errors import NotRecoverable
from drtool.sources.redis import rdbcodes as codes
from drtool.sources.redis.binaries import Checking, check_rdb, look
from drtool.sources.redis.crc64 import crc64
from drtool.sources.redis.keyslot import (
    SLOTS,
    SlotRange,
    even_slots,
    key_for_slots,
    key_slot,
    ranges_of,
    slot_owners,
)
from drtool.sources.redis.psync import snapshot_parts
from drtool.sources.redis.rdb import (
    Batch,
    Function,
    RdbWalker,
    file_parts,
)
from drtool.sources.redis.rdbcodes import RdbDamaged, UnknownModule
from drtool.sources.redis.rdbwrite import (
    TtlRule,
    drop_expired,
    keep_ttl,
    merge,
    persist,
    rewrite,
    shift_ttl,
    split_by_slot,
)
from tests.redis.filling import (
    FAR_MS,
    LIBRARY,
    chunks_of,
    fill,
    fill_databases,
    fill_expiring_fields,
)
from tests.redis.linking import Archive, join, keys_of
from tests.servers.redis import ClusterGroup, MakeRedis, RedisServer, wait_for
from tests.servers.redis_programs import VALKEY, redis_program

pytestmark = pytest.mark.redis

MODULE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
Saved = tuple[bytes, str, str]


def saved(server: RedisServer) -> bytes:
    """The RDB of all that a server holds."""
    with server.client() as client:
        # The child that served another test's link may not be reaped yet.
        wait_for(
            lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 0, what="another save"
        )
        client.save()
    return (server.root / "dump.rdb").read_bytes()


@pytest.fixture(scope="module", params=["7.0", "6.2", "7.4", VALKEY])
def full(request: pytest.FixtureRequest) -> Saved:
    """The RDB of a server with everything in database 0, its digest, and which server it was."""
    names = {"7.0": "redis7", "6.2": "redis62", "7.4": "redis74", VALKEY: "valkey"}
    server: RedisServer = request.getfixturevalue(names[request.param])
    with server.client() as client:
        client.flushall()
        fill(client, has_functions=request.param != "6.2")
        if request.param == "7.4":
            fill_expiring_fields(client)
    return saved(server), server.digest(), request.param


def load(server: RedisServer, rdb: bytes) -> RedisServer:
    """Start a server again on another RDB."""
    server.kill9()
    (server.root / "dump.rdb").write_bytes(rdb)
    server.start()
    return server


def changed(rdb: bytes, ttl: TtlRule) -> bytes:
    out = bytearray()
    rewrite([rdb], out.extend, ttl=ttl)
    return bytes(out)


def test_a_walk_finds_every_key_that_the_server_has(redis7: RedisServer) -> None:
    with redis7.client() as client:
        client.flushall()
        fill(client)
        fill_databases(client)
        expected = set()
        for number in range(16):
            client.execute_command("SELECT", number)
            expected |= {(number, key) for key in client.keys("*")}
        client.execute_command("SELECT", 0)

    found = keys_of(saved(redis7))

    assert set(found) == expected


def test_a_walk_tells_when_each_key_expires(redis7: RedisServer) -> None:
    with redis7.client() as client:
        client.flushall()
        client.set("never", 1)
        client.execute_command("SET", "then", 1, "PXAT", 4_000_000_000_123)

    assert keys_of(saved(redis7)) == {(0, b"never"): -1, (0, b"then"): 4_000_000_000_123}


@pytest.mark.parametrize("size", [1, 13, 4096, 100_003, 1 << 30])
def test_it_does_not_matter_where_an_rdb_is_cut_into_chunks(full: Saved, size: int) -> None:
    rdb = full[0] if size > 1000 else small_rdb(2000)
    out = bytearray()

    rewrite(chunks_of(rdb, size), out.extend, ttl=keep_ttl)

    assert keys_of(bytes(out)) == keys_of(rdb)


def test_a_copy_of_everything_is_the_same_to_redis(full: Saved, make_redis: MakeRedis) -> None:
    """Every type in every encoding: small and large, packed, streams with groups, functions."""
    rdb, digest, version = full
    server = make_redis(version)

    load(server, changed(rdb, keep_ttl))

    assert server.digest() == digest


def test_what_was_split_and_merged_again_is_the_same_to_redis(
    full: Saved, make_redis: MakeRedis
) -> None:
    rdb, digest, version = full
    parts = [bytearray() for _ in range(5)]
    merged = bytearray()

    split = split_by_slot(
        chunks_of(rdb, 65536), [part.extend for part in parts], shares=even_slots(5)
    )
    joined = merge([[part] for part in parts], merged.extend)

    assert split.keys_dropped == joined.keys_dropped == 0
    assert joined.all_verified
    server = make_redis(version)
    load(server, bytes(merged))
    assert server.digest() == digest


def test_each_key_goes_where_its_slot_belongs(full: Saved) -> None:
    shares = [[SlotRange(0, 99), SlotRange(200, SLOTS - 1)], [SlotRange(100, 199)]]
    parts = [bytearray(), bytearray()]

    split_by_slot([full[0]], [part.extend for part in parts], shares=shares)

    owners = slot_owners(shares)
    for number, part in enumerate(parts):
        assert {owners[key_slot(key)] for _, key in keys_of(bytes(part))} <= {number}
    assert sum(len(keys_of(bytes(part))) for part in parts) == len(keys_of(full[0]))


def test_redis_itself_finds_nothing_wrong_with_what_was_split(full: Saved, tmp_path: Path) -> None:
    """PITFALLS 83: a short or empty RDB is found before anyone starts on it."""
    binaries = look(redis_program(full[2]).parent)
    assert binaries is not None
    parts = [bytearray() for _ in range(3)]

    split_by_slot([full[0]], [part.extend for part in parts], shares=even_slots(3))

    for number, part in enumerate(parts):
        path = tmp_path / f"{number}.rdb"
        path.write_bytes(part)
        assert "RDB looks OK" in check_rdb(path, Checking(binaries=binaries, scratch=tmp_path))


def test_every_shard_gets_the_functions_and_a_merge_has_them_once(redis7: RedisServer) -> None:
    with redis7.client() as client:
        client.flushall()
        client.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
        client.set("a", 1)
    parts = [bytearray(), bytearray()]
    merged = bytearray()

    split_by_slot([saved(redis7)], [part.extend for part in parts], shares=even_slots(2))
    merge([[part] for part in parts], merged.extend)

    for rdb in (*parts, merged):
        libraries = [item.library for item in RdbWalker([rdb]) if isinstance(item, Function)]
        assert libraries == ["lib"]


def test_a_copy_does_not_claim_to_be_the_server_it_came_from(redis7: RedisServer) -> None:
    """With replid and offset in it, a copy could join production as a replica that is up to date."""
    archive = Archive()
    archive.take(redis7)
    rdb = bytes(archive.rdb)

    copy = changed(rdb, keep_ttl)

    assert b"repl-id" in rdb
    assert b"repl-id" not in copy


def test_a_snapshot_is_split_while_it_arrives(redis7: RedisServer) -> None:
    with redis7.client() as client:
        client.flushall()
        fill(client)
        count = client.dbsize()
    parts = [bytearray(), bytearray()]

    with join(redis7, rdb_only=True) as link:
        done = split_by_slot(
            snapshot_parts(link), [part.extend for part in parts], shares=even_slots(2)
        )

    assert done.keys_read == count
    assert done.all_verified


def test_expiry_times_are_kept_shifted_or_taken_away(redis7: RedisServer) -> None:
    with redis7.client() as client:
        client.flushall()
        client.set("never", 1)
        client.execute_command("SET", "then", 1, "PXAT", 4_000_000_000_000)
        client.hset("large", mapping={f"f{n}": "x" * 500 for n in range(4000)})
        client.pexpireat("large", 4_000_000_000_000)
    rdb = saved(redis7)

    shifted = keys_of(changed(rdb, shift_ttl(timedelta(seconds=5))))
    persisted = keys_of(changed(rdb, persist))
    left = keys_of(changed(rdb, drop_expired(datetime.fromtimestamp(4_000_000_000, UTC))))

    assert shifted == {
        (0, b"never"): -1,
        (0, b"then"): 4_000_000_005_000,
        (0, b"large"): 4_000_000_005_000,
    }
    assert set(persisted.values()) == {-1}
    assert left == {(0, b"never"): -1}


HASHES = ("packed", "table", "huge")


def field_times(server: RedisServer, name: str) -> list[int]:
    """When the fields f0, f1 and f2 of a hash expire; -1 never, -2 for a field that is not there."""
    with server.client() as client:
        command = ("HPEXPIRETIME", f"fields:{name}", "FIELDS", 3, "f0", "f1", "f2")
        return list(client.execute_command(*command))


@pytest.mark.parametrize(
    ("rule", "times"),
    [
        (keep_ttl, [4_000_000_000_000, 4_000_000_000_001, -1]),
        (shift_ttl(timedelta(seconds=5)), [4_000_000_005_000, 4_000_000_005_001, -1]),
        (persist, [-1, -1, -1]),
        (
            drop_expired(datetime.fromtimestamp(1, UTC), shift_ttl(timedelta(seconds=5))),
            [4_000_000_005_000, 4_000_000_005_001, -1],
        ),
    ],
)
def test_times_of_fields_are_kept_shifted_or_taken_away(
    redis74: RedisServer, make_redis: MakeRedis, rule: TtlRule, times: list[int]
) -> None:
    """In packed hashes, in tables, and in hashes that are too large to be held; values stay."""
    with redis74.client() as client:
        client.flushall()
        fill_expiring_fields(client)
        keys = [f"fields:{name}" for name in (*HASHES, "numbers")]
        expected = {key: client.hgetall(key) for key in keys}

    copy = load(make_redis("7.4"), changed(saved(redis74), rule))

    assert [field_times(copy, name) for name in HASHES] == [times] * 3
    with copy.client() as client:
        assert {key: client.hgetall(key) for key in keys} == expected


def test_fields_that_were_over_at_the_moment_stay_gone(
    redis74: RedisServer, make_redis: MakeRedis
) -> None:
    """One field has expired by the moment restored to, and the server had not removed it yet."""
    now_ms = round(datetime.now(UTC).timestamp() * 1000)
    with redis74.client() as client:
        client.flushall()
        client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        fill_expiring_fields(client)
        for name in HASHES:
            client.execute_command("HPEXPIREAT", f"fields:{name}", now_ms + 800, "FIELDS", 1, "f0")
        wait_for(lambda: time.time() * 1000 > now_ms + 800, what="the end of a field's time")
    rdb = saved(redis74)
    assert rdb.count(b"f0") == 3, "the server has removed them itself"
    with redis74.client() as client:
        client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")
    moment = datetime.fromtimestamp(now_ms / 1000 + 60, UTC)

    copy = load(make_redis("7.4"), changed(rdb, drop_expired(moment, persist)))

    assert [field_times(copy, name) for name in HASHES] == [[-2, -1, -1]] * 3


def test_idle_times_and_frequencies_are_carried_along(make_redis: MakeRedis) -> None:
    server = make_redis(settings={"maxmemory": "1gb", "maxmemory-policy": "allkeys-lfu"})
    with server.client() as client:
        client.set("a", 1, px=FAR_MS)
        for _ in range(200):
            client.get("a")
        before = client.execute_command("OBJECT", "FREQ", "a")

    load(server, changed(saved(server), shift_ttl(timedelta(hours=1))))

    with server.client() as client:
        assert client.execute_command("OBJECT", "FREQ", "a") >= before - 1 > 0
        assert client.pttl("a") > FAR_MS


def test_databases_beyond_the_first_are_refused_for_a_cluster(redis7: RedisServer) -> None:
    with redis7.client() as client:
        client.flushall()
        fill_databases(client, 3)

    with pytest.raises(NotRecoverable, match="database 1"):
        split_by_slot([saved(redis7)], [bytearray().extend] * 2, shares=even_slots(2))


def test_an_rdb_that_is_cut_off_anywhere_is_refused() -> None:
    """PITFALLS 83: a server that died while it wrote leaves a short file."""
    rdb = small_rdb(50)
    for size in range(len(rdb)):
        with pytest.raises(RdbDamaged):
            keys_of(rdb[:size])


def test_a_changed_byte_is_noticed_at_the_end() -> None:
    rdb = small_rdb(50)
    chance = random.Random(5)
    for _ in range(50):
        broken = bytearray(rdb)
        broken[chance.randrange(9, len(rdb))] ^= 1 << chance.randrange(8)
        with pytest.raises((RdbDamaged, UnknownModule)):
            keys_of(bytes(broken))


def test_what_follows_an_rdb_is_noticed() -> None:
    """`redis-cli --rdb -` leaves the 40 bytes of its end mark there."""
    with pytest.raises(RdbDamaged, match="40 bytes"):
        keys_of(small_rdb(5) + b"x" * 40)


def test_an_rdb_without_a_checksum_is_known_as_one() -> None:
    walker = RdbWalker([small_rdb(5)[:-8] + bytes(8)])

    list(walker)

    assert not walker.is_verified


def test_what_only_a_module_can_read_is_refused_by_name() -> None:
    number = 0
    for letter in "graphdata":
        number = number << 6 | MODULE_LETTERS.index(letter)
    body = b"\x07\x01k\x81" + (number << 10 | 3).to_bytes(8, "big") + b"\x02\x05\x05\x01x\x00"
    rdb = framed(body)

    with pytest.raises(UnknownModule, match="graphdata"):
        keys_of(rdb)

    walker = RdbWalker([rdb], modules=frozenset({"graphdata"}))
    batches = [item for item in walker if isinstance(item, Batch)]
    assert [len(batch.entries) for batch in batches] == [1]


def test_memory_does_not_grow_with_a_value_of_100_mb() -> None:
    size = 100 << 20
    sizes: list[int] = []
    tracemalloc.start()

    done = rewrite(value_of(size), lambda piece: sizes.append(len(piece)), ttl=keep_ttl)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.written[0].size_bytes == sum(sizes) > size
    assert peak < 12 << 20


def test_slots_are_those_that_redis_computes(redis_cluster: ClusterGroup) -> None:
    keys = [b"", b"a", b"{a}b", b"{}a", b"a{b", b"x{y}{z}", b"}{a}", b"\xff\x00{\xfe}", b"{{a}}"]
    with redis_cluster.nodes[0].client() as client:
        client.response_callbacks.clear()
        expected = [client.execute_command("CLUSTER KEYSLOT", key) for key in keys]

    assert [key_slot(key) for key in keys] == expected


@pytest.mark.parametrize("masters", [1, 2, 3, 5, 7, 1000])
def test_slots_are_dealt_out_evenly_and_completely(masters: int) -> None:
    shares = even_slots(masters)

    sizes = [sum(share.count for share in shares_of) for shares_of in shares]
    assert len(slot_owners(shares)) == SLOTS
    assert max(sizes) - min(sizes) <= 1


def test_a_slot_that_nobody_or_two_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody"):
        slot_owners([[SlotRange(0, 5)]])
    with pytest.raises(ValueError, match="twice"):
        slot_owners([[SlotRange(0, SLOTS - 1)], [SlotRange(7, 7)]])


def test_a_heartbeat_key_leads_to_its_shard() -> None:
    for share in even_slots(100):
        slot = key_slot(key_for_slots("drtool:heartbeat", share).encode())
        assert share[0].first <= slot <= share[0].last


def test_slots_are_told_as_the_fewest_ranges() -> None:
    assert ranges_of([0, 1, 2, 7, 9, 10]) == (SlotRange(0, 2), SlotRange(7, 7), SlotRange(9, 10))


def framed(body: bytes) -> bytes:
    """An RDB of version 10 around `body`."""
    rdb = b"REDIS0010" + bytes((codes.SELECT, 0)) + body + bytes((codes.END,))
    return rdb + crc64(rdb).to_bytes(8, "little")


def small_rdb(keys: int) -> bytes:
    """An RDB of short strings, every third with an expiry time."""
    body = bytearray()
    for number in range(keys):
        if number % 3 == 0:
            body += bytes((codes.EXPIRE_MS,)) + (4_000_000_000_000 + number).to_bytes(8, "little")
        body += (
            b"\0"
            + codes.write_string(b"key:%d" % number)
            + codes.write_string(b"v" * (number % 90))
        )
    return framed(bytes(body))


def value_of(size: int) -> Iterator[bytes]:
    """An RDB with one string of `size` bytes, a piece at a time."""
    head = b"REDIS0010\xfe\0\0\x05large" + codes.write_length(size)
    checksum = crc64(head)
    yield head
    piece = random.Random(3).randbytes(1 << 20)
    for _ in range(size >> 20):
        checksum = crc64(piece, checksum)
        yield piece
    end = bytes((codes.END,))
    yield end + crc64(end, checksum).to_bytes(8, "little")


def test_a_file_is_read_a_piece_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "dump.rdb"
    path.write_bytes(small_rdb(100_000))

    assert len([1 for item in RdbWalker(file_parts(path)) if isinstance(item, Batch)]) > 3
