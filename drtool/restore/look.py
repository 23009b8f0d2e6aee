"""The look into the repository before a restore: what is there, and how far it reaches.

Only listings, manifests, histories and a few marks are read; nothing is written anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from drtool.errors import NotAuthentic, NotRecoverable, ObjectMissing
from drtool.model.objective import Mark
from drtool.model.target import RecoveryTarget, ToBackup, ToLatest, ToName, ToTime, ToXid
from drtool.model.wal import Lsn, TimelineHistory, history_name
from drtool.model.window import TimeRange
from drtool.repository.backups import Manifest, name_backups, read_manifests
from drtool.repository.damage import known_damage
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage
from drtool.repository.live_timelines import LiveTimeline, live_timelines, require_one_alive
from drtool.repository.log import read_history
from drtool.repository.log_inventory import LogInventory, take_inventory
from drtool.repository.logpath import Chain, walk
from drtool.repository.marks import first_mark_after, last_mark_until
from drtool.repository.recovery_findings import Zone
from drtool.repository.recovery_windows import (
    find_reaches,
    find_windows,
    newest_reached,
)
from drtool.repository.repository import Repository
from drtool.repository.timelines import (
    Timelines,
    find_timelines,
    read_newest_marks,
    with_known_ends,
)
from drtool.repository.wal_search import WalSearch, unwatched
from drtool.restore.damage import without_damaged
from drtool.restore.stop_position import SLOWEST_MARK, Sought, StopPosition, find_stop
from drtool.restore.target_place import TargetPlace, WalOfPath, find_place
from drtool.restore.timeline_choice import MomentMarks, marks_around, timeline_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backup on the path of the recovery, and how far the log carries it."""

    manifest: Manifest
    chain: Chain
    newest: Mark | None

    @property
    def is_consistent(self) -> bool:
        """Whether the log reaches the backup's own end."""
        return self.chain.end >= self.manifest.postgres.stop_lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryFacts:
    """What the repository holds of one cluster, seen along the path to `history.timeline`.

    `candidates` are the backups on the path, oldest first; `elsewhere` those that are not on it.
    `covering` is the first mark after the moment of a time target; `furthest` the mark with the
    greatest position, whether the log reaches it or not. Of a time target `around` are the marks of all
    timelines, and `stop` the position it means, where WAL and marks tell. Of a transaction or a restore
    point `place` is where it is. `is_named`: the backup to begin with was named, and is the only candidate.
    `choices` are timelines between which a person must choose where none was asked for. `zone` is that of
    the reader. `also` are the timelines with a mark behind the moment of a time target.
    """

    source: str
    system_id: int
    inventory: LogInventory
    history: TimelineHistory
    candidates: tuple[Candidate, ...]
    elsewhere: tuple[Manifest, ...]
    damaged: tuple[str, ...]
    covering: Mark | None
    furthest: Mark | None
    windows: tuple[TimeRange, ...] = ()
    around: MomentMarks | None = None
    stop: StopPosition | None = None
    place: TargetPlace | None = None
    is_named: bool = False
    zone: Zone = UTC
    choices: tuple[LiveTimeline, ...] = ()
    also: tuple[int, ...] = ()

    def ended_by(self, candidate: Candidate, moment: datetime) -> bool:
        """Whether a backup had ended by then. Marks tell by its position; its own clock counts only
        where it lies between two of them.
        """
        extent = candidate.manifest.postgres
        before = self.around.before if self.around else {}
        for timeline, mark in before.items():
            if timeline == extent.timeline and extent.stop_lsn <= mark.lsn:
                return True
            if timeline > extent.timeline and self.history.holds(timeline, Lsn(mark.lsn)):
                return True
        is_behind = self.covering is not None and extent.stop_lsn > self.covering.lsn
        return not is_behind and extent.stopped_at <= moment


def look(
    repository: Repository,
    source: str,
    target: RecoveryTarget,
    *,
    timeline: int | None = None,
    from_backup: str | None = None,
    search: WalSearch | None = None,
) -> RecoveryFacts:
    """Gather what `plan_restore` needs; NotRecoverable without a backup, or a history on its path.

    Only the backup `from_backup` is a candidate where it is named. `search` watches a search in the WAL.
    """
    search = search or unwatched()
    facts = _gathered(
        repository, source, target, timeline=timeline, from_backup=from_backup, zone=search.zone
    )
    stop = _stop(repository, facts, search=search)
    return replace(facts, stop=stop, place=_place(repository, facts, target, search=search))


