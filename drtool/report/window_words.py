"""The moments that a source can be returned to, as text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from zoneinfo import ZoneInfo

from drtool.model.measure import format_moment
from drtool.model.window import TimeRange, UncertainSpan

# Of the newest so many are shown; all of them are in the JSON.
_MOST_WINDOWS = 5
_MOST_SPANS = 3
# Moments are shown to the second: of an uncertain span the second behind it, which is known.
_ALMOST_SECOND = timedelta(microseconds=999_999)


def window_words(windows: Sequence[TimeRange], zone: ZoneInfo, *, indent: int) -> str:
    """Each range of time on lines of its own, the newest few; between them nothing can be returned to."""
    shown = [
        f"{format_moment(one.begin, zone)}\n{' ' * indent}to {format_moment(one.end, zone)}"
        for one in windows[-_MOST_WINDOWS:]
    ]
    if len(windows) > _MOST_WINDOWS:
        shown.insert(0, f"{len(windows) - _MOST_WINDOWS} earlier ranges, and")
    return f"\n{' ' * indent}".join(shown)


def uncertain_rows(
    spans: Sequence[UncertainSpan], zone: ZoneInfo, *, indent: int
) -> list[tuple[str, str]]:
    """A line for each of the newest spans in which nobody knows what was held, under its heading."""
    rows = []
    for one in spans[-_MOST_SPANS:]:
        end = "now" if one.end is None else format_moment(one.end + _ALMOST_SECOND, zone)
        begin = format_moment(one.begin, zone)
        rows.append(("not known", f"{one.shard}, {begin}\n{' ' * indent}to {end}"))
    return rows
