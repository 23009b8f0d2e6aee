"""When crontab lines are due: FACTS D's table, and the nights when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from drtool.policy.scalars import CronLine
from drtool.schedule.due import due_between, next_due

BERLIN = ZoneInfo("Europe/Berlin")
# In 2026 the clocks go forward on 29 March and back on 25 October, both at 01:00 UTC.
SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)


def hours(line: str, day: datetime, *, zone: ZoneInfo = BERLIN) -> list[str]:
    """The runs of the UTC day, as UTC hours and minutes."""
    found = due_between(CronLine(line), zone, after=day - timedelta(minutes=1),
                        until=day + timedelta(hours=5))  # fmt: skip
    return [f"{moment:%H:%M}" for moment in found]


@pytest.mark.parametrize(
    ("line", "day", "expected"),
    [
        ("30 2 * * *", AUTUMN, ["00:30"]),  # it comes twice, and runs once: the first time
        ("30 2 * * *", SPRING, ["01:00"]),  # it is left out, and runs at the change
        ("*/30 * * * *", AUTUMN, [f"{half // 2:02}:{half % 2 * 30:02}" for half in range(11)]),
        ("*/30 * * * *", SPRING, [f"{half // 2:02}:{half % 2 * 30:02}" for half in range(11)]),
        ("0 */2 * * *", AUTUMN, ["00:00", "01:00", "03:00", "05:00"]),
        ("0 */2 * * *", SPRING, ["02:00", "04:00"]),
        ("0 3 * * *", AUTUMN, ["02:00"]),
        ("0 3 * * *", SPRING, ["01:00"]),
        ("15,45 2 * * *", SPRING, ["01:00"]),  # two that were left out are one run
    ],
)
def test_a_line_keeps_crons_rule_where_the_clocks_change(
    line: str, day: datetime, expected: list[str]
) -> None:
    assert hours(line, day) == expected


def test_a_day_of_the_month_or_of_the_week_is_enough() -> None:
    line = CronLine("0 2 1 * 2")  # the first, and every Tuesday
    found = due_between(line, ZoneInfo("UTC"), after=datetime(2026, 6, 1, tzinfo=UTC),
                        until=datetime(2026, 6, 10, tzinfo=UTC))  # fmt: skip
    assert [moment.day for moment in found] == [1, 2, 9]


def test_a_run_is_behind_the_moment_asked_about_and_its_own_moment_is_not() -> None:
    line = CronLine("0 2 * * *")
    first = next_due(line, BERLIN, after=datetime(2026, 6, 1, tzinfo=UTC))
    assert first == datetime(2026, 6, 2, tzinfo=UTC)
    assert next_due(line, BERLIN, after=first) == first + timedelta(days=1)
    assert next_due(line, BERLIN, after=first - timedelta(microseconds=1)) == first


def test_a_rare_line_is_found_and_one_that_never_comes_is_none() -> None:
    after = datetime(2026, 6, 1, tzinfo=UTC)
    assert next_due(CronLine("0 0 29 2 *"), BERLIN, after=after) == datetime(
        2028, 2, 28, 23, tzinfo=UTC
    )
    assert next_due(CronLine("0 0 30 2 *"), BERLIN, after=after) is None


@pytest.mark.parametrize("line", ["*/20 * * * *", "0 2 * * *", "30 2 * * 0", "7 1-3 * * *"])
@pytest.mark.parametrize("day", [SPRING, AUTUMN])
def test_the_next_of_each_run_leads_through_all_of_them(line: str, day: datetime) -> None:
    """No run of two days around a change is left out, none comes twice, and they are in order."""
    begin, end = day - timedelta(hours=12), day + timedelta(hours=36)
    all_of_them = due_between(CronLine(line), BERLIN, after=begin, until=end)
    one_by_one = []
    moment = next_due(CronLine(line), BERLIN, after=begin)
    while moment is not None and moment <= end:
        one_by_one.append(moment)
        moment = next_due(CronLine(line), BERLIN, after=moment)
    assert one_by_one == all_of_them
    assert all_of_them == sorted(set(all_of_them))
