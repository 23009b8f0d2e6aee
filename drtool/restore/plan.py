"""The decision: which backup, which timelines, which WAL. Pure: facts in, plan out, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_exact, format_size
from drtool.model.objective import Mark
from drtool.model.outcome import RestorePreview
from drtool.model.target import (
    RecoveryTarget,
    ToBackup,
    ToLatest,
    ToLsn,
    ToName,
    ToTime,
    ToXid,
    describe_target,
)
from drtool.model.wal import Lsn, TimelineHistory
from drtool.model.window import TimeRange
from drtool.repository.backups import Manifest
from drtool.repository.log_events import PARAMETERS
from drtool.repository.logpath import PlacedEvent, WalSpan, events_between
from drtool.repository.recovery_findings import Zone
from drtool.restore.look import Candidate, RecoveryFacts
from drtool.restore.place_choice import before_place, stop_at_place, told_of_place
from drtool.restore.refused import (
    before_everything,
    beyond_marks,
    hole,
    lack,
    nothing_usable,
    window,
)
from drtool.restore.stop_position import StopPosition

_WHY_NOT_MINIMAL = (
    "What was changed meanwhile is in no WAL; a backup that begins behind it has it. Load in bulk with"
    " wal_level = replica."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """One restore, decided. `spans` is exactly the WAL that the replay will be given.

    `proven_end` is a position that a replay of it to its end surely passes: the newest mark's, or the
    backup's own end. `stop` is the position that the target means, where that is known; of a time target
    `witness` is the newest mark until it on any timeline. `changes` are the starts of the source with
    other settings that the replay comes to.
    """

    source: str
    manifest: Manifest
    target: RecoveryTarget
    timeline: int
    path: tuple[int, ...]
    spans: tuple[WalSpan, ...]
    wal_end: Lsn
    repository_end: Lsn
    proven_end: Lsn
    histories: frozenset[int]
    earliest: datetime | None
    latest: datetime | None
    windows: tuple[TimeRange, ...]
    findings: tuple[Finding, ...]
    system_id: int
    history: TimelineHistory
    stop: StopPosition | None = None
    witness: Mark | None = None
    zone: Zone = UTC
    changes: tuple[PlacedEvent, ...] = ()

    @property
    def fetch_bytes(self) -> int:
        """Bytes of files that will be written."""
        return self.manifest.sizes.read_bytes

    @property
    def wal_bytes(self) -> int:
        """Bytes of WAL that will be replayed at most."""
        return sum(span.end - span.begin for span in self.spans)

    @property
    def segment_count(self) -> int:
        """Segments that will be handed to the replay at most."""
        size = self.manifest.postgres.segment_bytes
        return sum(1 for span in self.spans for _ in span.segments(size))


def plan_restore(
    facts: RecoveryFacts, target: RecoveryTarget, *, accepts_gap: bool = False
) -> RestorePlan:
    """Decide how to reach `target`; NotRecoverable, naming what can be reached, if it cannot be."""
    chosen = _choose_backup(facts, target)
    findings = _warnings(facts, chosen)
    wal_end, stop = chosen.chain.end, facts.stop
    match target:
        case ToTime(moment):
            mark = _covering_mark(facts, chosen, moment)
            wal_end = max(Lsn(mark.lsn), chosen.manifest.postgres.stop_lsn)
            findings += _misdated(facts, moment)
        case ToLsn(lsn):
            _require_position(facts, chosen, lsn)
        case ToBackup():
            wal_end = chosen.manifest.postgres.stop_lsn
        case ToLatest():
            findings += _require_no_gap(facts, chosen, accepts_gap=accepts_gap)
            if chosen.chain.blocked is not None:
                # PostgreSQL fails at the record that ends the recovery, unless it stops in front of it.
                stop = StopPosition(lsn=wal_end)
        case ToXid() | ToName():
            findings += told_of_place(facts, chosen.manifest, target)
            place = facts.place
            if place is not None and place.begin is not None and place.end is not None:
                _require_position(facts, chosen, place.begin)
                wal_end, stop = min(wal_end, place.end), stop_at_place(facts, target)
    earliest, latest = window(facts)
    return RestorePlan(
        source=facts.source,
        manifest=chosen.manifest,
        target=target,
        timeline=facts.history.timeline,
        path=facts.history.path(),
        spans=chosen.chain.up_to(wal_end, facts.inventory.segment_bytes),
        wal_end=wal_end,
        repository_end=chosen.chain.end,
        proven_end=_proven_end(chosen, wal_end),
        histories=facts.inventory.histories,
        earliest=earliest,
        latest=latest,
        windows=facts.windows,
        findings=tuple(findings),
        system_id=facts.system_id,
        history=facts.history,
        stop=stop,
        changes=_changes(facts, chosen, wal_end),
        witness=facts.around.witness if facts.around else None,
        zone=facts.zone,
    )


def _changes(facts: RecoveryFacts, chosen: Candidate, wal_end: Lsn) -> tuple[PlacedEvent, ...]:
    """Up to the end of the WAL that is handed over: a replay may stop later than its target is."""
    extent = chosen.manifest.postgres
    events = events_between(
        facts.inventory, facts.history, timeline=extent.timeline, begin=extent.start_lsn
    )
    return tuple(one for one in events if one.name.kind == PARAMETERS and one.name.lsn < wal_end)


def _misdated(facts: RecoveryFacts, moment: datetime) -> list[Finding]:
    """Commits that bear a later time than the moment, and were made before it, as their place tells."""
    times = facts.stop.misdated if facts.stop else ()
    if not times:
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            subject="clocks",
            fact=f"{len(times)} of the commits before {format_exact(moment, facts.zone)} bear a later time,"
            f" up to {format_exact(max(times), facts.zone)}: the server's clock had jumped. They are kept, by"
            " their place in the WAL; if one was made after that moment, nobody can tell",
            fix="Let the server keep its time by NTP without steps.",
        )
    ]


def _proven_end(candidate: Candidate, wal_end: Lsn) -> Lsn:
    stop, mark = candidate.manifest.postgres.stop_lsn, candidate.newest
    if mark is None or not stop < mark.lsn <= wal_end:
        return stop
    return Lsn(mark.lsn)


def preview(plan: RestorePlan, *, destination: str) -> RestorePreview:
    """What `--plan` shows."""
    extent = plan.manifest.postgres
    path = " > ".join(str(number) for number in plan.path if number >= extent.timeline)
    files = f"{counted(plan.manifest.sizes.files, 'file')}, {format_size(plan.fetch_bytes)},"
    wal = f"{counted(plan.segment_count, 'segment')}, {format_size(plan.wal_bytes)}"
    return RestorePreview(
        source=plan.source,
        kind="postgres",
        target=describe_target(plan.target),
        destination=destination,
        backup_id=plan.manifest.backup_id,
        backup_finished=plan.manifest.ended,
        steps=(
            f"fetch {files} of backup {plan.manifest.backup_id} into {destination}",
            f"replay WAL from {extent.start_lsn} to {plan.wal_end} at most, on timeline {path}: {wal}",
            f"stop at {describe_target(plan.target)}, on a new timeline",
            "verify the copy on a private socket, and stop it",
        ),
        fetch_bytes=plan.fetch_bytes,
        wal_bytes=plan.wal_bytes,
        recoverable_from=plan.earliest,
        recoverable_until=plan.latest,
        windows=plan.windows,
        findings=plan.findings,
    )


def _choose_backup(facts: RecoveryFacts, target: RecoveryTarget) -> Candidate:
    """The newest backup that ends at or before the target, on its path (PITFALLS 42, 51)."""
    usable = [candidate for candidate in facts.candidates if candidate.is_consistent]
    if not usable:
        raise nothing_usable(facts, target)
    match target:
        case ToBackup(backup_id):
            fitting = [c for c in usable if c.manifest.backup_id == backup_id]
        case ToTime(moment):
            fitting = [c for c in usable if facts.ended_by(c, moment)]
        case ToLsn(lsn):
            fitting = [c for c in usable if c.manifest.postgres.stop_lsn <= lsn]
        case ToXid() | ToName():
            fitting = before_place(facts, usable)
        case _:
            fitting = usable
    if not fitting:
        raise before_everything(facts, usable, target)
    return fitting[-1]


def _covering_mark(facts: RecoveryFacts, chosen: Candidate, moment: datetime) -> Mark:
    """The mark whose position, once replayed, proves that nothing up to `moment` is missing."""
    mark = facts.covering
    if mark is not None and mark.lsn <= chosen.chain.end:
        return mark
    if mark is not None:
        raise hole(facts, chosen, f"time {format_exact(moment, facts.zone)} cannot be reached")
    raise beyond_marks(facts, chosen, moment)


def _require_position(facts: RecoveryFacts, chosen: Candidate, lsn: Lsn) -> None:
    if lsn <= chosen.chain.end:
        return
    if chosen.chain.is_cut:
        raise hole(facts, chosen, f"WAL position {lsn} cannot be reached")
    raise NotRecoverable(
        f"WAL position {lsn} lies after the end of the WAL in the repository, {chosen.chain.end}",
        hint=f"Use --to-lsn with a position up to {chosen.chain.end}, or --to latest.",
    )


def _require_no_gap(facts: RecoveryFacts, chosen: Candidate, *, accepts_gap: bool) -> list[Finding]:
    """A log that once went on is not simply at its end (PITFALLS 40)."""
    chain, furthest = chosen.chain, facts.furthest
    was_further = furthest is not None and (
        furthest.lsn > chain.end or furthest.timeline > chain.timeline
    )
    if not chain.is_cut and not was_further:
        return []
    if not accepts_gap:
        raise hole(facts, chosen, "the latest moment cannot be reached")
    known = [chain.beyond] if chain.beyond is not None else []
    known += [Lsn(furthest.lsn)] if furthest is not None else []
    until = f"up to {max(known)} at least" if known else "whatever came later"
    since = (
        f", every change after {format_exact(chosen.newest.moment, facts.zone)}"
        if chosen.newest
        else ""
    )
    return [
        Finding(
            severity=Severity.WARNING,
            subject=f"source {facts.source}",
            fact=f"WAL after {chain.end} is given up, {until}{since}: {lack(facts, chosen)}",
            fix=_WHY_NOT_MINIMAL
            if chain.blocked is not None
            else "Nothing brings it back unless a server still has that segment in its pg_wal.",
        )
    ]


def _warnings(facts: RecoveryFacts, chosen: Candidate) -> list[Finding]:
    """What was passed over is said loudly: an older backup is used, and costs more replay."""
    found = [
        Finding(
            severity=Severity.WARNING,
            subject=f"source {facts.source}",
            fact=f"{message}: that backup is passed over, {chosen.manifest.backup_id} is used",
            fix="Run `drtool verify`, and take a new backup.",
        )
        for message in facts.damaged
    ]
    for candidate in facts.candidates:
        newer = candidate.manifest.postgres.stop_lsn > chosen.manifest.postgres.stop_lsn
        if newer and not candidate.is_consistent:
            found.append(
                Finding(
                    severity=Severity.WARNING,
                    subject=f"backup {candidate.manifest.backup_id}",
                    fact="WAL that it needs is not in the repository: it is passed over",
                    fix="Run `drtool wal gaps`.",
                )
            )
    return found + list(chosen.manifest.findings)
