"""What tests of the restore share: a server that is backed up and streamed, and a restore of it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from drtool.backup.plan import plan_backup
from drtool.backup.run import BackupSource, run_backup
from drtool.model.outcome import RestoreOutcome
from drtool.model.progress import Emit, silent
from drtool.model.target import RecoveryTarget, ToLatest
from drtool.model.wal import Lsn
from drtool.policy.sources import Check
from drtool.repository.backups import Manifest, new_backup_id, read_manifest, read_manifests
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository
from drtool.restore.destination import check_destination
from drtool.restore.look import look
from drtool.restore.phases import Phases
from drtool.restore.plan import RestorePlan, plan_restore
from drtool.restore.replay import ReplayLimits
from drtool.restore.run import RestoreSite, run_restore
from drtool.sources.postgres.basebackup import BaseBackup
from drtool.sources.postgres.binaries import find_binaries
from drtool.sources.postgres.connection import connect_replication
from drtool.sources.postgres.facts import read_facts
from drtool.stores.local import LocalStore
from drtool.stores.protocol import Store
from drtool.system.clock import SystemClock
from drtool.system.retry import RetryLimits
from drtool.system.users import choose_user
from drtool.verify.cluster import CheckLimits, ClusterVerifier
from tests.archiving.rig import (
    LIMIT_SECONDS,
    SOURCE,
    flushed,
    held_to,
    new_repository,
    receiving,
    settings_for,
    until,
)
from tests.servers.postgres import PostgresServer, server_directory

CLOCK = SystemClock()
IMPATIENT = RetryLimits(attempts=2, within_seconds=1, first_pause_seconds=0.05)
QUICK = ReplayLimits(silent_seconds=60, promote_seconds=60)


@dataclass(frozen=True, slots=True)
class ReceivedWal:
    """A `WalKeeper` that leans on a receiver which runs already."""

    repository: Repository
    server: PostgresServer
    timeline: int = 1

    # The server's WAL is received before a backup begins.
    def begin(self, start: Lsn, timeline: int) -> None:
        pass

    def finish(self, stop: Lsn) -> Lsn:
        until(lambda: held_to(self.repository, self.server, self.timeline) >= stop, "WAL is there")
        return stop

    def abandon(self) -> None:
        pass


@contextmanager
def protected(server: PostgresServer, store: Store) -> Iterator[Repository]:
    """A repository that receives the server's WAL for as long as the block lasts."""
    repository = new_repository(store)
    with streaming(repository, server):
        yield repository


@contextmanager
def streaming(repository: Repository, server: PostgresServer) -> Iterator[None]:
    """Receive the server's WAL into `repository` for as long as the block lasts."""
    # No slot here, so nothing else keeps the WAL that the receiver has yet to fetch.
    server.query("ALTER SYSTEM SET wal_keep_size = '1GB'")
    server.query("SELECT pg_reload_conf()")
    settings = settings_for(server, flush=0.1, heartbeat=0.1)
    with receiving(repository, settings) as running:
        before = _marks(repository)
        until(lambda: _marks(repository) > before or running.error is not None, "a new mark")
        yield
        assert running.error is None, (running.error, running.events)


def _marks(repository: Repository) -> int:
    return sum(1 for _ in repository.store.list("marks/"))


def take_backup(repository: Repository, server: PostgresServer, *, timeline: int = 1) -> Manifest:
    """A base backup, whose WAL a receiver brings."""
    manifests, _ = read_manifests(repository, SOURCE)
    facts = read_facts(server.dsn())
    plan = plan_backup(
        SOURCE,
        new_backup_id(CLOCK.now()),
        system_id=facts.system_id,
        manifests=manifests,
        attempts=[],
    )
    with (
        Lease(repository, f"backup-{SOURCE}", clock=CLOCK) as lease,
        BaseBackup(connect_replication(server.dsn(), purpose="backup"), label="test") as stream,
    ):
        source = BackupSource(
            facts=facts,
            bootstrap_role="postgres",
            stream=stream,
            wal=ReceivedWal(repository, server, timeline),
            server_clock=lambda: moment_of(server),
        )
        outcome = run_backup(
            plan, source=source, repository=repository, lease=lease, clock=CLOCK, emit=silent
        )
    return read_manifest(repository, SOURCE, outcome.backup_id)


def moment_of(server: PostgresServer) -> datetime:
    """The server's clock, now."""
    moment: datetime = server.query("SELECT clock_timestamp()")[0][0]
    return moment.astimezone(UTC)


def settle(repository: Repository, server: PostgresServer, *, timeline: int = 1) -> None:
    """Wait until all that was committed so far, and a mark after it, is in the repository."""
    now, place = moment_of(server), flushed(server)
    until(lambda: held_to(repository, server, timeline) >= place, "the WAL is there")

    def is_marked() -> bool:
        keys = [found.key for found in repository.store.list("marks/")]
        stamps = [key.split("/")[-2] + key.split("/")[-1].split("-")[0] for key in keys]
        wanted = now.strftime("%Y%m%d%H%M%S.%f")
        return any(stamp > wanted for stamp in stamps)

    until(is_marked, "a mark after now is there")


def plan_for(
    repository: Repository, target: RecoveryTarget, *, accepts_gap: bool = False
) -> RestorePlan:
    """Look and plan, as the wiring does."""
    return plan_restore(look(repository, SOURCE, target), target, accepts_gap=accepts_gap)


def restore(
    repository: Repository,
    into: Path,
    *,
    target: RecoveryTarget | None = None,
    plan: RestorePlan | None = None,
    questions: Sequence[str] = (),
    database: str = "postgres",
    emit: Emit = silent,
    stop: threading.Event | None = None,
    checks: CheckLimits = CheckLimits(),  # noqa: B008 - frozen
    preload: tuple[str, ...] = (),
) -> RestoreOutcome:
    """Plan and run a restore, impatient with a store that is away."""
    phases = Phases(CLOCK, emit, stop)
    with phases.phase("plan", "plan"):
        plan = plan or plan_for(repository, target or ToLatest())
    owner = choose_user(into)
    site = RestoreSite(
        destination=check_destination(plan, into, owner=owner, tablespaces={}),
        binaries=find_binaries(plan.manifest.postgres.server_version // 10000),
        patience=IMPATIENT,
        limits=QUICK,
        preload=preload,
    )
    verifier = ClusterVerifier(
        questions=[Check(sql=one) for one in questions],
        database=database,
        role=plan.manifest.postgres.bootstrap_role,
        binaries=site.binaries,
        owner=owner,
        limits=checks,
    )
    return run_restore(plan, site, repository=repository, verifier=verifier, phases=phases)


@contextmanager
def started(major: int, data: Path, **settings: str) -> Iterator[PostgresServer]:
    """A server on a restored directory, started with its own configuration, as its owner would."""
    beside = server_directory("drtool-test-started-")  # its socket and its log
    server = PostgresServer(beside, major, settings=settings)
    server.data = data
    (data / "pg_hba.conf").write_text("local all all trust\n")
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(beside, ignore_errors=True)


def rows(server: PostgresServer, table: str = "ledger") -> list[int]:
    """The ids in a table, in order."""
    return [row[0] for row in server.query(f"SELECT id FROM {table} ORDER BY id")]


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def local_store(root: Path) -> LocalStore:
    """A store in a new directory below `root`."""
    place = root / "repository"
    place.mkdir()
    return LocalStore(place, clock=CLOCK)


def copy_of(store_root: Path, place: Path) -> LocalStore:
    """The same objects in another directory, to be damaged."""
    shutil.copytree(store_root, place)
    return LocalStore(place, clock=CLOCK)
