"""Which timelines a cluster has had, as log, histories, marks and backups tell together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from drtool.errors import DrtoolError, IntegrityError, ObjectMissing
from drtool.model.objective import Mark
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage, system_marks
from drtool.repository.log import LogInventory, read_history
from drtool.repository.marks import newest_mark
from drtool.repository.repository import Repository

_EVERYWHERE = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timelines:
    """`paths` lead to each timeline on which something ends, newest first: one that no other went on
    from, or one that was written beyond the point where another left it.

    `inventory` is told how far each timeline is known to have reached. `missing` are those whose
    history cannot be read, with the error. `newest_marks` are the marks with the greatest positions,
    whether the log reaches them or not.
    """

    inventory: LogInventory
    paths: tuple[TimelineHistory, ...]
    missing: tuple[tuple[int, DrtoolError], ...]
    newest_marks: dict[int, Mark]

    @property
    def main(self) -> TimelineHistory:
        """The path to the newest timeline whose history is known."""
        return self.paths[0]


def read_newest_marks(repository: Repository, source: str, system_id: int) -> dict[int, Mark]:
    """The mark with the greatest position of each timeline that has one.

    Read these before the log is listed: a mark is put when its WAL is durable, so a listing that was
    begun afterwards shows all that they tell of.
    """
    found: dict[int, Mark] = {}
    for name in repository.store.list_directories(system_marks(source, system_id)):
        if len(name) != 8 or not set(name) <= set("0123456789ABCDEF"):
            continue
        timeline = int(name, 16)
        lineage = Lineage(source, system_id, timeline)
        mark = newest_mark(repository, lineage, most_lsn=_EVERYWHERE)
        if mark is not None:
            found[timeline] = mark
    return found


def with_known_ends(
    inventory: LogInventory, marks: dict[int, Mark], extents: Iterable[PostgresExtent]
) -> LogInventory:
    """The inventory, told how far each timeline is known to have reached."""
    ends = {timeline: Lsn(mark.lsn) for timeline, mark in marks.items()}
    for extent in extents:
        ends[extent.timeline] = max(extent.stop_lsn, ends.get(extent.timeline, Lsn(0)))
    return replace(inventory, known_ends=ends)


def find_timelines(
    repository: Repository, inventory: LogInventory, marks: dict[int, Mark]
) -> Timelines:
    """Follow every timeline that anything tells of; `inventory` is one `with_known_ends`."""
    known = {*inventory.timelines, *inventory.histories, *inventory.known_ends} or {1}
    paths: list[TimelineHistory] = []
    missing: list[tuple[int, DrtoolError]] = []
    for timeline in sorted(known, reverse=True):
        if any(not _goes_beyond(inventory, path, timeline) for path in paths):
            continue
        try:
            paths.append(
                read_history(repository, inventory.source, inventory.system_id, timeline=timeline)
            )
        except (ObjectMissing, IntegrityError) as error:
            missing.append((timeline, error))
    if not paths:
        paths.append(TimelineHistory(max(known)))
    return Timelines(
        inventory=inventory, paths=tuple(paths), missing=tuple(missing), newest_marks=marks
    )


def _goes_beyond(inventory: LogInventory, path: TimelineHistory, timeline: int) -> bool:
    """Whether `timeline` is known to have been written beyond what `path` has of it."""
    end = inventory.known_ends.get(timeline)
    return timeline not in path.path() or (end is not None and not path.holds(timeline, end))
