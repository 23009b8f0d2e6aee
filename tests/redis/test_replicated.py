"""What a stream may hold: all that any release replicates, and nothing else, read as strictly as by Redis."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drtool.errors import IntegrityError
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.commands import StreamDamaged
from drtool.sources.redis.connection import connect
from drtool.sources.redis.replicated import NotReplicated, ReplicatedOnly
from tests.servers.redis import RedisServer

SERVERS = ["redis62", "redis7", "redis74", "valkey"]
SET = ("SET", "key", "value")
# Flagged as what may be replicated; what they did is, and not they.
AS_EFFECTS = {"MIGRATE", "FCALL"}


def sent(*words: str | bytes) -> bytes:
    """A command as it stands in a stream."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
    return b"*%d\r\n" % len(encoded) + b"".join(parts)


def passed(stream: bytes, *, step: int = 1 << 20, **more: Any) -> bytes:
    """What is replayed of a stream that comes in parts of `step` bytes."""
    reader = ReplicatedOnly(0, **more)
    parts = [stream[begin : begin + step] for begin in range(0, len(stream), step)]
    return b"".join(piece for part in parts for piece in reader.changed(part))


@pytest.fixture
def server(request: pytest.FixtureRequest) -> RedisServer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, RedisServer)
    return found


def commands_of(server: RedisServer) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """All of a server: the words that name each, and its flags."""
    with connect(NodeAddress.parse(server.address), Login()) as connection:
        told: Any = connection.ask("COMMAND")
    for one in told:
        subcommands = one[9] if len(one) > 9 else []
        for sub in subcommands or [one]:
            words = sub[0].decode().upper().split("|")
            yield tuple(words), {flag.decode() for flag in sub[2]}


@pytest.mark.redis
@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_all_that_a_release_replicates_is_replayed_and_nothing_else(server: RedisServer) -> None:
    allowed, refused = [], []
    for words, flags in commands_of(server):
        command = sent(*words, *([] if len(words) > 1 else ["LOAD"]), "1")
        try:
            passed(command, scripts_until=1)
            allowed.append(words)
        except NotReplicated:
            refused.append(words)
            may = not flags.isdisjoint({"write", "may_replicate"})
            assert not may or words[0] in AS_EFFECTS, f"{words} may be in a stream"

    assert len(allowed) > 100
    acting = {"MIGRATE", "REPLICAOF", "MODULE", "CONFIG", "ACL", "DEBUG", "SHUTDOWN", "FAILOVER"}
    assert acting <= {words[0] for words in refused}
    reading = {"GET", "KEYS", "SUBSCRIBE", "PSYNC", "SYNC", "MONITOR", "SLAVEOF", "BGSAVE", "SAVE"}
    assert reading <= {words[0] for words in refused}


def test_a_script_is_replayed_where_a_master_before_7_wrote_it() -> None:
    stream = sent("EVAL", "return 1", "0")

    assert passed(stream, scripts_until=len(stream)) == stream
    with pytest.raises(NotReplicated):
        passed(sent(*SET) + stream, scripts_until=len(sent(*SET)))


def test_names_of_a_module_are_asked_for_once_and_only_where_one_is_met() -> None:
    asked: list[int] = []

    def of_modules() -> frozenset[bytes]:
        asked.append(1)
        return frozenset({b"BF.ADD"})

    assert passed(sent(*SET), of_modules=of_modules)
    assert asked == []
    assert passed(sent("bf.add", "a", "b") * 2, of_modules=of_modules)
    assert asked == [1]
    with pytest.raises(NotReplicated) as refused:
        passed(sent("BF.OTHER", "a"), of_modules=of_modules)
    assert not refused.value.is_of_redis


def test_moves_of_slots_are_left_out_wherever_they_are_cut() -> None:
    moves = sent("CLUSTER", "SETSLOT", "7", "NODE", "a" * 40)
    stream = sent(*SET) + moves + sent("DEL", "x") + moves + sent("MULTI")

    for step in range(1, 60):
        assert passed(stream, step=step) == sent(*SET) + sent("DEL", "x") + sent("MULTI")


def mixed(dice: random.Random, size: int) -> bytes:
    """Commands of all shapes, values that look like commands included."""
    made = bytearray()
    while len(made) < size:
        value = sent(*SET) * dice.randrange(4) + dice.randbytes(dice.choice((0, 3, 40, 700, 3000)))
        key = b"key:%d" % dice.randrange(10**6)
        made += dice.choice(
            [
                sent("SET", key, value),
                sent("set", key, value, "PXAT", "1"),
                sent("PING"),
                sent("MULTI") + sent("LPUSH", key, value) + sent("EXEC"),
                sent("SADD", key, *map(str, range(dice.randrange(1, 30)))),
                sent("REPLCONF", "GETACK", "*"),
            ]
        )
    return bytes(made)


@pytest.mark.parametrize("seed", range(2))
def test_what_is_read_fast_is_read_as_what_is_read_slowly(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    stream = mixed(dice, 300_000)
    monkeypatch.setattr("drtool.sources.redis.replicated._SLOW_BYTES", dice.randrange(2000))

    for _ in range(5):
        step = dice.randrange(1, 100_000)
        assert passed(stream, step=step) == stream, step
        with pytest.raises(NotReplicated) as refused:
            passed(stream + sent("MIGRATE", "h", "1", "k", "0", "9") + stream, step=step)
        assert refused.value.offset == len(stream)
        assert refused.value.is_of_redis


HEAD = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n"
MIGRATE = sent("MIGRATE", "127.0.0.1", "1", "k", "0", "9")


@pytest.mark.parametrize(
    "stream",
    [
        HEAD + b"$1_0\r\nv\r\n" + MIGRATE,
        HEAD + b"$ 1\r\nv\r\n" + MIGRATE,
        HEAD + b"$+1\r\nv\r\n" + MIGRATE,
        HEAD + b"$001\r\nv\r\n" + MIGRATE,
        HEAD + b"$1x\r\nv\r\n" + MIGRATE,
        HEAD + b"$-1\r\n" + MIGRATE,
        HEAD + b"$-12\r\n" + MIGRATE,
        HEAD + b"$1\r\nvv\r\n" + MIGRATE,
        HEAD + b"#1\r\nv\r\n" + MIGRATE,
        b"*1\r\n$-12\r\n",
        b"*0\r\n" + MIGRATE,
        b"*-1\r\n" + MIGRATE,
        b"*1_1\r\n$4\r\nPING\r\n" + MIGRATE,
        b"*1\n$4\nPING\r\n" + MIGRATE,
        b"#TS:1\r\n" + MIGRATE,
        b"PING\r\n" + MIGRATE,
        b"*1\r\n$4\r\nPINGxx" + MIGRATE,
        b"*999999999999999999999999999999999\r\n",
        sent("FUNCTION", "x" * 5000, "y"),
        b"*9\r\n$7\r\nCLUSTER\r\n" + b"$1\r\nx\r\n" * 8,
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(stream: bytes) -> None:
    for step in (1, 7, 1 << 20):
        with pytest.raises(IntegrityError) as refused:
            passed(sent(*SET) + stream + b" " * 64, step=step)
        assert isinstance(refused.value, (StreamDamaged, NotReplicated))


@pytest.mark.parametrize("cut", [lambda: MIGRATE[:14], lambda: b"*1\n$7\n", lambda: b"*5"])
def test_half_a_command_whose_name_was_not_read_is_not_passed_on(cut: Callable[[], bytes]) -> None:
    half = cut()
    try:
        found = passed(sent(*SET) + half)
    except StreamDamaged:
        return

    assert found == sent(*SET)
