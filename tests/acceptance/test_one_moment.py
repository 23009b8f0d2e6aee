"""One restore brings the database, the cache and the files back to one moment, and nothing dangles."""

from __future__ import annotations

import json
import random
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.drill.ledger import LedgerEntry
from drtool.errors import ExitCode
from drtool.model.outcome import BackupOutcome, Promise, RestoreOutcome, RestoreReport
from drtool.model.request import BackupRequest, RestoreRequest
from drtool.model.target import ToLatest, ToTime
from drtool.restore.look import look
from drtool.restore.redis_look import look_redis
from drtool.wiring.backup import backup
from drtool.wiring.parts import opened_repository
from drtool.wiring.restore import restore
from tests.acceptance.one_moment_judging import Held, Stated, dangling, faults, read_back
from tests.acceptance.one_moment_stack import CLOCK, Stack, Story, Writer, content_of, new_stack
from tests.acceptance.site import Site, until
from tests.servers.postgres import server_directory

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]
BETWEEN_SNAPSHOTS_SECONDS = 0.7
SNAPSHOTS = 6
ENOUGH_WRITES = 400
FILES = BackupRequest(sources=("uploads",), is_dry_run=False)
EVERYTHING = BackupRequest(sources=(), is_dry_run=False)


@dataclass(frozen=True, kw_only=True)
class Past:
    """What was written; `snapshots` are those of the files, with the moment each had ended. The row
    `late_row` came when nobody received the Redis any more; `late` is after it.
    """

    stack: Stack
    story: Story
    first: datetime
    snapshots: list[tuple[datetime, BackupOutcome]]
    late_row: int
    late: datetime


@pytest.fixture(scope="module")
def past() -> Iterator[Past]:
    """Somebody writes, both logs are archived, files are photographed; then all of it is gone."""
    root = server_directory()
    try:
        with new_stack(Site(root=root)) as stack:
            yield written_past(stack)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def written_past(stack: Stack) -> Past:
    with stack.receiving("wal", "receive", "main-db", lease="wal-main-db"):
        with stack.receiving("redis", "receive", "cache", lease="redis-cache"):
            writer = Writer(stack)
            try:
                taken = backup(EVERYTHING, stack.policy, stack.around)
                assert all(isinstance(one, BackupOutcome) for one in taken), taken
                first = CLOCK.now()
                snapshots = photographed(stack, writer)
            finally:
                writer.stop()
            wait_until_archived(stack, CLOCK.now())
        late_row = len(writer.story.rows) + 1
        stack.postgres.query("INSERT INTO papers VALUES (%s, 'readme')", late_row)
        late = CLOCK.now()
        stack.site.mark_after(late)
    stack.postgres.kill9()
    stack.postgres.destroy_data()
    stack.redis.kill9()
    shutil.rmtree(stack.uploads)
    return Past(
        stack=stack, story=writer.story, first=first, snapshots=snapshots,
        late_row=late_row, late=late,
    )  # fmt: skip


def photographed(stack: Stack, writer: Writer) -> list[tuple[datetime, BackupOutcome]]:
    """Snapshots of the files, one after the other, until enough was written."""
    found: list[tuple[datetime, BackupOutcome]] = []
    while len(found) < SNAPSHOTS or len(writer.story.keys) < ENOUGH_WRITES:
        [taken] = backup(FILES, stack.policy, stack.around)
        assert isinstance(taken, BackupOutcome)
        found.append((CLOCK.now(), taken))
        due = CLOCK.monotonic() + BETWEEN_SNAPSHOTS_SECONDS
        until(lambda due=due: CLOCK.monotonic() > due, "the next is due")  # type: ignore[misc] # a default binds the loop's value
    return found


def wait_until_archived(stack: Stack, moment: datetime) -> None:
    with opened_repository(stack.policy, stack.around) as repository:

        def reaches() -> bool:
            held = look_redis(repository, "cache", ToTime(moment))
            found = look(repository, "main-db", ToTime(moment))
            return held.window[1] > moment and found.covering is not None

        until(reaches, f"both logs reach {moment}")


@pytest.fixture
def copies(past: Past) -> Iterator[Path]:
    """Where the copies of one test go; removed after it."""
    place = past.stack.site.root / "copies"
    yield place
    shutil.rmtree(place, ignore_errors=True)