def _gathered(
    repository: Repository,
    source: str,
    target: RecoveryTarget,
    *,
    timeline: int | None,
    from_backup: str | None,
    zone: Zone,
) -> RecoveryFacts:
    """What listings and marks tell: everything but what the WAL is read for."""
    manifests, errors = read_manifests(repository, source)
    damaged = known_damage(repository)
    usable, passed_over = without_damaged(manifests, damaged, target, from_backup=from_backup)
    if not usable:
        raise _no_backup(source, [*errors, *passed_over])
    extent = _cluster_of(usable, target, from_backup=from_backup).postgres
    here = [m for m in usable if m.postgres.system_id == extent.system_id]
    marks = read_newest_marks(repository, source, extent.system_id)

    def inventoried() -> LogInventory:
        found = take_inventory(
            repository, source, extent.system_id,
            segment_bytes=extent.segment_bytes, damaged=damaged,
            since=min(m.postgres.start_lsn for m in here),
        )  # fmt: skip
        return with_known_ends(found, marks, [m.postgres for m in here])

    inventory = inventoried()
    timelines = find_timelines(repository, inventory, marks)
    around = _marks_around(repository, timelines, target)
    wanted = timeline or _wanted(target, extent, around=around, known=timelines, zone=zone)
    history = _path_to(repository, inventory, wanted=wanted)
    on_path = _on_path(here, history, from_backup=from_backup)
    covering = _covering(repository, inventory, history, target=target)
    candidates = _candidates(repository, inventory, history, manifests=on_path)
    if candidates and _seems_cut(candidates[-1].chain, (covering, marks.get(history.timeline))):
        # A mark is put when its WAL is durable: a listing begun after the marks shows it.
        inventory = inventoried()
        candidates = _candidates(repository, inventory, history, manifests=on_path)
        timelines = find_timelines(repository, inventory, marks)
    reaches = find_reaches(repository, timelines, {m.backup_id: m.postgres for m in here})
    return RecoveryFacts(
        source=source,
        system_id=extent.system_id,
        inventory=inventory,
        history=history,
        candidates=tuple(candidates),
        elsewhere=tuple(m for m in usable if m not in on_path),
        damaged=tuple(error.message for error in (*errors, *passed_over)),
        covering=covering,
        furthest=marks.get(history.timeline),
        windows=find_windows(repository, timelines, reaches),
        around=around,
        is_named=from_backup is not None,
        zone=zone,
        choices=() if timeline else _alive(repository, timelines, here, target=target, zone=zone),
        also=tuple(one.timeline for one in timelines.paths if around and around.reach(one)),
    )


def _wanted(
    target: RecoveryTarget,
    extent: PostgresExtent,
    *,
    around: MomentMarks | None,
    known: Timelines,
    zone: Zone,
) -> int | None:
    """The timeline that the target is on, or on which the source goes on; None for the newest."""
    if isinstance(target, ToBackup):
        return extent.timeline
    found = None if around is None else timeline_of(around, known, zone=zone)
    if found is None and any(path.timeline > known.main.timeline for path in known.paths):
        return known.main.timeline
    return found


def _alive(
    repository: Repository,
    timelines: Timelines,
    manifests: list[Manifest],
    *,
    target: RecoveryTarget,
    zone: Zone,
) -> tuple[LiveTimeline, ...]:
    """The timelines between which a person must choose; NotRecoverable where that is to be now."""
    extents = [manifest.postgres for manifest in manifests]
    live = live_timelines(repository, timelines, extents)
    if isinstance(target, ToLatest):
        require_one_alive(timelines.inventory.source, live, zone=zone)
    return live


def _marks_around(
    repository: Repository, timelines: Timelines, target: RecoveryTarget
) -> MomentMarks | None:
    if not isinstance(target, ToTime):
        return None
    return marks_around(repository, timelines.inventory, timelines, moment=target.moment)


def _stop(
    repository: Repository, facts: RecoveryFacts, *, search: WalSearch
) -> StopPosition | None:
    """The position that a time target means, from the WAL between the marks on both sides of it."""
    around, covering = facts.around, facts.covering
    if around is None or covering is None:
        return None
    fitting = [
        candidate
        for candidate in facts.candidates
        if candidate.is_consistent and facts.ended_by(candidate, around.moment)
    ]
    if not fitting or covering.lsn > fitting[-1].chain.end:
        return None
    extent = fitting[-1].manifest.postgres
    timeline, after = extent.timeline, extent.stop_lsn
    for number in facts.history.path():
        lineage = _lineage(facts.inventory, number)
        mark = last_mark_until(repository, lineage, around.moment - SLOWEST_MARK)
        if mark is not None and mark.lsn > after and facts.history.holds(number, Lsn(mark.lsn)):
            timeline, after = number, Lsn(mark.lsn)
    chain = walk(facts.inventory, facts.history, timeline=timeline, begin=after)
    sought = Sought(
        moment=around.moment, after=after, covering=covering, major=extent.server_version // 10000
    )
    spans = chain.up_to(Lsn(covering.lsn), facts.inventory.segment_bytes)
    return find_stop(repository, facts.inventory, spans, sought=sought, search=search)


