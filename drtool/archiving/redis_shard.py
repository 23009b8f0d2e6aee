"""Receive one shard's stream until told to stop: over broken links, failovers and losses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from drtool.archiving.patience import Patience
from drtool.archiving.redis_attaching import Attached, Attacher
from drtool.archiving.redis_clock import ServerClock
from drtool.archiving.redis_cluster import ShardIdentity
from drtool.archiving.redis_joining import Backlog
from drtool.archiving.redis_keeping import KeeperCalls, StreamKeeper
from drtool.archiving.redis_lateness import Joined, Lateness, held_since
from drtool.archiving.redis_marks import StreamHeart, Timing
from drtool.archiving.redis_pressure import Pressure, read_limit
from drtool.archiving.redis_recording import HeldStream, StreamRecorder
from drtool.errors import DrtoolError, SourceUnavailable
from drtool.model.finding import Severity
from drtool.model.progress import Noted, PhaseAdvanced, PhaseBegan
from drtool.policy.sources import RedisTopology
from drtool.repository.extents import RedisShard
from drtool.repository.layout import ReplicationHistory
from drtool.repository.repository import Repository
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.connection import RedisConnection, connect
from drtool.sources.redis.heartbeat import heartbeat_key, probe
from drtool.sources.redis.node_choice import choose_node, join_order
from drtool.sources.redis.psync import FullResync, Position, ReplicaLink, StreamBytes
from drtool.sources.redis.rdbcodes import RdbDamaged
from drtool.sources.redis.renamed import renamed_at
from drtool.sources.redis.shape import Shape, Shard
from drtool.sources.redis.told import whole
from drtool.sources.redis.topology import look_at
from drtool.system.retry import RetryLimits

_PAUSES = RetryLimits(first_pause_seconds=0.2, longest_pause_seconds=15.0)
_MOST_DOUBLINGS = 10
# `WAIT` and `min-replicas-to-write` look at what was acknowledged a second ago at most.
_ACKNOWLEDGE_SECONDS = 1.0
_RECEIVE_SECONDS = 0.1
# A fast writer fills the 256 MiB that Redis keeps for a replica within a second.
_PRESSURE_SECONDS = 0.1
# With this the master asks how far we are, because somebody waits for it.
_ASKS = b"GETACK"
_ASKS_WITHIN_BYTES = 64 << 10
# A replica that does not let us in after all costs a new link a minute, not one with each look.
_STAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSite:
    """What a shard's receiver needs, all the same for each shard of a source.

    `find` gives the servers as they are now. `key` is written by the heartbeat; None for no marks.
    `ask_for_base` is called when there is a gap; None leaves the new snapshot to whoever is warned.
    """

    repository: Repository
    source: str
    login: Login
    find: Callable[[], Shape]
    held: HeldStream
    patience: Patience
    flush_seconds: float
    heartbeat_seconds: float
    key: str | None
    ask_for_base: Callable[[], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReceived:
    """What was received of one shard. `replication_id` is None if it never got as far as a stream."""

    shard: str
    replication_id: str | None
    durable: int | None
    received_bytes: int
    segments: int
    marks: int
    links: int
    gaps: int


class ShardReceiver:
    """Receives one shard in a thread of its own, until `patience.stop` is set.

    What it failed with for good is in `failure`; everything else is waited for.
    """

    def __init__(
        self, site: ShardSite, identity: ShardIdentity, snapshots: Sequence[RedisShard]
    ) -> None:
        self._site = site
        self._name = identity.name
        self._snapshots = snapshots
        self._retires = threading.Event()
        self._clock = site.patience.clock
        self._emit = site.patience.emit
        self._stop = site.patience.stop
        self._position: Position | None = None
        self._received_bytes = self._segments = 0
        self._failures = 0
        self._told: set[str] = set()
        self._heart: StreamHeart | None = None
        self._joined: NodeAddress | None = None
        self._moves = threading.Event()
        self._durable: Position | None = None
        self._arrived_until: datetime | None = None
        self._looked_bytes = 0
        self._stays_until = 0.0
        self._server_clock = ServerClock(site.patience.clock)
        self._attacher = Attacher(
            identity,
            site.login,
            site.patience,
            look=site.held.look,
            snapshots=snapshots,
            server_clock=self._server_clock,
        )
        self._recorder = StreamRecorder(
            repository=site.repository,
            source=site.source,
            shard=identity.name,
            patience=site.patience,
            server_clock=self._server_clock,
            held=site.held,
            has_snapshot=bool(snapshots),
            ask_for_base=site.ask_for_base,
            node=identity.master_id or "",
        )
        self.failure: BaseException | None = None
        self.thread = threading.Thread(
            target=self._run, name=f"receive {identity.name}", daemon=True
        )
        self.thread.start()

    def received(self) -> ShardReceived:
        """What was done until now."""
        position = self._position
        return ShardReceived(
            shard=self._name,
            replication_id=position.replid if position else None,
            durable=position.offset if position else None,
            received_bytes=self._received_bytes,
            segments=self._segments,
            marks=self._heart.kept if self._heart else 0,
            links=self._recorder.links,
            gaps=self._recorder.gaps,
        )

    def look(self, shape: Shape) -> None:
        """Leave a master for a replica that is there again, as after a failover; any thread.

        Only for one that has come as far, and that keeps what comes until we are there: what arrives
        between two looks is a quarter of its backlog at most.
        """
        joined, durable, received = self._joined, self._durable, self._received_bytes
        now = self._clock.monotonic()
        arrived, self._looked_bytes = received - self._looked_bytes, received
        if durable is None or now < self._stays_until:
            return
        shard = self.identity.find(shape)
        if shard is None or shard.master.address != joined:
            return
        best = (join_order(shard) or [shard.master])[0]
        if best is not shard.master and (best.offset or 0) >= (shard.master.offset or 0):
            with suppress(SourceUnavailable), look_at(best.address, self._site.login) as one:
                backlog = Backlog.parse(one.place, one.info("replication"))
                if backlog.has_room(durable) and 4 * arrived <= backlog.size_bytes:
                    self._stays_until = now + _STAY_SECONDS
                    self._moves.set()

    @property
    def identity(self) -> ShardIdentity:
        """Which servers it is of, as far as they are known."""
        return self._attacher.identity

    def know(self, shard: Shard) -> None:
        """Take in which servers the shard has by now; any thread."""
        self._attacher.identity = ShardIdentity.of(shard, self._name)
        self._recorder.node = shard.master.node_id or ""

    def retire(self) -> None:
        """End: its master has no hash slot any more. What was received is stored; any thread."""
        self._retires.set()

    @property
    def _is_over(self) -> bool:
        return self._stop.is_set() or self._retires.is_set()

    def _run(self) -> None:
        phase, title = f"stream/{self._name}", f"stream of {self._name}"
        self._emit(PhaseBegan(phase=phase, title=title, total=None))
        try:
            while not self._is_over:
                try:
                    self._session()
                except (SourceUnavailable, RdbDamaged) as error:
                    if isinstance(error, SourceUnavailable) and self._is_hopeless(error):
                        raise
                    self._pause(error)
        except BaseException as error:  # noqa: BLE001 - the thread that waits for us raises it
            self.failure = error
        finally:
            if self._heart is not None:
                self._heart.close()

    def _is_hopeless(self, error: SourceUnavailable) -> bool:
        """A server that never let us in will not; one that once did may be in the middle of a change."""
        return not error.retryable and self._position is None

    def _pause(self, error: DrtoolError) -> None:
        self._failures += 1
        if self._failures == 1:
            self._emit(Noted(f"{self._name}: {error.message}; trying again", "warning"))
        self._site.patience.say(error.message, about=self._name)
        self._clock.wait(_PAUSES.pause(min(self._failures, _MOST_DOUBLINGS)), self._stop)

    def _shard(self, shape: Shape) -> Shard:
        shard = self.identity.find(shape)
        if shard is not None:
            self.know(shard)
            return shard
        raise SourceUnavailable(
            f"the master of shard {self._name} is not there, or has no hash slot any more",
            hint="Look at redis-cli --cluster check.",
        )

    def _session(self) -> None:
        site = self._site
        shape = site.find()
        shard = self._shard(shape)
        chosen = choose_node(shape, shard)
        if shape.kind is RedisTopology.SENTINEL and chosen.node is shard.master and shard.replicas:
            self._attacher.spare_master(shard, self._position)
        for finding in chosen.findings:
            if finding.fact not in self._told:
                self._told.add(finding.fact)
                level = "info" if finding.severity is Severity.NOTE else "warning"
                self._emit(Noted(f"{self._name}: {finding.subject}: {finding.fact}", level))
        with self._attacher.attach(shard, self._position) as attached:
            self._moves.clear()
            self._joined = attached.connection.address
            try:
                joined = self._how_joined(attached, shard)
                self._stream(attached, joined)
            finally:
                self._joined = None

    def _how_joined(self, attached: Attached, shard: Shard) -> Joined:
        """Since when the stream that comes now was written, by whom, and whether some of it is late."""
        begun, asked = attached.link.begun, attached.start.position
        offset, now, at = begun.position.offset, self._server_clock.now(), self._clock.monotonic()
        if isinstance(begun, FullResync):
            # The stream waits while the snapshot is sent.
            return Joined(offset=offset, since=now, at=at, is_late=True)
        since, held = self._arrived_until, self._position
        if since is None and asked is not None:
            since = held_since(
                self._site.repository, self._site.held.look(), asked, snapshots=self._snapshots
            )
        is_late = held is not None and held.offset > offset
        writer = attached.connection.release  # never older than its master's
        self._recorder.renamed = ()
        try:
            with connect(shard.master.address, self._site.login) as master:
                writer = master.release
                if asked is not None and asked.replid != begun.position.replid:
                    self._recorder.renamed, _ = renamed_at(master)
                now, at = self._server_clock.now(), self._clock.monotonic()
                is_late = is_late or probe(master).position.offset > offset
        except SourceUnavailable:
            is_late = True  # nobody tells how far it is
        self._recorder.writer = str(writer.product), writer.version_text
        # Where it has no more than we have, all that was written until it was asked is held.
        since = (since or now) if is_late else now
        return Joined(offset=offset, since=since, at=at, is_late=is_late)

    def _stream(self, attached: Attached, joined: Joined) -> None:
        site, link, begun = self._site, attached.link, attached.link.begun.position
        heart = self._begin_to_beat()
        self._recorder.record(link, attached.start, self._position)
        history = ReplicationHistory(site.source, begun.replid)
        lateness = Lateness(
            site.repository, history, joined, server_clock=self._server_clock, clock=self._clock
        )
        keeper = StreamKeeper(
            site.repository,
            history,
            site.patience,
            begin=begun.offset,
            flush_seconds=site.flush_seconds,
            calls=KeeperCalls(
                on_durable=lambda durable: self._advanced(history, durable),
                before_put=lambda: lateness.put(site.patience.put),
            ),
        )
        self._position = begun
        is_stream = False
        try:
            is_stream = self._receive(attached, keeper, Timing(lateness, heart))
        finally:
            self._arrived_until = lateness.known_until(self._arrived_until)
            try:
                keeper.close()
            finally:
                self._position = Position(begun.replid, keeper.durable)
                self._segments += keeper.segments
        if is_stream:
            link.acknowledge(keeper.durable)
        heart.ended()

    def _receive(self, attached: Attached, keeper: StreamKeeper, timing: Timing) -> bool:
        """Until told to stop or to move; return whether the stream had begun."""
        connection, link = attached.connection, attached.link
        arrivals, clock = keeper.arrivals, self._clock
        pressure, looked_at = Pressure(read_limit(connection)), clock.monotonic()
        told, told_at = keeper.durable, float("-inf")
        is_stream = not isinstance(link.begun, FullResync)
        while not (self._is_over or self._moves.is_set()):
            keeper.raise_failure()
            self._server_clock.look_again(connection)
            timing.look(link.offset)
            now = clock.monotonic()
            if is_stream and (keeper.durable != told or now - told_at >= _ACKNOWLEDGE_SECONDS):
                told, told_at = keeper.durable, now
                link.acknowledge(told)
            if arrivals.is_full:
                # Not reading is the back-pressure: the server keeps what we cannot store.
                if now - looked_at >= _PRESSURE_SECONDS:
                    looked_at = now
                    self._look_at_pressure(connection, link, pressure)
                clock.wait(_RECEIVE_SECONDS / 2, self._stop)
                continue
            item = link.receive(_RECEIVE_SECONDS)
            if isinstance(item, StreamBytes):
                is_stream = True
                self._arrived_until = self._server_clock.now()
                timing.arrived(item.end, self._arrived_until)
                arrivals.give(item.content, self._arrived_until)
                self._received_bytes += len(item.content)
                if _ASKS in bytes(item.content[-_ASKS_WITHIN_BYTES:]):
                    arrivals.ask_for_flush()
        return is_stream

    def _look_at_pressure(
        self, connection: RedisConnection, link: ReplicaLink, pressure: Pressure
    ) -> None:
        """Leave before the server cuts the link for what it keeps back for us.

        The next link is opened only once all that has arrived is stored: so a store that is too slow
        costs a gap now and then, and never a link that is cut again and again.
        """
        told = connection.info("replication")
        kept_back = whole(told, "master_repl_offset") - link.offset
        if pressure.is_too_high(kept_back, self._clock.monotonic()):
            link.close()  # before anything else: what is stored yet may take long
            text = (
                f"{self._name}: {link.place} keeps back {kept_back} bytes for us, near its"
                " client-output-buffer-limit, because the repository takes the stream too slowly."
                " The link is given up before it is cut; a larger repl-backlog-size would make"
                " such a pause cost nothing"
            )
            self._emit(Noted(text, "warning"))
            raise SourceUnavailable(f"the link to {link.place} was given up")

    def _advanced(self, history: ReplicationHistory, durable: int) -> None:
        self._durable = Position(history.replication_id, durable)
        self._site.patience.say(None, about=self._name)
        if self._failures:
            self._emit(Noted(f"{self._name}: the stream is archived again", "recovery"))
        self._failures = 0
        self._emit(
            PhaseAdvanced(
                phase=f"stream/{self._name}",
                done=self._received_bytes,
                detail=f"durable to {durable}",
            )
        )
        if self._heart is not None:
            self._heart.keep(self._site.repository, history, durable)

    def _begin_to_beat(self) -> StreamHeart:
        if self._heart is None:
            self._heart = StreamHeart(
                self._master,
                seconds=self._site.heartbeat_seconds,
                clock=self._clock,
                emit=self._emit,
            )
        return self._heart

    def _master(self) -> tuple[RedisConnection, str | None]:
        shard, key = self._shard(self._site.find()), self._site.key
        connection = connect(shard.master.address, self._site.login)
        return connection, None if key is None else heartbeat_key(shard, key)
