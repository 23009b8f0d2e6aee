"""Archive the replication stream of a Redis, all its shards at once, until told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from drtool.archiving.patience import Patience
from drtool.archiving.redis_recording import HeldStream
from drtool.archiving.redis_shard import ShardReceived, ShardReceiver, ShardSite
from drtool.errors import SourceUnavailable
from drtool.model.progress import Emit, Noted, PhaseBegan, silent
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
    that; otherwise a hole is recorded and warned of, and `ask_for_base` called, from any thread: only a
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
        self._shape: Shape | None = None
        self._shards: dict[str, ShardReceiver] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set, or a shard has failed for good."""
        shape = self._first_look(stop)
        if shape is None:
            return
        site = self._site()
        snapshots = newest_snapshot(self._repository, self._settings.source)
        self._patience.emit(PhaseBegan(phase="stream", title="Receiving the stream", total=None))
        self._start(shape, site, snapshots)
        looked_at = self._clock.monotonic()
        while not self._clock.wait(_STEP_SECONDS, stop):
            if any(one.failure is not None for one in self._shards.values()):
                return
            if self._clock.monotonic() - looked_at >= _LOOK_SECONDS:
                looked_at = self._clock.monotonic()
                self._look_again(site)

    def join(self) -> None:
        """Wait until every shard has stored what it has; bounded by `Patience`."""
        for one in self._shards.values():
            while one.thread.is_alive():
                one.thread.join(_JOIN_SECONDS)

    def raise_failure(self) -> None:
        for one in self._shards.values():
            if one.failure is not None:
                raise one.failure

    def received(self) -> tuple[ShardReceived, ...]:
        return tuple(one.received() for _, one in sorted(self._shards.items()))

    def _find(self) -> Shape:
        """The servers as they are now, asked of all that were ever known."""
        settings = self._settings
        nodes = (*settings.nodes, *(one for one in self._known if one not in settings.nodes))
        shape = discover(settings.topology, nodes, settings.login, group=settings.group)
        if settings.topology is not RedisTopology.SENTINEL:
            # Behind Sentinel its sentinels are asked, who know who the master is.
            servers = [node for shard in shape.shards for node in (shard.master, *shard.replicas)]
            self._known = tuple(node.address for node in servers)
        return shape

    def _first_look(self, stop: threading.Event) -> Shape | None:
        failures = 0
        while not stop.is_set():
            try:
                return self._find()
            except SourceUnavailable as error:
                if not error.retryable:
                    raise
                failures += 1
                if failures == 1:
                    self._patience.emit(Noted(f"{error.message}; trying again", "warning"))
                self._clock.wait(_PAUSES.pause(min(failures, _MOST_DOUBLINGS)), stop)
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

    def _start(self, shape: Shape, site: ShardSite, snapshots: dict[str, RedisShard]) -> None:
        self._shape = shape
        for shard in shape.shards:
            if shard.name not in self._shards:
                snapshot = snapshots.get(shard.name)
                self._shards[shard.name] = ShardReceiver(site, shard.name, snapshot)

    def _look_again(self, site: ShardSite) -> None:
        """Shards that came are received too, replicas that came are joined; moved slots are told once."""
        assert self._shape is not None
        try:
            shape = self._find()
        except SourceUnavailable:
            return  # each shard's receiver says so, and tries again
        before = [shard.slots for shard in self._shape.shards]
        if [shard.slots for shard in shape.shards] != before:
            text = (
                "slots were moved: a moment before is reached in the old shape only; take a new"
                f" snapshot with `drtool backup {self._settings.source}`"
            )
            self._patience.emit(Noted(text, "warning"))
        self._start(shape, site, {})
        for one in self._shards.values():
            one.look(shape)


def newest_snapshot(repository: Repository, source: str) -> dict[str, RedisShard]:
    """The shards of the newest snapshot, by name; empty if there is none."""
    manifest, _ = read_newest_manifest(repository, source)
    if manifest is None or not isinstance(manifest.extent, RedisExtent):
        return {}
    return {shard.name: shard for shard in manifest.extent.shards}
