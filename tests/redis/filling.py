"""Content for test servers: every type in every encoding, odd keys, many databases, every expiry."""

from __future__ import annotations

import random
import time
from typing import Any

LIBRARY = "#!lua name=lib\nredis.register_function('f', function(keys, args) return 1 end)"
FAR_MS = 3_600_000


def fill(client: Any, *, seed: int = 1, has_functions: bool = True) -> None:
    """Every structure in database 0, in its small and its large encoding."""
    chance = random.Random(seed)
    with client.pipeline(transaction=False) as pipe:
        _strings(pipe, chance)
        _collections(pipe, chance)
        _streams(pipe)
        _expiring(pipe)
        pipe.execute()
    if has_functions:
        client.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)


def fill_expiring_fields(client: Any, *, moment_ms: int = 4_000_000_000_000) -> None:
    """Hashes whose fields expire (Redis 7.4): packed, as a table, and too large to be held.

    In each, `f0` expires at `moment_ms`, `f1` a millisecond later, and `f2` never.
    """
    for name, size, wide in (("packed", 3, 10), ("table", 1000, 10), ("huge", 3000, 900)):
        key = f"fields:{name}"
        client.hset(key, mapping={f"f{number}": "v" * wide for number in range(size)})
        for number in (0, 1):
            client.execute_command("HPEXPIREAT", key, moment_ms + number, "FIELDS", 1, f"f{number}")
    numbers = (0, 100, -1, 4095, -4096, 32_000, -8_000_000, 2**31 - 1, 2**40)
    client.hset("fields:numbers", mapping={n: n for n in numbers} | {"wide": "w" * 60})
    client.execute_command("HPEXPIREAT", "fields:numbers", moment_ms, "FIELDS", 1, "wide")


def fill_databases(client: Any, count: int = 16) -> None:
    """A few keys in each database; number n holds n + 1."""
    for number in range(count):
        client.execute_command("SELECT", number)
        for key in range(number + 1):
            client.set(f"db{number}:{key}", "x" * number)
    client.execute_command("SELECT", 0)


def _strings(pipe: Any, chance: random.Random) -> None:
    pipe.set("empty", "")
    pipe.set("plain", "hello")
    for number in (0, 7, -1, 127, 32_000, -70_000, 2**31 - 1, 2**40):
        pipe.set(f"number:{number}", number)
        # A key that is a number is stored as one.
        pipe.set(str(number), "by number")
    pipe.set("packed", "abc" * 4000)
    pipe.set("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "key packed")
    pipe.set("k" * 70 + "{tag}" + "k" * 20_000, "long key packed")
    pipe.set(chance.randbytes(300), "binary key")
    pipe.set(chance.randbytes(20_000), chance.randbytes(100))
    for odd in (b"", b"\0", b"\xff\xfe", b"a b\r\nc", b"{", b"{}x", b"{x}y", "żółć".encode()):
        pipe.set(b"odd:" + odd, odd)
        pipe.set(odd, b"v")
    pipe.set("large", chance.randbytes(20 << 20))
    pipe.setbit("bitmap", 70_000, 1)
    pipe.pfadd("hyperloglog", *range(500))
    pipe.pfadd("hyperloglog:sparse", 1, 2)


def _collections(pipe: Any, chance: random.Random) -> None:
    for size in (3, 5000):
        words = [f"{size}:{number}".encode() for number in range(size)]
        pipe.rpush(f"list:{size}", *words)
        pipe.sadd(f"set:{size}", *words)
        pipe.sadd(f"intset:{size}", *range(size))
        pipe.hset(f"hash:{size}", mapping={word: word * 3 for word in words})
        scores = {word: chance.random() * 1000 for word in words}
        pipe.zadd(f"zset:{size}", scores)
    pipe.zadd("zset:odd", {"inf": "inf", "-inf": "-inf", "0": 0, "whole": 17})
    pipe.rpush("list:wide", *[chance.randbytes(9000) for _ in range(5)])
    pipe.hset("hash:wide", mapping={chance.randbytes(8): chance.randbytes(200) for _ in range(30)})
    pipe.hset("hash:huge", mapping={f"f{n}": chance.randbytes(90) for n in range(30_000)})
    pipe.geoadd("geo", (13.36, 38.11, "Palermo", 15.08, 37.5, "Catania"))


def _streams(pipe: Any) -> None:
    for number in range(1, 300):
        pipe.xadd("stream", {"n": number, "word": "x" * (number % 50)}, id=f"{number}-1")
    pipe.xgroup_create("stream", "group", id="0")
    pipe.xgroup_create("stream", "idle", id="$")
    pipe.xreadgroup("group", "reader", {"stream": ">"}, count=40)
    pipe.xreadgroup("group", "other", {"stream": ">"}, count=3)
    pipe.xack("stream", "group", "1-1", "2-1")
    pipe.xdel("stream", "5-1")
    pipe.xtrim("stream", maxlen=250, approximate=False)
    pipe.xadd("stream:empty", {"a": 1}, id="1-1")
    pipe.xdel("stream:empty", "1-1")


def _expiring(pipe: Any) -> None:
    for number in range(50):
        pipe.set(f"ttl:{number}", number, px=FAR_MS + number)
    pipe.rpush("ttl:list", 1, 2, 3)
    pipe.expireat("ttl:list", int(time.time()) + 5000)


def chunks_of(content: bytes, size: int) -> list[memoryview]:
    """`content` in pieces, as a repository or a socket would hand it over."""
    view = memoryview(content)
    return [view[begin : begin + size] for begin in range(0, len(view), size)]
