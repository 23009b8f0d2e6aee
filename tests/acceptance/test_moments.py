"""A restore to any moment holds exactly what was acknowledged by then: the prefix property."""

from __future__ import annotations

import random
import secrets
import shutil
import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from drtool.archiving.receive_settings import lease_name
from drtool.config.policy_file import parse_policy
from drtool.drill.ledger import Ledger, LedgerEntry
from drtool.drill.loss import Write, violations
from drtool.drill.writing import Writers, prepare_table, recovered_writes
from drtool.model.finding import Finding
from drtool.model.outcome import BackupOutcome
from drtool.model.progress import silent
from drtool.model.request import BackupRequest, RepositoryInit, WalReceive
from drtool.model.target import RecoveryTarget, ToBackup, ToLsn, ToName, ToTime, ToXid
from drtool.model.verification import Verification
from drtool.model.wal import Lsn
from drtool.policy.policy import Policy
from drtool.policy.secrets import Redactor
from drtool.repository.backups import read_manifests
from drtool.repository.lease import lease_holder
from drtool.repository.repository import Repository
from drtool.restore.destination import check_destination
from drtool.restore.look import look
from drtool.restore.phases import Phases
from drtool.restore.plan import plan_restore
from drtool.restore.run import RestoreSite, run_restore
from drtool.sources.postgres.binaries import ServerBinaries, find_binaries
from drtool.sources.postgres.connection import connect
from drtool.sources.postgres.entrance import Entrance, KnownNames, NoEntrance
from drtool.sources.postgres.server import RunningServer
from drtool.system.clock import SystemClock
from drtool.system.users import choose_user
from drtool.wiring.backup import backup
from drtool.wiring.parts import opened_repository
from drtool.wiring.repository import run_repository
from drtool.wiring.surroundings import Surroundings
from drtool.wiring.wal import receive
from tests.acceptance.site import POLICY, SOURCE, until
from tests.servers.postgres import PostgresServer, new_server, server_directory

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
CLOCK = SystemClock()
WRITERS = 4
ENOUGH_WRITES = 1500
JOIN_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Past:
    """What was written, and what is left of the server: its repository."""

    root: Path
    policy: Policy
    around: Surroundings
    entries: list[LedgerEntry]
    backup: BackupOutcome
    story: dict[str, str]


@dataclass
class Reader:
    """A `Verifier` that only reads what came back: the deeper checks have tests of their own."""

    writes: AbstractSet[Write] = frozenset()
    steps: list[int] = field(default_factory=list)

    def enter(
        self, server: RunningServer, known: KnownNames | None = None
    ) -> Entrance | NoEntrance:
        return Entrance(role="postgres", database="postgres", open=("postgres",))

    def answers(self, server: RunningServer, entrance: Entrance | NoEntrance) -> Verification:
        self.writes = recovered_writes(server.dsn())
        with connect(server.dsn(), purpose="test", search_path="public") as connection:
            found = connection.execute("SELECT step FROM story ORDER BY step").fetchall()
        self.steps = [step for (step,) in found]
        return Verification(is_writable=True)

    def running(
        self, server: RunningServer, entrance: Entrance | NoEntrance
    ) -> tuple[Finding, ...]:
        return ()

    def stopped(
        self, data_directory: Path, binaries: ServerBinaries, *, stop: threading.Event
    ) -> tuple[Finding, ...]:
        return ()


@contextmanager
def a_past(major: int) -> Iterator[Past]:
    """Sessions write, WAL streams and a backup is taken beside them; then the server is gone."""
    server, root = new_server(major, segment_mb=1), server_directory()
    text = POLICY.format(
        rpo="15m", url=f"file://{root}/repository", key="env:DRTOOL_KEY", flush="500ms",
        heartbeat="250ms", checks="[]", root=root,
    )  # fmt: skip
    policy = parse_policy(text, "the test's policy")
    around = Surroundings(
        environ={"DRTOOL_KEY": secrets.token_urlsafe(24), "MAIN_DB_DSN": server.dsn()},
        redactor=Redactor(),
        emit=silent,
        clock=CLOCK,
        stop=threading.Event(),
    )
    try:
        prepare_table(server.dsn())
        server.query("CREATE TABLE story (step int PRIMARY KEY)")
        run_repository(RepositoryInit(is_dry_run=False), policy, around)
        ledger = Ledger(root / "ledger")
        stop = threading.Event()
        receiver = threading.Thread(target=_receive, args=(policy, around, stop), daemon=True)
        receiver.start()
        wait_for_receiver(policy, around)
        writers = Writers(server.dsn(), ledger, count=WRITERS, clock=CLOCK)
        try:
            [taken] = backup(BackupRequest(sources=(SOURCE,), is_dry_run=False), policy, around)
            assert isinstance(taken, BackupOutcome)
            before = len(ledger.entries())
            until(lambda: len(ledger.entries()) > before + ENOUGH_WRITES, "enough is written")
            story = tell(server)
            writers.stop()
            wait_for_mark(policy, around, after=CLOCK.now())
        finally:
            writers.stop()
            stop.set()
            receiver.join(JOIN_SECONDS)
        server.kill9()
        server.destroy_data()
        yield Past(
            root=root, policy=policy, around=around, entries=ledger.entries(), backup=taken,
            story=story,
        )  # fmt: skip
    finally:
        server.close()
        shutil.rmtree(root, ignore_errors=True)


