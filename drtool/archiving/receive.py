"""Receive WAL from a server until told to stop: across restarts, switches of timeline and losses."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from drtool.archiving.beating import Heart
from drtool.archiving.begin import StartPoint, held_ends, held_from, plan_start, segment_start
from drtool.archiving.handover import Handover
from drtool.archiving.histories import HistoryKeeper
from drtool.archiving.keeping import KeepSettings, LogKeeper
from drtool.archiving.lineages import require_known_system
from drtool.archiving.patience import Patience
from drtool.archiving.removed import first_available, record_gap
from drtool.archiving.stream import Intake
from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.progress import Emit, Noted, PhaseAdvanced, PhaseBegan, silent
from drtool.model.wal import Lsn, TimelineHistory, WalSegment
from drtool.policy.sources import WalSettings
from drtool.repository import layout
from drtool.repository.layout import Lineage
from drtool.repository.lease import Lease
from drtool.repository.log import list_parts, take_inventory
from drtool.repository.repository import Repository
from drtool.sources.postgres.connection import ReplicationConnection, connect_replication
from drtool.sources.postgres.facts import ServerFacts, replication_facts, require_ready
from drtool.sources.postgres.refusals import WalNotYetWritten, WalRemoved
from drtool.sources.postgres.slots import (
    create_slot,
    create_temporary_slot,
    drop_slot,
    slot_position,
)
from drtool.sources.postgres.synchronous import is_synchronous
from drtool.sources.postgres.walstream import TimelineEnded, open_wal_stream
from drtool.system.clock import Clock
from drtool.system.retry import RetryLimits

_PAUSES = RetryLimits(first_pause_seconds=0.2, longest_pause_seconds=15.0)
_MOST_DOUBLINGS = 10
_FINISH_SECONDS = 5.0
_TELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveSettings:
    """What is received, and how.

    `is_window`: only a stretch from `first` on is wanted, for a backup. Then WAL that the server has
    removed is an error; otherwise it becomes a recorded gap, and receiving goes on behind it.
    """

    source: str
    dsn: str = field(repr=False)
    wal: WalSettings = field(default_factory=WalSettings)
    accepts_new_system: bool = False
    first: Lsn | None = None
    is_window: bool = False

    @property
    def application_name(self) -> str:
        """What to write into synchronous_standby_names (in double quotes) for an RPO of zero."""
        return f"drtool-{self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a receiver has done. `durable` is None if it never got as far as a stream."""

    source: str
    timeline: int | None
    durable: Lsn | None
    received_bytes: int
    segments: int
    parts: int
    marks: int
    gaps: int


def receive_wal(
    repository: Repository,
    settings: ReceiveSettings,
    *,
    stop: threading.Event,
    clock: Clock,
    emit: Emit = silent,
) -> Received:
    """Keep all WAL of a server from now on, until `stop` is set.

    What was reported to the server as flushed is durable. A server or a store that goes away is
    waited for; nothing is acknowledged meanwhile, and memory stays bounded (`keeping.LogKeeper`).
    LeaseHeld if another receiver of this source runs (PITFALLS 22), SourceUnsuitable if the server
    is another cluster than the log's, IntegrityError if it sends other bytes than the log holds.
    """
    with Lease(repository, lease_name(settings.source), clock=clock) as lease:
        patience = Patience(stop=stop, clock=clock, emit=emit, lease=lease)
        heart = Heart(
            settings.dsn,
            application_name=settings.application_name,
            seconds=settings.wal.heartbeat.total_seconds(),
            clock=clock,
        )
        receiver = Receiver(repository, settings, patience=patience, heart=heart)
        try:
            return receiver.run()
        finally:
            heart.close()


def lease_name(source: str) -> str:
    """The lease that a receiver of `source` holds."""
    return f"wal-{source}"


