"""Attach to the server of a shard that has what comes next, and believe in a gap only if none has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from drtool.archiving.patience import Patience
from drtool.archiving.redis_clock import TOLERATED_DIFFERENCE, ServerClock
from drtool.archiving.redis_cluster import ShardIdentity, held_of
from drtool.archiving.redis_joining import (
    Backlog,
    Start,
    on_held,
    plan_again,
    plan_start,
)
from drtool.errors import SourceUnavailable
from drtool.model.measure import format_span
from drtool.model.progress import Noted
from drtool.repository.extents import RedisShard
from drtool.repository.stream_inventory import StreamInventory
from drtool.sources.redis.address import Login
from drtool.sources.redis.connection import RedisConnection, connect
from drtool.sources.redis.node_choice import join_order
from drtool.sources.redis.psync import FullResync, Position, ReplicaLink, open_link
from drtool.sources.redis.shape import Shard
from drtool.system.spacing import Spacing

# A replica is some milliseconds behind the master whose stream we had until now.
_CATCH_UP_SECONDS = 2.0
_CATCH_UP_STEP_SECONDS = 0.05
# A gap makes all up to the next snapshot unreachable, however long it is: to wait costs nothing.
_BELIEVE_SECONDS = 15.0
# More than a replica needs to follow its new master.
_SPARE_SECONDS = 30.0
# A join behind a gap makes another gap if the link breaks again; until the next snapshot it is of no use.
_FIRST_GAP_SECONDS, _LONGEST_GAP_SECONDS = 1.0, 15.0
# One by a full resynchronization makes the server fork and send all its data.
_FIRST_RESYNC_SECONDS, _LONGEST_RESYNC_SECONDS = 60.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A server that was joined, and where its stream was asked for from."""

    connection: RedisConnection
    link: ReplicaLink
    start: Start


