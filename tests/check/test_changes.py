"""`drtool check --changes`: what a check that runs every few minutes says, and says once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.check.changes import CheckRecord, compare
from drtool.model.checked import CheckChanges, CheckedPart, CheckReport, Look
from drtool.model.finding import Finding, Severity
from drtool.report.text import Style, render
from tests.check.rig import Stack
from tests.check.test_commands import drtool

AT = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
OVERDUE = "the last backup is {} old, and one is due every 1 d 00 h"


def finding(fact: str, severity: Severity = Severity.PROBLEM) -> Finding:
    return Finding(severity=severity, subject="source main-db", fact=fact, fix="Look at it.")


def report(*looks: Look, at: datetime = AT) -> CheckReport:
    parts = (CheckedPart(name="main-db", kind="postgres", looks=looks),)
    return CheckReport(stack="shop", timezone="UTC", at=at, parts=parts)


def look(*facts: str, name: str = "backups", exit_code: int = 0) -> Look:
    found = tuple(finding(fact) for fact in facts)
    return Look(name=name, seen="", findings=found, exit_code=exit_code)


def told(before: CheckRecord, *looks: Look) -> tuple[list[str], list[str], int, CheckRecord]:
    changes, record = compare(before, report(*looks), ())
    new = [one.finding.fact for one in changes.new]
    gone = [one.finding.fact for one in changes.gone]
    return new, gone, sum(changes.still.values()), record


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (OVERDUE.format("1 d 02 h"), OVERDUE.format("2 d 00 h")),
        (OVERDUE.format("59 min 59 s"), OVERDUE.format("1 h 00 min")),
        ("0.93 s of work would be lost", "8.5 s of work would be lost"),
        ("91 % of the disk is full, 512 kB left", "92 % of the disk is full, 1.02 MB left"),
        ("written until 2026-06-01 12:00:00+02:00: two", "written until 2026-06-01 12:05:00Z: two"),
    ],
)
def test_a_finding_whose_amount_has_grown_is_no_new_one(earlier: str, later: str) -> None:
    _, _, _, record = told(CheckRecord(), look(earlier))

    assert told(record, look(later))[:3] == ([], [], 1)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("from 0/A00140 to 0/1300000 it is missing", "from 0/14C0000 to 0/1500000 it is missing"),
        ("it had 2 gaps", "it had 3 gaps"),
        ("timeline 1 is lost", "timeline 2 is lost"),
    ],
)
def test_a_finding_of_another_thing_is_a_new_one(earlier: str, later: str) -> None:
    _, _, _, record = told(CheckRecord(), look(earlier))

    assert told(record, look(later))[:3] == ([later], [earlier], 0)


def test_what_comes_twice_and_then_once_is_gone_once() -> None:
    _, _, _, record = told(CheckRecord(), look("a page is damaged", "a page is damaged"))

    assert told(record, look("a page is damaged"))[:3] == ([], ["a page is damaged"], 1)


def test_what_nobody_could_look_at_is_not_gone_and_not_new_when_somebody_could_again() -> None:
    _, _, _, record = told(CheckRecord(), look("fsync is off", name="settings"))

    new, gone, still, record = told(record, look("it is down", name="settings", exit_code=5))
    assert (new, gone, still) == (["it is down"], [], 0)

    new, gone, still, record = told(record, look("fsync is off", name="settings"))
    assert (new, gone, still) == ([], ["it is down"], 1)
    assert told(record, look(name="settings"))[:3] == ([], ["fsync is off"], 0)


def test_a_warning_that_became_a_problem_is_new() -> None:
    warning = Look(name="backups", seen="", findings=(finding("it lags", Severity.WARNING),))
    _, _, _, record = told(CheckRecord(), warning)

    assert told(record, look("it lags"))[0] == ["it lags"]


def test_where_nothing_changed_one_line_says_so() -> None:
    style = Style(ZoneInfo("UTC"))
    _, record = compare(CheckRecord(), report(look("fsync is off", "it lags")), ("main-db",))
    later = report(look("fsync is off", "it lags"), at=AT + timedelta(minutes=5))
    changes, record = compare(record, later, ("main-db",))

    assert render(changes, style) == (
        "NOT READY: nothing changed since 2026-06-01 12:00:00 UTC; still 2 problems"
        " (`drtool check main-db` lists them)"
    )
    changes, _ = compare(record, replace(later, parts=report(look()).parts), ("main-db",))
    assert isinstance(changes, CheckChanges)
    assert render(changes, style).splitlines() == [
        "READY: 0 new, 2 gone since 2026-06-01 12:05:00 UTC",
        "gone: problem (main-db): source main-db: fsync is off",
        "gone: problem (main-db): source main-db: it lags",
    ]


def test_a_check_as_cron_runs_it_says_what_changed_and_keeps_its_exit_code(tmp_path: Path) -> None:
    stack = Stack(
        root=tmp_path, sources=f"  uploads: {{kind: files, path: {tmp_path}/tree}}\n", rpo="1d"
    )
    (tmp_path / "tree").mkdir()
    (tmp_path / "policy.yaml").write_text(stack.text)
    record, secret = tmp_path / "last.json", {"AWS_SECRET_ACCESS_KEY": "no snapshot"}
    words = ("check", "uploads", "--changes", str(record))
    stack.init()

    first = drtool(tmp_path, *words, environ=secret)
    second = drtool(tmp_path, *words, environ=secret)
    assert first.returncode == second.returncode == 3
    assert "new problem (uploads): source uploads: there is ***" in first.stdout
    assert "no snapshot" not in record.read_text()
    assert second.stdout.count("\n") == 1
    assert "nothing changed since" in second.stdout

    (tmp_path / "tree" / "file").write_text("x")
    stack.backup("uploads")
    third = json.loads(drtool(tmp_path, *words, "--json", environ={}).stdout)
    assert third["kind"] == "check-changes"
    assert any("there is ***" in one["finding"]["fact"] for one in third["gone"])


@pytest.mark.parametrize(
    "content", ["version: 1\n", "[1, 2]", '{"kind": "status"}', "", "[" * 9999]
)
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(content: str, tmp_path: Path) -> None:
    stack = Stack(root=tmp_path, sources=f"  uploads: {{kind: files, path: {tmp_path}}}\n")
    stack.init()
    (tmp_path / "policy.yaml").write_text(stack.text)
    (tmp_path / "mine").write_text(content)

    ended = drtool(tmp_path, "check", "--changes", str(tmp_path / "mine"), environ={})

    assert ended.returncode == 2
    assert "is not what a check left for the next one" in ended.stderr
    assert (tmp_path / "mine").read_text() == content