def _place(
    repository: Repository, facts: RecoveryFacts, target: RecoveryTarget, *, search: WalSearch
) -> TargetPlace | None:
    if not isinstance(target, (ToXid, ToName)):
        return None
    usable = [one.manifest.postgres for one in facts.candidates if one.is_consistent]
    wal = WalOfPath(
        repository=repository, inventory=facts.inventory, history=facts.history, backups=usable
    )
    return find_place(wal, target, search=search)


def _on_path(
    manifests: list[Manifest], history: TimelineHistory, *, from_backup: str | None
) -> list[Manifest]:
    """The backups that a replay to the end of `history` may begin with."""
    found = [m for m in manifests if history.holds(m.postgres.timeline, m.postgres.stop_lsn)]
    if from_backup is None:
        return found
    named = [m for m in found if m.backup_id == from_backup]
    if not named:
        raise NotRecoverable(
            f"backup {from_backup} does not lie on the way to timeline {history.timeline}",
            hint=f"Those that do: {', '.join(m.backup_id for m in found) or 'none'}; or choose another"
            " timeline with --timeline.",
        )
    return named


def _seems_cut(chain: Chain, marks: Iterable[Mark | None]) -> bool:
    """Whether anything tells of WAL beyond the end of the chain."""
    return chain.is_cut or any(mark and mark.lsn > chain.end for mark in marks)


def _no_backup(source: str, errors: Iterable[Exception]) -> Exception:
    for error in errors:
        if not isinstance(error, NotAuthentic):
            return error
    return NotRecoverable(
        f"source {source} has no backup in this repository",
        hint="Run `drtool status` to see what there is, and `drtool backup` to take one.",
    )


def _cluster_of(
    manifests: list[Manifest], target: RecoveryTarget, *, from_backup: str | None
) -> Manifest:
    """The backup whose cluster is meant: a source may have had several (pg_upgrade, PITFALLS 64)."""
    newest = manifests[-1]  # the one that was taken last, whatever a clock said
    named = target.backup_id if isinstance(target, ToBackup) else from_backup
    if named is not None:
        of_name = [m for m in manifests if m.backup_id == named]
        if not of_name:
            raise NotRecoverable(
                f"source {newest.source} has no usable backup {named}",
                hint=name_backups([manifest.backup_id for manifest in manifests]),
            )
        return of_name[0]
    if isinstance(target, ToTime):
        before = [m for m in manifests if m.postgres.stopped_at <= target.moment]
        return before[-1] if before else newest
    return newest


def _path_to(
    repository: Repository, inventory: LogInventory, *, wanted: int | None
) -> TimelineHistory:
    """The history of `wanted`, or of the newest timeline that anything tells of; never silently an
    older one (PITFALLS 41, 109).
    """
    known = {*inventory.timelines, *inventory.histories, *inventory.known_ends}
    timeline = max(known) if wanted is None else wanted
    if timeline not in known:
        raise NotRecoverable(
            f"timeline {timeline} of source {inventory.source} is not in the repository",
            hint=f"It holds timelines {', '.join(map(str, sorted(known)))}: name one of them.",
        )
    try:
        return read_history(repository, inventory.source, inventory.system_id, timeline=timeline)
    except ObjectMissing as error:
        older = max((number for number in known if number < timeline), default=1)
        raise NotRecoverable(
            f"history file {history_name(timeline)} of source {inventory.source} is not in the"
            f" repository, so nobody can tell how timeline {timeline} came about",
            hint=f"Put it back from a server's pg_wal with `drtool-wal push`, or give up on timeline"
            f" {timeline} with --timeline {older}.",
        ) from error


def _candidates(
    repository: Repository,
    inventory: LogInventory,
    history: TimelineHistory,
    *,
    manifests: list[Manifest],
) -> list[Candidate]:
    found: list[Candidate] = []
    newest: dict[tuple[int, Lsn], Mark | None] = {}
    for manifest in sorted(manifests, key=lambda manifest: manifest.postgres.stop_lsn):
        extent = manifest.postgres
        chain = walk(inventory, history, timeline=extent.timeline, begin=extent.start_lsn)
        place = chain.timeline, chain.end
        if place not in newest:
            newest[place] = newest_reached(repository, inventory, history, chain=chain)
        found.append(Candidate(manifest, chain, newest[place]))
    return found


def _covering(
    repository: Repository,
    inventory: LogInventory,
    history: TimelineHistory,
    *,
    target: RecoveryTarget,
) -> Mark | None:
    """The first mark after a time target that lies on the path, not on a branch that was given up."""
    if not isinstance(target, ToTime):
        return None
    found: list[Mark] = []
    for timeline in history.path():
        mark = first_mark_after(repository, _lineage(inventory, timeline), target.moment)
        if mark is not None and history.holds(timeline, Lsn(mark.lsn)):
            found.append(mark)
    return min(found, default=None)


def _lineage(inventory: LogInventory, timeline: int) -> Lineage:
    return Lineage(inventory.source, inventory.system_id, timeline)
