"""How the change log of a source stands: how far a recovery could come now, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from drtool.archiving.gaps import LogEnd, contiguous_end, find_gaps
from drtool.archiving.receive import lease_name
from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.finding import Finding, Severity
from drtool.model.measure import format_span
from drtool.model.objective import Mark
from drtool.model.outcome import LogGap
from drtool.model.wal import Lsn, TimelineHistory, history_name
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage, SegmentPart, WholeSegment, parse_log_name
from drtool.repository.lease import lease_holder
from drtool.repository.log import LogInventory, read_history, read_log_object, take_inventory
from drtool.repository.marks import newest_mark
from drtool.repository.repository import Repository
from drtool.sources.postgres.walheader import read_wal_header

# Clocks of two machines are never quite the same; beyond this the age of a mark means nothing.
TOLERATED_SKEW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalStatus:
    """None is what nobody knows: no backup, no log, no mark.

    `recoverable_until` and `rpo_now` follow from `mark`, the newest moment whose log position is
    reached without a hole from a backup. `receiver` is who holds the lease.
    """

    source: str
    system_id: int | None = None
    timeline: int | None = None
    end: LogEnd | None = None
    mark: Mark | None = None
    receiver: str | None = None
    rpo_now: timedelta | None = None
    gaps: tuple[LogGap, ...] = ()
    findings: tuple[Finding, ...] = field(default_factory=tuple)

    @property
    def recoverable_until(self) -> datetime | None:
        return self.mark.moment if self.mark else None


def wal_status(
    repository: Repository, source: str, extents: Sequence[PostgresExtent], *, now: datetime
) -> WalStatus:
    """Look at the log of `source`; `extents` are those of its good backups, oldest first.

    Without a backup there is nothing to recover to: the log is described, `mark` stays None.
    """
    receiver = lease_holder(repository, lease_name(source))
    inventory = current_inventory(repository, source, extents)
    if inventory is None:
        return WalStatus(source=source, receiver=receiver)
    mine = [extent for extent in extents if extent.system_id == inventory.system_id]
    path, findings = _path(repository, inventory)
    since = mine[0].start_lsn if mine else Lsn(0)
    end = _best_end(inventory, path, mine)
    mark = _newest_on_path(repository, inventory, path, end=end) if end else None
    return WalStatus(
        source=source,
        system_id=inventory.system_id,
        timeline=path.timeline,
        end=end or _last(inventory, path),
        mark=mark,
        receiver=receiver,
        rpo_now=_age(mark, now, findings) if mark else None,
        gaps=tuple(find_gaps(inventory, path, since=since)),
        findings=tuple(findings),
    )


def _age(mark: Mark, now: datetime, findings: list[Finding]) -> timedelta | None:
    """How old the mark is, never below zero; None if it lies so far ahead that nobody can tell."""
    ahead = mark.moment - now
    if ahead <= TOLERATED_SKEW:
        return max(-ahead, timedelta(0))
    findings.append(
        Finding(
            severity=Severity.WARNING,
            subject="clocks",
            fact=f"the newest mark lies {format_span(ahead)} ahead of this machine's clock, so nobody"
            " can tell how much would be lost now",
            fix="Set the clock of the server, or of this machine, by NTP; the next marks put it right.",
        )
    )
    return None


def current_inventory(
    repository: Repository, source: str, extents: Sequence[PostgresExtent]
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
        )  # fmt: skip
    systems = [n for n in repository.store.list_directories(f"log/{source}/") if n.isdigit()]
    if not systems:
        return None
    size = _segment_bytes(repository, source, systems[-1])
    if size is None:
        return None
    return take_inventory(repository, source, int(systems[-1]), segment_bytes=size)


def _segment_bytes(repository: Repository, source: str, system: str) -> int | None:
    """The segment size, from the header of the first segment that begins at its beginning."""
    prefix = f"log/{source}/{system}/"
    for timeline in repository.store.list_directories(prefix):
        place = f"{prefix}{timeline}/"
        for found in repository.store.list(place):
            match parse_log_name(found.key.removeprefix(place)):
                case WholeSegment() | SegmentPart(begin=0):
                    with suppress(ValueError):  # so short a part holds no header
                        return read_wal_header(read_log_object(repository, found.key)).segment_bytes
    return None


def _path(repository: Repository, inventory: LogInventory) -> tuple[TimelineHistory, list[Finding]]:
    newest = max((t for t, log in inventory.timelines.items() if log.runs), default=1)
    try:
        return read_history(repository, inventory.source, inventory.system_id, timeline=newest), []
    except (ObjectMissing, IntegrityError) as error:
        finding = Finding(
            severity=Severity.PROBLEM,
            subject=history_name(newest),
            fact=f"the history of timeline {newest} cannot be read: {error.message}",
            fix="Run `drtool wal receive` on the server of that timeline: it puts what is missing.",
        )
        return TimelineHistory(newest), [finding]


def _best_end(
    inventory: LogInventory, path: TimelineHistory, extents: Sequence[PostgresExtent]
) -> LogEnd | None:
    """Where the log ends without a hole from the newest backup that is itself covered."""
    for extent in reversed(extents):
        end = contiguous_end(inventory, path, timeline=extent.timeline, begin=extent.start_lsn)
        if end.lsn >= extent.stop_lsn:
            return end
    return None


def _last(inventory: LogInventory, path: TimelineHistory) -> LogEnd | None:
    log = inventory.timelines.get(path.timeline)
    return LogEnd(path.timeline, log.runs[-1].end) if log and log.runs else None


def _newest_on_path(
    repository: Repository, inventory: LogInventory, path: TimelineHistory, *, end: LogEnd
) -> Mark | None:
    """The newest mark at or before `end`, on its timeline or, where that has none yet, an earlier one."""
    line = path.path() if end.timeline in path.path() else (end.timeline,)
    for timeline in reversed(line[: line.index(end.timeline) + 1]):
        fork = path.end_of(timeline) if timeline in path.path() else None
        most = end.lsn if timeline == end.timeline or fork is None else fork
        lineage = Lineage(inventory.source, inventory.system_id, timeline)
        if (mark := newest_mark(repository, lineage, most_lsn=most)) is not None:
            return mark
    return None
