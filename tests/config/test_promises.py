"""Whether a schedule can keep its promise is said before anything is lost."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.config.policy_file import parse_policy, read_policy
from drtool.config.promises import judge_policy, longest_pause
from drtool.model.objective import Verdict
from drtool.model.outcome import PromiseRow
from drtool.policy.scalars import CronLine
from tests.config.samples import VALID

ROOT = Path(__file__).parent.parent.parent


def judged(source: str, name: str = "cache") -> PromiseRow:
    policy = parse_policy(f"{VALID}  {name}: {source}\n", "shop.yaml")
    return next(row for row in judge_policy(policy, "shop.yaml").rows if row.source == name)


def test_an_hourly_redis_snapshot_without_the_stream_cannot_keep_fifteen_minutes() -> None:
    row = judged("{kind: redis, nodes: ['r:6379'], schedule: {backup: '0 * * * *'}}")

    assert row.verdict is Verdict.MISSED
    assert row.worst_loss == timedelta(hours=1)
    assert "cannot keep an RPO of 15 min" in row.explanation


def test_the_same_snapshot_with_the_stream_can() -> None:
    row = judged("{kind: redis, nodes: ['r:6379'], schedule: {backup: '0 * * * *'}, stream: true}")

    assert row.verdict is Verdict.MET


def test_an_archived_stream_loses_what_waits_for_its_flush_whatever_the_schedule() -> None:
    quick = judged("{kind: redis, nodes: ['r:6379'], stream: true, flush: 20s}")
    slow = judged("{kind: redis, nodes: ['r:6379'], stream: true, flush: 15m}")

    assert quick.worst_loss == timedelta(seconds=30)
    assert quick.verdict is Verdict.MET
    assert any("no schedule says when a backup is taken" in one.fact for one in quick.findings)
    assert slow.verdict is Verdict.MISSED


def test_streamed_wal_loses_at_most_a_flush_and_a_heartbeat() -> None:
    row = judged("{kind: postgres, dsn: env:X, wal: {flush: 20s, heartbeat: 5s}}")

    assert row.worst_loss == timedelta(seconds=25)
    assert row.verdict is Verdict.MET


def test_a_flush_longer_than_the_promise_cannot_keep_it() -> None:
    row = judged("{kind: postgres, dsn: env:X, wal: {flush: 15m}}")

    assert row.verdict is Verdict.MISSED


def test_pushed_wal_depends_on_the_server_and_so_is_unknown() -> None:
    row = judged("{kind: postgres, dsn: env:X, wal: {mode: push}}")

    assert row.verdict is Verdict.UNKNOWN
    assert "archive_timeout" in row.explanation


def test_a_source_without_a_schedule_is_unknown() -> None:
    row = judged("{kind: files, path: /srv/uploads}")

    assert row.verdict is Verdict.UNKNOWN


def test_a_source_judged_by_its_own_promise_says_that_it_is_weaker() -> None:
    row = judged(
        "{kind: files, path: /srv/a, schedule: {backup: '0 * * * *'}, objective: {rpo: 2h, rto: 1h}}"
    )

    assert row.verdict is Verdict.MET
    assert any("weaker" in finding.fact for finding in row.findings)


def test_a_bucket_without_a_schedule_is_told_to_be_synced() -> None:
    row = judged("{kind: bucket, url: s3://a, mirror: s3://b}")

    assert any("drtool sync" in finding.fix for finding in row.findings)


def test_the_reference_policy_can_keep_what_it_promises() -> None:
    policy = read_policy(ROOT / "policies" / "stefano.yaml")

    report = judge_policy(policy, "stefano.yaml")

    assert [row.verdict for row in report.rows] == [Verdict.MET] * 3


@pytest.mark.parametrize(
    ("line", "zone", "hours"),
    [
        ("*/5 * * * *", "Europe/Warsaw", 5 / 60),
        ("0 * * * *", "Europe/Warsaw", 1),
        ("0 */6 * * *", "Europe/Warsaw", 7),
        ("0 */6 * * *", "UTC", 6),
        ("0 2 * * *", "Europe/Warsaw", 25),
        ("0 2 * * 1-5", "UTC", 72),
        ("0 4 1 * *", "UTC", 31 * 24),
        ("0 0 29 2 *", "UTC", 4 * 365.25 * 24),
    ],
)
def test_the_longest_pause_of_a_schedule_counts_the_hour_when_clocks_go_back(
    line: str, zone: str, hours: float
) -> None:
    """PITFALLS 74: a day may have 25 hours."""
    pause = longest_pause(CronLine(line), ZoneInfo(zone))

    assert pause == timedelta(hours=hours)


def test_a_schedule_that_never_comes_has_no_pause() -> None:
    assert longest_pause(CronLine("0 0 30 2 *"), ZoneInfo("UTC")) is None
