"""A master dies ahead of its replica: the log goes on where both were the same, and restores follow it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.model.outcome import RestoreOutcome
from drtool.model.target import ToTime
from drtool.repository.repository import Repository
from tests.archiving.redis_rig import (
    attached,
    position_of,
    wait_for_more,
    wait_held,
    write,
)
from tests.archiving.rig import until
from tests.backup.taking import new_repository
from tests.restore.redis_rig import restore, servers_of, started, streamed, take_snapshot
from tests.servers.redis import (
    MakeRedis,
    RedisServer,
    is_linked,
    make_replica,
    new_redis,
    wait_for,
)

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis


def test_what_a_dead_master_had_alone_makes_no_gap(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    master = make_redis()
    replica = make_replica(make_redis, master)
    write(master, 200)
    take_snapshot(repository, servers_of(master))
    write(master, 100)
    with master.client() as client:
        client.wait(1, 5000)
    with replica.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.set("new master", 1)
    with streamed(repository, master) as first:
        with master.client() as client:
            client.set("only in the old one", 1)
        wait_held(repository, master)
        ahead = position_of(master).offset
    assert first.result is not None
    master.kill9()

    with streamed(repository, replica) as second:
        write(replica, 400)
        until(lambda: position_of(replica).offset > ahead, "the new history is the longer one")
        wait_held(repository, replica)
        expected = replica.digest()
    outcome = restore(repository, root / "copy")

    assert second.result is not None
    assert [one.gaps for one in second.result.shards] == [0]
    assert attached(replica) == []
    with started(outcome) as [copy]:
        assert copy.exists("only in the old one") == 0
        reply = copy.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call] # theirs
        assert reply.decode() == expected


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """The old master was ahead by 200 kB when it died; all of it is archived, as are 40 keys of the heir."""

    repository: Repository
    heir: RedisServer
    ahead: datetime
    middle: datetime
    after: datetime


@pytest.fixture(scope="module")
def taken_over() -> Iterator[TakenOver]:
    repository = new_repository()
    with ExitStack() as stack:
        master = stack.enter_context(closing(new_redis()))
        heir = new_redis(settings={"replicaof": f"127.0.0.1 {master.port}"})
        stack.enter_context(closing(heir))
        wait_for(lambda: is_linked(heir), what="the replica's link")
        take_snapshot(repository, servers_of(master))
        with heir.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        with streamed(repository, master), master.client() as client:
            for number in range(100):
                client.set(f"dead:{number}", b"x" * 1000)
            wait_held(repository, master)
            middle = datetime.now(UTC)
            time.sleep(0.3)
            for number in range(100, 200):
                client.set(f"dead:{number}", b"x" * 1000)
            wait_held(repository, master)
            ahead = datetime.now(UTC)
        master.kill9()
        with streamed(repository, heir), heir.client() as client:
            for number in range(40):
                client.set(f"live:{number}", "acknowledged")
            wait_held(repository, heir)
            after = datetime.now(UTC)
            wait_for_more(repository, heir)
        yield TakenOver(repository=repository, heir=heir, ahead=ahead, middle=middle, after=after)


def keys_of(outcome: RestoreOutcome) -> tuple[int, int]:
    """How many keys of the dead branch the copy has, and how many of the new master's."""
    with started(outcome) as [copy]:
        return len(copy.keys("dead:*")), len(copy.keys("live:*"))


def test_the_newest_moment_is_the_new_masters_although_the_dead_branch_is_longer(
    taken_over: TakenOver, root: Path
) -> None:
    outcome = restore(taken_over.repository, root / "copy")

    assert keys_of(outcome) == (0, 40)
    [finding] = [one for one in outcome.findings if "failover" in one.fact]
    assert "200 writes" in finding.fact


def test_a_moment_after_the_failover_is_reached_on_the_new_master(
    taken_over: TakenOver, root: Path
) -> None:
    outcome = restore(taken_over.repository, root / "copy", ToTime(taken_over.after))

    assert keys_of(outcome) == (0, 40)


def test_a_moment_before_the_failover_is_reached_on_the_branch_that_was_live(
    taken_over: TakenOver, root: Path
) -> None:
    outcome = restore(taken_over.repository, root / "copy", ToTime(taken_over.middle))

    assert keys_of(outcome) == (100, 0)


def test_a_snapshot_of_what_the_dead_master_had_alone_is_passed_over(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    master = make_redis()
    heir = make_replica(make_redis, master)
    take_snapshot(repository, servers_of(master))
    with heir.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
    with streamed(repository, master), master.client() as client:
        client.set("dead:1", 1)
        wait_held(repository, master)
        take_snapshot(repository, servers_of(master))
    master.kill9()
    with streamed(repository, heir) as running, heir.client() as client:
        client.set("live:1", 1)
        wait_held(repository, heir)

    outcome = restore(repository, root / "copy")

    assert keys_of(outcome) == (0, 1)
    assert running.warned("a history that a failover has ended")
