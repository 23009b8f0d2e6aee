"""How the change log of a source stands: how far a recovery could come now, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from drtool.archiving.gaps import LogEnd, find_gaps
from drtool.archiving.receive_settings import lease_name
from drtool.errors import IntegrityError
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.measure import age_of, format_span
from drtool.model.objective import Mark
from drtool.model.wal import TimelineHistory
from drtool.model.window import LogGap, TimeRange
from drtool.repository.clusters import logged_systems
from drtool.repository.damage import Damage
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import SegmentPart, WholeSegment, parse_log_name
from drtool.repository.lease import HeldLease, read_lease
from drtool.repository.live_timelines import live_findings, live_timelines
from drtool.repository.log import read_log_object
from drtool.repository.log_inventory import LogInventory, take_inventory
from drtool.repository.recovery_findings import (
    Zone,
    gap_findings,
    log_damage_findings,
    timeline_findings,
)
from drtool.repository.recovery_windows import (
    Reach,
    find_reaches,
    find_windows,
)
from drtool.repository.recovery_windows import find_gaps as find_timed_gaps
from drtool.repository.repository import Repository
from drtool.repository.timelines import find_timelines, read_newest_marks, with_known_ends
from drtool.sources.postgres.walheader import read_wal_header


@dataclass(frozen=True, slots=True, kw_only=True)
class WalStatus:
    """None is what nobody knows: no backup, no log, no mark.

    `mark` is the newest whose log position is reached without a gap from a usable backup, and
    `rpo_now` follows from it. `windows` are all moments that can be returned to. `lease` is that of
    the receiver. `told_until` is the newest moment that marks of any timeline tell of.
    """

    source: str
    system_id: int | None = None
    timeline: int | None = None
    end: LogEnd | None = None
    mark: Mark | None = None
    told_until: datetime | None = None
    lease: HeldLease | None = None
    rpo_now: timedelta | None = None
    windows: tuple[TimeRange, ...] = ()
    gaps: tuple[LogGap, ...] = ()
    findings: tuple[Finding, ...] = field(default_factory=tuple)

    @property
    def receiver(self) -> str | None:
        """Who holds the receiver's lease."""
        return self.lease.owner if self.lease else None

    @property
    def recoverable_until(self) -> datetime | None:
        """The latest moment that can be returned to."""
        return self.windows[-1].end if self.windows else None


def wal_status(
    repository: Repository,
    source: str,
    backups: Mapping[str, PostgresExtent],
    *,
    now: datetime,
    damaged: Mapping[str, Damage] | None = None,
    zone: Zone = UTC,
) -> WalStatus:
    """Look at the log of `source`; `backups` are its usable ones by id, oldest first.

    Without a backup there is nothing to recover to: the log is described, `mark` stays None.
    `damaged` are objects known to be damaged: those of the log count as missing.
    """
    lease = read_lease(repository, lease_name(source))
    extents = list(backups.values())
    known_bad = damaged or {}
    system_id = _system_of(repository, source, extents)
    marks = {} if system_id is None else read_newest_marks(repository, source, system_id)
    told_until = max((one.moment for one in marks.values()), default=None)
    found = current_inventory(repository, source, extents, damaged=known_bad)
    if found is None:
        return WalStatus(source=source, lease=lease, told_until=told_until)
    mine = {key: one for key, one in backups.items() if one.system_id == found.system_id}
    inventory = with_known_ends(found, marks, mine.values())
    timelines = find_timelines(repository, inventory, marks)
    reaches = find_reaches(repository, timelines, mine)
    gaps = find_timed_gaps(repository, inventory, reaches)
    if not mine:
        gaps = tuple(find_gaps(inventory, timelines.main))
    best = _best(reaches)
    findings = [
        *timeline_findings(source, timelines, zone=zone),
        *log_damage_findings(source, known_bad),
        *gap_findings(source, gaps, reaches, zone=zone),
        *live_findings(source, live_timelines(repository, timelines, mine.values()), zone=zone),
    ]
    mark = best.newest if best else None
    return WalStatus(
        source=source,
        system_id=found.system_id,
        timeline=timelines.main.timeline,
        end=LogEnd(best.chain.timeline, best.chain.end)
        if best
        else _last(inventory, timelines.main),
        mark=mark,
        told_until=told_until,
        lease=lease,
        rpo_now=_age(mark, now, findings, zone=zone) if mark else None,
        windows=find_windows(repository, timelines, reaches),
        gaps=gaps,
        findings=tuple(findings),
    )


def _best(reaches: Iterable[Reach]) -> Reach | None:
    """The newest backup that can become consistent, on the newest timeline that has one."""
    usable = [reach for reach in reaches if reach.is_consistent]
    main = [reach for reach in usable if reach.path == usable[0].path]
    return main[-1] if main else None


def _age(mark: Mark, now: datetime, findings: list[Finding], *, zone: Zone) -> timedelta | None:
    """How old the mark is, never below zero; None if it lies so far ahead that nobody can tell."""
    age = age_of(mark.moment, now)
    if age is not None:
        return age
    ahead = mark.moment - now
    findings.append(
        Finding(
            severity=Severity.PROBLEM,
            subject="clocks",
            fact=f"the newest mark is of {mark.moment.astimezone(zone).isoformat(timespec='seconds')},"
            f" {format_span(ahead)} ahead of this machine's clock, so nobody can tell how much would be"
            " lost now",
            fix="Set the clock of the server, or of this machine, by NTP; the next marks put it right.",
            harm=Harm.PROMISE,
        )
    )
    return None


def _system_of(
    repository: Repository, source: str, extents: Sequence[PostgresExtent]
) -> int | None:
    """The cluster of the newest backup; without any, that of the log."""
    if extents:
        return extents[-1].system_id
    return max(logged_systems(repository, source), default=None)


def current_inventory(
    repository: Repository,
    source: str,
    extents: Sequence[PostgresExtent],
    *,
    damaged: Mapping[str, Damage],
) -> LogInventory | None:
    """What is there of the cluster that the source is now, from its oldest backup on.

    That is the cluster of the newest backup; without any, the only one that has a log. None if
    there is no log at all.
    """
    if extents:
        newest = extents[-1]
        mine = [extent for extent in extents if extent.system_id == newest.system_id]
        return take_inventory(
            repository, source, newest.system_id,
            segment_bytes=newest.segment_bytes, since=min(e.start_lsn for e in mine),
            damaged=damaged,
        )  # fmt: skip
    system = _system_of(repository, source, extents)
    size = None if system is None else _segment_bytes(repository, source, str(system))
    if system is None or size is None:
        return None
    return take_inventory(repository, source, system, segment_bytes=size, damaged=damaged)


def _segment_bytes(repository: Repository, source: str, system: str) -> int | None:
    """The segment size, from the header of the first segment that begins at its beginning."""
    prefix = f"log/{source}/{system}/"
    for timeline in repository.store.list_directories(prefix):
        place = f"{prefix}{timeline}/"
        for found in repository.store.list(place):
            match parse_log_name(found.key.removeprefix(place)):
                case WholeSegment() | SegmentPart(begin=0):
                    # So short a part holds no header, and what is none of ours tells nothing.
                    with suppress(ValueError, IntegrityError):
                        return read_wal_header(read_log_object(repository, found.key)).segment_bytes
    return None


def _last(inventory: LogInventory, path: TimelineHistory) -> LogEnd | None:
    log = inventory.timelines.get(path.timeline)
    return LogEnd(path.timeline, log.runs[-1].end) if log and log.runs else None
