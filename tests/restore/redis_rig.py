"""What tests of Redis backups and restores share: snapshots, a small archiver, a restore, its start."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis

from drtool.backup.plan import Accepted, plan_snapshot
from drtool.backup.redis import RedisServers, run_redis_snapshot
from drtool.model.outcome import BackupOutcome, RestoreOutcome
from drtool.model.progress import Emit, silent
from drtool.model.request import Edge, TtlMode
from drtool.model.target import RecoveryTarget, ToLatest
from drtool.policy.sources import RedisTopology
from drtool.repository.backups import (
    backup_ids,
    new_backup_id,
    read_manifests,
    unfinished_attempts,
)
from drtool.repository.extents import RedisExtent
from drtool.repository.held import MOST_GONE_PERCENT
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository
from drtool.restore.destination import check_directory
from drtool.restore.phases import Phases
from drtool.restore.redis import run_redis_restore
from drtool.restore.redis_fetch import release_of_plan
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_places import RedisSite
from drtool.restore.redis_plan import plan_redis_restore
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.binaries import find_binaries, server_user
from drtool.system.clock import Clock, SystemClock
from tests.archiving.redis_rig import Running, attached, receiving, settings_for, wait_asked
from tests.servers.ports import free_row
from tests.servers.postgres import as_server_user
from tests.servers.redis import RedisServer, wait_for

SOURCE = "cache"
CLOCK = SystemClock()
LIMIT_SECONDS = 60
# An hour of stream is loaded at some ten megabytes a second.
LOAD_SECONDS = 180


NOTHING_ACCEPTED = Accepted()


def servers_of(
    *nodes: RedisServer, kind: RedisTopology = RedisTopology.STANDALONE, login: Login | None = None
) -> RedisServers:
    """Where a backup finds its servers."""
    return RedisServers(
        kind=kind,
        nodes=tuple(NodeAddress.parse(node.address) for node in nodes),
        login=login or Login(),
    )


def take_snapshot(
    repository: Repository,
    servers: RedisServers,
    *,
    emit: Emit = silent,
    accepts: Accepted = NOTHING_ACCEPTED,
) -> BackupOutcome:
    """One snapshot, as the command takes it."""
    manifests, _ = read_manifests(repository, SOURCE)
    plan = plan_snapshot(
        SOURCE,
        _next_id(repository),
        kind=RedisExtent.kind,
        manifests=manifests,
        attempts=list(unfinished_attempts(repository, SOURCE, most=5)),
    )
    plan = replace(plan, accepted=accepts)
    with Lease(repository, f"backup-{SOURCE}", clock=CLOCK) as lease:
        return run_redis_snapshot(
            plan,
            servers=servers,
            repository=repository,
            lease=lease,
            clock=CLOCK,
            emit=emit,
        )


def _next_id(repository: Repository) -> str:
    """Snapshots of tests follow each other within a second; their ids must still be in order."""
    while True:
        backup_id = new_backup_id(CLOCK.now())
        if backup_id > max(backup_ids(repository, SOURCE), default=""):
            return backup_id


@contextmanager
def streamed(
    repository: Repository,
    *servers: RedisServer,
    kind: RedisTopology = RedisTopology.STANDALONE,
    key: str | None = None,
    clock: Clock | None = None,
) -> Iterator[Running]:
    """The stream of `servers` is archived while the block lasts; it has begun when the block does."""
    settings = settings_for(servers, kind, flush=0.05, key=key)
    with receiving(repository, settings, clock=clock) as running:
        masters = [server for server in servers if _is_master(server)]
        wait_for(
            lambda: attached_anywhere(servers, len(masters)),
            what="the receiver",
            seconds=LIMIT_SECONDS,
        )
        for master in masters:
            wait_asked(master)
        yield running


def attached_anywhere(servers: Sequence[RedisServer], count: int) -> bool:
    """Whether so many readers of the stream are there, each past its snapshot."""
    return sum(len(attached(server)) for server in servers) >= count


def _is_master(server: RedisServer) -> bool:
    with server.client() as client:
        return bool(client.info("replication")["role"] == "master")


def restore(
    repository: Repository,
    into: Path,
    target: RecoveryTarget | None = None,
    *,
    ttl: TtlMode = TtlMode.ABSOLUTE,
    masters: int | None = None,
    accepts_gap: bool = False,
    edge: Edge | None = None,
    key: str | None = None,
    first_port: int | None = None,
    cut_bytes: int = 0,
    gone_percent: float = MOST_GONE_PERCENT,
    emit: Emit = silent,
    bin_dir: Path | None = None,
    modules: tuple[Path, ...] = (),
    stop: threading.Event | None = None,
) -> RestoreOutcome:
    """As the command does it, on ports that are free unless some are given; `cut_bytes` are left off
    the end of each shard's stream.
    """
    target = target or ToLatest()
    plan = plan_redis_restore(
        look_redis(repository, SOURCE, target), target, accepts_gap=accepts_gap, edge=edge
    )
    if cut_bytes:
        shards = (replace(one, until=one.until - cut_bytes) for one in plan.shards)
        plan = replace(plan, shards=tuple(shards))
    owner = server_user(into)
    servers = sum(1 + (one.shard.replicas or 0) for one in plan.shards)
    site = RedisSite(
        destination=check_directory(into, owner=owner, needed_bytes=plan.fetch_bytes),
        binaries=find_binaries(release_of_plan(plan), bin_dir=bin_dir),
        ttl=ttl,
        masters=masters,
        first_port=first_port or free_row(masters or servers),
        heartbeat_key=key,
        modules=modules,
        gone_percent=gone_percent,
    )
    phases = Phases(CLOCK, emit, stop)
    return run_redis_restore(plan, site, repository=repository, phases=phases)


@contextmanager
def started(
    outcome: RestoreOutcome, *, replicas: bool = False, password: str | None = None
) -> Iterator[list[redis.Redis]]:
    """The copy's masters, started as the report says, in the foreground; then its replicas, if wanted."""
    with started_by(outcome.how_to_start, replicas=replicas, password=password) as clients:
        yield clients


