"""When a gap is believed: only after its shard was asked again and again."""

from __future__ import annotations

import threading

import pytest

from drtool.archiving.patience import Patience
from drtool.archiving.redis_attaching import Attacher
from drtool.archiving.redis_clock import ServerClock
from drtool.archiving.redis_cluster import ShardIdentity
from drtool.archiving.redis_joining import Backlog
from drtool.errors import SourceUnavailable
from drtool.model.progress import silent
from drtool.repository.stream_inventory import StreamInventory
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.psync import Position
from drtool.sources.redis.shape import RedisNode, Role, Shard
from tests.schedule.rig import SetClock

A = "a" * 40
SHARD = Shard(
    name="main",
    master=RedisNode(address=NodeAddress("10.0.0.1", 1), role=Role.MASTER, trouble="is away"),
    replicas=(RedisNode(address=NodeAddress("10.0.0.2", 1), role=Role.REPLICA),),
)


def attacher(clock: SetClock) -> Attacher:
    patience = Patience(stop=threading.Event(), clock=clock, emit=silent)
    return Attacher(
        ShardIdentity(name="main"),
        Login(),
        patience,
        look=lambda: StreamInventory(source="cache", logs={}),
        snapshots=(),
        server_clock=ServerClock(clock),
    )


def test_a_gap_is_believed_once_a_shard_was_asked_long_enough() -> None:
    clock = SetClock()
    one = attacher(clock)
    for _ in range(3):
        with pytest.raises(SourceUnavailable, match="has what comes next"):
            one._believe(SHARD, is_whole=False)
        clock.move(seconds=5)
    one._believe(SHARD, is_whole=False)


def test_time_in_which_nobody_answered_does_not_count() -> None:
    """Servers of a group that was down come back one by one: the first need not be the one that knows."""
    clock = SetClock()
    one = attacher(clock)
    with pytest.raises(SourceUnavailable):
        one._believe(SHARD, is_whole=False)
    clock.move(seconds=60)
    with pytest.raises(SourceUnavailable):
        one._believe(SHARD, is_whole=False)


def test_a_backlog_has_room_while_three_quarters_of_it_are_free() -> None:
    backlog = Backlog(
        place="it", replid=A, offset=10_000, first=9_000, histlen=1_001, size_bytes=4_000
    )
    assert backlog.has_room(Position(A, 9_000))
    assert not Backlog(
        place="it", replid=A, offset=10_000, first=8_000, histlen=2_001, size_bytes=4_000
    ).has_room(Position(A, 8_500))
    assert not backlog.has_room(Position(A, 8_000))  # it has it no longer
