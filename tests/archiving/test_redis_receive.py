"""Archiving a Redis: every byte, acknowledged when durable, over outages and losses."""

from __future__ import annotations

import pytest

from drtool.errors import LeaseHeld
from drtool.repository.repository import Repository
from drtool.repository.streambranch import find_path
from drtool.stores.memory import MemoryStore
from tests.archiving.faults import Died, FaultyStore
from tests.archiving.redis_rig import (
    SOURCE,
    Running,
    Witness,
    archived,
    attached,
    benchmark,
    holds,
    inventory,
    position_of,
    receiving,
    settings_for,
    wait_held,
    write,
)
from tests.archiving.rig import new_repository, until
from tests.servers.redis import MakeRedis, RedisServer

pytest_plugins = ["tests.servers.redis"]


def begun(server: RedisServer) -> None:
    until(lambda: attached(server), "the receiver joins")


def test_fifty_thousand_writes_a_second_are_archived_byte_for_byte(make_redis: MakeRedis) -> None:
    server, repository = make_redis(), new_repository()
    with receiving(repository, settings_for([server])) as running:
        begun(server)
        witness = Witness(server)
        with benchmark(server, 200_000) as writer:
            assert writer.wait(60) == 0
        end = wait_held(repository, server)
        sent = witness.upto(end.offset)
        witness.close()

    assert archived(repository, witness.begin, end=end.offset) == sent
    assert running.result is not None
    assert running.result.shards[0].gaps == 0


def test_a_stop_leaves_all_that_had_arrived_and_the_next_receiver_goes_on_there(
    make_redis: MakeRedis,
) -> None:
    server, repository = make_redis(), new_repository()
    with receiving(repository, settings_for([server], flush=60)) as first:
        begun(server)
        start = position_of(server)
        write(server, 1000)
        told = attached(server)
    assert first.result is not None
    ended = first.result.shards[0].durable
    assert ended is not None
    assert told[0] < ended
    assert find_path(inventory(repository), start.replid, begin=start.offset).end == ended
    write(server, 1000)

    with receiving(repository, settings_for([server])) as second:
        end = wait_held(repository, server)

    assert find_path(inventory(repository), start.replid, begin=start.offset).end >= end.offset
    assert second.result is not None
    assert second.result.shards[0].gaps == 0
    assert not second.warned("gap")


def test_only_what_is_durable_is_acknowledged_and_wait_means_archived(
    make_redis: MakeRedis,
) -> None:
    server, repository = make_redis(), new_repository()
    store = FaultyStore(repository.store)
    faulty = Repository(store, repository.ring, repository.root)
    with receiving(faulty, settings_for([server], flush=30)), server.client() as client:
        begun(server)
        client.set("a", "1")
        assert client.wait(1, 20_000) == 1
        assert holds(repository, position_of(server))

        store.is_away = True
        client.set("b", "2")
        before = attached(server)
        assert client.wait(1, 1500) == 0
        assert attached(server) == before

        store.is_away = False
        assert client.wait(1, 20_000) == 1


def test_a_store_that_is_away_is_waited_for(make_redis: MakeRedis) -> None:
    server, inner = make_redis(), new_repository()
    store = FaultyStore(inner.store)
    repository = Repository(store, inner.ring, inner.root)
    with receiving(repository, settings_for([server])) as running:
        begun(server)
        start = position_of(server)
        store.is_away = True
        write(server, 2000)
        until(lambda: running.warned("the store is away"), "it was noticed")
        store.is_away = False
        end = wait_held(inner, server)
        until(lambda: running.recovered("the store is back"), "that it is over is told")

    assert len(archived(inner, start, end=end.offset)) == end.offset - start.offset
    assert not running.warned("gap")


def test_a_broken_link_is_opened_again_where_it_broke(make_redis: MakeRedis) -> None:
    server, repository = make_redis(), new_repository()
    with receiving(repository, settings_for([server])) as running, server.client() as client:
        begun(server)
        start = position_of(server)
        for _ in range(3):
            write(server, 300)
            client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
            write(server, 300)
            until(lambda: attached(server), "it joins again")
        end = wait_held(repository, server)

    assert len(archived(repository, start, end=end.offset)) == end.offset - start.offset
    assert running.result is not None
    assert running.result.shards[0].gaps == 0


