"""Timelines of one cluster that were written at the same time: two servers live under one name.

After a failover the old timeline ends before the new one begins. Where marks say that it went on, a
copy was backed up under its source's name, or a primary was cut off and went on (PITFALLS 3, 112):
which of the two is production, only a person can say: `--timeline` for one restore, `--accept-source`
for good. It is told here for now, and for a moment that is restored to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.objective import Mark
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage
from drtool.repository.marks import first_mark_after
from drtool.repository.recovery_findings import Zone, shown
from drtool.repository.repository import Repository
from drtool.repository.timelines import DEAD_AFTER, Timelines

# Clocks of two servers may differ by this much at a failover.
TOLERATED_SKEW = timedelta(seconds=10)
_EVER = datetime(1970, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LiveTimeline:
    """A timeline that is written, and the newest moment that is known of it."""

    timeline: int
    until: datetime


def beside(path: TimelineHistory, marks: Iterable[Mark]) -> list[Mark]:
    """Those of the marks that a server made which went on beside `path`: it does not hold them."""
    return [mark for mark in marks if not path.holds(mark.timeline, Lsn(mark.lsn))]


def require_one_written(
    source: str,
    path: TimelineHistory,
    newest: Mark,
    *,
    written: Iterable[Mark],
    told: str,
) -> None:
    """NotRecoverable where servers on several timelines wrote at the moment `told`, one of them on `path`.

    `written` are the last marks until then of the timelines that have marks behind it as well, and
    `newest` is the newest mark of all until then.
    """
    found = list(written)
    others = [mark.timeline for mark in beside(path, found)]
    if others and newest in found:
        both = sorted({newest.timeline, *others})
        raise NotRecoverable(
            f"at {told} timelines {' and '.join(map(str, both))} of source {source} were"
            " written, each by a server of its own",
            hint=_which(both),
        )


def live_timelines(
    repository: Repository, timelines: Timelines, extents: Iterable[PostgresExtent]
) -> tuple[LiveTimeline, ...]:
    """The timelines between which a person must choose, newest first; none where it is clear."""
    main, mine = timelines.main, list(extents)
    newest, word = timelines.inventory.known_moments.get(main.timeline), timelines.production
    if newest is None:
        return ()
    said = word.moment if word is not None and timelines.is_said else _EVER
    rivals = [
        LiveTimeline(mark.timeline, mark.moment)
        for mark, child in _left_behind(timelines)
        if (began := _began(repository, timelines, child, extents=mine)) is not None
        and mark.moment > max(began, said) + TOLERATED_SKEW
        and mark.moment > newest - DEAD_AFTER
    ]
    return (LiveTimeline(main.timeline, newest), *rivals) if rivals else ()


def live_findings(
    source: str, live: Iterable[LiveTimeline], *, zone: Zone = UTC
) -> Iterator[Finding]:
    """What every screen says of them."""
    found = list(live)
    told = [_told(one, zone) for one in found]
    if told:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=f"source {source}",
            fact=f"two servers write it, on timelines {' and '.join(told)}: a copy is backed up under its"
            f" name, or an old primary goes on{_since(found, zone)}",
            fix="Stop the one that is not production, or give it a source of its own; then say once which"
            f" one is, with the source's DSN leading to it: `drtool backup {source} --accept-source`. Until"
            f" then restore with {_choices(one.timeline for one in found)}.",
            harm=Harm.PROMISE,
        )


def require_one_alive(source: str, live: Iterable[LiveTimeline], *, zone: Zone = UTC) -> None:
    """NotRecoverable where the latest moment is that of the one or of the other server."""
    found = list(live)
    if found:
        raise NotRecoverable(
            f"source {source} was written on timelines"
            f" {' and '.join(_told(one, zone) for one in found)} at the same time, so nobody can tell"
            " which latest moment is meant",
            hint=f"{_which(one.timeline for one in found)} `drtool backup {source} --accept-source` on"
            " production settles it.",
        )


def _which(timelines: Iterable[int]) -> str:
    return f"Say which of them is production: {_choices(timelines)}."


def _choices(timelines: Iterable[int]) -> str:
    return " or ".join(f"--timeline {timeline}" for timeline in timelines)


def _since(live: list[LiveTimeline], zone: Zone) -> str:
    """That one of them seems to have been stopped, and when that will be believed."""
    oldest, newest = min(live, key=_until), max(live, key=_until)
    if newest.until - oldest.until <= TOLERATED_SKEW:
        return ""
    return (
        f". Timeline {oldest.timeline} has had no new mark since {shown(oldest.until, zone)}; if none"
        f" comes, it counts as alive until the other one is at {shown(oldest.until + DEAD_AFTER, zone)}"
    )


def _until(one: LiveTimeline) -> datetime:
    return one.until


def _told(one: LiveTimeline, zone: Zone) -> str:
    return f"{one.timeline} (until {shown(one.until, zone)})"


def _left_behind(timelines: Timelines) -> Iterator[tuple[Mark, int]]:
    """The newest mark of each other path beyond where the main one left it, and the timeline by which."""
    main = timelines.main.path()
    for path in timelines.paths[1:]:
        mark = timelines.newest_marks.get(path.timeline)
        common = [number for number in main if number in path.path()]
        if mark is None or not common or not beside(timelines.main, [mark]):
            continue
        beyond = main[main.index(common[-1]) + 1 :]
        if beyond or timelines.is_said:
            yield mark, beyond[0] if beyond else common[-1]


def _began(
    repository: Repository, timelines: Timelines, timeline: int, *, extents: list[PostgresExtent]
) -> datetime | None:
    """The first moment that is known of a timeline."""
    inventory = timelines.inventory
    lineage = Lineage(inventory.source, inventory.system_id, timeline)
    mark = first_mark_after(repository, lineage, _EVER)
    moments = [one.stopped_at for one in extents if one.timeline == timeline]
    return min([*moments, *([mark.moment] if mark else [])], default=None)
