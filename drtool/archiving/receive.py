"""Receive WAL from a server until told to stop: across restarts, switches of timeline and losses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from drtool.archiving.beating import Heart
from drtool.archiving.begin import StartPoint, plan_start
from drtool.archiving.branch import require_same_branch
from drtool.archiving.handover import Handover
from drtool.archiving.histories import HistoryKeeper
from drtool.archiving.keeping import KeepSettings, LogKeeper
from drtool.archiving.lineages import as_archived
from drtool.archiving.patience import Patience
from drtool.archiving.receive_settings import Received, ReceiveSettings, lease_name
from drtool.archiving.removed import first_resumable, record_gap
from drtool.archiving.slot_keeping import KeptSlot
from drtool.archiving.start import ends_held, first_start, put_word
from drtool.archiving.stream import Intake
from drtool.archiving.wal_events import told_of_minimal
from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.cluster import branch_of, next_branch, system_of
from drtool.model.progress import Emit, Noted, PhaseAdvanced, PhaseBegan, silent
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.layout import Lineage, checked_source
from drtool.repository.lease import Lease
from drtool.repository.log_events import MINIMAL, LogEvent
from drtool.repository.repository import Repository
from drtool.sources.postgres.connection import ReplicationConnection, connect_replication
from drtool.sources.postgres.facts import ServerFacts, replication_facts, require_ready
from drtool.sources.postgres.refusals import BranchLeft, SlotLost, WalNotYetWritten, WalRemoved
from drtool.sources.postgres.slots import create_temporary_slot, slot_position
from drtool.sources.postgres.synchronous import is_synchronous
from drtool.sources.postgres.walstream import TimelineEnded, open_wal_stream
from drtool.system.clock import Clock
from drtool.system.retry import RetryLimits

_PAUSES = RetryLimits(first_pause_seconds=0.2, longest_pause_seconds=15.0)
_MOST_DOUBLINGS = 10
_FINISH_SECONDS = 5.0
_TELL_SECONDS = 0.5


def receive_wal(
    repository: Repository,
    settings: ReceiveSettings,
    *,
    stop: threading.Event,
    clock: Clock,
    emit: Emit = silent,
    ask_for_base: Callable[[], None] | None = None,
) -> Received:
    """Keep all WAL of a server from now on, until `stop` is set.

    What was reported to the server as flushed is durable. A server or a store that goes away is
    waited for; nothing is acknowledged meanwhile, and memory stays bounded (`keeping.LogKeeper`).
    `ask_for_base` is called after each gap, for a new base backup: until there is one, nothing behind
    the gap can be recovered. LeaseHeld if another receiver of this source runs (PITFALLS 22),
    SourceUnsuitable if the server is another cluster than the log's, BranchLeft if it has other WAL
    than the log, IntegrityError if it sends other bytes later.
    """
    with Lease(repository, lease_name(settings.source), clock=clock) as lease:
        patience = Patience(stop=stop, clock=clock, emit=emit, lease=lease)
        slot = None
        if settings.slot is not None:
            slot = KeptSlot(settings.slot, limit_bytes=settings.wal.slot_limit, emit=emit)
        heart = Heart(
            settings.dsn,
            application_name=settings.application_name,
            seconds=settings.wal.heartbeat.total_seconds(),
            clock=clock,
            slot=slot,
        )
        receiver = Receiver(
            repository,
            settings,
            patience=patience,
            heart=heart,
            slot=slot,
            ask_for_base=ask_for_base,
        )
        try:
            return receiver.run()
        finally:
            heart.close()


class Receiver:
    """Streams from one server after the other session, keeping in mind how far each timeline is held."""

    def __init__(
        self,
        repository: Repository,
        settings: ReceiveSettings,
        *,
        patience: Patience,
        heart: Heart | None = None,
        slot: KeptSlot | None = None,
        ask_for_base: Callable[[], None] | None = None,
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._patience = patience
        self._heart = heart
        self._clock = patience.clock
        self._emit = patience.emit
        self._histories = HistoryKeeper(repository, settings.source, patience)
        self.slot = slot
        self._ask_for_base = ask_for_base or _nobody
        self._cluster: int | None = None
        self._minimal_at: Lsn | None = None
        self._is_begun = False
        self._ends: dict[int, Lsn] | None = None
        self._marks = self._segments = self._parts = self._gaps = self._received_bytes = 0
        self._durable_bytes = 0
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
        self._emit(PhaseBegan(phase="wal", title=title, total=None))
        while not self._patience.stop.is_set():
            try:
                self._session()
            except BranchLeft as error:
                if not self._settings.accepts_new_system:
                    raise
                self._begin_branch(error)
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
            facts = self._archived(replication_facts(connection))
            require_ready(facts)
            if settings.is_window:
                create_temporary_slot(connection)
            path = self._histories.keep(connection, facts)
            if self._ends is None:
                self._ends = ends_held(
                    self._repository, settings.source, facts, path=path, first=settings.first
                )
            self._require_same_branch(facts, path)
            slot = self._prepared_slot(connection, facts)
            reserved = None if slot is None else slot_position(connection, slot)
            start = self._start(facts, path, reserved=reserved)
            if is_synchronous(facts.synchronous_standby_names, settings.application_name):
                self.at_once.set()
            try:
                self._stream(connection, facts, start, slot=slot)
            except WalRemoved as error:
                if settings.is_window:
                    raise
                if (self._ends or {}).get(start.timeline, start.durable) > start.durable:
                    return  # removed under us in mid-stream: the next session sees from where on
                self._step_over(facts, path, start=start, error=error)

    def _archived(self, facts: ServerFacts) -> ServerFacts:
        """The facts under the number that the repository has for this cluster and its branch."""
        if self._cluster is None:
            archived = as_archived(
                self._repository, self._settings.source, facts,
                accepts_new=self._settings.accepts_new_system,
            )  # fmt: skip
            self._cluster = archived.system_id
        elif system_of(self._cluster) != facts.system_id:
            raise SourceUnsuitable(
                f"{facts.place} has become another cluster: {facts.system_id}, not"
                f" {system_of(self._cluster)}",
                hint="Let the DSN lead to the cluster that it led to, or start anew with"
                " --accept-source after pg_upgrade.",
            )
        return replace(facts, system_id=self._cluster)

    def _require_same_branch(self, facts: ServerFacts, path: TimelineHistory) -> None:
        """A server that does not have what is held has lost WAL, and writes other under the same name."""
        repository, settings, ends = self._repository, self._settings, dict(self._ends or {})

        def compare() -> None:
            require_same_branch(
                repository, settings.source, settings.dsn, facts=facts, ends=ends, path=path
            )

        self._patience.put(compare)
        end = ends.get(facts.timeline)
        if facts.is_standby and end is not None and facts.flushed < end:
            raise WalNotYetWritten(
                f"{facts.place} is at {facts.flushed} of timeline {facts.timeline}, and the"
                f" repository holds its WAL up to {end}"
            )

    def _begin_branch(self, error: BranchLeft) -> None:
        """What the server writes from now on is kept beside what it wrote before."""
        assert self._cluster is not None
        self._cluster, self._ends, self._is_begun = next_branch(self._cluster), None, False
        told = f"{error.message}; its WAL is kept as branch {branch_of(self._cluster)} from now on"
        self._emit(Noted(told, "warning"))
        self._ask_for_base()

    def _prepared_slot(self, connection: ReplicationConnection, facts: ServerFacts) -> str | None:
        if self.slot is None:
            return None
        end = (self._ends or {}).get(facts.timeline, facts.flushed)
        return self.slot.prepare(connection, behind_bytes=facts.flushed - end)

    def _start(
        self, facts: ServerFacts, path: TimelineHistory, *, reserved: Lsn | None
    ) -> StartPoint:
        assert self._ends is not None
        first = self._settings.first or reserved or facts.flushed
        if self._is_begun:
            return plan_start(self._ends, path, first, segment_bytes=facts.segment_bytes)
        self._is_begun = True
        if self._settings.accepts_new_system:
            lineage = self._lineage(facts, facts.timeline)
            put_word(self._repository, lineage, facts.flushed, patience=self._patience)
        return first_start(
            self._repository, self._settings.source, facts, path=path, ends=self._ends, first=first
        )

    def _lineage(self, facts: ServerFacts, timeline: int) -> Lineage:
        return Lineage(checked_source(self._settings.source), facts.system_id, timeline)

    def _stream(
        self,
        connection: ReplicationConnection,
        facts: ServerFacts,
        start: StartPoint,
        *,
        slot: str | None,
    ) -> None:
        lineage = self._lineage(facts, start.timeline)
        try:
            stream = open_wal_stream(
                connection, start=start.begin, timeline=start.timeline, slot=slot
            )
        except SlotLost:
            if self.slot is not None:
                self.slot.is_lost = True
            return  # the next session makes it anew
        keep = KeepSettings(
            repository=self._repository,
            lineage=lineage,
            segment_bytes=facts.segment_bytes,
            flush_seconds=self._settings.wal.flush.total_seconds(),
            at_once=self.at_once,
            on_durable=lambda durable: self._keep(lineage, durable),
            on_event=lambda event: self._note_event(event, since=start.durable),
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
        told = f"timeline {start.timeline} has ended at {ended.switch_point};"
        self._emit(Noted(f"{told} it goes on as timeline {ended.next_timeline}"))

    def _remember(self, start: StartPoint, keeper: LogKeeper, intake: Intake) -> None:
        assert self._ends is not None
        self._ends[start.timeline] = self.durable = keeper.durable
        self._segments += keeper.segments
        self._parts += keeper.parts
        self._received_bytes += intake.received_bytes

    def _advanced(self, durable: Lsn, server_end: Lsn) -> bool:
        """Tell how far it is; False ends the session, so that the next one streams with a slot again."""
        if self._failures:
            self._emit(Noted(f"WAL of {self._settings.source} is received again", "recovery"))
        self._failures = 0
        self._patience.say(None)
        self._durable_bytes += 0 if self.durable is None else max(0, durable - self.durable)
        self.durable = durable
        self._tell(durable)
        if self.slot is None or server_end < durable:
            return True  # the server has not said yet how far it is
        return not self.slot.is_wanted_again(server_end - durable)

    def _tell(self, durable: Lsn) -> None:
        now = self._clock.monotonic()
        if now - self._told_at < _TELL_SECONDS:
            return
        self._told_at, told = now, f"durable to {durable}"
        self._emit(PhaseAdvanced(phase="wal", done=self._durable_bytes, detail=told))

    def _keep(self, lineage: Lineage, durable: Lsn) -> None:
        """The storing thread has made WAL durable up to there."""
        if self._heart is not None:
            self._marks += self._heart.keep(self._repository, lineage, durable)
        if self._minimal_at is not None and durable > self._minimal_at:
            begin, self._minimal_at = self._minimal_at, None
            self._gaps += 1
            self._emit(Noted(told_of_minimal(begin, lineage.timeline), "warning"))
            self._ask_for_base()

    def _note_event(self, event: LogEvent, *, since: Lsn) -> None:
        """A session begins anew at a segment's start: what lies before `since` was told by an earlier one."""
        if event.kind == MINIMAL and event.lsn >= since:
            self._minimal_at = event.lsn

    def _step_over(
        self, facts: ServerFacts, path: TimelineHistory, *, start: StartPoint, error: WalRemoved
    ) -> None:
        """Record what is lost between the log's end and what the server still has, and go on there."""
        assert self._ends is not None
        fork = path.end_of(start.timeline)
        resume = first_resumable(
            self._settings.dsn, start, segment_bytes=facts.segment_bytes, fork=fork,
            flushed=facts.flushed,
        )  # fmt: skip
        self._ends[start.timeline] = resume
        if resume <= start.durable:
            return
        lineage = self._lineage(facts, start.timeline)
        begin, reason, clock = start.durable, error.message, self._clock
        self._patience.put(
            lambda: record_gap(
                self._repository, lineage, begin, end=resume, reason=reason, clock=clock
            )
        )
        self._gaps += 1
        self._emit(
            Noted(
                f"WAL from {start.durable} to {resume} of timeline {start.timeline} is lost: the server"
                f" has removed it. Backups made before can be recovered to {start.durable} only",
                "warning",
            )
        )
        self._ask_for_base()


def _nobody() -> None:
    """Nobody takes a base backup by itself: whoever runs this receiver does."""
