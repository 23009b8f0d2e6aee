"""A moment that a stack cannot reach is refused with the name and the window of each source that cannot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from drtool.errors import NotRecoverable
from drtool.model.window import TimeRange
from drtool.wiring.stack_moment import newest_common, not_for_all

TEN = datetime(2024, 5, 1, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WARSAW = ZoneInfo("Europe/Warsaw")


def between(begin: float, end: float) -> TimeRange:
    """Minutes after ten."""
    return TimeRange(TEN + begin * MINUTE, TEN + end * MINUTE)


# The trial: one source has no backup yet at 10:05, another has a gap around that moment.
WINDOWS = {
    "db": (between(0, 2), between(8, 40)),
    "cache": (between(10, 30),),
    "uploads": (between(1, 20),),
}


def test_each_source_is_named_with_its_own_window_in_the_policys_zone() -> None:
    failed = {
        "db": NotRecoverable("WAL segment 17 is missing", hint="Look at the gap."),
        "cache": NotRecoverable("it lies before the first snapshot", hint="Later."),
    }

    newest = newest_common(WINDOWS, open_ended={"uploads"})

    error = not_for_all(TEN + 5 * MINUTE, failed, WINDOWS, newest=newest, zone=WARSAW)

    assert "2 of 3 sources" in error.message
    told = error.message.split("source ")
    assert "WAL segment 17 is missing" in told[1]
    for time in ("12:00:00", "12:02:00", "12:08:00", "12:40:00"):
        assert time in told[1]
        assert time not in told[2]
    assert told[2].startswith("cache: it lies before the first snapshot")
    assert "12:10:00+02:00 to 2024-05-01 12:30:00+02:00 Europe/Warsaw" in told[2]
    assert "uploads" not in error.message
    assert "'2024-05-01T12:30:00+02:00'" in error.hint
    assert len(error.message.splitlines()) == 3
    assert error.hint.splitlines()[1:] == ["  db: Look at the gap.", "  cache: Later."]


def test_the_newest_common_moment_lies_in_a_window_of_each_and_in_no_gap() -> None:
    trees = {"uploads"}

    assert newest_common(WINDOWS, open_ended=trees) == TEN + 30 * MINUTE
    apart = {**WINDOWS, "cache": (between(3, 7),)}
    assert newest_common(apart, open_ended=trees) is None
    assert newest_common({**WINDOWS, "cache": ()}, open_ended=trees) is None
    later = {**WINDOWS, "uploads": (between(35, 36),)}
    assert newest_common(later, open_ended=trees) is None
