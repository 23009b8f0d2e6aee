"""The replay, watched: how far it came in its own words, or the right error for why it did not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from drtool.errors import (
    DestinationRefused,
    DrtoolError,
    IntegrityError,
    NotRecoverable,
    RepositoryUnavailable,
)
from drtool.model.measure import format_exact
from drtool.model.outcome import Reached
from drtool.model.progress import PhaseAdvanced
from drtool.model.target import ToLatest, ToTime, describe_target
from drtool.model.wal import Lsn, TimelineHistory, history_name
from drtool.repository.recovery_findings import Zone, shown
from drtool.restore.destination import Destination
from drtool.restore.phases import Phases
from drtool.restore.plan import RestorePlan
from drtool.restore.ring import WalRing
from drtool.restore.stop_position import LONGEST_HEADER
from drtool.sources.postgres.log import (
    ConsistencyReached,
    LastCommit,
    LogEvent,
    RecoveryStopped,
    RedoAdvanced,
    RedoBegan,
    RedoEnded,
    RedoNotNeeded,
    ServerFailed,
    TimelineSelected,
)
from drtool.sources.postgres.server import RunningServer

_POLL_SECONDS = 0.02
_MANAGER_MISSING = re.compile(r"resource manager with ID \d+ not registered")
_MINIMAL = "wal_level=minimal"
_TARGET_MISSED = "recovery ended before configured recovery target was reached"


@dataclass(slots=True)
class ReplayWatch:
    """What the server's log has told so far."""

    begin: Lsn
    place: Lsn
    ended: bool = False
    is_consistent: bool = False
    last_commit: datetime | None = None
    stopped: RecoveryStopped | None = None
    timeline: int | None = None
    failures: list[str] = field(default_factory=list)

    def take(self, event: LogEvent) -> None:
        """Note one event."""
        match event:
            case RedoBegan(lsn) | RedoAdvanced(lsn):
                self.place = max(self.place, lsn)
            case RedoEnded(lsn):
                self.place, self.ended = max(self.place, lsn), True
            case RedoNotNeeded():
                self.ended = True
            case ConsistencyReached():
                self.is_consistent = True
            case LastCommit(moment):
                self.last_commit = moment
            case RecoveryStopped():
                self.stopped = event
            case TimelineSelected(timeline):
                self.timeline = timeline
            case ServerFailed(text):
                self.failures.append(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayLimits:
    """`silent_seconds`: neither a position nor a segment has moved. `promote_seconds`: the end of
    recovery, which writes a checkpoint.
    """

    silent_seconds: float = 900.0
    promote_seconds: float = 900.0


def watch_replay(
    server: RunningServer, ring: WalRing, plan: RestorePlan, *, phases: Phases, limits: ReplayLimits
) -> ReplayWatch:
    """Return when the last record was replayed, or raise why that will not be."""
    start = plan.manifest.postgres.start_lsn
    watch = ReplayWatch(start, start)
    patience = _Patience(phases, limits.silent_seconds)
    shown = start
    while not (watch.ended or server.is_ready):
        _step(server, ring, plan, watch=watch)
        patience.look((watch.place, ring.taken, watch.is_consistent), what="the replay")
        if watch.place > shown:
            shown = watch.place
            done = max(0, min(plan.wal_end, shown) - start)
            phases.emit(PhaseAdvanced(phase="replay", done=done, detail=f"at {shown}"))
    return watch


def watch_promotion(
    server: RunningServer,
    ring: WalRing,
    plan: RestorePlan,
    *,
    watch: ReplayWatch,
    phases: Phases,
    limits: ReplayLimits,
) -> None:
    """Return when the server takes connections."""
    patience = _Patience(phases, limits.promote_seconds)
    while not server.is_ready:
        _step(server, ring, plan, watch=watch)
        patience.look((), what="the end of the recovery")


def reached(watch: ReplayWatch, plan: RestorePlan, destination: Destination) -> Reached:
    """How far the copy came: the log's words, and the position at which its new timeline begins.

    IntegrityError if that contradicts the target: a commit after the moment, or an end before WAL
    that is known to be there.
    """
    lsn = watch.place
    if watch.timeline is not None:
        lsn = _branch_point(destination, watch.timeline) or lsn
    target, stop = plan.target, plan.stop
    if stop is not None and not stop.lsn - LONGEST_HEADER <= lsn <= stop.lsn:
        raise IntegrityError(
            f"the replay ended at {lsn}, and {describe_target(target)} is at {stop.lsn}",
            hint="Do not use the copy; report this with the server's log.",
        )
    moment = target.moment if isinstance(target, ToTime) and stop is None else None
    if moment is not None and watch.last_commit and watch.last_commit > moment:
        raise IntegrityError(
            f"the copy holds a commit of {format_exact(watch.last_commit, plan.zone)}, which is after"
            f" {describe_target(target)}",
            hint="Do not use it; report this with the server's log.",
        )
    if isinstance(target, ToLatest) and lsn < plan.proven_end:
        raise IntegrityError(
            f"the replay ended at {lsn}, though a transaction up to {plan.proven_end} is known to be"
            " in the repository's WAL: a segment holds other bytes than the server wrote",
            hint="Run `drtool verify --whole`; restore --to a moment before that position meanwhile.",
        )
    stopped = watch.stopped
    transaction = stopped.xid if stopped and not stopped.is_before else None
    return Reached(
        commit_time=watch.last_commit, lsn=lsn, timeline=watch.timeline, transaction=transaction
    )


class _Patience:
    """A limit on time without any change."""

    def __init__(self, phases: Phases, seconds: float) -> None:
        self._phases = phases
        self._clock = phases.clock
        self._seconds = seconds
        self._seen: object = None
        self._since = self._clock.monotonic()

    def look(self, state: object, *, what: str) -> None:
        """Pass a little time; NotRecoverable if `state` has not changed for too long.

        Interrupted if somebody asked to stop.
        """
        self._phases.go_on()
        now = self._clock.monotonic()
        if state != self._seen:
            self._seen, self._since = state, now
        if now - self._since > self._seconds:
            raise NotRecoverable(
                f"{what} has not moved for {self._seconds:g} s",
                hint="Look at the load of this machine and its disk, and run the restore again.",
            )
        self._clock.wait(_POLL_SECONDS)


def _step(server: RunningServer, ring: WalRing, plan: RestorePlan, *, watch: ReplayWatch) -> None:
    # The order matters: what the server wrote before it ended must be read after its end was seen.
    code = server.exit_code
    events = server.read_log()
    for event in events:
        watch.take(event)
    if ring.bug is not None:
        raise ring.bug
    if code is not None and not events:
        raise _why_it_ended(server, ring, plan, watch=watch)


def _why_it_ended(
    server: RunningServer, ring: WalRing, plan: RestorePlan, *, watch: ReplayWatch
) -> DrtoolError:
    if ring.fault is not None:
        error = ring.fault.error
        error.add_note(f"PostgreSQL had asked for {ring.fault.name} and was given nothing instead")
        return error
    told = "; ".join(watch.failures) or "it ended without saying why"
    log = f"The end of its log:\n{server.log_tail}"
    if any(_TARGET_MISSED in text for text in watch.failures):
        since = f", {format_when(watch.last_commit, plan.zone)}" if watch.last_commit else ""
        return NotRecoverable(
            f"{describe_target(plan.target)} was not reached: the WAL in the repository ends before it,"
            f" at {watch.place}{since}",
            hint="Use --to with a moment inside the window that `drtool status` shows, or --to latest."
            f" {log}",
        )
    if any(_MINIMAL in text for text in watch.failures):
        since = f", {format_when(watch.last_commit, plan.zone)}" if watch.last_commit else ""
        return NotRecoverable(
            f"{describe_target(plan.target)} was not reached: WAL from {watch.place} on was written with"
            f" wal_level = minimal and lacks changes{since}",
            hint=f"Use --to with a moment before that, or restore from a backup that began later. {log}",
        )
    if "No space left on device" in server.log_tail:
        return DestinationRefused(
            f"the destination's disk is full: {told}",
            hint=f"Restore --into a directory on a larger file system. {log}",
        )
    if any("restore_command" in text or "from archive" in text for text in watch.failures):
        return RepositoryUnavailable(
            f"the replay was not given WAL in time: {told}",
            hint=f"Look at the store and the network, and run the restore again. {log}",
        )
    hint = log
    if _MANAGER_MISSING.search(told) or _MANAGER_MISSING.search(server.log_tail):
        hint = f"Name the extension's library, `restore: {{preload: [...]}}` of the source. {log}"
    return NotRecoverable(f"the restored server failed during recovery: {told}", hint=hint)


def format_when(moment: datetime, zone: Zone) -> str:
    """A moment of the log, for messages."""
    return f"with the last commit at {shown(moment, zone)}"


def _branch_point(destination: Destination, timeline: int) -> Lsn | None:
    with destination.open() as data:
        content = data.read(f"pg_wal/{history_name(timeline)}")
    if content is None:
        return None
    history = TimelineHistory.parse(timeline, content.decode("utf-8", "replace"))
    return history.ancestors[-1].switch_point if history.ancestors else None