def _receive(policy: Policy, around: Surroundings, stop: threading.Event) -> None:
    quiet = Surroundings(
        environ=around.environ, redactor=around.redactor, emit=silent, clock=CLOCK, stop=stop
    )
    receive(WalReceive(SOURCE, is_dry_run=False), policy, quiet)


def tell(server: PostgresServer) -> dict[str, str]:
    """Five steps, and what leads to the moments between them."""
    story = {}
    server.query("INSERT INTO story VALUES (1)")
    story["lsn"] = str(server.query("SELECT pg_current_wal_flush_lsn()")[0][0])
    server.query("INSERT INTO story VALUES (2)")
    server.query("SELECT pg_create_restore_point('before the third')")
    server.query("INSERT INTO story VALUES (3)")
    written = "INSERT INTO story VALUES (4) RETURNING pg_current_xact_id()::text"
    story["xid"] = server.query(written)[0][0]
    server.query("INSERT INTO story VALUES (5)")
    return story


def wait_for_receiver(policy: Policy, around: Surroundings) -> None:
    """A backup that came first would fetch its WAL itself, and the receiver be refused."""
    with opened_repository(policy, around) as repository:
        until(lambda: lease_holder(repository, lease_name(SOURCE)), "the receiver has its lease")


def wait_for_mark(policy: Policy, around: Surroundings, *, after: datetime) -> None:
    with opened_repository(policy, around) as repository:

        def is_covered() -> bool:
            found = look(repository, SOURCE, ToTime(after))
            return (
                found.covering is not None and found.covering.lsn <= found.candidates[-1].chain.end
            )

        until(is_covered, f"a mark after {after} whose WAL is there")


@pytest.fixture(scope="module")
def past15() -> Iterator[Past]:
    with a_past(15) as past:
        yield past


@pytest.fixture(scope="module")
def past18() -> Iterator[Past]:
    with a_past(18) as past:
        yield past


def restored(past: Past, repository: Repository, target: RecoveryTarget) -> Reader:
    """What a restore to `target` brings back; the copy is removed again."""
    phases = Phases(CLOCK, silent)
    plan = plan_restore(look(repository, SOURCE, target), target)
    place = past.root / "copy"
    reader = Reader()
    site = RestoreSite(
        destination=check_destination(plan, place, owner=choose_user(place), tablespaces={}),
        binaries=find_binaries(plan.manifest.postgres.server_version // 10000),
    )
    try:
        run_restore(plan, site, repository=repository, verifier=reader, phases=phases)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return reader


@pytest.mark.parametrize(
    ("major", "count"), [(15, 5), (18, 3), pytest.param(15, 20, marks=pytest.mark.soak)]
)
def test_a_restore_to_any_moment_holds_what_was_acknowledged_by_then_and_nothing_later(
    request: pytest.FixtureRequest, major: int, count: int
) -> None:
    past: Past = request.getfixturevalue(f"past{major}")
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    moments = chosen_moments(past, count, random.Random(seed))

    faults = []
    with opened_repository(past.policy, past.around) as repository:
        for moment in moments:
            reader = restored(past, repository, ToTime(moment))
            found = violations(past.entries, reader.writes, moment)
            faults += [f"seed {seed}, restored to {moment}: {fault}" for fault in found]

    assert faults == []


def chosen_moments(past: Past, count: int, chance: random.Random) -> list[datetime]:
    """Anywhere between the backup's end and the last write; every other one is hard to hit.

    Those are the very microsecond in which a write was acknowledged: that write must be there.
    """
    with opened_repository(past.policy, past.around) as repository:
        begin = read_manifests(repository, SOURCE)[0][-1].postgres.stopped_at
    times = sorted(e.acknowledged for e in past.entries if e.acknowledged > begin)
    assert len(times) > ENOUGH_WRITES
    span = times[-1] - begin
    anywhere = [begin + span * chance.random() for _ in range(count - count // 2)]
    return anywhere + [chance.choice(times) for _ in range(count // 2)]


def test_a_position_a_name_and_a_transaction_are_reached_to_the_record(past15: Past) -> None:
    targets: list[tuple[RecoveryTarget, list[int]]] = [
        (ToLsn(Lsn.parse(past15.story["lsn"])), [1]),
        (ToName("before the third"), [1, 2]),
        (ToXid(int(past15.story["xid"])), [1, 2, 3, 4]),
    ]

    with opened_repository(past15.policy, past15.around) as repository:
        steps = [restored(past15, repository, target).steps for target, _ in targets]

    assert steps == [expected for _, expected in targets]


def test_a_backup_comes_back_as_it_was_at_its_end(past15: Past) -> None:
    """Every write acknowledged before it began is there, and none begun after it had ended."""
    taken = past15.backup
    ended = taken.began + timedelta(seconds=taken.seconds)

    with opened_repository(past15.policy, past15.around) as repository:
        reader = restored(past15, repository, ToBackup(taken.backup_id))

    names = {entry.name: entry for entry in past15.entries}
    missing = [
        e for e in past15.entries if e.acknowledged <= taken.began and e.name not in reader.writes
    ]
    later = [name for name in reader.writes if name in names and names[name].begun > ended]
    assert (missing, later, reader.steps) == ([], [], [])
    assert reader.writes
