"""Transactions and restore points older than the newest backup: the backup before them is found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest

from drtool.config.policy_file import parse_policy
from drtool.errors import Interrupted, NotRecoverable
from drtool.model.finding import Severity
from drtool.model.progress import Event, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.model.request import RestoreRequest
from drtool.model.target import RecoveryTarget, ToLatest, ToLsn, ToName, ToTime, ToXid
from drtool.policy.secrets import Redactor
from drtool.policy.sources import PostgresSource
from drtool.repository.repository import Repository
from drtool.restore.look import look
from drtool.restore.plan import RestorePlan, plan_restore
from drtool.restore.target_place import TargetPlace
from drtool.stores.memory import MemoryStore
from drtool.system.clock import Clock, SystemClock
from drtool.wiring.restore_postgres import plan_postgres
from drtool.wiring.surroundings import Surroundings
from tests.archiving.rig import SOURCE
from tests.restore.rig import moment_of, protected, restore, rows, settle, started, take_backup
from tests.servers.postgres import PostgresServer, new_server

pytestmark = pytest.mark.postgres
POLICY = f"""\
version: 1
stack: shop
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file:///nowhere", key: none}}
sources:
  {SOURCE}: {{kind: postgres, dsn: "env:MAIN_DB_DSN"}}
"""


@dataclass(frozen=True)
class Story:
    """Row 1, the first backup, row 2 (and what is named in it), the second backup, row 3."""

    repository: Repository
    first: str
    second: str
    xids: dict[str, int]
    between: datetime

    def plan(self, target: RecoveryTarget, *, from_backup: str | None = None) -> RestorePlan:
        return plan_restore(look(self.repository, SOURCE, target, from_backup=from_backup), target)


def insert(server: PostgresServer, number: int, *, ending: str = "COMMIT") -> int:
    with server.connect() as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO ledger VALUES (%s)", (number,))
        row = session.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        session.execute(ending.encode())
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    server = new_server(15, settings={"max_prepared_transactions": "2"})
    try:
        server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
        with protected(server, MemoryStore()) as repository:
            xids = {"before all": insert(server, 1)}
            server.query("SELECT pg_create_restore_point('before all')")
            first = take_backup(repository, server).backup_id
            server.query("SELECT pg_create_restore_point('deploy')")
            xids["prepared"] = insert(server, 20, ending="PREPARE TRANSACTION 'p'")
            xids["between"] = insert(server, 2)
            server.query("SELECT pg_create_restore_point('deploy')")
            server.query("SELECT pg_create_restore_point('between')")
            between = moment_of(server)
            xids["rolled back"] = insert(server, 3, ending="ROLLBACK")
            second = take_backup(repository, server).backup_id
            xids["behind"] = insert(server, 4)
            server.query("COMMIT PREPARED 'p'")
            server.query("SELECT pg_create_restore_point('behind')")
            settle(repository, server)
        yield Story(repository, first, second, xids, between)
    finally:
        server.close()


def test_the_backup_before_the_target_is_found(story: Story) -> None:
    """A prepared transaction is where it was committed, whatever its number."""
    found = {name: story.plan(ToXid(xid)) for name, xid in story.xids.items() if name[:3] != "bef"}
    named = {name: story.plan(ToName(name)) for name in ("deploy", "between", "behind")}

    assert {name: plan.manifest.backup_id for name, plan in found.items()} == {
        "prepared": story.second,
        "between": story.first,
        "rolled back": story.first,
        "behind": story.second,
    }
    assert [plan.manifest.backup_id for plan in named.values()] == [
        story.first,
        story.first,
        story.second,
    ]
    warned = {
        name: [one.fact for one in plan.findings if one.severity is Severity.WARNING]
        for name, plan in {**found, **named}.items()
    }
    assert [name for name, facts in warned.items() if facts] == ["rolled back", "deploy"]
    assert found["between"].wal_end < found["between"].repository_end


def test_the_run_reaches_what_the_plan_found(story: Story, server_root: Path) -> None:
    """Of restore points with one name the newest is meant; PostgreSQL would stop at the oldest."""
    for name, target, expected in (
        ("xid", ToXid(story.xids["between"]), [1, 2]),
        ("name", ToName("deploy"), [1, 2]),
    ):
        restore(story.repository, server_root / name, plan=story.plan(target))

        with started(15, server_root / name, max_prepared_transactions="2") as copy:
            assert rows(copy) == expected, name


def test_without_events_the_wal_tells_of_a_restore_point(story: Story) -> None:
    """WAL that was archived before events were."""
    store = story.repository.store
    events = {one.key: store.read(one.key) for one in store.list("log/") if "/events/" in one.key}
    for key in events:
        store.delete(key)
    try:
        plan = story.plan(ToName("between"))
    finally:
        for key, content in events.items():
            store.create(key, [content])

    assert events
    assert plan.manifest.backup_id == story.first


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (ToXid(4_000_000), "transaction 4000000 is nowhere in the WAL"),
        (ToName("nowhere"), "restore point 'nowhere' is nowhere in the WAL"),
        (ToName("before all"), "restore point 'before all' .*nowhere"),
    ],
)
def test_what_is_nowhere_is_refused_before_anything_is_copied(
    story: Story, target: RecoveryTarget, told: str
) -> None:
    with pytest.raises(NotRecoverable, match=told):
        story.plan(target)


def test_an_older_backup_can_be_named(story: Story) -> None:
    plan = story.plan(ToLatest(), from_backup=story.first)

    assert plan.manifest.backup_id == story.first
    tried = story.plan(ToXid(story.xids["between"]), from_backup=story.second)
    assert tried.manifest.backup_id == story.second
    assert any("was searched, and it is not there" in one.fact for one in tried.findings)
    with pytest.raises(NotRecoverable, match="no usable backup nothing"):
        story.plan(ToLatest(), from_backup="nothing")


def test_of_a_named_backup_that_ended_after_the_target_no_more_is_said_than_that(
    story: Story,
) -> None:
    """It was told as the first backup of its source, and its end as the earliest moment there is."""
    end = story.plan(ToLatest(), from_backup=story.first).manifest.postgres.stop_lsn

    for target in (ToTime(story.between), ToLsn(end)):
        with pytest.raises(
            NotRecoverable, match=f"before the end of backup {story.second}"
        ) as seen:
            story.plan(target, from_backup=story.second)

        assert seen.value.hint is not None
        assert "Leave out --from-backup" in seen.value.hint
        assert f"There are: {story.first}." in seen.value.hint
        assert story.plan(target).manifest.backup_id == story.first


def test_where_no_backup_ended_before_the_target_none_is_promised(story: Story) -> None:
    """The hint said that `drtool status` shows those that did."""
    target = ToName("between")
    facts = look(story.repository, SOURCE, target)
    within_the_first = facts.candidates[0].manifest.postgres.start_lsn
    facts = replace(facts, place=TargetPlace(begin=within_the_first))

    with pytest.raises(NotRecoverable, match=f"the end of backup {story.first}") as seen:
        plan_restore(facts, target)

    assert seen.value.hint is not None
    assert "No backup that can be used ended before it" in seen.value.hint


class SlowClock(SystemClock):
    """Of each look at it a second passes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 1.0
        return self.seconds


