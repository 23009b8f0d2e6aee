"""Being a replica in tests: what comes over a link, gathered until something holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.psync import (
    FullResync,
    LinkLimits,
    Position,
    RdbChunk,
    RdbEnd,
    ReplicaLink,
    StreamBytes,
    open_link,
)
from drtool.sources.redis.rdb import Batch, LargeEntry, RdbWalker
from drtool.system.clock import SystemClock
from tests.servers.redis import RedisServer

CLOCK = SystemClock()
ANONYMOUS = Login()


def address_of(server: RedisServer) -> NodeAddress:
    return NodeAddress.parse(server.address)


def join(server: RedisServer, login: Login = ANONYMOUS, **more: Any) -> ReplicaLink:
    """A link to a server of the test."""
    return open_link(address_of(server), login, clock=CLOCK, **more)


@dataclass
class Archive:
    """What was received: one snapshot and the stream after it, over as many links as it took."""

    rdb: bytearray = field(default_factory=bytearray)
    stream: bytearray = field(default_factory=bytearray)
    base: Position | None = None
    position: Position | None = None
    end: RdbEnd | None = None

    def follow(self, link: ReplicaLink, until: Callable[[], bool], seconds: float = 60) -> None:
        """Receive and acknowledge until `until` holds and nothing more waits."""
        deadline = time.monotonic() + seconds
        if isinstance(link.begun, FullResync) and self.base is None:
            self.base = link.begun.position
        assert self.base is not None
        self.position = Position(link.begun.position.replid, link.offset)
        while True:
            item = link.receive(0.05)
            if isinstance(item, RdbChunk):
                self.rdb += item.content
            elif isinstance(item, RdbEnd):
                self.end = item
            elif isinstance(item, StreamBytes):
                assert item.begin == self.base.offset + len(self.stream)
                self.stream += item.content
                link.acknowledge(item.end)
                self.position = Position(link.begun.position.replid, item.end)
            if until():
                return
            assert time.monotonic() < deadline, "what was waited for did not come"

    def take(self, server: RedisServer, **more: Any) -> None:
        """A snapshot of `server`, and the stream up to what it has written now."""
        with join(server, **more) as link:
            self.follow(link, lambda: self.end is not None)
            self.catch_up(link, server)

    def catch_up(self, link: ReplicaLink, server: RedisServer) -> None:
        """Receive all that `server` has written by now."""
        with server.client() as client:
            goal = client.info("replication")["master_repl_offset"]
        self.follow(link, lambda: link.offset >= goal)


BRIEF = LinkLimits(connect_seconds=2, silence_seconds=1, begin_seconds=2)


def keys_of(rdb: bytes | bytearray) -> dict[tuple[int, bytes], int]:
    """Every key with its database, and when it expires."""
    found = {}
    for item in RdbWalker([rdb]):
        if isinstance(item, Batch):
            for *_, expires_ms, key in item.entries:
                found[item.database, key] = expires_ms
        elif isinstance(item, LargeEntry):
            found[item.database, item.key] = item.expires_ms
    return found
