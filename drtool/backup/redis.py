"""Take a snapshot of a Redis: every shard's RDB as it streams, read once, and the manifest last.

Shards are taken side by side, four at most: so their moments lie close together, and a machine that
carries many of them does not fork for all at once. Threads: one a shard reads, hashes, packs and
seals; one more a shard counts its keys. Memory: for each of at most four shards a pack of 34 MiB, a
batch of 8 MiB and 10 MiB on the way to the count; whatever the size of the data. No server writes a
file for it where it sends its snapshot without one, and drtool writes none at all.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from drtool.backup.plan import BackupPlan
from drtool.backup.redis_shard import Reading, ShardTask, TakenShard, take_shard
from drtool.backup.shrunken import judge_held
from drtool.backup.storing import Counted, Storing, begin_storing
from drtool.backup.tree_large import PageStores
from drtool.backup.tree_table import TreeTable
from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding
from drtool.model.outcome import BackupKind, BackupOutcome
from drtool.model.progress import Emit, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.policy.sources import RedisTopology
from drtool.repository.extents import RedisExtent
from drtool.repository.held import Held
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository, is_encrypted
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.node_choice import choose_for_snapshot
from drtool.sources.redis.psync import LinkLimits
from drtool.sources.redis.sentinels import require_watched
from drtool.sources.redis.shape import Shape
from drtool.sources.redis.topology import discover
from drtool.system.clock import Clock, Stopwatch

PHASE = "backup"
MOST_AT_ONCE = 4
_FILES_A_SHARD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServers:
    """How the servers of one source are found and logged in to. Once `stop` is set, the reading ends."""

    kind: RedisTopology
    nodes: tuple[NodeAddress, ...]
    login: Login
    group: str | None = None
    limits: LinkLimits = field(default_factory=LinkLimits)
    stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> Shape:
        """The servers as they are now; see `topology.discover`."""
        return discover(self.kind, self.nodes, self.login, group=self.group)


def run_redis_snapshot(
    plan: BackupPlan,
    *,
    servers: RedisServers,
    repository: Repository,
    lease: Lease,
    clock: Clock,
    emit: Emit,
) -> BackupOutcome:
    """Take the snapshot that `plan` describes and commit it.

    SourceUnsuitable if the servers' version is not known, or most keys are gone since the last snapshot,
    and that is not accepted. SourceUnavailable, and no backup, if a shard is missing, a server fails, or
    slots, epochs or masters are not the same at the end as at the beginning.
    """
    watch, began = Stopwatch(clock), clock.now()
    shape = servers.look()
    if plan.previous is None:
        # Later, sentinels that are away keep nobody from a backup: `check` tells of them.
        require_watched(shape)
    tasks = [
        ShardTask(number=number, shard=shard, attachment=choose_for_snapshot(shape, shard))
        for number, shard in enumerate(shape.shards)
    ]
    total = plan.previous.sizes.read_bytes if plan.previous else None
    emit(PhaseBegan(phase=PHASE, title="snapshot", total=total))
    at_once = min(MOST_AT_ONCE, len(tasks))
    with begin_storing(plan, repository, began=began, emit=emit, packers=at_once + 1) as storing:
        reading = _reading(storing, servers, repository, clock=clock, emit=emit)
        taken = _take_all(tasks, reading, at_once=at_once)
        _require_same(shape, servers.look())
        extent = _extent(shape, taken)
        read_bytes = sum(one.read_bytes for one in taken)
        lost = judge_held(plan, _held(extent, read_bytes))
        stored = storing.finish()
    emit(PhaseEnded(phase=PHASE, seconds=watch.seconds()))
    manifest = storing.commit(
        stored,
        extent,
        counted=Counted(files=_FILES_A_SHARD * len(taken), read_bytes=read_bytes),
        findings=(*lost, *_findings(taken)),
        lease=lease,
        clock=clock,
    )
    return BackupOutcome(
        source=manifest.source,
        backup_id=manifest.backup_id,
        kind=BackupKind.FULL,
        began=manifest.began,
        seconds=watch.seconds(),
        files=manifest.sizes.files,
        read_bytes=read_bytes,
        stored_bytes=manifest.sizes.stored_bytes,
        reused_bytes=max(0, read_bytes - manifest.sizes.new_bytes),
        previous=storing.compared_with,
        findings=manifest.findings,
    )


def _reading(
    storing: Storing,
    servers: RedisServers,
    repository: Repository,
    *,
    clock: Clock,
    emit: Emit,
) -> Reading:
    stores = PageStores(
        hall=storing.hall,
        table=TreeTable(storing.assembly),
        previous=storing.previous,
        seed=repository.ring.page_seed(),
    )
    return Reading(
        source=storing.plan.source,
        login=servers.login,
        limits=servers.limits,
        stores=stores,
        clock=clock,
        advance=_Advance(emit).advance,
        asked=servers.stop,
        stop=threading.Event(),
        is_sealed=is_encrypted(repository),
        accepts_unread=storing.plan.accepted.unread,
    )


class _Advance:
    """Adds up the bytes of all shards."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._lock = threading.Lock()
        self._done = 0

    def advance(self, count: int) -> None:
        """So many more were read. Any thread."""
        with self._lock:
            self._done += count
            done = self._done
        self._emit(PhaseAdvanced(phase=PHASE, done=done))


def _take_all(tasks: Sequence[ShardTask], reading: Reading, *, at_once: int) -> list[TakenShard]:
    """Every shard, in order; the first failure ends the others and is raised."""
    with ThreadPoolExecutor(at_once, thread_name_prefix="shard") as threads:
        futures = [threads.submit(take_shard, task, reading) for task in tasks]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        finally:
            reading.stop.set()
            threads.shutdown(cancel_futures=True)


def _require_same(before: Shape, after: Shape) -> None:
    """A snapshot over a failover or a resharding might have keys twice or not at all."""
    changed = after.differs_from(before)
    epochs = [[shape.epoch, *(shard.epoch for shard in shape.shards)] for shape in (before, after)]
    if changed is None and epochs[0] != epochs[1]:
        changed = "the epochs of the cluster changed: there was a failover"
    if changed is not None:
        raise SourceUnavailable(
            f"the servers changed while the snapshot was taken: {changed}",
            hint="Nothing was kept of it. Run the backup again once the cluster is at rest.",
        )


def _extent(shape: Shape, taken: Sequence[TakenShard]) -> RedisExtent:
    newest = max((one.release for one in taken), key=lambda release: release.version)
    return RedisExtent(
        topology=str(shape.kind),
        server_version=newest.version_text,
        product=str(newest.product),
        modules=tuple(sorted({name for one in taken for name in one.modules})),
        is_read=all(one.is_read for one in taken),
        databases=max(one.databases for one in taken),
        shards=tuple(one.shard for one in taken),
    )


def _held(extent: RedisExtent, read_bytes: int) -> Held | None:
    if extent.keys is None:
        return None
    return Held(count=extent.keys, noun="keys", size_bytes=read_bytes)


def _findings(taken: Sequence[TakenShard]) -> tuple[Finding, ...]:
    """Each once: servers of one cluster often have the same to say."""
    return tuple(dict.fromkeys(finding for one in taken for finding in one.findings))
