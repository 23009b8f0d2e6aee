"""A master dies ahead of its replica: the log goes on where both were the same, and restores follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtool.repository.repository import Repository
from tests.archiving.redis_rig import attached, position_of, wait_held, write
from tests.archiving.rig import until
from tests.restore.redis_rig import restore, servers_of, started, streamed, take_snapshot
from tests.servers.redis import MakeRedis, make_replica

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis


def test_what_a_dead_master_had_alone_makes_no_hole(
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
    assert [one.holes for one in second.result.shards] == [0]
    assert attached(replica) == []
    with started(outcome) as [copy]:
        assert copy.exists("only in the old one") == 0
        reply = copy.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call] # theirs
        assert reply.decode() == expected
