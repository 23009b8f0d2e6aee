"""Archive the replication stream of a Redis, all its shards at once, until told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drtool.archiving.patience import Patience
from drtool.archiving.redis_cluster import ShardIdentity, TopologyRecorder
from drtool.archiving.redis_recording import HeldStream
from drtool.archiving.redis_shard import ShardReceived, ShardReceiver, ShardSite
from drtool.errors import SourceUnavailable
from drtool.model.progress import Emit, Noted, silent
from drtool.policy.sources import RedisTopology
from drtool.repository.backups import read_newest_manifest
from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.shape import Shape
from drtool.sources.redis.topology import discover
from drtool.system.clock import Clock
from drtool.system.retry import RetryLimits

_PAUSES = RetryLimits(first_pause_seconds=0.2, longest_pause_seconds=15.0)
_MOST_DOUBLINGS = 10
_LOOK_SECONDS = 10.0
# While hash slots are moved, what was seen between two looks is merged from both masters.
_CLUSTER_LOOK_SECONDS = 2.0
_LOOK_SECONDS_A_SERVER = 0.1
_STEP_SECONDS = 0.2
_JOIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What is received, and how. `nodes` are some of the servers, or sentinels.

    At most `flush_seconds` pass until a change is durable. `heartbeat_key` is written on each master
    every `heartbeat_seconds`, with a hash tag in a cluster; None: nothing is written, and there are no
    marks.
    """

    source: str
    topology: RedisTopology
    nodes: tuple[NodeAddress, ...]
    login: Login
    group: str | None = None
    flush_seconds: float = 10.0
    heartbeat_seconds: float = 10.0
    heartbeat_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReceived:
    """What a receiver has done, shard by shard."""

    source: str
    shards: tuple[ShardReceived, ...]


def lease_name(source: str) -> str:
    """The lease of the one receiver that a source may have."""
    return f"redis-{source}"


def receive_stream(
    repository: Repository,
    settings: StreamSettings,
    *,
    stop: threading.Event,
    clock: Clock,
    emit: Emit = silent,
    ask_for_base: Callable[[], None] | None = None,
) -> StreamReceived:
    """Keep the replication stream of every shard from now on, until `stop` is set.

    Each shard is joined at a replica where there is one; a master is left for one that comes back.
    It goes on where the log ends, or begins at the newest snapshot, as long as the server still has
    that; otherwise a gap is recorded and warned of, and `ask_for_base` called, from any thread: only a
    new snapshot can be replayed on what comes then. None is taken here, for `drtool backup` has a lease
    and a process of its own. Only what is durable is acknowledged. A server or a store that goes away
    is waited for, in bounded memory (`redis_arrivals`). LeaseHeld if another receiver of this source
    runs (PITFALLS 22).
    """
    with Lease(repository, lease_name(settings.source), clock=clock) as lease:
        over = threading.Event()
        patience = Patience(stop=over, clock=clock, emit=emit, lease=lease)
        receiver = _Receiver(repository, settings, patience=patience, ask_for_base=ask_for_base)
        try:
            receiver.run(stop)
        finally:
            over.set()
            receiver.join()
        receiver.raise_failure()
        return StreamReceived(source=settings.source, shards=receiver.received())


