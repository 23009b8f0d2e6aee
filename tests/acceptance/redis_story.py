"""A Redis that is written to while its servers, the receiver and backups are killed at random."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from drtool.errors import ExitCode
from drtool.repository.backups import read_manifests
from drtool.repository.keys import NO_SECRET
from drtool.repository.repository import open_repository
from drtool.repository.stream_inventory import take_stream_inventory
from drtool.sources.redis.keyslot import even_slots, key_for_slots
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from tests.acceptance.redis_groups import Group
from tests.acceptance.site import Site, until
from tests.servers.ports import free_row
from tests.servers.redis import wait_for

JOIN_SECONDS = 120.0
# A failover takes the node time-out and an election; a first sync of what an hour left, longer.
WHOLE_SECONDS = 180.0
_HASH_FIELDS = 500
_POLICY = """\
version: 1
stack: shop
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: none}}
sources:
  cache:
    kind: redis
    topology: {topology}
    nodes: [{nodes}]
    stream: true
    flush: 1s
    heartbeat: 1s
    heartbeat_key: "drtool:mark"
    restore: {{port: {port}}}
restore_root: {root}/restored
"""


@dataclass(slots=True)
class Writes:
    """What one shard's writer was told: by number, when each was begun and acknowledged (0: never)."""

    tag: str
    begun: array[float] = field(default_factory=lambda: array("d"))
    acknowledged: array[float] = field(default_factory=lambda: array("d"))
    # Acknowledged, and then lost by Redis itself with a master whose replica had not got them.
    lost: set[int] = field(default_factory=set)


class Writer:
    """Writes numbered transactions to one shard, `rate` a second, whoever its master is."""

    def __init__(self, group: Group, shard: int, *, rate: float) -> None:
        self.writes = Writes(tag=key_for_slots("t", even_slots(group.shards)[shard]))
        self.pause = self._usual = 1 / rate
        self._group = group
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"writer {shard}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        assert not self._thread.is_alive()

    def burst(self, seconds: float) -> None:
        """Write as fast as it goes for a while."""
        self.pause = 0.0
        time.sleep(seconds)
        self.pause = self._usual

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(redis.RedisError, OSError), self._master() as client:
                self._look_back(client)
                self._write(client)
            self._stop.wait(0.1)

    def _master(self) -> redis.Redis:
        for server in self._group.masters():
            client = server.client(
                socket_timeout=3,
                single_connection_client=True,
                # A transaction that is sent again after a time-out would be there twice.
                retry=Retry(NoBackoff(), 0),
            )
            with contextlib.suppress(redis.RedisError):
                client.exists(self.writes.tag)  # MOVED where it is not this one's
                return client
            client.close()
        raise redis.ConnectionError("no master now")

    def _look_back(self, client: redis.Redis) -> None:
        """A new master may not have got the last writes: from now on they do not count."""
        last: Any = client.lindex(f"{self.writes.tag}:ledger", -1)
        reached = -1 if last is None else int(last)
        self.writes.lost.update(range(reached + 1, len(self.writes.begun)))

    def _write(self, client: redis.Redis) -> None:
        writes, tag = self.writes, self.writes.tag
        while not self._stop.wait(self.pause):
            number = len(writes.begun)
            writes.begun.append(time.time())
            writes.acknowledged.append(0.0)
            with client.pipeline(transaction=True) as pipe:
                pipe.rpush(f"{tag}:ledger", number)
                pipe.set(f"{tag}:last", number)
                pipe.incr(f"{tag}:count")
                pipe.hset(f"{tag}:hash", f"f{number % _HASH_FIELDS}", number)
                pipe.zadd(f"{tag}:scores", {f"m{number % _HASH_FIELDS}": number})
                pipe.xadd(f"{tag}:stream", {"n": number}, maxlen=100, approximate=False)
                pipe.execute()
            writes.acknowledged[number] = time.time()


@dataclass(slots=True)
class Story:
    """What happened, and how often."""

    events: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)


class Supervisor:
    """Keeps one command running, as a container would; `kill` ends what runs now with SIGKILL."""

    def __init__(self, site: Site, words: Sequence[str], story: Story) -> None:
        self._site, self._words, self._story = site, words, story
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name=words[0], daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._process = process = self._site.start(*self._words)
            out, err = process.communicate()
            self._story.codes[f"{self._words[0]} {process.returncode}"] += 1
            assert "Traceback" not in err, f"{out}\n{err}"
            self._stop.wait(1.0)

    def kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def close(self) -> None:
        self._stop.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
        self._thread.join(JOIN_SECONDS)
        assert not self._thread.is_alive()


class Backups:
    """`drtool backup cache` every `pause` seconds."""

    def __init__(self, site: Site, story: Story, *, pause: float) -> None:
        self._site, self._story, self._pause = site, story, pause
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self.taken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backups", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._process = process = self._site.start("backup", "cache", "-q")
            out, err = process.communicate()
            self._story.codes[f"backup {process.returncode}"] += 1
            assert "Traceback" not in err, f"{out}\n{err}"
            if process.returncode == ExitCode.DONE:
                self.taken.set()
            if self._stop.wait(self._pause if process.returncode == ExitCode.DONE else 5.0):
                return

    def kill_next(self, chance: random.Random) -> bool:
        """Start one, and kill it while it runs; whether it still ran."""
        process = self._site.start("backup", "cache", "-q")
        time.sleep(chance.uniform(0.3, 1.5))
        was_running = process.poll() is None
        process.kill()
        process.communicate()
        return was_running

    def close(self) -> None:
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        assert not self._thread.is_alive()


