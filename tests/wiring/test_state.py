"""One state, one verdict: whatever is wrong with a source, every screen and exit code says the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.archiving.receive_settings import lease_name
from drtool.cli.verdicts import code_of
from drtool.errors import ExitCode, IntegrityError, NotRecoverable
from drtool.model.checked import CheckedPart, Readiness
from drtool.model.finding import Finding, Severity, code_of_findings
from drtool.model.outcome import Outcome, StatusReport
from drtool.model.target import ToBackup, ToLatest, ToTime
from drtool.model.window import TimeRange
from drtool.report.text import Style, render
from drtool.repository.lease import Lease
from drtool.repository.recovery_windows import RESOLUTION
from drtool.stores.local import LocalStore
from drtool.verify.depth import Quick, Whole
from tests.repository.building import SYSTEM, tamper
from tests.wiring.state_rig import Past, a_past

LOG = f"log/main/{SYSTEM}/"
STYLE = Style(ZoneInfo("Europe/Warsaw"))


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return a_past(tmp_path)


@pytest.fixture
def received(past: Past) -> Iterator[Past]:
    """The past, where a receiver holds its lease."""
    with Lease(past.repository, lease_name("main"), clock=past.clock):
        yield past


def problems(findings: tuple[Finding, ...]) -> set[str]:
    return {f"{f.subject}: {f.fact}" for f in findings if f.severity is Severity.PROBLEM}


def every_screen(past: Past) -> dict[str, tuple[Finding, ...]]:
    """The findings of each, without those that only one of them looks for."""
    row, _ = past.status()
    return {
        "status": row.findings,
        "check": past.checked().findings,
        "wal status": past.wal_status().findings,
        "wal gaps": past.wal_gaps().findings,
        "verify": past.verify().findings,
    }


def codes(past: Past) -> set[ExitCode]:
    """What the repository's part of each command ends with."""
    _, code = past.status()
    looked = code_of_findings(past.checked().findings, otherwise=ExitCode.OBJECTIVE_MISSED)
    outcomes: list[Outcome] = [past.wal_status(), past.wal_gaps(), past.verify()]
    return {code, looked, *(code_of(one) for one in outcomes)}


def test_a_past_without_a_fault_is_well_on_every_screen(received: Past) -> None:
    received.backup(2, minutes=10)
    received.wal(range(2, 9))
    received.mark(99.99, 8.5)

    assert [found for screen in every_screen(received).values() for found in screen] == []
    assert codes(received) == {ExitCode.DONE}
    assert received.checked().readiness is Readiness.READY


def test_a_gap_that_a_newer_backup_left_behind_is_a_fact_about_the_window_everywhere(
    received: Past,
) -> None:
    """The trial: check NOT READY for ever, status MET, wal gaps 7, verify 0 with "3 problems"."""
    received.backup(2, minutes=10)
    received.mark(20, 3.5)
    received.wal([2, 3, 5, 6, 7, 8])
    received.backup(6, minutes=60)
    received.mark(99.99, 8.5)
    ranges = (
        TimeRange(received.at(10), received.at(20) - RESOLUTION),
        TimeRange(received.at(60), received.at(99.99) - RESOLUTION),
    )

    screens, (row, _) = every_screen(received), received.status()

    for name, findings in screens.items():
        told = [one for one in findings if "from 0/400000 to 0/500000 it is missing" in one.fact]
        assert [one.severity for one in told] == [Severity.NOTE], name
        assert problems(findings) == set(), name
    assert codes(received) == {ExitCode.DONE}
    assert row.windows == ranges
    assert received.plan(ToLatest()).windows == ranges
    assert "verified (quick): nothing is wrong" in render(received.verify(), STYLE)
    with pytest.raises(NotRecoverable):
        received.plan(ToTime(received.at(40)))
    assert received.plan(ToTime(received.at(15))).backup_id != row.last_backup


