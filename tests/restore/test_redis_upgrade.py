"""A campaign: Redis upgraded by failover in one archive, 6.2 to 7.0 to 7.4, with a snapshot of 6.2 alone.

`make soak SOAK_ARGS='-k upgrade_by_failover -s'`; DRTOOL_UPGRADE_ROUNDS says how many, each of another seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from drtool.model.target import ToLatest, ToTime
from drtool.repository.repository import Repository
from drtool.restore.redis_fetch import release_of_plan
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_plan import plan_redis_restore
from tests.archiving.redis_rig import wait_for_more, wait_held
from tests.restore.redis_rig import SOURCE, restore, servers_of, started, streamed, take_snapshot
from tests.servers.redis import MakeRedis, RedisServer, is_linked, wait_for
from tests.servers.redis_programs import bin_dir

pytestmark = [pytest.mark.redis, pytest.mark.soak]

ROUNDS = int(os.environ.get("DRTOOL_UPGRADE_ROUNDS", "3"))
# A span of 6.2 is counted from its arrival, here from an index with steps of a tenth of a second; a replica
# that took over counted it from its own.
MOST_SHIFT_MS = 700
PATH = ("6.2", "7.0", "7.4")


@dataclass(frozen=True, slots=True)
class Known:
    """What the master held at a moment at which nobody wrote."""

    moment: datetime
    version: str
    digest: str
    ends_ms: dict[bytes, int]


def write(client: redis.Redis, dice: random.Random, version: str, count: int) -> None:
    """Writes of all kinds that this version has, and that the ones before it may not."""
    run: Callable[..., object] = client.execute_command
    for _ in range(count):
        name, number = f"{dice.choice('abcdefgh')}:{dice.randrange(40)}", dice.randrange(10**6)
        words = dice.choice(commands_of(version, name, number))
        if words[0] == "MULTI":
            transaction(client, name, number)
        else:
            run(*words)


def commands_of(version: str, name: str, number: int) -> list[tuple[str | int, ...]]:
    kinds: list[tuple[str | int, ...]] = [
        ("SET", f"s:{name}", number, "EX", 90_000),
        ("SETEX", f"s:{name}", 80_000, number),
        ("SET", f"s:{name}", number),
        ("SET", f"s:{name}", number, "PX", 1),
        ("EXPIRE", f"s:{name}", 70_000),
        ("GETEX", f"s:{name}", "PX", 99_000_000),
        ("HSET", f"h:{name}", number % 5, number),
        ("RPUSH", f"l:{name}", number),
        ("LPOP", f"l:{name}"),
        ("ZADD", f"z:{name}", number, number % 7),
        ("XADD", f"x:{name}", "MAXLEN", 20, "*", "f", number),
        ("SADD", f"t:{name}", number % 9, number % 11),
        ("SPOP", f"t:{name}"),
        ("DEL", f"s:{name}", f"l:{name}"),
        ("EVAL", "return redis.call('incr', KEYS[1])", 1, f"c:{name}"),
        ("MULTI",),
    ]
    if version != "6.2":
        kinds.append(("FUNCTION", "LOAD", "REPLACE", library_of(number % 5)))
        kinds.append(("LMPOP", 1, f"l:{name}", "LEFT"))
    if version == "7.4":
        kinds.append(("HPEXPIRE", f"h:{name}", 90_000_000, "FIELDS", 1, 1))
        kinds.append(("HPERSIST", f"h:{name}", "FIELDS", 1, 1))
    return kinds


def library_of(number: int) -> str:
    return f"#!lua name=l{number}\nredis.register_function('f{number}', function() return 1 end)"


def transaction(client: redis.Redis, name: str, value: int) -> None:
    with client.pipeline(transaction=True) as pipe:
        pipe.set(f"s:{name}", value, ex=60_000)
        pipe.incr(f"c:{name}")
        pipe.execute()


def ends_of(client: redis.Redis) -> dict[bytes, int]:
    """When each key expires, in milliseconds since 1970; 6.2 tells in how long only, so all at once."""
    keys = list(client.scan_iter(count=1000))
    with client.pipeline(transaction=True) as pipe:
        pipe.time()
        for key in keys:
            pipe.pttl(key)
        now, *left = pipe.execute()
    now_ms = now[0] * 1000 + now[1] // 1000
    return {key: now_ms + one for key, one in zip(keys, left, strict=True) if one > 0}


def known_of(repository: Repository, master: RedisServer) -> Known:
    """Quiet, archived, and a ping archived behind the moment."""
    with master.client() as client:
        # What has expired is removed, and that is in the stream.
        wait_for(lambda: not has_short(client), what="the end of short keys")
        wait_held(repository, master)
        wait_for_more(repository, master)
        moment = datetime.now(UTC)
        found = Known(moment, master.version, master.digest(), ends_of(client))
    wait_for_more(repository, master)
    return found


def has_short(client: redis.Redis) -> bool:
    """Whether a key is still there that is to expire at once; looking at it removes it."""
    return any(0 <= client.pttl(key) < 10_000 for key in client.scan_iter(count=1000))


def joined(master: RedisServer, heir: RedisServer) -> None:
    """`heir` becomes a replica of `master`, in step with it."""
    heir.settings["replicaof"] = f"127.0.0.1 {master.port}"
    heir.start()
    wait_for(lambda: is_linked(heir), what="the replica's link")
    wait_for(lambda: offset_of(heir) >= offset_of(master), what="the replica to be in step")


def offset_of(server: RedisServer) -> int:
    with server.client() as client:
        told = client.info("replication")
    return int(told.get("slave_repl_offset", told["master_repl_offset"]))


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_every_known_moment_of_an_upgrade_by_failover_comes_back(
    make_redis: MakeRedis, repository: Repository, root: Path, seed: int
) -> None:
    dice = random.Random(seed)  # repeatable
    servers = [make_redis(version) for version in PATH]
    for heir in servers[1:]:
        heir.stop()
    known: list[Known] = []
    with streamed(repository, servers[0]):
        with servers[0].client() as client:
            write(client, dice, "6.2", 300)
        take_snapshot(repository, servers_of(servers[0]))
        known.append(known_of(repository, servers[0]))
    for number, master in enumerate(servers):
        following = servers[number + 1 :][:1]
        with streamed(repository, master), master.client() as client:
            # The first moment after a failover, before anything is written.
            known.append(known_of(repository, master))
            for _ in range(2):
                write(client, dice, master.version, dice.randrange(50, 400))
                known.append(known_of(repository, master))
            for heir in following:
                joined(master, heir)
                write(client, dice, master.version, dice.randrange(50, 400))
                # The last moment before one.
                known.append(known_of(repository, master))
                wait_for(lambda: offset_of(heir) >= offset_of(master), what="the replica")  # noqa: B023 - used at once
        for heir in following:
            with heir.client() as other:
                other.execute_command("REPLICAOF", "NO", "ONE")
            master.kill9()

    for number, one in enumerate(known):
        for program in {"7.4", one.version}:
            verify(repository, root / f"{number}-{program}", one, program)
    latest = plan_redis_restore(look_redis(repository, SOURCE, ToLatest()), ToLatest())
    print(
        f"seed {seed}: {len(known)} moments, snapshot of 6.2, latest needs {release_of_plan(latest)},"
        f" {latest.stream_bytes} bytes of stream"
    )


def verify(repository: Repository, into: Path, one: Known, program: str) -> None:
    """The moment comes back by that program, and the plan names the release that wrote it last."""
    target = ToTime(one.moment)
    plan = plan_redis_restore(look_redis(repository, SOURCE, target), target)
    needed = release_of_plan(plan)
    assert needed.version_text.startswith(one.version), (needed, one.version)
    outcome = restore(repository, into, target, bin_dir=bin_dir(program))
    with started(outcome) as [copy]:
        digest = copy.execute_command("DEBUG", "DIGEST").decode()  # type: ignore[no-untyped-call] # theirs
        ends = ends_of(copy)
    shifts = [abs(ends.get(key, 0) - end) for key, end in one.ends_ms.items()]
    print(
        f"  {one.version} {one.moment:%H:%M:%S.%f} by {program}: {len(one.ends_ms)} keys that expire,"
        f" off by at most {max(shifts, default=0)} ms, digest {'equal' if digest == one.digest else 'OTHER'}"
    )
    assert digest == one.digest
    assert ends.keys() == one.ends_ms.keys()
    assert max(shifts, default=0) < MOST_SHIFT_MS
