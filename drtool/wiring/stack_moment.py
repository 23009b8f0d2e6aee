"""The moments that several sources reach together, and why one is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from drtool.errors import NotRecoverable
from drtool.model.measure import counted, format_exact, format_moment
from drtool.model.window import TimeRange
from drtool.repository.recovery_findings import shown

Windows = Mapping[str, Sequence[TimeRange]]


def not_for_all(
    moment: datetime,
    failed: Mapping[str, NotRecoverable],
    windows: Windows,
    *,
    newest: datetime | None,
    zone: ZoneInfo,
) -> NotRecoverable:
    """Names each source that does not reach `moment` on a line of its own, with its windows in the
    policy's zone.

    `newest` is the newest moment that all reach; None if there is none.
    """
    told = [
        f"\n  source {name}: {error.message} ({_ranges(windows[name], zone)})"
        for name, error in failed.items()
    ]
    hint = "Restore each as far as it goes with --each-latest, or name the sources to restore."
    if newest is not None:
        hint = (
            f"The newest moment that all sources reach is {format_moment(newest, zone)}: restore --to"
            f" '{format_exact(newest, zone)}', or each as far as it goes with --each-latest."
        )
    return NotRecoverable(
        f"{format_moment(moment, zone)} cannot be reached by {len(failed)} of"
        f" {counted(len(windows), 'source')}.{''.join(told)}",
        hint=hint + "".join(f"\n  {name}: {one.hint}" for name, one in failed.items() if one.hint),
    )


def newest_common(
    windows: Windows, *, open_ended: Collection[str], before: datetime | None = None
) -> datetime | None:
    """The newest moment that lies in a window of each source, and `before` one; None if there is none.

    Of sources that are `open_ended` no moment is too late: the newest snapshot stands until the next. Pure.
    """
    ends = [one.end for name, ranges in windows.items() if name not in open_ended for one in ranges]
    if before is not None:
        ends = [end for end in ends if end < before]
    for end in sorted(ends, reverse=True):
        if all(
            any(one.holds(end) for one in ranges)
            or (name in open_ended and bool(ranges) and end >= ranges[0].begin)
            for name, ranges in windows.items()
        ):
            return end
    return None


def _ranges(windows: Sequence[TimeRange], zone: ZoneInfo) -> str:
    if not windows:
        return "it cannot be brought back to any moment"
    ranges = [f"{shown(one.begin, zone)} to {shown(one.end, zone)}" for one in windows[-3:]]
    return f"its window is {' and '.join(ranges)} {zone.key}"