def test_a_gap_that_limits_the_newest_backup_is_the_same_problem_everywhere(received: Past) -> None:
    received.backup(2, minutes=10)
    received.mark(90, 3.5)
    received.wal([2, 3, 5, 6])
    received.mark(99.99, 6.5)

    screens = every_screen(received)

    fact = "from 0/400000 to 0/500000 it is missing"
    for name, findings in screens.items():
        assert any(fact in one for one in problems(findings)), name
    assert codes(received) == {ExitCode.NOT_RECOVERABLE}
    assert received.checked().readiness is Readiness.NOT_READY
    with pytest.raises(NotRecoverable):
        received.plan(ToLatest())


def damaged(past: Past, key: str) -> bytes:
    """Flip a bit of an object; return what it was."""
    store = past.repository.store
    before = store.read(key)
    tamper(store, key, before[:-200] + bytes([before[-200] ^ 1]) + before[-199:])
    return before


def test_damage_that_a_verification_found_is_known_everywhere_until_it_was_read_whole(
    received: Past,
) -> None:
    """The trial: `verify` 7, and check READY, status offers the backup, `--plan` 0."""
    first = received.backup(2, minutes=10)
    known = {found.key for found in received.repository.store.list("packs/")}
    second = received.backup(4, minutes=60)
    received.wal(range(2, 9))
    received.mark(99.99, 8.5)
    [pack] = {found.key for found in received.repository.store.list("packs/")} - known
    content = damaged(received, pack)
    assert code_of(received.verify(Whole())) is ExitCode.INTEGRITY

    row, code = received.status()
    part = received.checked()

    assert code is ExitCode.INTEGRITY
    assert row.last_backup == first
    assert row.windows == (TimeRange(received.at(10), received.at(99.99) - RESOLUTION),)
    for findings in (row.findings, part.findings):
        assert any(second in one and pack in one for one in problems(findings))
    assert part.readiness is Readiness.NOT_READY
    assert received.plan(ToLatest()).backup_id == first
    with pytest.raises(IntegrityError, match=pack):
        received.plan(ToBackup(second))

    tamper(received.repository.store, pack, content)
    received.verify(Quick())
    assert received.status()[1] is ExitCode.INTEGRITY  # nobody has read it yet
    received.verify(Whole())
    assert received.status()[1] is ExitCode.DONE
    assert received.plan(ToLatest()).backup_id == second


def test_a_damaged_segment_is_a_gap_everywhere_until_it_was_read_whole(received: Past) -> None:
    received.backup(2, minutes=10)
    received.wal(range(2, 9))
    received.mark(50, 4.5)
    received.mark(99.99, 8.5)
    key = f"{LOG}00000001/000000010000000000000005"
    content = damaged(received, key)

    found = received.verify(Whole())

    assert code_of(found) is ExitCode.INTEGRITY
    row, code = received.status()
    assert code is ExitCode.INTEGRITY
    assert row.windows == (TimeRange(received.at(10), received.at(50) - RESOLUTION),)
    assert any(key in one for one in problems(received.wal_status().findings))
    with pytest.raises(NotRecoverable):
        received.plan(ToLatest())
    tamper(received.repository.store, key, content)
    received.verify(Whole())
    assert received.status()[1] is ExitCode.DONE


def receiver_look(part: CheckedPart) -> tuple[Finding, ...]:
    return next(one.findings for one in part.looks if one.name == "receiver")


def test_a_receiver_that_cannot_reach_its_server_is_not_ready_though_it_holds_its_lease(
    past: Past,
) -> None:
    """The trial: READY, with the newest mark 92 s old at a heartbeat of 1 s."""
    past.backup(2, minutes=10)
    past.wal(range(2, 9))
    past.mark(100 - 92 / 60, 8.5)
    with Lease(past.repository, lease_name("main"), clock=past.clock):
        part, (row, code) = past.checked(), past.status()

    assert part.readiness is Readiness.NOT_READY
    assert "the newest mark is 1 min 32 s old" in receiver_look(part)[0].fact
    assert receiver_look(part)[0] in row.findings
    assert code is ExitCode.OBJECTIVE_MISSED