def planned(
    story: Story, target: RecoveryTarget, *, clock: Clock, stop: threading.Event
) -> list[Event]:
    """The plan of the command, and what was told while it was made."""
    events: list[Event] = []
    policy = parse_policy(POLICY, "the test's policy")
    source = policy.source(SOURCE)
    assert isinstance(source, PostgresSource)
    around = Surroundings(
        environ={}, redactor=Redactor(), emit=events.append, clock=clock, stop=stop
    )
    request = RestoreRequest(sources=(SOURCE,), target=target, into=None, report=None, is_plan=True)
    plan_postgres(
        SOURCE,
        source,
        request,
        policy=policy,
        repository=story.repository,
        around=around,
    )
    return events


def test_a_search_that_takes_long_tells_how_far_it_is_and_ends_when_that_is_asked(
    story: Story,
) -> None:
    stop = threading.Event()
    target = ToXid(story.xids["between"])

    assert planned(story, target, clock=SystemClock(), stop=stop) == []
    began, *advanced, ended = planned(story, target, clock=SlowClock(), stop=stop)

    assert isinstance(began, PhaseBegan)
    assert f"for transaction {target.xid}" in began.title
    assert isinstance(ended, PhaseEnded)
    counts = [one.done for one in advanced if isinstance(one, PhaseAdvanced)]
    assert len(counts) == len(advanced) > 0
    assert sorted(counts) == counts
    assert began.total is not None
    stop.set()
    for again in (target, ToTime(story.between)):
        with pytest.raises(Interrupted, match="search in the WAL"):
            planned(story, again, clock=SystemClock(), stop=stop)
