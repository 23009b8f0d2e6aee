"""Which timelines a cluster has had, as log, histories, marks and backups tell together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from drtool.errors import DrtoolError, IntegrityError, ObjectMissing
from drtool.model.objective import Mark
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage, system_marks
from drtool.repository.log import read_history
from drtool.repository.log_inventory import LogInventory
from drtool.repository.marks import newest_mark
from drtool.repository.names import parse_timeline
from drtool.repository.production import Production, newest_production
from drtool.repository.repository import Repository

_EVERYWHERE = (1 << 64) - 1
# A timeline on which nothing has happened for so much longer than on another is dead.
DEAD_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timelines:
    """`paths` lead to each timeline on which something ends: one that no other went on from, or one that
    was written beyond the point where another left it. The first is where the source goes on: where a
    person said that it does (`production`), else the newest, unless that is dead; the rest newest first.

    `inventory` is told how far each timeline is known to have reached. `missing` are those whose
    history cannot be read, with the error. `newest_marks` are the marks with the greatest positions,
    whether the log reaches them or not.
    """

    inventory: LogInventory
    paths: tuple[TimelineHistory, ...]
    missing: tuple[tuple[int, DrtoolError], ...]
    newest_marks: dict[int, Mark]
    production: Production | None = None

    @property
    def main(self) -> TimelineHistory:
        """The path to the timeline on which the source goes on."""
        return self.paths[0]

    @property
    def is_said(self) -> bool:
        """Whether a person said so."""
        return self.production is not None and self.production.leads_to(self.main)


def read_newest_marks(repository: Repository, source: str, system_id: int) -> dict[int, Mark]:
    """The mark with the greatest position of each timeline that has one.

    Read these before the log is listed: a mark is put when its WAL is durable, so a listing that was
    begun afterwards shows all that they tell of.
    """
    found: dict[int, Mark] = {}
    for name in repository.store.list_directories(system_marks(source, system_id)):
        timeline = parse_timeline(name)
        if timeline is None:
            continue
        lineage = Lineage(source, system_id, timeline)
        mark = newest_mark(repository, lineage, most_lsn=_EVERYWHERE)
        if mark is not None:
            found[timeline] = mark
    return found


def with_known_ends(
    inventory: LogInventory, marks: dict[int, Mark], extents: Iterable[PostgresExtent]
) -> LogInventory:
    """The inventory, told how far each timeline is known to have reached, and when."""
    ends = {timeline: Lsn(mark.lsn) for timeline, mark in marks.items()}
    moments = {timeline: mark.moment for timeline, mark in marks.items()}
    for extent in extents:
        moments[extent.timeline] = max(
            extent.stopped_at, moments.get(extent.timeline, extent.stopped_at)
        )
        ends[extent.timeline] = max(extent.stop_lsn, ends.get(extent.timeline, Lsn(0)))
    return replace(inventory, known_ends=ends, known_moments=moments)


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
    word = newest_production(repository, inventory)
    return Timelines(
        inventory=inventory,
        paths=_in_order(paths, inventory.known_moments, word),
        missing=tuple(missing),
        newest_marks=marks,
        production=word,
    )


def _in_order(
    paths: Sequence[TimelineHistory], moments: Mapping[int, datetime], word: Production | None
) -> tuple[TimelineHistory, ...]:
    """First the path on which the source goes on. Pure."""
    main = next((path for path in paths if word is not None and word.leads_to(path)), paths[0])
    known = [path for path in paths if path.timeline in moments]
    newest = max(known, key=lambda path: moments[path.timeline], default=main)
    until = moments.get(main.timeline)
    if until is not None and moments[newest.timeline] > until + DEAD_AFTER:
        main = newest
    return (main, *(path for path in paths if path != main))


def _goes_beyond(inventory: LogInventory, path: TimelineHistory, timeline: int) -> bool:
    """Whether `timeline` is known to have been written beyond what `path` has of it."""
    end = inventory.known_ends.get(timeline)
    return timeline not in path.path() or (end is not None and not path.holds(timeline, end))