def test_what_keeps_a_receiver_from_its_work_is_told_in_its_own_words(past: Past) -> None:
    past.backup(2, minutes=10)
    past.wal(range(2, 9))
    past.mark(99.99, 8.5)
    with Lease(past.repository, lease_name("main"), clock=past.clock) as lease:
        lease.say("server db:5432 does not answer")
        lease.check()
        part = past.checked()
        lease.say(None)
        lease.check()
        later = past.checked()

    assert "receives nothing: server db:5432 does not answer" in receiver_look(part)[0].fact
    assert "drtool wal receive" not in receiver_look(part)[0].fix  # which would end with 9
    assert "goes on by itself" in receiver_look(part)[0].fix
    assert part.readiness is Readiness.NOT_READY
    assert later.readiness is Readiness.READY


def test_overdue_and_a_missing_receiver_are_problems_in_status_as_in_check(past: Past) -> None:
    past.clock.pass_(timedelta(days=3))
    past.backup(2, minutes=10)
    past.wal(range(2, 9))
    past.mark(72 * 60 + 99.99, 8.5)

    row, code = past.status()

    assert problems(row.findings) == problems(past.checked().findings)
    told = problems(row.findings)
    assert any("one is due every" in one for one in told)
    assert any("nobody receives it" in one for one in told)
    assert code is ExitCode.OBJECTIVE_MISSED


def test_a_timeline_that_only_its_marks_tell_of_is_missed_everywhere(received: Past) -> None:
    """The trial: verify, status and --plan all 0, and --to latest 0 with 640 of 945 rows."""
    first = received.backup(2, minutes=10)
    received.wal(range(2, 5))
    received.mark(40, 4.5)
    received.mark(99.99, 7.5, timeline=2)

    for name, findings in every_screen(received).items():
        assert any("00000002.history" in one for one in problems(findings)), name
    assert code_of(received.verify(Whole())) is ExitCode.INTEGRITY
    assert received.status()[1] is ExitCode.INTEGRITY
    with pytest.raises(NotRecoverable, match=r"00000002\.history"):
        received.plan(ToLatest())
    assert received.plan(ToLatest(), timeline=1).backup_id == first


def test_the_log_of_a_timeline_whose_history_is_left_is_missed(received: Past) -> None:
    received.backup(2, minutes=10)
    received.wal(range(2, 5))
    received.mark(40, 4.5)
    received.history(2, "1\t0/480000")
    received.mark(99.99, 7.5, timeline=2)

    assert codes(received) == {ExitCode.NOT_RECOVERABLE}
    with pytest.raises(NotRecoverable, match="000000020000000000000004"):
        received.plan(ToLatest())


@pytest.mark.parametrize("numbers", [[], [2, 3, 4]], ids=["all of it", "its end"])
def test_a_log_that_is_gone_is_missed_by_every_verification(
    received: Past, numbers: list[int]
) -> None:
    received.backup(2, minutes=10)
    received.wal(numbers)
    received.mark(99.99, 7.5)

    for depth in (Quick(), Whole()):
        assert code_of(received.verify(depth)) is ExitCode.NOT_RECOVERABLE
    assert codes(received) == {ExitCode.NOT_RECOVERABLE}
    with pytest.raises(NotRecoverable):
        received.plan(ToLatest())
    assert isinstance(received.repository.store, LocalStore)


def test_the_text_of_a_window_shows_where_it_is_broken(received: Past) -> None:
    received.backup(2, minutes=10)
    received.mark(20, 3.5)
    received.wal([2, 3, 5, 6, 7, 8])
    received.backup(6, minutes=60)
    received.mark(99.99, 8.5)
    row, _ = received.status()
    report = StatusReport(stack="shop", timezone="UTC", at=datetime.now(UTC), rows=(row,))

    lines = render(report, STYLE).splitlines()

    place = next(number for number, line in enumerate(lines) if "window" in line)
    assert [line.split()[0] for line in lines[place + 1 : place + 4]] == ["to", "2024-05-01", "to"]
