"""Whoever takes backups away, or puts back an older copy, is noticed by a machine that has seen more."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from drtool.errors import ExitCode
from drtool.model.finding import Finding, Severity, code_of_findings
from drtool.model.request import CheckRequest
from drtool.model.target import ToTime
from drtool.model.wal import Lsn
from drtool.repository import layout
from drtool.repository.keys import NO_SECRET
from drtool.repository.repository import open_repository
from drtool.repository.sealing import ObjectType
from drtool.stores.local import LocalStore
from drtool.wiring.check import check
from tests.repository.building import MIB, new_repository
from tests.wiring.state_rig import SOURCE, Past, a_past


@pytest.fixture
def past(tmp_path: Path) -> Past:
    past = a_past(tmp_path)
    past.backup(2, minutes=10)
    past.wal(range(2, 6))
    past.mark(90, 4.5)
    return past


def checked(past: Past) -> list[Finding]:
    """The problems that only somebody who remembers can tell of."""
    around = replace(past.around, environ={**past.around.environ, "HOME": str(past.root)})
    report = check(CheckRequest(()), past.policy, around)
    [part] = [one for one in report.parts if one.name == SOURCE]
    return [
        one for one in part.findings if "seen" in one.subject and one.severity is not Severity.NOTE
    ]


def put_back(past: Past) -> None:
    """The copy takes the place of the repository."""
    shutil.rmtree(past.root / "repository")
    shutil.copytree(past.root / "copy", past.root / "repository")


def test_what_was_seen_and_is_there_is_no_finding(past: Past) -> None:
    first = checked(past)
    past.backup(4, minutes=60)
    past.mark(95, 4.9)

    assert (first, checked(past), checked(past)) == ([], [], [])


def test_a_backup_that_was_taken_away_is_missed_until_somebody_says_that_it_was_right(
    past: Past,
) -> None:
    taken = past.backup(4, minutes=60)
    assert checked(past) == []
    past.repository.store.delete(layout.manifest_key(SOURCE, taken))

    [missed] = checked(past)
    again = checked(past)

    assert taken in missed.fact
    assert "older than that" in missed.fact
    assert code_of_findings([missed], otherwise=ExitCode.DONE) is ExitCode.INTEGRITY
    assert again == [missed]
    [place] = (past.root / ".local/state/drtool/seen").iterdir()
    assert str(place) in missed.fix
    assert place.stat().st_mode & 0o777 == 0o600
    place.unlink()
    assert checked(past) == []


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_removal_that_a_holder_of_the_key_has_recorded_is_not_missed(
    past: Past, is_ours: bool
) -> None:
    taken = past.backup(4, minutes=60)
    assert checked(past) == []
    key = layout.evidence_key("removed", f"{SOURCE}/{taken}")
    if is_ours:
        past.repository.put(ObjectType.EVIDENCE, key, b"{}")
    else:
        past.repository.store.create(key, [b"DRTOOL1E" + bytes(200)])
    past.repository.store.delete(layout.manifest_key(SOURCE, taken))

    assert (checked(past) == []) is is_ours


def test_an_older_copy_that_was_put_back_is_noticed_by_backups_and_by_the_end_of_the_log(
    past: Past,
) -> None:
    shutil.copytree(past.root / "repository", past.root / "copy")
    store = LocalStore(past.root / "repository", clock=past.clock)
    past.mark(95, 4.9)
    assert checked(past) == []

    put_back(past)
    [rolled] = checked(replace(past, repository=open_repository(store, NO_SECRET)))

    assert "this machine saw marks of its log until" in rolled.fact
    assert rolled.severity is Severity.PROBLEM


def test_a_copy_that_goes_on_before_what_was_recoverable_is_no_older_store(past: Past) -> None:
    """It left timeline 1 earlier, and its backup is the newest: recoverable until an earlier moment."""
    past.mark(60, 4.2)
    assert checked(past) == []
    past.history(2, f"1\t{Lsn(int(4.3 * MIB))}")
    past.wal([4, 5], timeline=2)
    past.mark(70, 4.6, timeline=2)

    assert checked(past) == []


def test_the_words_of_a_gap_deny_no_moment_of_another_timeline(past: Past) -> None:
    """Timeline 2 lacks its begin: moments of timeline 1 are there all the same."""
    past.history(2, f"1\t{Lsn(int(4.3 * MIB))}")
    past.wal([6, 7], timeline=2)
    past.backup(6, minutes=95, timeline=2)
    past.mark(97, 7.5, timeline=2)
    past.mark(20, 3)
    past.plan(ToTime(past.at(15)))

    [told] = [one.fact for one in past.status()[0].findings if "is missing" in one.fact]

    assert "moments of this timeline before" in told


def test_another_repository_in_its_place_is_noticed(past: Past) -> None:
    assert checked(past) == []
    shutil.rmtree(past.root / "repository")
    (past.root / "repository").mkdir()
    new_repository(LocalStore(past.root / "repository", clock=past.clock), NO_SECRET)

    found = checked(past)

    assert any("stands where this machine saw" in one.fact for one in found)
    assert checked(past) == found


def test_what_cannot_be_read_is_told_and_left_as_it_is(past: Past) -> None:
    assert checked(past) == []
    [place] = (past.root / ".local/state/drtool/seen").iterdir()
    place.write_text("{}")

    [told] = checked(past)

    assert told.severity is Severity.WARNING
    assert place.read_text() == "{}"


def test_where_nothing_can_be_written_the_check_goes_on(past: Past) -> None:
    (past.root / ".local").write_text("a file")

    report = check(
        CheckRequest(()),
        past.policy,
        replace(past.around, environ={"HOME": str(past.root)}),
    )

    assert [part.name for part in report.parts] == ["repository", SOURCE]
