"""A writer that is faster than the store: bounded memory, a recorded gap, and no link that is cut."""

from __future__ import annotations

from datetime import timedelta

import pytest

from drtool.archiving.redis_arrivals import MOST_BYTES, MOST_MOMENTS, Arrivals
from drtool.archiving.redis_pressure import BufferLimit, Pressure
from drtool.repository.repository import Repository
from drtool.system.clock import SystemClock
from tests.archiving.faults import GatedStore
from tests.archiving.redis_rig import (
    LooksOfOthers,
    attached,
    inventory,
    receiving,
    settings_for,
    wait_held,
    write,
)
from tests.archiving.rig import new_repository, until
from tests.repository.building import NOW
from tests.servers.redis import MakeRedis, RedisServer

pytest_plugins = ["tests.servers.redis"]
MB = 1 << 20


def test_a_store_that_is_too_slow_costs_a_gap_and_the_server_never_cuts_the_link(
    make_redis: MakeRedis,
) -> None:
    server = make_redis(
        settings={"client-output-buffer-limit": "replica 160mb 0 0", "repl-backlog-size": "1mb"}
    )
    inner = new_repository()
    store = GatedStore(inner.store)
    repository = Repository(store, inner.ring, inner.root)
    with receiving(repository, settings_for([server])) as running:
        until(lambda: attached(server), "it joins")
        # The words with which a stream begins are put by the thread that receives.
        write(server, 1)
        wait_held(inner, server)
        store.gate.clear()
        looks, writes = LooksOfOthers(server), 0
        while not running.warned("The link is given up"):
            write(server, 1_000, size=20_000)
            writes += 1
            assert writes < 500, "ten gigabytes, and the link is still there"
            until(
                lambda: looks.more() or running.warned("The link is given up"),
                "it looks how far it is behind",
            )
        store.gate.set()
        until(lambda: running.warned("has a gap"), "the gap is recorded")
        write(server, 10)
        wait_held(inner, server)

    assert running.result is not None
    assert running.result.shards[0].gaps == 1
    assert "overcoming of output buffer limits" not in server.log_text()
    assert len(next(iter(inventory(inner).logs.values())).runs) == 2


class AheadClock(SystemClock):
    """The machine's, moved ahead by hand."""

    ahead_seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_seconds


def overrun(server: RedisServer) -> None:
    """Cut every link, and write more than the backlog holds before anybody is back."""
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        pipe.execute_command("CLIENT", "KILL", "TYPE", "replica")
        pipe.set("large", b"x" * (2 * MB))
        pipe.execute()


def test_links_that_are_cut_again_and_again_do_not_make_a_gap_each(make_redis: MakeRedis) -> None:
    server = make_redis(settings={"repl-backlog-size": "1mb"})
    repository = new_repository()
    with receiving(repository, settings_for([server])) as running:
        until(lambda: attached(server), "it joins")
        for _ in range(12):
            overrun(server)
            until(
                lambda: attached(server) or running.warned("gaps in the stream of main follow"),
                "it joins again, or waits",
            )
        until(lambda: attached(server), "it joins at last")
        write(server, 10)
        wait_held(repository, server)
        with server.client() as client:
            assert client.info("stats")["sync_full"] == 1

    assert running.result is not None
    assert 1 <= running.result.shards[0].gaps <= 4


def test_a_server_is_not_made_to_send_all_its_data_for_each_gap(make_redis: MakeRedis) -> None:
    """Restarted without a backlog it can only send everything; of which nothing would be kept here."""
    server = make_redis()
    clock = AheadClock()

    def full_syncs() -> int:
        with server.client() as client:
            return int(client.info("stats")["sync_full"])

    with receiving(new_repository(), settings_for([server]), clock=clock) as running:
        until(lambda: attached(server), "it joins")
        server.kill9()
        server.start()
        until(lambda: attached(server), "the first gap is left at once")
        assert full_syncs() == 1
        server.kill9()
        server.start()
        clock.ahead_seconds += 40
        until(lambda: running.warned("gaps in the stream of main follow"), "the next one waits")
        assert full_syncs() == 0
        clock.ahead_seconds += 30
        until(lambda: attached(server), "until its minute is over")
        assert full_syncs() == 1


def test_the_server_s_limits_are_left_before_they_are_reached() -> None:
    limit = BufferLimit.parse("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60")
    pressure = Pressure(limit)

    assert limit == BufferLimit(256 * MB, 64 * MB, 60)
    assert not pressure.is_too_high(40 * MB, 0)
    assert not pressure.is_too_high(60 * MB, 10)
    assert not pressure.is_too_high(60 * MB, 50)
    assert pressure.is_too_high(60 * MB, 56)
    assert not pressure.is_too_high(40 * MB, 57)
    assert not pressure.is_too_high(60 * MB, 58)
    assert pressure.is_too_high(200 * MB, 59)
    assert not Pressure(BufferLimit(0, 0, 0)).is_too_high(1 << 40, 1e6)
    with pytest.raises(ValueError, match="no limit"):
        BufferLimit.parse("normal 0 0 0")


def test_little_bytes_over_a_long_outage_of_the_store_take_little_memory() -> None:
    arrivals = Arrivals(0)
    for number in range(5 * MOST_MOMENTS):
        arrivals.give(memoryview(b"x" * 14), NOW + number * timedelta(hours=1))
    batch = arrivals.take()

    assert batch is not None
    assert len(batch.index.moments) <= MOST_MOMENTS
    assert len(batch.content) < 10
    assert batch.index.end == 5 * MOST_MOMENTS * 14
    assert arrivals.take() is None


def test_arrivals_say_when_they_are_full() -> None:
    arrivals = Arrivals(100)
    given = 0
    while not arrivals.is_full:
        arrivals.give(memoryview(bytes(MB)), NOW)
        given += MB

    batch = arrivals.take()

    assert given == MOST_BYTES
    assert batch is not None
    assert (batch.index.begin, batch.index.end) == (100, 100 + given)
    assert not arrivals.is_full
