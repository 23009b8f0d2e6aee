"""A damaged piece of a Redis stream: remembered by the restore that met it, and known to every screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.cli.verdicts import code_of
from drtool.errors import ExitCode, IntegrityError
from drtool.model.finding import Severity
from drtool.model.outcome import RestoreReport
from drtool.model.progress import silent
from drtool.model.request import RedisStatus, RestoreRequest
from drtool.model.target import ToLatest
from drtool.report.text import Style, render
from drtool.repository.keys import NO_SECRET
from drtool.repository.layout import ReplicationHistory
from drtool.repository.repository import Repository, open_repository
from drtool.repository.streamlate import LateStretch, put_late
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from drtool.verify.depth import Depth, Quick, Whole
from drtool.verify.repository import verify_repository
from drtool.wiring.redis_stream import status as redis_status
from drtool.wiring.restore import restore
from tests.check.rig import Stack, facts, look, part, receiving, told, until
from tests.check.test_redis import WELL, stack_of
from tests.restore.redis_rig import started
from tests.servers.postgres import server_directory
from tests.servers.redis import new_redis

pytestmark = pytest.mark.redis
CLOCK = SystemClock()


def opened(stack: Stack) -> Repository:
    return open_repository(LocalStore(stack.root / "repository", clock=CLOCK), NO_SECRET)


def verify(stack: Stack, depth: Depth) -> ExitCode:
    return code_of(
        verify_repository(
            opened(stack), depth=depth, sources=None, emit=silent, clock=CLOCK, seed=1
        )
    )


def restored(stack: Stack, name: str) -> RestoreReport:
    into = stack.root / name
    request = RestoreRequest(
        sources=("cache",), target=ToLatest(), into=into, report=None, is_plan=False
    )
    report = restore(request, stack.policy, stack.around)
    assert isinstance(report, RestoreReport)
    return report


def segments(root: Path) -> list[Path]:
    """By their first offsets, since one history holds them all."""
    return sorted((root / "repository" / "log" / "cache").glob("*/*-*"))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A snapshot with one key, and a stream in several segments with four more. Leave it as it was."""
    # Not in the server's directory: nothing is restored into that.
    place = server_directory()
    with closing(new_redis(settings=WELL)) as server, ExitStack() as removed:
        removed.callback(shutil.rmtree, place)
        stack = stack_of(place, server)
        with receiving(stack, "cache"), server.client() as client:
            client.set("key:0", 0)
            stack.backup()
            for number in range(1, 5):
                count = len(segments(stack.root))
                client.set(f"key:{number}", number)
                until(lambda: len(segments(stack.root)) > count, "its segment")  # noqa: B023 - at once
        yield stack


def test_a_restore_that_meets_damage_lets_every_screen_and_the_next_restore_know(
    stack: Stack,
) -> None:
    victim = segments(stack.root)[-3]
    content = victim.read_bytes()
    victim.chmod(0o600)
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    key = str(victim.relative_to(stack.root / "repository"))
    [before] = stack.status("cache").rows

    with pytest.raises(IntegrityError, match=victim.name):
        restored(stack, "first")

    report, checked = stack.status("cache"), stack.check("cache")
    [row] = report.rows
    assert any(one.subject == key for one in row.findings)
    assert code_of(report) is ExitCode.INTEGRITY
    assert any(one.subject == key for one in part(checked, "cache").findings)
    assert before.latest is not None
    assert row.latest is not None
    assert row.latest < before.latest
    assert verify(stack, Quick()) is ExitCode.INTEGRITY

    [outcome] = restored(stack, "second").outcomes
    with started(outcome) as [copy]:
        keys = len(copy.keys("key:*"))
    assert 1 <= keys < 5

    victim.write_bytes(content)
    assert verify(stack, Whole()) is ExitCode.DONE
    [row] = stack.status("cache").rows
    assert row.latest == before.latest


def test_status_fails_while_it_lists_a_damaged_snapshot(stack: Stack) -> None:
    packs = [path for path in (stack.root / "repository/packs").rglob("*") if path.is_file()]
    content = {path: path.read_bytes() for path in packs}
    for path, old in content.items():
        path.chmod(0o600)
        path.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    assert verify(stack, Whole()) is ExitCode.INTEGRITY

    report = stack.status("cache")

    assert code_of(report) is ExitCode.INTEGRITY
    assert told([one.fact for one in report.rows[0].findings], packs[0].name)
    for path, old in content.items():
        path.write_bytes(old)
    assert verify(stack, Whole()) is ExitCode.DONE


def test_spans_of_which_nobody_knows_when_they_were_written_are_told_by_status_and_check(
    stack: Stack,
) -> None:
    last = segments(stack.root)[-1]
    since = stack.status("cache").rows[0].latest
    assert since is not None
    begin = int(last.name.split("-")[0], 16)
    late = LateStretch(begin=begin, since=since, reason="it was away")
    put_late(opened(stack), ReplicationHistory("cache", last.parent.name), late)

    shown, report = stack.status("cache"), stack.check("cache")
    [row] = shown.rows
    request = RestoreRequest(
        sources=("cache",), target=ToLatest(), into=None, report=None, is_plan=True
    )
    planned = restore(request, stack.policy, stack.around)
    assert isinstance(planned, tuple)
    [plan] = planned
    fact_sheet = redis_status(RedisStatus(()), stack.policy, stack.around)

    [span] = row.uncertain
    assert (span.begin, span.end, span.shard) == (since, None, "main")
    assert plan.uncertain == row.uncertain
    assert row.rpo_now is not None
    assert (
        row.rpo_now.at_most == shown.at - span.begin
    )  # what came later may have been written then
    assert told([one.fact for one in row.findings], "needs --uncertain")
    assert told(facts(report, Severity.NOTE), "needs --uncertain")
    told_at = since.astimezone(ZoneInfo("Europe/Warsaw"))
    assert f"from {told_at:%Y-%m-%d %H:%M:%S}" in look(report, "cache", "not known").seen
    values = {one.name: one.value for one in fact_sheet.facts}
    assert values["cache_uncertain"] == (look(report, "cache", "not known").seen,)
    style = Style(ZoneInfo("Europe/Warsaw"))
    for outcome in (shown, plan, report, fact_sheet):
        lines = [line for line in render(outcome, style).splitlines() if "not known" in line]
        assert any(f"{told_at:%Y-%m-%d %H:%M:%S}" in line for line in lines), outcome