class Receiver:
    """Streams from one server after the other session, keeping in mind how far each timeline is held."""

    def __init__(
        self,
        repository: Repository,
        settings: ReceiveSettings,
        *,
        patience: Patience,
        heart: Heart | None = None,
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._patience = patience
        self._heart = heart
        self._clock = patience.clock
        self._emit = patience.emit
        self._histories = HistoryKeeper(repository, settings.source, patience)
        self._slot = None if settings.is_window else settings.wal.slot
        self._system_id: int | None = None
        self._ends: dict[int, Lsn] | None = None
        self._marks = self._segments = self._parts = self._gaps = self._received_bytes = 0
        self._failures = 0
        self._told_at = float("-inf")
        self.at_once = threading.Event()
        self._handover: Handover | None = None
        self._handover_lock = threading.Lock()
        self.timeline: int | None = None
        self.durable: Lsn | None = None

    def run(self) -> Received:
        """Receive until the run is told to stop."""
        title = f"WAL of {self._settings.source}"
        self._emit(PhaseBegan(phase="wal", title=title, total=None, unit="wal"))
        while not self._patience.stop.is_set():
            try:
                self._session()
            except WalNotYetWritten as error:
                self._pause(error)
            except SourceUnavailable as error:
                if not error.retryable:
                    raise
                self._pause(error)
        return Received(
            source=self._settings.source,
            timeline=self.timeline,
            durable=self.durable,
            received_bytes=self._received_bytes,
            segments=self._segments,
            parts=self._parts,
            marks=self._marks,
            gaps=self._gaps,
        )

    def hurry(self) -> None:
        """Make durable at once what has arrived, and look now whether to stop. For any thread."""
        self.at_once.set()
        with self._handover_lock:
            if self._handover is not None:
                self._handover.ask_for_flush()
                self._handover.wake()

    def holds(self, timeline: int, lsn: Lsn) -> bool:
        """Whether this run has seen `timeline` become durable up to `lsn`. For any thread."""
        end = self.durable if self.timeline == timeline else (self._ends or {}).get(timeline)
        return end is not None and end >= lsn

    def _pause(self, error: SourceUnavailable) -> None:
        self._failures += 1
        if self._failures == 1:
            self._emit(Noted(f"{error.message}; it is tried again", "warning"))
        self._patience.say(error.message)
        self._clock.wait(_PAUSES.pause(min(self._failures, _MOST_DOUBLINGS)), self._patience.stop)

    def _session(self) -> None:
        """One connection: from looking at the server to the end of its stream."""
        settings = self._settings
        with connect_replication(
            settings.dsn, purpose="wal", application_name=settings.application_name
        ) as connection:
            facts = replication_facts(connection)
            require_ready(facts)
            self._require_same_system(facts)
            if settings.is_window:
                create_temporary_slot(connection)
            elif self._slot is not None:
                self._prepare_slot(connection, self._slot)
            path = self._histories.keep(connection, facts)
            start = self._start(connection, facts, path)
            self._require_not_behind(facts, start)
            if is_synchronous(facts.synchronous_standby_names, settings.application_name):
                self.at_once.set()
            try:
                self._stream(connection, facts, start)
            except WalRemoved as error:
                if settings.is_window:
                    raise
                if (self._ends or {}).get(start.timeline, start.durable) > start.durable:
                    return  # removed under us in mid-stream: the next session sees from where on
                self._step_over(facts, path, start=start, error=error)

    def _require_same_system(self, facts: ServerFacts) -> None:
        if self._system_id is None:
            require_known_system(
                self._repository, self._settings.source, facts,
                accepts_new=self._settings.accepts_new_system,
            )  # fmt: skip
        elif self._system_id != facts.system_id:
            raise SourceUnsuitable(
                f"{facts.place} has become another cluster: {facts.system_id}, not {self._system_id}",
                hint="Let the DSN lead to the cluster that it led to, or start anew with"
                " --accept-new-system after pg_upgrade.",
            )
        self._system_id = facts.system_id

    def _prepare_slot(self, connection: ReplicationConnection, slot: str) -> None:
        if create_slot(connection, slot):
            self._emit(Noted(f"made the replication slot {slot}"))
        elif slot_position(connection, slot) is None:
            # It was invalidated (max_slot_wal_keep_size) and can never be used again, or it
            # reserves nothing yet; a new one of the same name keeps WAL from now on.
            drop_slot(connection, slot)
            create_slot(connection, slot)
            self._emit(Noted(f"the replication slot {slot} was lost and is made anew", "warning"))

    def _start(
        self, connection: ReplicationConnection, facts: ServerFacts, path: TimelineHistory
    ) -> StartPoint:
        size = facts.segment_bytes
        is_new = self._ends is None
        if self._ends is None:
            inventory = take_inventory(
                self._repository, self._settings.source, facts.system_id, segment_bytes=size,
                since=segment_start(self._settings.first or 0, size),
            )  # fmt: skip
            if self._settings.first is None:
                self._ends = held_ends(inventory, path)
            else:
                self._ends = held_from(inventory, facts.timeline, self._settings.first)
        first = self._settings.first
        if first is None and self._slot is not None:
            first = slot_position(connection, self._slot)
        start = plan_start(self._ends, path, first or facts.flushed, segment_bytes=size)
        return self._reopened(facts, start) if is_new else start

    def _reopened(self, facts: ServerFacts, start: StartPoint) -> StartPoint:
        """A segment that ended in parts is begun again, so that it becomes whole."""
        size = facts.segment_bytes
        is_held = (self._ends or {}).get(start.timeline) == start.durable
        if not is_held or start.durable > start.begin:
            return start
        lineage = self._lineage(facts, start.timeline)
        before = WalSegment.holding(start.timeline, Lsn(start.begin - 1), size)
        name = before.name(size)
        if self._repository.store.stat(lineage.segment_key(name)) is not None:
            return start
        if not list_parts(self._repository, lineage, name):
            return start
        begin = before.begin(size)
        return StartPoint(timeline=start.timeline, begin=begin, durable=start.durable)

    def _require_not_behind(self, facts: ServerFacts, start: StartPoint) -> None:
        """A primary that is behind the log has lost WAL, and would write other under the same name."""
        if start.timeline != facts.timeline or facts.flushed >= start.durable:
            return
        fact = (
            f"{facts.place} is at {facts.flushed} of timeline {facts.timeline}, and the repository"
            f" holds its WAL up to {start.durable}"
        )
        if facts.is_standby:
            raise WalNotYetWritten(fact)
        raise SourceUnsuitable(
            fact,
            hint="The server has lost WAL (a copy put back without recovery?), or it is a clone."
            " Recover it to a new timeline, or give the source another name.",
        )

    def _lineage(self, facts: ServerFacts, timeline: int) -> Lineage:
        return Lineage(layout.checked_source(self._settings.source), facts.system_id, timeline)

    def _stream(
        self, connection: ReplicationConnection, facts: ServerFacts, start: StartPoint
    ) -> None:
        lineage = self._lineage(facts, start.timeline)
        stream = open_wal_stream(
            connection, start=start.begin, timeline=start.timeline, slot=self._slot
        )
        keep = KeepSettings(
            repository=self._repository,
            lineage=lineage,
            segment_bytes=facts.segment_bytes,
            flush_seconds=self._settings.wal.flush.total_seconds(),
            at_once=self.at_once,
            on_durable=lambda durable: self._keep_marks(lineage, durable),
        )
        keeper = LogKeeper(keep, self._patience, begin=start.begin, durable=start.durable)
        intake = Intake(connection, stream, keeper, clock=self._clock)
        self.timeline, self.durable = start.timeline, start.durable
        self._handover = keeper.handover
        if self._heart is not None:
            self._heart.start(at_once=self.at_once, emit=self._emit)
        try:
            ended = intake.run(start.begin, self._patience.stop, on_report=self._advanced)
        finally:
            with self._handover_lock:
                self._handover = None  # its pipe is closed in a moment, and may become another's
            try:
                keeper.close()
            finally:
                self._remember(start, keeper, intake)
        if isinstance(ended, TimelineEnded):
            self._finish_timeline(start, ended)
            return
        try:
            intake.report()
            stream.finish(timeout_seconds=_FINISH_SECONDS)
        except SourceUnavailable:
            return  # it has gone first; what it was told before was true

    def _finish_timeline(self, start: StartPoint, ended: TimelineEnded) -> None:
        assert self._ends is not None
        self._ends[start.timeline] = max(ended.switch_point, start.durable)
        self._emit(
            Noted(
                f"timeline {start.timeline} has ended at {ended.switch_point};"
                f" it goes on as timeline {ended.next_timeline}"
            )
        )

    def _remember(self, start: StartPoint, keeper: LogKeeper, intake: Intake) -> None:
        assert self._ends is not None
        self._ends[start.timeline] = self.durable = keeper.durable
        self._segments += keeper.segments
        self._parts += keeper.parts
        self._received_bytes += intake.received_bytes

    def _advanced(self, durable: Lsn) -> None:
        self._failures = 0
        self._patience.say(None)
        self.durable = durable
        now = self._clock.monotonic()
        if now - self._told_at < _TELL_SECONDS:
            return
        self._told_at = now
        self._emit(PhaseAdvanced(phase="wal", done=durable, detail=f"durable to {durable}"))

    def _keep_marks(self, lineage: Lineage, durable: Lsn) -> None:
        if self._heart is not None:
            self._marks += self._heart.keep(self._repository, lineage, durable)

    def _step_over(
        self, facts: ServerFacts, path: TimelineHistory, *, start: StartPoint, error: WalRemoved
    ) -> None:
        """Record what is lost between the log's end and what the server still has, and go on there."""
        assert self._ends is not None
        fork = path.end_of(start.timeline)
        end = facts.flushed if fork is None else fork
        found = first_available(
            self._settings.dsn, start, end=end, segment_bytes=facts.segment_bytes
        )
        resume = found if found is not None else end
        lineage = self._lineage(facts, start.timeline)
        if fork is None:
            resume = segment_start(resume, facts.segment_bytes)
        if resume > start.durable:
            self._patience.put(
                lambda: record_gap(
                    self._repository,
                    lineage,
                    start.durable,
                    end=resume,
                    reason=error.message,
                    clock=self._clock,
                )
            )
            self._gaps += 1
            self._emit(
                Noted(
                    f"WAL from {start.durable} to {resume} of timeline {start.timeline} is lost: the"
                    " server has removed it. Backups made before can be recovered to"
                    f" {start.durable} only; take a new one now with `drtool backup`",
                    "warning",
                )
            )
        self._ends[start.timeline] = resume
