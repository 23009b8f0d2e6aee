"""A restore of a Redis that was emptied says so: an empty copy meets every promise and helps nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.model.finding import Finding, Severity
from drtool.model.outcome import RestoreOutcome
from drtool.model.target import ToLatest, ToTime
from drtool.report.page import render_page
from drtool.report.text import render
from drtool.repository.repository import Repository
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_plan import plan_redis_restore, preview_redis
from tests.archiving.redis_rig import wait_held
from tests.report import samples
from tests.report.test_words import STYLE
from tests.restore.redis_rig import SOURCE, restore, servers_of, streamed, take_snapshot
from tests.servers.redis import MakeRedis

pytestmark = pytest.mark.redis


def of_content(outcome: RestoreOutcome) -> list[Finding]:
    return [one for one in outcome.findings if "of the keys are gone" in one.fact]


def test_a_copy_that_lost_most_keys_since_its_snapshot_says_so_and_what_to_do(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    server = make_redis()
    with server.client() as client, streamed(repository, server):
        client.mset({f"key:{number}": number for number in range(200)})
        backup_id = take_snapshot(repository, servers_of(server)).backup_id
        client.delete(*(f"key:{number}" for number in range(60)))
        wait_held(repository, server)
        before = datetime.now(UTC)
        client.flushall()
        client.set("after", 1)
        wait_held(repository, server)

    emptied = restore(repository, root / "emptied")
    earlier = restore(repository, root / "earlier", ToTime(before))
    accepted = restore(repository, root / "accepted", gone_percent=100)

    [finding] = of_content(emptied)
    assert finding.severity is Severity.WARNING
    assert "1 key" in finding.fact
    assert "200" in finding.fact
    assert backup_id in finding.fact
    assert "--to" in finding.fix
    assert f"--backup {backup_id}" in finding.fix
    assert of_content(earlier) == of_content(accepted) == []
    assert (earlier.keys, earlier.snapshot_keys) == (140, 200)
    report = samples.report(replace(emptied, began=samples.LOST_AT))
    for shown in (render(report, STYLE), render_page(report)):
        assert "1 now; the snapshot had 200" in shown
    plan = plan_redis_restore(look_redis(repository, SOURCE, ToLatest()), ToLatest())
    preview = preview_redis(plan, destination="/copy", masters=1)
    assert "200 keys" in preview.steps[0]