def restored(past: Past, moment: datetime, place: Path) -> dict[str, RestoreOutcome]:
    """The whole stack, by one restore that names no source."""
    request = RestoreRequest(
        sources=(), target=ToTime(moment), into=place, report=None, is_plan=False
    )
    report = restore(request, past.stack.policy, past.stack.around)
    assert isinstance(report, RestoreReport)
    return {outcome.source: outcome for outcome in report.outcomes}


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_after_a_restore_to_any_moment_nothing_refers_to_what_is_not_there(
    past: Past, copies: Path, count: int
) -> None:
    """PITFALLS 90: a file may be missing if it came after the snapshot that the report names, no other."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")

    found = []
    for number, moment in enumerate(chosen_moments(past, count, random.Random(seed))):
        outcomes = restored(past, moment, copies / str(number))
        held = read_back(outcomes)
        told = [*faults(held, past.story, stated(outcomes, moment)), *empty(held)]
        told += wrongly_chosen(outcomes["uploads"], past, moment)
        told += [fault for one in outcomes.values() for fault in wrongly_judged(one, moment)]
        found += [f"seed {seed}, restored to {moment}: {fault}" for fault in told]
        shutil.rmtree(copies / str(number))

    assert found == []


def chosen_moments(past: Past, count: int, chance: random.Random) -> list[datetime]:
    """Anywhere after the first backups; every other one the very microsecond of a write's end."""
    times = [e.acknowledged for e in past.story.keys if e.acknowledged > past.first]
    assert len(times) > ENOUGH_WRITES // 4
    span = times[-1] - past.first
    anywhere = [past.first + span * chance.random() for _ in range(count - count // 2)]
    return anywhere + [chance.choice(times) for _ in range(count // 2)]


def stated(outcomes: dict[str, RestoreOutcome], moment: datetime) -> Stated:
    """The words of the report; a bound that it does not state is no bound."""
    files, keys = (outcomes[name].reached.commit_time for name in ("uploads", "cache"))
    assert files is not None
    assert keys is not None
    return Stated(moment=moment, files=files, keys=keys)


def empty(held: Held) -> list[str]:
    """Nothing dangles where nothing is."""
    stores = {"files": held.files, "rows": held.rows, "keys": held.keys}
    return [f"there are no {name}" for name, content in stores.items() if not content]


def wrongly_chosen(outcome: RestoreOutcome, past: Past, moment: datetime) -> list[str]:
    """The snapshot of the files is the newest which had ended by then."""
    ended = [taken for at, taken in past.snapshots if at <= moment]
    if ended and outcome.backup_id < ended[-1].backup_id:
        return [f"snapshot {outcome.backup_id} is older than {ended[-1].backup_id}"]
    return []


def wrongly_judged(outcome: RestoreOutcome, moment: datetime) -> list[str]:
    """What may be missing is judged, and in words; of PostgreSQL nothing may be."""
    reached = outcome.reached.commit_time
    assert reached is not None
    bound = timedelta(0) if outcome.kind == "postgres" else moment - reached
    word = {"postgres": "is there", "redis": "what had not arrived", "files": "may not be there"}
    [loss] = [one for one in outcome.judgements if one.objective is Promise.RPO]
    told = []
    if getattr(loss.measured, "at_most", None) != bound:
        told.append(f"{outcome.source}: the stated bound is {loss.measured}, not {bound}")
    if word[outcome.kind] not in loss.explanation:
        told.append(f"{outcome.source}: the bound is not explained: {loss.explanation}")
    return told


def test_the_judge_of_these_tests_sees_what_dangles() -> None:
    """A key of a later moment, and a file that the snapshot should have had."""
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    moments = [begin + timedelta(seconds=second) for second in range(10)]
    entries = [
        LedgerEntry(writer=1, number=number, begun=moments[number], acknowledged=moments[number])
        for number in (1, 2, 3)
    ]
    story = Story(files=entries, rows=entries, keys=entries)
    held = Held(
        files={"paper-1": content_of(1)}, rows={1: "paper-1", 2: "paper-2"}, keys={1: 1, 3: 3}
    )
    at = Stated(moment=moments[2], files=moments[3], keys=moments[3])

    assert list(dangling(held, story, at)) == [
        "key 3 refers to row 3, which is not there",
        "row 2 refers to file paper-2, which is not there",
    ]
    assert len(list(faults(held, story, at))) == 6


def test_the_sources_of_a_stack_are_restored_side_by_side(past: Past, copies: Path) -> None:
    moment = past.story.keys[-1].acknowledged

    outcomes = restored(past, moment, copies).values()

    begins = [one.began + timedelta(seconds=one.phases[0].begin_seconds) for one in outcomes]
    ends = [
        one.began + timedelta(seconds=one.phases[-1].begin_seconds + one.phases[-1].seconds)
        for one in outcomes
    ]
    assert len(begins) == 3
    assert max(begins) < min(ends)


def test_a_moment_that_one_source_cannot_reach_is_refused_and_the_newest_for_all_is_named(
    past: Past, copies: Path
) -> None:
    site = past.stack.site
    before = sorted(site.repository.rglob("*"))

    refused = site.run(
        "restore", "--to", past.late.isoformat(), "--into", str(copies), "--json",
        code=ExitCode.NOT_RECOVERABLE,
    )  # fmt: skip

    assert not copies.exists()
    assert sorted(site.repository.rglob("*")) == before
    assert "cache" in refused.answer["message"]
    named = re.search(r"restore --to '([^']+)'", refused.answer["hint"])
    assert named, refused.answer["hint"]
    newest = datetime.fromisoformat(named[1])
    assert past.story.keys[-1].acknowledged <= newest < past.late
    site.run("restore", "--to", newest.isoformat(), "--into", str(copies), "--plan")
    just_after = (newest + timedelta(microseconds=1)).isoformat()
    site.run("restore", "--to", just_after, "--plan", code=ExitCode.NOT_RECOVERABLE)


def test_latest_is_the_newest_moment_for_all_and_each_latest_goes_as_far_as_each_can(
    past: Past, copies: Path
) -> None:
    site = past.stack.site

    together = site.run("restore", "--to", "latest", "--into", str(copies / "all"), code=None)
    each = site.run("restore", "--each-latest", "--into", str(copies / "each"), code=None)

    assert (together.code, each.code) == (0, 0), f"{together}\n{each}"
    told = " ".join(together.out.split())
    assert "changes after that may not be there" in told, str(together)
    assert "what had not arrived here may not be" in told, str(together)
    with ExitStack() as reading:
        for place, is_late in (("all", False), ("each", True)):
            rows = rows_in(copies / place / "main-db", reading)
            assert (past.late_row in rows) == is_late, place
            assert {entry.number for entry in past.story.rows} <= rows


def rows_in(data: Path, reading: ExitStack) -> set[int]:
    from tests.restore.rig import started

    server = reading.enter_context(started(15, data))
    return {row[0] for row in server.query("SELECT number FROM papers")}


def test_a_place_that_one_source_refuses_keeps_all_from_being_written(
    past: Past, copies: Path
) -> None:
    (copies / "uploads").mkdir(parents=True)
    (copies / "uploads" / "mine").write_text("not to be touched")

    past.stack.site.run(
        "restore", "--to", "latest", "--into", str(copies), code=ExitCode.DESTINATION_REFUSED
    )

    assert sorted(copies.rglob("*")) == [copies / "uploads", copies / "uploads" / "mine"]


def test_latest_for_all_is_reached_where_the_database_is_the_first_to_end(
    site: Site,
) -> None:
    """What is named as the newest moment for all must be one that every source accepts."""
    with new_stack(site) as stack:
        site.run("backup", "cache", "uploads")
        site.run("backup", "main-db")
        ended = CLOCK.now()
        with stack.receiving("redis", "receive", "cache", lease="redis-cache"):

            def reaches() -> bool:
                with opened_repository(stack.policy, stack.around) as repository:
                    return look_redis(repository, "cache", ToLatest()).window[1] > ended

            until(reaches, "the stream goes on behind the database's last mark")

    copies = site.root / "copies"

    ran = site.run("restore", "--to", "latest", "--into", str(copies), code=None)

    assert ran.code == 0, str(ran)
    assert sorted(place.name for place in copies.iterdir()) == sorted(KINDS)


def test_latest_for_all_is_before_an_outage_in_which_nobody_knows_what_was_written(
    site: Site,
) -> None:
    """The database's last moment lies in the outage of Redis' receiver, and its first before that."""
    with new_stack(site) as stack:

        def receive_past(moment: datetime) -> None:
            with opened_repository(stack.policy, stack.around) as repository:
                until(
                    lambda: look_redis(repository, "cache", ToLatest()).window[1] > moment,
                    f"the stream goes on behind {moment}",
                )

        site.run("backup", "cache", "uploads")
        with stack.receiving("redis", "receive", "cache", lease="redis-cache"):
            site.run("backup", "main-db")
            receive_past(CLOCK.now())
        stopped = CLOCK.now()
        with stack.redis.client() as client:
            client.set("in", "the outage")
        site.run("backup", "main-db")
        last = CLOCK.now()
        with stack.receiving("redis", "receive", "cache", lease="redis-cache"):
            receive_past(last)

    copies = site.root / "copies"
    plan = site.run("restore", "--to", "latest", "--into", str(copies), "--plan")
    refused = site.run("restore", "--to", last.isoformat(), "--plan", code=ExitCode.NOT_RECOVERABLE)
    later = site.run(
        "restore", "--to", "latest", "--into", str(copies), "--plan", "--uncertain", "later"
    )

    assert "what source cache held at" in str(plan)
    named = re.search(r"restore --to\s+'([^']+)'", refused.err)
    assert named, str(refused)
    site.run("restore", "--to", named[1], "--into", str(copies), "--plan")
    assert datetime.fromisoformat(named[1]) <= stopped
    assert "is not known" not in str(later)


def test_the_place_of_all_lets_every_server_s_user_through(past: Past, copies: Path) -> None:
    """The sources make their places side by side, each for a user of its own."""
    restored(past, past.snapshots[-1][0], copies / "deep" / "all")

    assert [stat.S_IMODE(place.stat().st_mode) for place in (copies / "deep", copies / "deep/all")] == [
        0o711, 0o711,
    ]  # fmt: skip


KINDS = {"main-db": "postgres", "cache": "redis", "uploads": "files"}


def test_every_source_is_backed_up_shown_and_verified_and_one_that_is_down_harms_no_other(
    site: Site,
) -> None:
    with new_stack(site) as stack:
        whole = site.run("backup", "--json").answer
        # No receiver runs: that is a promise that will not be kept, whatever stands now.
        status = site.run("status", code=ExitCode.OBJECTIVE_MISSED)
        rows = site.run("status", "--json", code=ExitCode.OBJECTIVE_MISSED).answer["rows"]
        verified = site.run("verify", "--whole", "--json").answer
        stack.redis.kill9()
        without = site.run("backup", "--json", code=ExitCode.SOURCE_UNAVAILABLE)
        told = site.run("backup", code=ExitCode.SOURCE_UNAVAILABLE)
        behind = site.run("status", "--json", code=ExitCode.OBJECTIVE_MISSED).answer["rows"]

    assert [item["source"] for item in whole["items"]] == list(KINDS)
    assert {row["source"]: row["kind"] for row in rows} == KINDS
    assert [row["verdict"] for row in rows] == ["MET"] * 3
    assert all(name in status.out for name in KINDS)
    assert status.out.count("MET") >= 3
    assert (sorted(verified["sources"]), verified["backups"]) == (sorted(KINDS), 3)
    done = [item["source"] for item in without.answer["items"] if "backup_id" in item]
    failed = [item for item in without.answer["items"] if "backup_id" not in item]
    assert done == ["main-db", "uploads"]
    assert [item["exit_code"] for item in failed] == [ExitCode.SOURCE_UNAVAILABLE]
    assert "cache" in failed[0]["message"], json.dumps(failed)
    assert all(name in told.out + told.err for name in KINDS)
    newer = {
        before["source"]: after["last_backup"] > before["last_backup"]
        for before, after in zip(rows, behind, strict=True)
    }
    assert newer == {"main-db": True, "cache": False, "uploads": True}