class Attacher:
    """Chooses among the servers of a shard, for one receiver. `server_clock` is set by each."""

    def __init__(
        self,
        identity: ShardIdentity,
        login: Login,
        patience: Patience,
        *,
        look: Callable[[], StreamInventory],
        snapshots: Sequence[RedisShard],
        server_clock: ServerClock,
    ) -> None:
        self.identity = identity
        self._name = identity.name
        self._login = login
        self._clock, self._emit, self._stop = patience.clock, patience.emit, patience.stop
        self._look = look
        self._snapshots = snapshots
        self._server_clock = server_clock
        self._lost_since: float | None = None
        self._lossy_at = 0.0
        self._spared_since: float | None = None
        self._has_told_clocks = False
        self._gaps = Spacing(
            self._clock, first_seconds=_FIRST_GAP_SECONDS, longest_seconds=_LONGEST_GAP_SECONDS
        )
        self._resyncs = Spacing(
            self._clock,
            first_seconds=_FIRST_RESYNC_SECONDS,
            longest_seconds=_LONGEST_RESYNC_SECONDS,
        )
        self._is_overrun = self._has_told_pause = False

    @contextmanager
    def attach(self, shard: Shard, position: Position | None) -> Iterator[Attached]:
        """The first server of `shard`, in the order of choice, that goes on with what comes next.

        `position` is how far this receiver came; None for one that has just begun. A server that is a
        replica only since a failover has had all data anew from its master, and knows no history but
        the new one: the master knows both. SourceUnavailable if none lets us join, or if none that does
        goes on and another may come back that would.
        """
        with ExitStack() as opened:
            attached = self._attach(opened, shard, position)
            self._lost_since = self._spared_since = None
            yield attached

    def _attach(self, opened: ExitStack, shard: Shard, position: Position | None) -> Attached:
        lossy: tuple[RedisConnection, Start] | None = None
        trouble: SourceUnavailable | None = None
        order = join_order(shard)
        for node in order:
            try:
                connection = opened.enter_context(connect(node.address, self._login))
                self._server_clock.look(connection)
                self._tell_difference(connection.place)
                start = self._start(self._backlog(connection, position), position)
                if not start.is_loss:
                    attached = self._join(opened, connection, start)
                    if start.position is None or not isinstance(attached.link.begun, FullResync):
                        return attached
                    if len(order) == 1:
                        return self._counted(attached)
                    # Overrun meanwhile; another server may have it yet.
                    attached.link.close()
                    self._resyncs.record()
                    start = self._start(self._backlog(connection, position), position)
            except SourceUnavailable as error:
                trouble = trouble or error
                continue
            lossy = lossy or (connection, start)
        if lossy is None:
            self._lost_since = None
            assert trouble is not None
            raise trouble
        self._believe(shard, is_whole=trouble is None)
        self._wait_turn(shard, lossy[1])
        self._server_clock.look(lossy[0])
        return self._counted(self._join(opened, *lossy))

    def _wait_turn(self, shard: Shard, start: Start) -> None:
        """Raise SourceUnavailable while the last join behind a gap is too recent for another.

        A server that is written to quickly, with a small backlog, may answer with a full resynchronization
        though it had what was asked for a moment ago: after one that did, each is taken to do so.
        """
        seconds = self._gaps.remaining()
        if start.position is None or self._is_overrun:
            seconds = max(seconds, self._resyncs.remaining())
        if seconds <= 0:
            return
        error = SourceUnavailable(
            f"gaps in the stream of {shard.name} follow each other: it is joined again in"
            f" {ceil(seconds)} s",
            hint="Raise repl-backlog-size and client-output-buffer-limit replica there.",
        )
        if not self._has_told_pause:
            self._has_told_pause = True
            self._emit(Noted(f"{error.message}. {error.hint}", "warning"))
        raise error

    def _counted(self, attached: Attached) -> Attached:
        self._gaps.record()
        self._has_told_pause = False
        is_full = isinstance(attached.link.begun, FullResync)
        self._is_overrun = is_full and attached.start.position is not None
        if is_full:
            self._resyncs.record()
        return attached

    def spare_master(self, shard: Shard, position: Position | None) -> None:
        """Raise SourceUnavailable for a while: Sentinel keeps whoever joins its master as a replica that
        is down, until it is reset; and after a failover replicas are well again within seconds.

        Not where the master would soon lose what comes next.
        """
        now = self._clock.monotonic()
        self._spared_since = self._spared_since or now
        if now - self._spared_since < _SPARE_SECONDS and self._may_wait(shard, position):
            raise SourceUnavailable(
                f"no replica of {shard.name} is well, and its master {shard.master.address}, which"
                f" Sentinel watches, is joined only after {_SPARE_SECONDS:g} s",
                hint="Look at INFO replication of its replicas.",
            )

    def _may_wait(self, shard: Shard, position: Position | None) -> bool:
        """Whether the master keeps what comes next for a good while yet."""
        with connect(shard.master.address, self._login) as connection:
            backlog = Backlog.parse(connection.place, connection.info("replication"))
        try:
            start = self._start(backlog, position)
        except SourceUnavailable:
            return True  # it is behind us: nothing comes
        return start.is_new or (start.position is not None and backlog.has_room(start.position))

    def _join(self, opened: ExitStack, connection: RedisConnection, start: Start) -> Attached:
        link = open_link(
            connection.address, self._login, clock=self._clock, position=start.position
        )
        return Attached(connection=connection, link=opened.enter_context(link), start=start)

    def _believe(self, shard: Shard, *, is_whole: bool) -> None:
        """Raise SourceUnavailable while a server may still come back that has what the others lost.

        Only time in which it is asked again and again counts: a group of which nobody answers comes
        back one by one.
        """
        now = self._clock.monotonic()
        if self._lost_since is None or now - self._lossy_at > _BELIEVE_SECONDS:
            self._lost_since = now
        self._lossy_at = now
        is_whole = is_whole and len(join_order(shard)) == 1 + len(shard.replicas)
        if not is_whole and now - self._lost_since < _BELIEVE_SECONDS:
            raise SourceUnavailable(
                f"no server of {shard.name} that answers has what comes next in the stream",
                hint="Bring its other servers back: one of them may have it.",
            )
        self._lost_since = None

    def _backlog(self, connection: RedisConnection, position: Position | None) -> Backlog:
        """What the server can send; one that is a little behind us is given time to catch up."""
        deadline = self._clock.monotonic() + _CATCH_UP_SECONDS
        while True:
            backlog = Backlog.parse(connection.place, connection.info("replication"))
            is_behind = position is not None and backlog.is_behind(position)
            if not is_behind or self._clock.monotonic() >= deadline:
                return backlog
            self._clock.wait(_CATCH_UP_STEP_SECONDS, self._stop)

    def _start(self, backlog: Backlog, position: Position | None) -> Start:
        if position is not None:
            start = plan_again(backlog, position)
            if start.is_loss:
                inventory = self._look()
                ends, _ = self.held(inventory, backlog)
                start = on_held(backlog, ends, inventory=inventory) or start
        else:
            inventory = self._look()
            ends, snapshot = self.held(inventory, backlog)
            start = plan_start(backlog, ends, inventory=inventory, snapshot=snapshot)
        if start.position is not None and backlog.is_behind(start.position):
            raise SourceUnavailable(
                f"{backlog.place} is at {backlog.offset}, and the stream is archived up to"
                f" {start.position.offset}",
                hint="It catches up by itself; look at its link to its master if it does not.",
            )
        return start

    def held(
        self, inventory: StreamInventory, backlog: Backlog
    ) -> tuple[list[Position], RedisShard | None]:
        """What is held of this shard: see `held_of`."""
        return held_of(inventory, self._snapshots, backlog, identity=self.identity)

    def _tell_difference(self, place: str) -> None:
        difference = self._server_clock.difference
        if abs(difference) <= TOLERATED_DIFFERENCE or self._has_told_clocks:
            return
        self._has_told_clocks = True
        way = "ahead of" if difference > timedelta(0) else "behind"
        text = (
            f"{self._name}: the clock of {place} is {format_span(abs(difference))} {way} this machine's:"
            " moments are told by the server's. Set both by NTP, or no two machines mean the same moment"
        )
        self._emit(Noted(text, "warning"))