def test_a_backlog_that_was_overrun_is_a_recorded_gap(make_redis: MakeRedis) -> None:
    server = make_redis(settings={"repl-backlog-size": "20kb"})
    repository = new_repository()
    with receiving(repository, settings_for([server])):
        begun(server)
        write(server, 10)
        before = wait_held(repository, server)
    write(server, 2000)

    with receiving(repository, settings_for([server])) as running:
        begun(server)
        write(server, 10)
        wait_held(repository, server)

    assert running.result is not None
    assert running.result.shards[0].gaps == 1
    assert running.warned(f"take a new one now with `drtool backup {SOURCE}`")
    log = inventory(repository).logs[before.replid]
    assert len(log.runs) == 2
    gap = log.begins[-1]
    assert gap.previous is not None
    assert gap.previous == (before.replid, log.runs[0].end)
    assert gap.offset == log.runs[1].begin
    assert "backlog" in gap.reason


def test_a_server_that_lost_its_history_is_a_recorded_gap(make_redis: MakeRedis) -> None:
    """PITFALLS 82: a master that comes back empty has another history, which is not joined on."""
    server, repository = make_redis(), new_repository()
    with receiving(repository, settings_for([server])) as running:
        begun(server)
        write(server, 100)
        before = wait_held(repository, server)
        server.kill9()
        until(lambda: running.warned("trying again"), "the outage is told")
        server.start()
        begun(server)
        write(server, 100)
        after = wait_held(repository, server)
        until(lambda: running.recovered("the stream is archived again"), "and that it is over")

    assert after.replid != before.replid
    assert running.warned("gap")
    found = inventory(repository)
    assert find_path(found, before.replid, begin=before.offset).end == before.offset
    assert found.logs[after.replid].begins[0].previous is not None


def test_a_second_receiver_is_refused(make_redis: MakeRedis) -> None:
    """PITFALLS 22."""
    server, repository = make_redis(), new_repository()
    with receiving(repository, settings_for([server])):
        begun(server)
        with pytest.raises(LeaseHeld), receiving(repository, settings_for([server])) as second:
            second.thread.join(30)


def test_marks_are_kept_for_what_is_archived(make_redis: MakeRedis) -> None:
    server, repository = make_redis(), new_repository()
    with receiving(repository, settings_for([server], key="drtool:mark")) as running:
        begun(server)
        until(lambda: len(list_marks(repository)) >= 3, "marks are put")

    assert running.result is not None
    assert running.result.shards[0].marks >= 3


def list_marks(repository: Repository) -> list[str]:
    keys = [one.key for one in repository.store.list(f"marks/{SOURCE}/")]
    return [key for key in keys if "/known/" not in key]


@pytest.mark.parametrize("after_put", [False, True])
def test_a_receiver_that_dies_at_any_put_is_followed_by_one_that_loses_nothing(
    make_redis: MakeRedis, after_put: bool
) -> None:
    # What is written while nobody receives has to fit.
    server, inner = make_redis(settings={"repl-backlog-size": "64mb"}), new_repository()
    with receiving(inner, settings_for([server])):
        begun(server)
        write(server, 1)
        start = wait_held(inner, server)
    for nth in range(1, 7):
        store = FaultyStore(inner.store)
        store.dies_at, store.after_put = nth, after_put
        repository = Repository(store, inner.ring, inner.root)
        one = Running(repository, settings_for([server], flush=0.05))
        while one.thread.is_alive():
            write(server, 20)
        with pytest.raises(Died):
            one.end()

    with receiving(inner, settings_for([server])) as last:
        begun(server)
        write(server, 10)
        end = wait_held(inner, server)

    assert find_path(inventory(inner), start.replid, begin=start.offset - 1).end >= end.offset
    assert len(inventory(inner).logs[start.replid].runs) == 1
    assert last.result is not None
    assert last.result.shards[0].gaps == 0


def test_a_redis_of_six_is_archived_from_a_first_full_resync(make_redis: MakeRedis) -> None:
    server, repository = make_redis("6.2"), new_repository()
    write(server, 500)
    with receiving(repository, settings_for([server])):
        begun(server)
        witness = Witness(server)
        write(server, 2000)
        end = wait_held(repository, server)
        sent = witness.upto(end.offset)
        witness.close()

    assert archived(repository, witness.begin, end=end.offset) == sent


def test_a_stream_that_the_store_acknowledges_and_does_not_keep_is_put_again(
    make_redis: MakeRedis,
) -> None:
    """Issue 8.6: nothing is told to be durable that is not there."""
    store = FaultyStore(MemoryStore())
    server, repository = make_redis(), new_repository(store)
    with receiving(repository, settings_for([server])) as running:
        begun(server)
        write(server, 10)
        wait_held(repository, server)
        store.forgets = "log/"
        write(server, 10)
        until(lambda: len(store.forgotten) > 2, "it is put again and again")
        store.forgets = None
        end = wait_held(repository, server)

    assert holds(repository, end)
    assert running.warned("acknowledged object log/")
