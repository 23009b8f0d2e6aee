"""A cluster whose hash slots are moved: what comes back lies on the master that held its slot then."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from drtool.archiving.redis_status import StreamStatus, stream_status
from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import RestoreOutcome
from drtool.model.progress import silent
from drtool.model.target import ToLatest, ToTime
from drtool.policy.sources import RedisTopology
from drtool.repository.clusterlog import newest_topology, topology_key, topology_moments
from drtool.repository.repository import Repository
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_plan import plan_redis_restore
from drtool.system.clock import SystemClock
from drtool.verify.depth import Whole
from drtool.verify.repository import verify_repository
from tests.archiving.redis_rig import attached, wait_for_more, wait_held
from tests.archiving.rig import until
from tests.backup.taking import new_repository
from tests.repository.building import tamper
from tests.restore.redis_rig import (
    SOURCE,
    restore,
    servers_of,
    started,
    streamed,
    take_snapshot,
)
from tests.servers.redis import ClusterGroup, RedisServer, new_redis, wait_for

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis
CLUSTER = RedisTopology.CLUSTER
KEYS = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Resharded:
    """Of 900 keys some were moved from the first master to the second, then some to a fourth one.

    `behind` is a moment behind the first move, `in_between` one behind the second. `names` are the shards
    of the status then, `refusal` what a restore to the newest moment
    said; `healed` is the status once a snapshot was taken.
    """

    repository: Repository
    during: datetime
    behind: datetime
    in_between: datetime
    names: list[str]
    healed: StreamStatus
    refusal: str


def node_id(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.execute_command("CLUSTER", "MYID").decode())


def move(group: ClusterGroup, source: RedisServer, heir: RedisServer, *, slots: int) -> None:
    wait_for(lambda: _agrees(group.nodes[0]), what="nodes that agree about the slots")
    command = [
        "redis-cli", "--cluster", "reshard", group.nodes[0].address, "--cluster-from", node_id(source),
        "--cluster-to", node_id(heir), "--cluster-slots", str(slots), "--cluster-yes",
    ]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr


def _agrees(node: RedisServer) -> bool:
    command = ["redis-cli", "--cluster", "check", node.address]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return told.returncode == 0 and "All nodes agree" in told.stdout


def held_since(repository: Repository, group: list[RedisServer]) -> datetime:
    """Wait until all that was written by now is archived, and something that came later; that moment."""
    for server in group:
        wait_held(repository, server)
    moment = datetime.now(UTC)
    for server in group:
        wait_for_more(repository, server)
    return moment


def seen(repository: Repository, server: RedisServer, slot: int) -> bool:
    """Whether the log says that `server` holds `slot`, and that nothing is moved."""
    found = newest_topology(repository, SOURCE)
    if found is None or not found.is_at_rest:
        return False
    return any(one.node_id == node_id(server) and one.holds(slot) for one in found.shards)


@pytest.fixture(scope="module")
def resharded() -> Iterator[Resharded]:
    repository = new_repository()
    group = ClusterGroup(masters=3, replicas=0)
    settings = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
    with closing(group), closing(new_redis(settings=settings)) as fourth:
        first, second, _ = group.nodes
        with group.client() as client:
            for number in range(KEYS):
                client.set(f"key:{number}", number)
        take_snapshot(repository, servers_of(*group.nodes, kind=CLUSTER))
        with streamed(repository, *group.nodes, kind=CLUSTER) as running:
            until(lambda: seen(repository, first, 0), "the topology is recorded")
            move(group, first, second, slots=1200)
            during = datetime.now(UTC)
            until(lambda: seen(repository, second, 0), "the move is noticed")
            behind = held_since(repository, group.nodes)
            command = ["redis-cli", "--cluster", "add-node", fourth.address, first.address]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            wait_for(lambda: _knows(fourth, 4), what="the fourth node")
            wait_for(lambda: all(_knows(node, 4) for node in group.nodes), what="all know it")
            move(group, second, fourth, slots=400)
            until(lambda: attached(fourth), "the new master is received, without a restart")
            until(lambda: running.warned("hash slots were moved"), "a snapshot is asked for")
            in_between = held_since(repository, [*group.nodes, fourth])
            names = [one.name for one in stream_status(repository, SOURCE).shards]
            with pytest.raises(NotRecoverable) as refused:
                plan_redis_restore(look_redis(repository, SOURCE, ToLatest()), ToLatest())
            take_snapshot(repository, servers_of(*group.nodes, kind=CLUSTER))
            healed = stream_status(repository, SOURCE)
        yield Resharded(
            repository=repository,
            during=during,
            behind=behind,
            in_between=in_between,
            names=names,
            healed=healed,
            refusal=refused.value.message,
        )


def _knows(server: RedisServer, count: int) -> bool:
    with server.client() as client:
        client.response_callbacks.clear()
        told = client.execute_command("CLUSTER", "NODES").decode().splitlines()
        if b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            return False
    return len(told) == count and all(" connected" in line for line in told)


def misplaced(outcome: RestoreOutcome) -> tuple[int, int]:
    """How many keys the copy holds, and how many on a master that does not hold their hash slot."""
    with started(outcome) as copies:
        found = [_of_one(copy) for copy in copies]
    return sum(keys for keys, _ in found), sum(wrong for _, wrong in found)


def _of_one(copy: redis.Redis) -> tuple[int, int]:
    copy.response_callbacks.clear()
    lines = copy.execute_command("CLUSTER", "NODES").decode().splitlines()  # type: ignore[no-untyped-call] # theirs
    [mine] = [line for line in lines if "myself" in line]
    ranges = [word.split("-") for word in mine.split()[8:] if not word.startswith("[")]
    held = {slot for one in ranges for slot in range(int(one[0]), int(one[-1]) + 1)}
    keys = copy.keys("*")
    slots = [copy.execute_command("CLUSTER", "KEYSLOT", key) for key in keys]  # type: ignore[no-untyped-call] # theirs
    return len(keys), sum(slot not in held for slot in slots)


def test_moved_keys_come_back_on_the_master_that_holds_their_slot(
    resharded: Resharded, root: Path
) -> None:
    outcome = restore(resharded.repository, root / "copy", ToTime(resharded.behind))

    assert misplaced(outcome) == (KEYS, 0)


def test_no_key_is_lost_or_misplaced_at_a_moment_while_slots_are_moved(
    resharded: Resharded, root: Path
) -> None:
    outcome = restore(resharded.repository, root / "copy", ToTime(resharded.during))

    assert misplaced(outcome) == (KEYS, 0)


def test_a_moment_at_which_a_master_that_no_snapshot_has_held_slots_is_refused(
    resharded: Resharded, root: Path
) -> None:
    with pytest.raises(NotRecoverable, match="lacks a master that hash slots were moved to"):
        restore(resharded.repository, root / "a", ToTime(resharded.in_between))
    assert "a master that is in no snapshot yet" in resharded.refusal


def test_the_status_knows_the_new_master_and_no_shard_that_is_gone(resharded: Resharded) -> None:
    assert len(resharded.names) == 4

    assert len(resharded.healed.shards) == 4
    assert resharded.healed.recoverable_until is not None


def test_the_windows_leave_out_the_time_of_a_master_that_no_snapshot_has(
    resharded: Resharded,
) -> None:
    def is_shown(moment: datetime) -> bool:
        return any(one.begin <= moment <= one.end for one in resharded.healed.windows)

    assert is_shown(resharded.behind)
    assert not is_shown(resharded.in_between)
    assert len(resharded.healed.windows) == 2


def verified(repository: Repository) -> tuple[Finding, ...]:
    clock = SystemClock()
    return verify_repository(
        repository, depth=Whole(), sources=[SOURCE], emit=silent, clock=clock, seed=1
    ).findings


def test_a_damaged_record_of_a_topology_is_found_and_no_record_is_taken_for_a_log(
    resharded: Resharded,
) -> None:
    assert not any("topology" in one.subject for one in verified(resharded.repository))
    moment = topology_moments(resharded.repository, SOURCE)[-1]
    key = topology_key(SOURCE, moment)
    content = resharded.repository.store.read(key)
    tamper(resharded.repository.store, key, content[:-1] + bytes([content[-1] ^ 1]))
    try:
        found = verified(resharded.repository)
    finally:
        tamper(resharded.repository.store, key, content)
        verified(resharded.repository)

    [finding] = [one for one in found if one.subject == key]
    assert finding.severity is Severity.PROBLEM


def test_a_snapshot_behind_the_move_brings_everything_back(
    resharded: Resharded, root: Path
) -> None:
    assert misplaced(restore(resharded.repository, root / "copy")) == (KEYS, 0)
