"""How far a restored Redis surely came is told by the marks in it: of every shard, in whatever shape."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.policy.sources import RedisTopology
from drtool.repository.repository import Repository
from drtool.sources.redis.keyslot import even_slots, key_for_slots
from tests.restore.redis_rig import restore, servers_of, take_snapshot
from tests.servers.redis import ClusterGroup, MakeRedis

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis


def test_marks_are_found_though_the_keys_were_dealt_to_other_masters(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    server = make_redis()
    made = datetime.now(UTC)
    with server.client() as client:
        client.mset({f"key:{number}": number for number in range(50)})
        client.set("beat", made.isoformat())
    take_snapshot(repository, servers_of(server))

    outcome = restore(repository, root / "copy", masters=2, key="beat")

    assert outcome.reached.commit_time == made
    assert all(question.passed for question in outcome.questions)


def test_nothing_is_proven_while_a_shard_has_no_mark(
    redis_cluster: ClusterGroup, repository: Repository, root: Path
) -> None:
    made = datetime.now(UTC)
    with redis_cluster.client() as client:
        client.flushall()
        keys = [key_for_slots("beat", slots) for slots in even_slots(3)]
        for key in keys[:2]:
            client.set(key, made.isoformat())
        source = servers_of(*redis_cluster.nodes, kind=RedisTopology.CLUSTER)
        take_snapshot(repository, source)
        two = restore(repository, root / "two", key="beat")
        client.set(keys[2], made.isoformat())
        take_snapshot(repository, source)

    three = restore(repository, root / "three", key="beat")

    assert two.reached.commit_time is None
    assert three.reached.commit_time == made
