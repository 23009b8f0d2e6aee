"""Marks: a moment of the server's clock tied to an offset of a shard's history, also on an idle Redis."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.sources.redis.connection import RedisConnection, server_moment
from drtool.sources.redis.keyslot import key_for_slots
from drtool.sources.redis.psync import Position, position_of
from drtool.sources.redis.shape import Shard
from drtool.sources.redis.told import said

KEY = "drtool:heartbeat"


@dataclass(frozen=True, slots=True)
class RedisMark:
    """Every write that the server acknowledged at or before `moment` lies before `position`.

    So once the history is whole up to there, a recovery to `moment` can always be reached.
    """

    moment: datetime
    position: Position


def heartbeat_key(shard: Shard, name: str = KEY) -> str:
    """The key that is written in `shard`: `name`, with a hash tag that leads there in a cluster."""
    return key_for_slots(name, shard.slots) if shard.slots else name


def beat(master: RedisConnection, key: str) -> RedisMark:
    """Write the moment to `key` on a shard's master, in database 0, and return the mark it makes.

    The order makes the mark true: the moment is the server's own clock, read before the write, so
    every write acknowledged by then lies before ours, and ours before the offset that is read last.
    The key's value is the moment in ISO 8601. The connection must be in database 0. SourceUnsuitable
    on a replica, SourceUnavailable if the server fails.
    """
    moment = server_moment(master)
    try:
        master.ask("SET", key, moment.isoformat())
    except SourceUnavailable as error:
        if "READONLY" in error.message or "MOVED" in error.message:
            raise SourceUnsuitable(
                f"{master.place} is no master of the key {key}, and marks are made on masters",
                hint="Ask for the servers again: there was a failover, or slots were moved.",
            ) from error
        raise
    return RedisMark(moment, _position(master))


def probe(master: RedisConnection) -> RedisMark:
    """A mark for which nothing is written: the moment, and the offset that is read after it.

    What was acknowledged by the moment lies before the offset; but nothing in the stream says so.
    """
    moment = server_moment(master)
    return RedisMark(moment, _position(master))


def _position(master: RedisConnection) -> Position:
    told = master.info("replication")
    if told.get("role") != "master":
        raise SourceUnavailable(f"{master.place} became a replica meanwhile")
    return position_of(said(told, "master_replid"), said(told, "master_repl_offset"))
