"""The rules of checks on values, and what becomes of one that could not look."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from drtool.check.freshness import (
    Timetable,
    check_age,
    check_clock,
    check_loss,
    check_mark,
    check_mirror,
)
from drtool.check.run import Part, Seen, attempt, run_checks
from drtool.cli.verdicts import code_of
from drtool.errors import (
    DrtoolError,
    ExitCode,
    IntegrityError,
    RepositoryUnavailable,
    SourceUnavailable,
)
from drtool.model.checked import CheckedPart, CheckReport, Look, MirrorStanding, Readiness
from drtool.model.finding import Finding, Severity
from drtool.model.objective import Objective, Verdict
from drtool.model.outcome import StatusReport, StatusRow
from drtool.model.progress import silent
from drtool.report.documents import document, dumps
from drtool.report.text import Style, render
from drtool.system.clock import SystemClock

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOURLY = Timetable(
    source="cache", what="snapshot", command="drtool backup cache", pause=timedelta(hours=1)
)
STYLE = Style(ZoneInfo("Europe/Warsaw"))
PROBLEM = Finding(severity=Severity.PROBLEM, subject="it", fact="is bad", fix="Mend it.")
WARNING = Finding(severity=Severity.WARNING, subject="it", fact="is weak", fix="Look.")


def report(*looks: Look) -> CheckReport:
    part = CheckedPart(name="main-db", kind="postgres", looks=looks)
    return CheckReport(stack="shop", timezone="Europe/Warsaw", at=NOW, parts=(part,))


def failed(error: DrtoolError) -> Look:
    def look() -> Seen:
        raise error

    return attempt("server", look)


@pytest.mark.parametrize(
    ("age", "severities"),
    [
        (timedelta(minutes=119), []),
        (timedelta(minutes=121), [Severity.PROBLEM]),
        (None, [Severity.PROBLEM]),
    ],
)
def test_a_backup_that_is_overdue_is_a_problem_within_one_interval(
    age: timedelta | None, severities: list[Severity]
) -> None:
    """PITFALLS 79."""
    found = list(check_age(HOURLY, None if age is None else NOW - age, now=NOW))

    assert [finding.severity for finding in found] == severities


def test_a_backup_that_nothing_schedules_is_never_overdue_and_that_is_said() -> None:
    table = Timetable(source="cache", what="snapshot", command="drtool backup cache", pause=None)

    [finding] = check_age(table, NOW - timedelta(days=900), now=NOW)

    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(
    ("rpo_now", "words"),
    [
        (timedelta(minutes=15), None),
        (timedelta(minutes=16), "of work would be lost now"),
        (None, "nobody can tell"),
    ],
)
def test_a_promise_that_is_missed_or_unknown_is_a_problem(
    rpo_now: timedelta | None, words: str | None
) -> None:
    objective = Objective(timedelta(minutes=15), timedelta(hours=1))

    found = list(check_loss("cache", objective, rpo_now=rpo_now, fix="Look."))

    assert [words is not None and words in one.fact for one in found] == ([True] if words else [])


def test_clocks_that_are_more_than_a_second_apart_are_a_warning() -> None:
    assert list(check_clock("it", timedelta(seconds=-0.9))) == []
    [behind] = check_clock("it", timedelta(seconds=-5))
    [ahead] = check_clock("it", timedelta(seconds=5))
    assert "5.0 s behind" in behind.fact
    assert "5.0 s ahead of" in ahead.fact


def test_marks_that_no_longer_come_are_a_warning() -> None:
    every = timedelta(seconds=20)
    assert list(check_mark("marks", timedelta(seconds=59), every=every)) == []
    assert [one.severity for one in check_mark("marks", timedelta(seconds=61), every=every)] == [
        Severity.WARNING
    ]
    assert "there is none yet" in next(iter(check_mark("marks", None, every=every))).fact


def test_a_mirror_in_a_bucket_without_versions_is_a_warning() -> None:
    standing = MirrorStanding(url="s3://m", ended=NOW)

    assert list(check_mirror(HOURLY, standing, keeps_versions=True, now=NOW)) == []
    for keeps in (False, None):
        [finding] = check_mirror(HOURLY, standing, keeps_versions=keeps, now=NOW)
        assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(
    ("looks", "readiness", "code"),
    [
        ((Look(name="a", seen="b", findings=(WARNING,)),), Readiness.READY, ExitCode.DONE),
        (
            (Look(name="a", seen="b", findings=(PROBLEM,)),),
            Readiness.NOT_READY,
            ExitCode.OBJECTIVE_MISSED,
        ),
        ((failed(SourceUnavailable("away")),), Readiness.UNKNOWN, ExitCode.SOURCE_UNAVAILABLE),
        (
            (failed(SourceUnavailable("away")), failed(RepositoryUnavailable("away"))),
            Readiness.UNKNOWN,
            ExitCode.REPOSITORY_UNAVAILABLE,
        ),
        (
            (failed(IntegrityError("damaged")), Look(name="a", seen="b", findings=(PROBLEM,))),
            Readiness.NOT_READY,
            ExitCode.INTEGRITY,
        ),
        ((), Readiness.UNKNOWN, ExitCode.OBJECTIVE_MISSED),
    ],
)
def test_the_gravest_look_decides_and_nothing_looked_at_is_not_ready(
    looks: tuple[Look, ...], readiness: Readiness, code: ExitCode
) -> None:
    assert report(*looks).readiness is readiness
    assert code_of(report(*looks)) is code


def test_what_was_seen_before_a_failure_is_kept_and_the_other_parts_are_looked_at() -> None:
    def breaks() -> Iterator[Look]:
        yield Look(name="first", seen="seen")
        raise SourceUnavailable("it went away", hint="Wait.")

    def is_well() -> Iterator[Look]:
        yield Look(name="all", seen="well")

    parts = [
        Part(name="one", kind="redis", look=breaks),
        Part(name="two", kind="files", look=is_well),
    ]

    one, two = run_checks(parts, clock=SystemClock(), emit=silent)

    assert [look.name for look in one.looks] == ["first", "redis"]
    assert [finding.fix for finding in one.findings] == ["Wait."]
    assert one.readiness is Readiness.UNKNOWN
    assert two.readiness is Readiness.READY


def test_the_answer_names_what_was_looked_at_and_each_finding_with_its_fix() -> None:
    found = report(
        Look(name="server", seen="PostgreSQL 15"),
        Look(name="slot", seen="lost", findings=(PROBLEM, WARNING)),
    )

    text = render(found, STYLE)
    answer = json.loads(dumps(document(found)))

    assert "NOT READY main-db (postgres)" in text
    assert "PostgreSQL 15" in text
    assert "problem: it: is bad\n    -> Mend it." in text
    assert text.endswith("NOT READY")
    assert (answer["kind"], answer["readiness"]) == ("check", "NOT READY")
    [part] = answer["parts"]
    assert part["looks"][1]["findings"][0]["fix"] == "Mend it."


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        (MirrorStanding(url="s3://m", trouble="it is away"), "UNKNOWN: it is away"),
        (MirrorStanding(url="s3://m", runs=0), "s3://m: no run has ended there yet"),
        (
            MirrorStanding(url="s3://m", ended=NOW - timedelta(hours=2), changes=1234),
            "last run ended 2 h 00 min ago, 1,234 changes",
        ),
        (
            MirrorStanding(url="s3://m", ended=NOW, is_whole=True, holder="host pid 1"),
            "an unknown number of entries in all; a run is going on (host pid 1)",
        ),
        (
            MirrorStanding(url="s3://m", ended=NOW + timedelta(days=400), changes=1),
            f"last run is dated {NOW + timedelta(days=400):%Y-%m-%d}",
        ),
    ],
)
def test_status_tells_how_a_mirror_stands(mirror: MirrorStanding, words: str) -> None:
    row = StatusRow(
        source="uploads",
        kind="files",
        objective=Objective(timedelta(hours=6), timedelta(hours=1)),
        verdict=Verdict.UNKNOWN,
        mirror=mirror,
    )

    shown = render(StatusReport(stack="s", timezone="UTC", at=NOW, rows=(row,)), STYLE)

    assert words in shown
    assert "receiver" not in shown
