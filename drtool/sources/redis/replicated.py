"""What a master replicates, and nothing else is replayed.

A server that loads an append-only file carries out whatever stands there: MIGRATE sends keys to any address,
REPLICAOF joins any server, MODULE LOAD runs a library, whatever `enable-module-command` says. No master
replicates these; who stands between it and the receiver, or writes the repository, may put them there.
Source: the flags `write` and `may_replicate` of COMMAND, and propagateNow in src/server.c, of Redis 6.2 to
7.4 and Valkey 8.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from functools import cache

from drtool.errors import IntegrityError
from drtool.sources.redis.commands import VALUE_HEAD, StreamEditor
from drtool.sources.redis.crc64 import Buffer

# All that write or are passed on as they are, in any release up to 7.4 and Valkey 8.1; those of later
# releases do no harm. MIGRATE writes, and is replicated as the DEL of what it sent away.
WRITES = frozenset(
    (
        "APPEND", "BITFIELD", "BITOP", "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP",
        "BZPOPMAX", "BZPOPMIN", "COPY", "DECR", "DECRBY", "DEL", "DELEX", "DELIFEQ", "EXPIRE", "EXPIREAT",
        "FLUSHALL", "FLUSHDB", "GEOADD", "GEORADIUS", "GEORADIUSBYMEMBER", "GEOSEARCHSTORE", "GETDEL",
        "GETEX", "GETSET", "HDEL", "HEXPIRE", "HEXPIREAT", "HGETDEL", "HGETEX", "HINCRBY", "HINCRBYFLOAT",
        "HMSET", "HPERSIST", "HPEXPIRE", "HPEXPIREAT", "HSET", "HSETEX", "HSETNX", "INCR", "INCRBY",
        "INCRBYFLOAT", "LINSERT", "LMOVE", "LMPOP", "LPOP", "LPUSH", "LPUSHX", "LREM", "LSET", "LTRIM",
        "MOVE", "MSET", "MSETEX", "MSETNX", "PERSIST", "PEXPIRE", "PEXPIREAT", "PFADD", "PFCOUNT",
        "PFDEBUG", "PFMERGE", "PSETEX", "PUBLISH", "RENAME", "RENAMENX", "RESTORE", "RESTORE-ASKING",
        "RPOP", "RPOPLPUSH", "RPUSH", "RPUSHX", "SADD", "SDIFFSTORE", "SET", "SETBIT", "SETEX", "SETNX",
        "SETRANGE", "SINTERSTORE", "SMOVE", "SORT", "SPOP", "SPUBLISH", "SREM", "SUNIONSTORE", "SWAPDB",
        "UNLINK", "XACK", "XACKDEL", "XADD", "XAUTOCLAIM", "XCLAIM", "XDEL", "XDELEX", "XGROUP",
        "XREADGROUP", "XSETID", "XTRIM", "ZADD", "ZDIFFSTORE", "ZINCRBY", "ZINTERSTORE", "ZMPOP",
        "ZPOPMAX", "ZPOPMIN", "ZRANGESTORE", "ZREM", "ZREMRANGEBYLEX", "ZREMRANGEBYRANK",
        "ZREMRANGEBYSCORE", "ZUNIONSTORE",
    )
)  # fmt: skip
# What frames them. A replica passes its master's pings on.
FRAMES = frozenset({"PING", "SELECT", "MULTI", "EXEC", "DISCARD"})
# Words that come second; any other is not replicated. FUNCTION LOAD and SCRIPT LOAD define and do not run.
_SECOND = {
    b"FUNCTION": frozenset({b"LOAD", b"DELETE", b"FLUSH", b"RESTORE"}),
    b"SCRIPT": frozenset({b"LOAD", b"FLUSH"}),
    b"REPLCONF": frozenset({b"GETACK"}),
    b"CLUSTER": frozenset({b"SETSLOT"}),
}
# Redis 6.2 replicates scripts in place of what they did where `lua-replicate-commands` is off.
SCRIPTS = frozenset({"EVAL", "EVALSHA"})
# Of Redis' own, what acts beyond the keys. That a name is not here allows nothing.
_ACTING = frozenset(
    (
        "ACL", "AUTH", "BACKUP", "BGREWRITEAOF", "BGSAVE", "CLIENT", "CLUSTER", "CONFIG", "DEBUG",
        "FAILOVER", "FCALL", "FUNCTION", "HELLO", "LATENCY", "MEMORY", "MIGRATE", "MODULE", "MONITOR",
        "PFSELFTEST", "PSYNC", "REPLCONF", "REPLICAOF", "RESET", "SAVE", "SCRIPT", "SENTINEL", "SHUTDOWN",
        "SLAVEOF", "SLOWLOG", "SUBSCRIBE", "SYNC", "WAIT", "WAITAOF",
    )
)  # fmt: skip
_PLAIN = frozenset(name.encode() for name in WRITES | FRAMES)
_SCRIPTS = frozenset(name.encode() for name in SCRIPTS)
# SETSLOT and its words; more is not waited for.
_MOST_SLOT_WORDS = 8
_MOST_HELD_BYTES = 1024
# Behind so much of a stream the expression that reads commands fast is worth its making.
_SLOW_BYTES = 1 << 20
_FAST_WORDS = 5
_FAST_VALUE_BYTES = 999
_FAST_COMMANDS = 64


class NotReplicated(IntegrityError):
    """The stream holds a command that no master replicates, at `offset`.

    `is_of_redis` says that it is one of Redis' own which acts beyond the keys, so that it is no module's
    and nobody renamed it.
    """

    def __init__(self, name: str, offset: int, *, is_of_redis: bool) -> None:
        super().__init__(f"the stream holds {name} at offset {offset}, which no master replicates")
        self.name = name
        self.offset = offset
        self.is_of_redis = is_of_redis


class ReplicatedOnly(StreamEditor):
    """Passes on what a master replicates; NotReplicated before a byte of anything else is passed.

    What is half a command at the end is not: Redis would leave it out as well, if it read it as we do.
    Up to offset `scripts_until` scripts may be replicated; `scripts` counts those that were met. `of_modules`
    is asked, once, for the names of commands of modules when one is met that is not Redis' own. What moves
    the slots of a Valkey cluster (CLUSTER SETSLOT) is left out: the copy's nodes are its own.
    """

    def __init__(
        self,
        begin: int,
        *,
        scripts_until: int = 0,
        of_modules: Callable[[], Container[bytes]] = frozenset,
    ) -> None:
        super().__init__(begin)
        self.scripts = 0
        self._scripts_until = scripts_until
        self._of_modules = cache(of_modules)
        self._read_bytes = 0

    def changed(self, part: Buffer) -> list[bytes]:
        self._read_bytes += len(part)
        return super().changed(part)

    def _read_name(self, window: bytes, pos: int) -> int:
        if self._read_bytes > _SLOW_BYTES:
            known = _fast().match(window, pos)
            if known is not None:
                return known.end()
        return super()._read_name(window, pos)

    def _alive(self, begin: int, end: int) -> int:
        # Redis ends at an empty line of an append-only file.
        self.edits.append((begin, end, b""))
        return end

    def _is_held(self, name: bytes, window: bytes, begin: int, *, count: int) -> bool:
        if name in _PLAIN:
            return True
        if name not in _SECOND:
            self._look_at(name, begin)
            return True
        if count < 2 or (name == b"CLUSTER" and count > _MOST_SLOT_WORDS):
            raise self._refusal(name, begin)
        words, end = _words(window, begin, count if name == b"CLUSTER" else 2)
        if not words:
            self._awaited = _MOST_HELD_BYTES
            return False
        if words[1].upper() not in _SECOND[name]:
            raise self._refusal(b" ".join(words[:2]), begin)
        if name == b"CLUSTER":
            self.edits.append((begin, end, b""))
        return True

    def _look_at(self, name: bytes, begin: int) -> None:
        if name in _SCRIPTS and self._offset + begin < self._scripts_until:
            self.scripts += 1
        elif name.decode(errors="replace") in _ACTING or name not in self._of_modules():
            raise self._refusal(name, begin)

    def _refusal(self, name: bytes, begin: int) -> NotReplicated:
        shown = name[:64].decode("ascii", "backslashreplace")
        is_of_redis = shown.split(" ")[0] in _ACTING | SCRIPTS
        return NotReplicated(shown, self._offset + begin, is_of_redis=is_of_redis)


def _words(window: bytes, begin: int, count: int) -> tuple[list[bytes], int]:
    """The first `count` words of the command at `begin`, and where they end; none: not here yet."""
    words: list[bytes] = []
    pos = window.index(b"\n", begin) + 1
    for _ in range(count):
        head = VALUE_HEAD.match(window, pos)
        if head is None:
            return [], pos
        pos = head.end() + int(head[1]) + 2
        if pos > len(window):
            return [], pos
        words.append(window[head.end() : pos - 2])
    return words, pos


@cache
def _fast() -> re.Pattern[bytes]:
    """Some commands in a row that need no second look, of few and short words: the engine of `re` reads
    them five times as fast as a loop does. What it does not match is read by the loop.
    """
    value = rb"\$" + _lengths("") + rb"\r\n"
    sizes: dict[int, list[bytes]] = {}
    for name in sorted(_PLAIN):
        sizes.setdefault(len(name), []).append(re.escape(name))
    names = b"|".join(b"%d\r\n(?:%s)" % (size, b"|".join(of)) for size, of in sorted(sizes.items()))
    name = rb"\$(?i:" + names + rb")\r\n"
    counts = b"|".join(
        b"%d\r\n%s(?:%s){%d}" % (count, name, value, count - 1)
        for count in range(1, _FAST_WORDS + 1)
    )
    return re.compile(rb"(?:\*(?:" + counts + b")){1,%d}+" % _FAST_COMMANDS)


def _lengths(begun: str) -> bytes:
    """An expression for a length whose first digits are `begun`, a line's end, and so many bytes."""
    ways = []
    if begun:
        ways.append(rb"\r\n(?s:.){%d}" % int(begun))
    if begun != "0":
        longer = [begun + digit for digit in "0123456789"]
        ways += [
            one[-1:].encode() + _lengths(one) for one in longer if int(one) <= _FAST_VALUE_BYTES
        ]
    return b"(?:" + b"|".join(ways) + b")" if len(ways) > 1 else ways[0]
