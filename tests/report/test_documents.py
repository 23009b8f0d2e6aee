"""Outcomes as JSON and as text: versioned, complete, and with their verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from drtool.model.objective import LossInterval, Objective, Verdict
from drtool.model.outcome import (
    BackupKind,
    BackupOutcome,
    Fact,
    FactSheet,
    Failure,
    Outcome,
    RestorePreview,
    StatusReport,
    StatusRow,
    VerifyOutcome,
    unaccounted_seconds,
)
from drtool.model.wal import Lsn
from drtool.model.window import LogGap
from drtool.report.documents import document, dumps, several
from drtool.report.text import Style, render
from tests.report import samples

MOMENT = datetime(2024, 5, 1, 8, 0, tzinfo=UTC)
STYLE = Style(ZoneInfo("Europe/Warsaw"))

BACKUP = BackupOutcome(
    source="main-db",
    backup_id="20240501T080001Z-3f9a",
    kind=BackupKind.INCREMENTAL,
    began=MOMENT,
    seconds=12.5,
    files=1204,
    read_bytes=1_500_000_000,
    stored_bytes=9_000_000,
    reused_bytes=1_491_000_000,
    start_lsn=Lsn.parse("0/2000028"),
    stop_lsn=Lsn.parse("0/2000138"),
    timeline=1,
    wal_included_to=Lsn.parse("0/3000000"),
    pages=183_105,
    pages_changed=1_100,
    previous="20240430T080001Z-11aa",
)
STATUS = StatusReport(
    stack="stefano",
    timezone="Europe/Warsaw",
    at=MOMENT,
    rows=(
        StatusRow(
            source="main-db",
            kind="postgres",
            objective=Objective(timedelta(minutes=15), timedelta(hours=1)),
            verdict=Verdict.MET,
            earliest=MOMENT - timedelta(days=3),
            latest=MOMENT - timedelta(seconds=8),
            rpo_now=LossInterval(timedelta(seconds=8), timedelta(seconds=18)),
            last_backup="20240501T080001Z-3f9a",
            last_backup_finished=MOMENT - timedelta(hours=6),
            receiver="streaming",
            gaps=(LogGap(timeline=1, begin=Lsn(0x1000000), end=Lsn(0x2000000)),),
        ),
        StatusRow(
            source="other-db",
            kind="postgres",
            objective=Objective(timedelta(minutes=15), timedelta(hours=1)),
            verdict=Verdict.UNKNOWN,
        ),
    ),
)
PREVIEW = RestorePreview(
    kind="postgres",
    source="main-db",
    target="time 2024-05-01T10:00:00+02:00",
    destination="/srv/restore/x",
    backup_id="20240501T080001Z-3f9a",
    backup_finished=MOMENT,
    steps=("fetch 1.5 GB", "replay to 0/3000060"),
    fetch_bytes=1_500_000_000,
    wal_bytes=16_777_216,
    recoverable_from=MOMENT - timedelta(days=3),
    recoverable_until=MOMENT,
)
VERIFY = VerifyOutcome(
    level="quick",
    sources=("main-db",),
    began=MOMENT,
    seconds=1.5,
    backups=3,
    objects=400,
    read_bytes=12_000,
)
SHEET = FactSheet(
    kind="repository-info",
    title="repository s3://stefano-dr/main",
    facts=(
        Fact(name="created", value=MOMENT),
        Fact(name="key_slots", value=("1", "2")),
        Fact(name="conditional_put", value=True),
        Fact(name="object_lock", value=None),
    ),
)
FAILURE = Failure(error="WrongKey", message="m", hint="h", exit_code=7, retryable=False)

EVERY: dict[str, Outcome] = {
    "restore": samples.report(),
    "restore-plan": PREVIEW,
    "backup": BACKUP,
    "status": STATUS,
    "verify": VERIFY,
    "repository-info": SHEET,
    "error": FAILURE,
}


@pytest.mark.parametrize("kind", EVERY)
def test_every_outcome_is_one_versioned_object_and_has_a_text(kind: str) -> None:
    content = json.loads(dumps(document(EVERY[kind])))
    text = render(EVERY[kind], STYLE)

    assert list(content)[:2] == ["drtool", "kind"]
    assert content["drtool"] == 1
    assert content["kind"] == kind
    assert text
    assert "\x1b" not in text


def test_times_are_iso_bytes_are_integers_and_durations_are_seconds() -> None:
    content = json.loads(dumps(document(samples.report(samples.met()))))

    (outcome,) = content["outcomes"]
    assert outcome["began"] == "2024-05-01T08:04:30.345000+00:00"
    assert outcome["bytes_restored"] == 1_482_000_000
    assert outcome["reached"]["lsn"] == "0/5A3F1B28"
    assert outcome["judgements"][1]["promised_seconds"] == 3600.0
    assert outcome["judgements"][1]["measured_seconds"] == 31.4
    assert outcome["judgements"][0]["measured"] == {"at_least_seconds": 4.1, "at_most_seconds": 6.2}
    assert outcome["verdict"] == "MET"
    assert content["verdict"] == "MET"


def test_the_phases_of_a_document_add_up() -> None:
    content = json.loads(dumps(document(samples.report(samples.met()))))

    (outcome,) = content["outcomes"]
    total = sum(phase["seconds"] for phase in outcome["phases"])
    assert total + outcome["unaccounted_seconds"] == pytest.approx(outcome["total_seconds"])


def test_a_backup_tells_its_kind_beside_the_kind_of_the_object() -> None:
    content = document(BACKUP)

    assert content["kind"] == "backup"
    assert content["backup_kind"] == "incremental"


def test_several_answers_are_one_object() -> None:
    content = several("backups", (BACKUP, BACKUP))

    assert content["kind"] == "backups"
    assert len(json.loads(dumps(content))["items"]) == 2


def test_phases_that_overlap_or_outlast_the_run_are_refused() -> None:
    outcome = samples.met()

    with pytest.raises(ValueError, match="the whole run took"):
        replace(outcome, total_seconds=20.0)
    with pytest.raises(ValueError, match="before the one before it has ended"):
        replace(outcome, phases=outcome.phases[::-1])
    assert unaccounted_seconds(outcome.phases, 31.4) == pytest.approx(0.2)


def test_a_failed_question_is_a_missed_restore_whatever_was_measured() -> None:
    outcome = samples.met()
    failed = replace(outcome.questions[0], passed=False)

    assert replace(outcome, questions=(failed,)).verdict is Verdict.MISSED
    assert outcome.verdict is Verdict.MET


def test_a_restore_that_was_not_judged_is_unknown() -> None:
    assert replace(samples.met(), judgements=()).verdict is Verdict.UNKNOWN


def test_status_shows_the_window_and_says_what_it_does_not_know() -> None:
    text = render(STATUS, STYLE)

    assert "between 8 s and 18 s" in text
    assert "gap on timeline 1 from 0/1000000 to 0/2000000" in text
    assert "nothing can be recovered" in text
    assert "predicted RTO  not measured; promised" in text


def test_a_plan_says_that_nothing_was_done() -> None:
    assert render(PREVIEW, STYLE).endswith("Nothing was done: this is a plan.")