def write_policy(site: Site, group: Group) -> None:
    """The policy of a site whose only source is `group`."""
    nodes = ", ".join(f'"{node.address}"' for node in group.asked)
    port = free_row(len(group.nodes))
    text = _POLICY.format(root=site.root, topology=group.topology, nodes=nodes, port=port)
    (site.root / "policies").mkdir()
    (site.root / "policies" / "shop.yaml").write_text(text)


class Trouble:
    """One disturbance after the other, each when the group is whole again."""

    def __init__(
        self,
        group: Group,
        *,
        writers: Sequence[Writer],
        receiver: Supervisor,
        backups: Backups,
        repository: Path,
        chance: random.Random,
    ) -> None:
        self._group, self._writers, self._chance = group, writers, chance
        self._receiver, self._backups, self._repository = receiver, backups, repository

    def one(self) -> str:
        """Make one, wait until the group has got over it, and return its name."""
        kinds = [
            self._lose_master, self._lose_master, self._lose_replica, self._stop_for_a_while,
            self._kill_receiver, self._kill_backup, self._burst, self._take_repository_away,
        ]  # fmt: skip
        if len(self._group.nodes) == self._group.shards:
            kinds.remove(self._lose_replica)
        chosen = self._chance.choice(kinds)
        self._wait_whole()
        name = chosen() or chosen.__name__.removeprefix("_")
        self._wait_whole()
        return name

    def _wait_whole(self) -> None:
        wait_for(self._is_whole, what="the cluster", seconds=WHOLE_SECONDS)

    def _is_whole(self) -> bool:
        try:
            return self._group.is_whole()
        except redis.RedisError:
            return False

    def _lose_master(self) -> None:
        victim = self._chance.choice(self._group.masters())
        victim.kill9()
        if len(self._group.nodes) > self._group.shards:
            wait_for(self._is_led, what="a failover", seconds=WHOLE_SECONDS)
        victim.start()

    def _is_led(self) -> bool:
        try:
            return len(self._group.masters()) == self._group.shards
        except redis.RedisError:
            return False

    def _lose_replica(self) -> None:
        masters = self._group.masters()
        victim = self._chance.choice([node for node in self._group.nodes if node not in masters])
        victim.kill9()
        time.sleep(self._chance.uniform(0.5, 5))
        victim.start()

    def _stop_for_a_while(self) -> None:
        """Long enough for a failover every other time: the node time-out is two seconds."""
        victim = self._chance.choice(self._group.nodes)
        os.kill(victim.pid, signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.5, 4))
        os.kill(victim.pid, signal.SIGCONT)
        time.sleep(3)

    def _kill_receiver(self) -> None:
        self._receiver.kill()

    def _kill_backup(self) -> str | None:
        return None if self._backups.kill_next(self._chance) else "kill_backup too late"

    def _burst(self) -> None:
        self._chance.choice(self._writers).burst(self._chance.uniform(2, 10))

    def _take_repository_away(self) -> None:
        """As if its file system were not mounted for a while; nobody makes it anew meanwhile."""
        away = self._repository.with_name("away")
        self._repository.rename(away)
        time.sleep(self._chance.uniform(1, 20))
        assert not self._repository.exists(), "somebody made a repository where none was"
        away.rename(self._repository)


def moment_of(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)


def recorded_holes(repository: Path) -> list[datetime]:
    """When the log of a shard began anew, joined to nothing before."""
    opened = open_repository(LocalStore(repository, clock=SystemClock()), NO_SECRET)
    logs = take_stream_inventory(opened, "cache").logs.values()
    return sorted(begin.at for log in logs for begin in log.begins if begin.previous is not None)


def snapshot_moments(repository: Path) -> list[datetime]:
    """When the snapshots that can be used were taken, the first to the last."""
    opened = open_repository(LocalStore(repository, clock=SystemClock()), NO_SECRET)
    manifests, errors = read_manifests(opened, "cache")
    assert errors == []
    return sorted(manifest.redis.stopped_at for manifest in manifests)


def stream_bytes(repository: Path) -> int:
    """How many bytes of stream are archived, overlaps counted once a segment."""
    total = 0
    for path in repository.glob("log/cache/*/[0-9A-F]*-*"):
        begin, _, end = path.name.partition("-")
        total += int(end, 16) - int(begin, 16)
    return total


def wait_joined(site: Site, group: Group) -> None:
    """Until the receiver has begun a log for every shard: snapshots from then on are followed by it."""
    begins = "log/cache/*/begins/*"
    until(lambda: len(list(site.repository.glob(begins))) >= group.shards, "the receiver")


def wait_archived(site: Site, stamp: float) -> None:
    """Until a restore to `stamp` could be planned; not for ever, as there may be a hole before it."""
    moment = moment_of(stamp).isoformat()
    deadline = time.monotonic() + JOIN_SECONDS
    while time.monotonic() < deadline:
        if site.run("restore", "cache", "--to", moment, "--plan", code=None).code == ExitCode.DONE:
            return
        time.sleep(1)


def wait_formed(clients: Sequence[redis.Redis]) -> None:
    """Until the started copy has become a cluster, if it is one."""
    nodes = [client for client in clients if client.info("cluster")["cluster_enabled"]]

    def is_formed() -> bool:
        states = [client.cluster("INFO").get("cluster_state") for client in nodes]
        return set(states) <= {"ok"}

    wait_for(is_formed, what="the copy as a cluster", seconds=60)