@contextmanager
def started_by(
    how_to_start: Sequence[str], *, replicas: bool = False, password: str | None = None
) -> Iterator[list[redis.Redis]]:
    """The same by the words of a report alone."""
    lines = [line for line in how_to_start if "redis.conf" in line]
    lines = [line for line in lines if replicas or "-replica-" not in line]
    with ExitStack() as stack:
        copies = [_started_one(line, stack, password=password) for line in lines]
        for copy in copies:
            copy.wait_until_ready()
        yield [copy.client for copy in copies]


@dataclass(frozen=True, slots=True)
class Copy:
    """A started server of a restored copy; what it says is kept as long as the test wants it."""

    process: subprocess.Popen[bytes]
    client: redis.Redis
    log: Path

    def wait_until_ready(self) -> None:
        wait_for(
            self._is_ready, what=f"the started copy (its log: {self.log})", seconds=LOAD_SECONDS
        )

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, (
            f"the copy ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}"
        )
        return _answers(self.client)


def _started_one(line: str, stack: ExitStack, *, password: str | None) -> Copy:
    words = shlex.split(line)
    begin = next(number for number, word in enumerate(words) if word.endswith("server"))
    program, configuration = words[begin : words.index("--daemonize")]
    text = Path(configuration).read_text()
    port = next(row.split()[1] for row in text.splitlines() if row.startswith("port "))
    # Beside the copy's directory, which a test may remove before anybody has read it.
    log = Path(tempfile.gettempdir()) / f"drtool-test-copy-{os.getpid()}-{port}.log"
    debug = ["--enable-debug-command", "yes"] if _has_debug_setting(program) else []
    with log.open("wb") as out:
        process = subprocess.Popen(
            [_reachable(program, stack), configuration, *debug],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            **as_server_user(),
        )
    stack.callback(log.unlink)
    stack.callback(process.wait, 30)
    stack.callback(process.kill)
    client = redis.Redis(port=int(port), password=password, socket_timeout=20)
    stack.callback(client.close)
    return Copy(process, client, log)


def _has_debug_setting(program: str) -> bool:
    command = [program, "--version"]
    return b"v=6." not in subprocess.run(command, check=True, capture_output=True).stdout


def _reachable(program: str, stack: ExitStack) -> str:
    """The program where the servers' user can run it."""
    if program.startswith(("/usr", "/tmp")):
        return program
    from tests.servers.postgres import server_directory

    directory = server_directory("drtool-program-")
    stack.callback(shutil.rmtree, directory)
    copied = directory / "redis-server"
    shutil.copy2(program, copied)
    copied.chmod(0o755)
    return str(copied)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def digest_of(clients: Sequence[redis.Redis]) -> str:
    """One digest over all shards: the same for the same keys, however they are dealt out.

    DEBUG DIGEST of database 0 is a mark of the database, mixed by exclusive-or with every key's own
    digest (src/debug.c, computeDatasetDigest).
    """
    zero = hashlib.sha1(hashlib.sha1(bytes(4)).digest()).digest()
    total = 0
    for client in clients:
        reply: Any = client.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call] # theirs
        told = bytes.fromhex(reply.decode())
        if any(told):
            total ^= int.from_bytes(told, "big") ^ int.from_bytes(zero, "big")
    return f"{total:040x}"
