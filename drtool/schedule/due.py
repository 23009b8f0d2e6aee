"""When a crontab line is due: cron's own rule where the clocks change (crontab(5) of Debian, cron(8)).

A line whose hours begin with `*` goes by elapsed time: it runs in the hour that comes twice, twice,
and has no run in the hour that is left out. Any other goes by the wall clock: once a day stays once,
the first time where a moment comes twice, and at the change itself where the moment is left out.
croniter alone would run `30 2 * * *` twice on the night when the clocks go back.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from drtool.policy.scalars import CronLine

# Looked through one after the other: a line that is due often is found in the first.
_SPANS = tuple(timedelta(days=days) for days in (0.1, 2, 40, 400, 366 * 9))
# More than any change of a zone's offset; moments on both sides of one are put in their order.
_MARGIN = timedelta(hours=3)
_MINUTE = timedelta(minutes=1)


def next_due(line: CronLine, zone: ZoneInfo, *, after: datetime) -> datetime | None:
    """The first moment of `line` behind `after`, in UTC; None for one that never comes."""
    begin = after
    for span in _SPANS:
        found = due_between(line, zone, after=begin, until=after + span)
        if found:
            return found[0]
        begin = after + span
    return None


def due_between(
    line: CronLine, zone: ZoneInfo, *, after: datetime, until: datetime
) -> list[datetime]:
    """The moments of `line` behind `after` and up to `until`, in UTC, in their order.

    For spans of days, not of years: a line may be due every minute.
    """
    wall_clock = _wall_clock(
        line, after.astimezone(zone) - _MARGIN, until.astimezone(zone) + _MARGIN
    )
    by_elapsed_time = line.split()[1].startswith("*")
    moments = {
        moment
        for local in wall_clock
        for moment in _moments(local, zone, by_elapsed_time=by_elapsed_time)
    }
    return sorted(moment for moment in moments if after < moment <= until)


def _wall_clock(line: CronLine, begin: datetime, end: datetime) -> Iterator[datetime]:
    """The runs as a clock on the wall shows them, without any zone."""
    from croniter import CroniterBadDateError, croniter  # not for a policy without a schedule

    runs = croniter(line, begin.replace(tzinfo=None))
    last = end.replace(tzinfo=None)
    while True:
        try:
            moment: datetime = runs.get_next(datetime)
        except CroniterBadDateError:
            return
        if moment > last:
            return
        yield moment


def _moments(local: datetime, zone: ZoneInfo, *, by_elapsed_time: bool) -> tuple[datetime, ...]:
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first == second:
        return (first,)
    if first < second:  # the moment comes twice
        return (first, second) if by_elapsed_time else (first,)
    return () if by_elapsed_time else (_change_between(second, first, zone),)


def _change_between(begin: datetime, end: datetime, zone: ZoneInfo) -> datetime:
    """The first minute with the new offset; zones change on whole minutes."""
    before = begin.astimezone(zone).utcoffset()
    while begin < end and begin.astimezone(zone).utcoffset() == before:
        begin += _MINUTE
    return begin