class _Receiver:
    """Has a receiver for each shard, and notices when shards change."""

    def __init__(
        self,
        repository: Repository,
        settings: StreamSettings,
        *,
        patience: Patience,
        ask_for_base: Callable[[], None] | None,
    ) -> None:
        self._repository = repository
        self._ask_for_base = ask_for_base
        self._settings = settings
        self._patience = patience
        self._clock = patience.clock
        self._known: tuple[NodeAddress, ...] = ()
        self._shards: dict[str, ShardReceiver] = {}
        self._retired: list[ShardReceiver] = []

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set, or a shard has failed for good."""
        shape = self._first_look(stop)
        if shape is None:
            return
        site = self._site()
        snapshots = tuple(newest_snapshot(self._repository, self._settings.source).values())
        topologies = TopologyRecorder(
            self._repository,
            self._settings.source,
            self._patience,
            login=self._settings.login,
            ask_for_base=self._ask_for_base,
            snapshots=snapshots,
        )
        self._start(shape, site, snapshots)
        looked_at = float("-inf")
        while not self._clock.wait(_STEP_SECONDS, stop):
            if any(one.failure is not None for one in self._shards.values()):
                return
            if self._clock.monotonic() - looked_at >= self._look_seconds:
                looked_at = self._clock.monotonic()
                self._look_again(site, topologies)

    def join(self) -> None:
        """Wait until every shard has stored what it has; bounded by `Patience`."""
        for one in (*self._shards.values(), *self._retired):
            while one.thread.is_alive():
                one.thread.join(_JOIN_SECONDS)

    def raise_failure(self) -> None:
        for one in (*self._shards.values(), *self._retired):
            if one.failure is not None:
                raise one.failure

    def received(self) -> tuple[ShardReceived, ...]:
        named = sorted(self._shards.items())
        return tuple(one.received() for one in (*(one for _, one in named), *self._retired))

    def _find(self) -> Shape:
        """The servers as they are now, asked of all that were ever known."""
        settings = self._settings
        nodes = (*settings.nodes, *(one for one in self._known if one not in settings.nodes))
        shape = discover(
            settings.topology, nodes, settings.login, group=settings.group, accepts_moving=True
        )
        if settings.topology is not RedisTopology.SENTINEL:
            # Behind Sentinel its sentinels are asked, who know who the master is.
            servers = [node for shard in shape.shards for node in (shard.master, *shard.replicas)]
            self._known = tuple(node.address for node in servers)
        return shape

    def _first_look(self, stop: threading.Event) -> Shape | None:
        failures = 0
        while not stop.is_set():
            try:
                shape = self._find()
            except SourceUnavailable as error:
                if not error.retryable:
                    raise
                failures += 1
                if failures == 1:
                    self._patience.emit(Noted(f"{error.message}; trying again", "warning"))
                self._clock.wait(_PAUSES.pause(min(failures, _MOST_DOUBLINGS)), stop)
            else:
                if failures:
                    told = f"the servers of {self._settings.source} answer"
                    self._patience.emit(Noted(told, "recovery"))
                return shape
        return None

    def _site(self) -> ShardSite:
        settings = self._settings
        return ShardSite(
            repository=self._repository,
            source=settings.source,
            login=settings.login,
            find=self._find,
            held=HeldStream(self._repository, settings.source, self._patience),
            patience=self._patience,
            flush_seconds=settings.flush_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            key=settings.heartbeat_key,
            ask_for_base=self._ask_for_base,
        )

    @property
    def _look_seconds(self) -> float:
        """Each look connects to every server; in a cluster more depends on it than which one is joined."""
        if self._settings.topology is not RedisTopology.CLUSTER:
            return _LOOK_SECONDS
        return max(_CLUSTER_LOOK_SECONDS, _LOOK_SECONDS_A_SERVER * len(self._known))

    def _start(self, shape: Shape, site: ShardSite, snapshots: Sequence[RedisShard]) -> None:
        """Receive every shard that nobody receives yet; know the servers of the others."""
        served = {id(one.identity.find(shape)): one for one in self._shards.values()}
        for shard in shape.shards:
            if id(shard) in served:
                served[id(shard)].know(shard)
                continue
            name = shard.name
            if name in self._shards:
                name = f"{name}-{(shard.master.node_id or '')[:8]}"
            identity = ShardIdentity.of(shard, name)
            self._shards[name] = ShardReceiver(site, identity, snapshots)

    def _look_again(self, site: ShardSite, topologies: TopologyRecorder) -> None:
        """Take in how the servers stand: shards that came or went, hash slots that moved, replicas."""
        began = self._clock.monotonic()
        try:
            shape = self._find()
            topologies.see(shape, began=began)
        except SourceUnavailable:
            return  # each shard's receiver says so, and tries again
        self._start(shape, site, ())
        is_at_rest = not any(shard.importing for shard in shape.shards)
        for name, one in list(self._shards.items()):
            if is_at_rest and one.identity.find(shape) is None:
                one.retire()
                self._retired.append(self._shards.pop(name))
                self._patience.emit(Noted(f"{name} has no hash slot any more: it is left"))
            else:
                one.look(shape)


def newest_snapshot(repository: Repository, source: str) -> dict[str, RedisShard]:
    """The shards of the newest snapshot, by name; empty if there is none."""
    manifest, _ = read_newest_manifest(repository, source)
    if manifest is None or not isinstance(manifest.extent, RedisExtent):
        return {}
    return {shard.name: shard for shard in manifest.extent.shards}
