"""One backup under a clock that ran ahead: it counts by its place in the log, and never as the newest."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.archiving.base_needed import is_base_needed
from drtool.archiving.receive_settings import lease_name
from drtool.errors import ExitCode
from drtool.model.finding import Severity
from drtool.model.progress import Event, Noted
from drtool.model.request import CheckRequest, StatusRequest
from drtool.model.target import ToLatest, ToTime
from drtool.model.window import TimeRange
from drtool.report.text import Style, render
from drtool.repository.backups import in_order, read_manifests, read_newest_manifest
from drtool.repository.lease import Lease
from drtool.repository.recovery_windows import RESOLUTION
from drtool.wiring.check import check
from drtool.wiring.schedule import run as schedule
from drtool.wiring.status import status
from tests.archiving.rig import until
from tests.wiring.state_rig import Past, a_past

YEARS = timedelta(days=17 * 365)


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    """A receiver holds its lease."""
    past = a_past(tmp_path)
    with Lease(past.repository, lease_name("main"), clock=past.clock):
        yield past


def test_the_newest_backup_is_the_one_that_was_taken_last(past: Past) -> None:
    """The trial: the one of 2043 stayed the newest for 17 years ("-6028 d ago"), never overdue."""
    misdated = past.backup(2, minutes=10, ahead=YEARS)
    last = past.backup(5, minutes=60)
    past.wal(range(2, 9))
    past.mark(99.99, 8.5)

    row, code = past.status()

    assert (row.last_backup, code) == (last, ExitCode.DONE)
    assert row.last_backup_finished == past.at(60)
    [note] = [found for found in row.findings if misdated in found.subject]
    assert note.severity is Severity.NOTE
    assert "ahead of this machine's clock" in note.fact
    assert past.plan(ToLatest()).backup_id == last
    found, errors = read_newest_manifest(past.repository, "main")
    assert (found.backup_id if found else None, errors) == (last, [])
    manifests, _ = read_manifests(past.repository, "main")
    assert [one.backup_id for one in in_order(reversed(manifests))] == [misdated, last]


def test_a_newest_backup_that_bears_a_time_to_come_is_a_problem_with_its_date(past: Past) -> None:
    past.backup(2, minutes=10)
    misdated = past.backup(5, minutes=60, ahead=YEARS)
    past.wal(range(2, 9))
    past.mark(99.99, 8.5)

    row, code = past.status()

    assert (row.last_backup, code) == (misdated, ExitCode.OBJECTIVE_MISSED)
    [problem] = [found for found in row.findings if found.severity is Severity.PROBLEM]
    assert f"dated {past.at(60) + YEARS:%Y-%m-%d}" in problem.fact
    assert problem in past.checked().findings
    found, _ = read_newest_manifest(past.repository, "main")
    assert found is not None
    assert found.backup_id == misdated


def test_no_age_is_negative_but_a_date_is_told(past: Past) -> None:
    """The trial: "-6028 d ago"."""
    past.backup(2, minutes=10)
    past.backup(5, minutes=60, ahead=YEARS)
    past.wal(range(2, 9))
    past.mark(99.99, 8.5)
    date = f"dated {past.at(60) + YEARS:%Y-%m-%d}"
    style = Style(ZoneInfo("UTC"))

    shown = render(status(StatusRequest(()), past.policy, past.around), style)
    checked = render(check(CheckRequest(()), past.policy, past.around), style)

    for text in (shown, checked):
        assert date in text
        assert re.search(r"-\d+ \w+ ago", text) is None


@pytest.mark.parametrize("is_newest", [True, False], ids=["the newest", "an older one"])
def test_a_time_to_come_is_not_the_last_run_of_the_scheduler(
    past: Past,
    is_newest: bool,
) -> None:
    """One that bears it says nothing of when a backup was taken last; one taken just now does."""
    for number, ahead in enumerate((timedelta(0), YEARS) if is_newest else (YEARS, timedelta(0))):
        past.backup(2 + number, minutes=98 + number, ahead=ahead)
    policy_file = past.root / "policy.yaml"
    policy_file.write_text(past.text)
    events: list[Event] = []
    around = replace(past.around, emit=events.append)

    def told(words: str) -> bool:
        return any(words in one.text for one in events if isinstance(one, Noted))

    thread = threading.Thread(
        target=schedule, args=(past.policy, policy_file, around), kwargs={"at_once": 1}
    )
    thread.start()
    try:
        until(lambda: told("wal receive main: starts"), "the scheduler works")
    finally:
        around.stop.set()  # it looks at its jobs before it sees that
        thread.join(60)

    assert not thread.is_alive()
    assert told("backup main: begins") == is_newest


def test_a_misdated_backup_is_returned_to_by_its_place_in_the_log(past: Past) -> None:
    misdated = past.backup(2, minutes=10, ahead=YEARS)
    past.wal(range(2, 9))
    past.mark(15, 3.5)
    past.mark(99.99, 8.5)

    row, _ = past.status()

    assert row.windows == (TimeRange(past.at(15), past.at(99.99) - RESOLUTION),)
    assert past.plan(ToTime(past.at(20))).backup_id == misdated


def test_a_backup_under_a_clock_that_lagged_is_not_used_for_moments_before_it(past: Past) -> None:
    first = past.backup(2, minutes=10)
    past.mark(20, 3.5)
    past.mark(40, 4.5)
    late = past.backup(6, minutes=60, ahead=-YEARS)
    past.wal(range(2, 9))
    past.mark(99.99, 8.5)

    assert past.plan(ToTime(past.at(30))).backup_id == first
    assert past.plan(ToTime(past.at(99))).backup_id == late


def test_behind_a_misdated_backup_of_an_older_log_no_base_is_missing(past: Past) -> None:
    past.backup(2, minutes=10, ahead=YEARS)
    past.wal([2, 3])
    past.backup(5, minutes=60)
    past.wal(range(5, 9))

    assert not is_base_needed(past.repository, "main")
