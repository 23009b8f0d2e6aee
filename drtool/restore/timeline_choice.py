"""On which timeline a moment happened, as marks tell, and how much of it a copy holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drtool.errors import NotRecoverable
from drtool.model.measure import format_exact
from drtool.model.objective import Mark
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.layout import Lineage
from drtool.repository.live_timelines import beside, require_one_written
from drtool.repository.log_inventory import LogInventory
from drtool.repository.marks import first_mark_after, last_mark_until, newest_mark
from drtool.repository.recovery_findings import Zone
from drtool.repository.repository import Repository
from drtool.repository.timelines import Timelines


@dataclass(frozen=True, slots=True)
class MomentMarks:
    """The last mark of each timeline until `moment`, and the first one after it."""

    moment: datetime
    before: dict[int, Mark]
    after: dict[int, Mark]

    @property
    def witness(self) -> Mark | None:
        """The newest mark until the moment, on whatever timeline: what a copy must hold."""
        return max(self.before.values(), default=None)

    def reach(self, path: TimelineHistory) -> bool:
        """Whether a mark after the moment lies on the path."""
        return any(path.holds(timeline, Lsn(mark.lsn)) for timeline, mark in self.after.items())


def marks_around(
    repository: Repository, inventory: LogInventory, timelines: Timelines, *, moment: datetime
) -> MomentMarks:
    """What the marks of all timelines say of one moment."""
    before: dict[int, Mark] = {}
    after: dict[int, Mark] = {}
    for timeline in timelines.newest_marks:
        lineage = Lineage(inventory.source, inventory.system_id, timeline)
        mark = last_mark_until(repository, lineage, moment)
        if mark is not None:
            before[timeline] = mark
        behind = first_mark_after(repository, lineage, moment)
        if behind is not None:
            after[timeline] = behind
    return MomentMarks(moment, before, after)


def timeline_of(marks: MomentMarks, timelines: Timelines, *, zone: Zone) -> int | None:
    """The timeline whose path holds what had been acknowledged by the moment; None for the newest. Pure.

    NotRecoverable if that timeline cannot be followed, or if two were written at that moment: then only
    a person knows which one is meant, and may have said so for good. That also settles a moment at which
    the newest had ended and theirs goes on.
    """
    witness = marks.witness
    if witness is None:
        return None
    chosen = next(
        (path for path in timelines.paths if path.holds(witness.timeline, Lsn(witness.lsn))), None
    )
    if chosen is None:
        raise NotRecoverable(
            f"time {format_exact(marks.moment, zone)} was on timeline {witness.timeline}, as its marks tell,"
            " and the history of that timeline cannot be read",
            hint="Put the history file back with `drtool-wal push`, or choose another timeline with"
            " --timeline.",
        )
    written = [mark for timeline, mark in marks.before.items() if timeline in marks.after]
    source, told = timelines.inventory.source, format_exact(marks.moment, zone)
    if timelines.is_said and marks.reach(timelines.main):
        if beside(chosen, written) or not marks.reach(chosen):
            return timelines.main.timeline
    require_one_written(source, chosen, witness, written=written, told=told)
    return chosen.timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedPath:
    """What a copy was made from: the path of timelines of one cluster, up to `reached`."""

    source: str
    system_id: int
    history: TimelineHistory
    reached: Lsn


def held_mark(repository: Repository, path: ReplayedPath, *, until: datetime | None) -> Mark | None:
    """The newest mark that a copy holds.

    `until` leaves out those of a later time: what a clock says that ran ahead proves nothing.
    """
    found: list[Mark] = []
    for timeline in path.history.path():
        switch = path.history.end_of(timeline)
        most = path.reached if switch is None else min(path.reached, switch)
        lineage = Lineage(path.source, path.system_id, timeline)
        mark = newest_mark(repository, lineage, most_lsn=most)
        if mark is not None and until is not None and mark.moment > until:
            mark = last_mark_until(repository, lineage, until)
            mark = mark if mark is not None and mark.lsn <= most else None
        if mark is not None:
            found.append(mark)
    return max(found, key=lambda mark: (mark.timeline, mark.lsn), default=None)
