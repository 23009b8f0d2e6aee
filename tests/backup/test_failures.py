"""Whatever fails, and whenever: the whole backup or none, nothing left running, nothing stored twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from drtool.backup.run import BackupSource, run_backup
from drtool.errors import Interrupted, LeaseHeld, RepositoryUnavailable, SourceUnavailable
from drtool.model.progress import Event, PhaseAdvanced, PhaseBegan, PhaseEnded, silent
from drtool.model.wal import Lsn
from drtool.repository import chunks
from drtool.repository.backups import backup_ids, read_manifests
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository
from drtool.sources.postgres.basebackup import BackupItem, BaseBackup, MemberBytes
from drtool.sources.postgres.connection import connect_replication
from drtool.sources.postgres.facts import read_facts
from drtool.stores.memory import MemoryStore
from tests.backup.reading import assert_holds
from tests.backup.stores import Died, FailsAt
from tests.backup.taking import (
    CLOCK,
    LEASE,
    SOURCE,
    WalElsewhere,
    attempt_ids,
    manifest_of,
    new_repository,
    plan_for,
    take_backup,
    through,
)
from tests.servers.postgres import PostgresServer, new_server

pytestmark = pytest.mark.postgres

MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """About 45 MB, 20 of which do not compress: some ten packs of the size used here."""
    server = new_server(
        15, settings={"autovacuum": "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1d"}
    )
    try:
        server.query("create extension if not exists pgcrypto")
        server.query("create table noise (id int, body bytea)")
        server.query("alter table noise alter body set storage external")
        server.query(
            "insert into noise select i, gen_random_bytes(1024) || gen_random_bytes(1024)"
            " from generate_series(1, 10000) i"
        )
        server.query("checkpoint")
        yield server
    finally:
        server.close()


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of 4 MiB, so that a small cluster has some."""
    monkeypatch.setattr(chunks, "PACK_BYTES", 4 * MIB)


def _sessions(server: PostgresServer) -> int:
    query = "select count(*) from pg_stat_activity where application_name like 'drtool%'"
    count: int = server.query(query)[0][0]
    return count


def _assert_nothing_left(server: PostgresServer, threads: set[threading.Thread]) -> None:
    assert set(threading.enumerate()) <= threads
    deadline = time.monotonic() + 20
    while _sessions(server):
        assert time.monotonic() < deadline, "a session of the backup is still there"
        time.sleep(0.02)


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("after_put", [False, True], ids=["before-the-put", "after-the-put"])
def test_a_crash_at_any_put_leaves_the_whole_backup_or_none(
    server: PostgresServer, after_put: bool
) -> None:
    """PITFALLS 32; and the next run uses what the one that died had stored."""
    full = take_backup(server.dsn(), new_repository())
    number = 0
    died = True
    while died:
        number += 1
        repository = new_repository()
        threads = set(threading.enumerate())
        store = FailsAt(repository.store, number, Died(), after_put=after_put)

        died = _dies(server, through(store, repository))

        _assert_nothing_left(server, threads)
        manifest_was_put = any(key.startswith("backups/") for key in store.created)
        assert len(backup_ids(repository, SOURCE)) == manifest_was_put
        assert died or manifest_was_put
        again = take_backup(server.dsn(), repository)
        stored_before = sum(
            len(repository.store.read(key)) for key in store.created if key.startswith("packs/")
        )
        assert again.stored_bytes + stored_before < full.stored_bytes * 1.1 + MIB
        manifests, errors = read_manifests(repository, SOURCE)
        assert errors == []
        for manifest in manifests:
            assert_holds(manifest, repository, server.data)
    assert number >= 6


def _dies(server: PostgresServer, repository: Repository) -> bool:
    try:
        take_backup(server.dsn(), repository)
    except Died:
        return True
    return False


class _Counted(BaseBackup):
    """Counts the bytes that were taken from it."""

    taken = 0

    def __iter__(self) -> Iterator[BackupItem]:
        for item in super().__iter__():
            if isinstance(item, MemberBytes):
                self.taken += len(item.data)
            yield item


def _run(
    server: PostgresServer, repository: Repository, stream: BaseBackup, wal: WalElsewhere
) -> None:
    facts = read_facts(server.dsn())
    with Lease(repository, LEASE, clock=CLOCK) as lease, stream:
        source = BackupSource(
            facts=facts, bootstrap_role="postgres", stream=stream, wal=wal, server_clock=CLOCK.now
        )
        run_backup(
            plan_for(repository, facts.system_id),
            source=source,
            repository=repository,
            lease=lease,
            clock=CLOCK,
            emit=silent,
        )


@pytest.mark.usefixtures("small_packs")
def test_a_store_that_fails_stops_the_reading_soon_and_leaves_nothing_running(
    server: PostgresServer,
) -> None:
    """PITFALLS 80; the reading is ahead by the batches there are, not by the size of the cluster."""
    large = server.data / "base" / "1" / "990001"
    with large.open("wb") as file:
        file.truncate(600 * MIB)
    try:
        repository = new_repository()
        for failing in (2, 3):
            threads = set(threading.enumerate())
            wal = WalElsewhere()
            broken = through(FailsAt(repository.store, failing), repository)
            stream = _Counted(connect_replication(server.dsn(), purpose="backup"), label="test")

            with pytest.raises(RepositoryUnavailable, match="the store is away"):
                _run(server, broken, stream, wal)

            assert stream.taken < 300 * MIB
            assert wal.calls[-1] == "abandon"
            _assert_nothing_left(server, threads)
        assert backup_ids(repository, SOURCE) == []
    finally:
        large.unlink()


@pytest.mark.usefixtures("small_packs")
def test_twenty_failed_backups_leave_no_session_and_no_thread(server: PostgresServer) -> None:
    """PITFALLS 80."""
    threads = set(threading.enumerate())
    repository = new_repository()

    for number in range(20):
        store = FailsAt(repository.store, 2 + number % 3)
        with pytest.raises(RepositoryUnavailable):
            take_backup(server.dsn(), through(store, repository))

    _assert_nothing_left(server, threads)
    assert len(attempt_ids(repository)) == 20
    assert backup_ids(repository, SOURCE) == []


def test_a_server_that_dies_in_the_middle_leaves_no_backup() -> None:
    server = new_server(15)
    try:
        threads = set(threading.enumerate())
        repository = new_repository()

        class _Dies(WalElsewhere):
            def begin(self, start: Lsn, timeline: int) -> None:
                super().begin(start, timeline)
                server.kill9()

        wal = _Dies()
        with pytest.raises(SourceUnavailable):
            take_backup(server.dsn(), repository, wal=wal)

        assert backup_ids(repository, SOURCE) == []
        assert wal.calls == ["begin", "abandon"]
        assert set(threading.enumerate()) <= threads
    finally:
        server.close()


def test_a_backup_that_is_asked_to_stop_ends_by_itself_and_leaves_no_backup(
    server: PostgresServer,
) -> None:
    repository, stop = new_repository(), threading.Event()
    threads = set(threading.enumerate())
    wal, events = WalElsewhere(), list[Event]()

    def ask_once_it_flows(event: Event) -> None:
        events.append(event)
        if isinstance(event, PhaseBegan):
            stop.set()

    with pytest.raises(Interrupted):
        take_backup(server.dsn(), repository, wal=wal, emit=ask_once_it_flows, stop=stop)

    assert not any(isinstance(event, PhaseAdvanced | PhaseEnded) for event in events)
    assert backup_ids(repository, SOURCE) == []
    assert wal.calls == ["begin", "abandon"]
    _assert_nothing_left(server, threads)


def test_wal_that_cannot_be_kept_means_no_backup(server: PostgresServer) -> None:
    """PITFALLS 28: not listed while its WAL is not in the repository."""

    class _Fails(WalElsewhere):
        def finish(self, stop: Lsn) -> Lsn:
            super().finish(stop)
            raise SourceUnavailable("the server keeps its WAL to itself")

    repository, wal = new_repository(), _Fails()

    with pytest.raises(SourceUnavailable, match="keeps its WAL"):
        take_backup(server.dsn(), repository, wal=wal)

    assert backup_ids(repository, SOURCE) == []
    assert wal.calls == ["begin", "finish", "abandon"]


def test_the_second_of_two_backups_at_once_is_refused(server: PostgresServer) -> None:
    """PITFALLS 33."""
    repository = new_repository()
    refused: list[BaseException] = []

    class _StartsAnother(WalElsewhere):
        def begin(self, start: Lsn, timeline: int) -> None:
            super().begin(start, timeline)
            try:
                take_backup(server.dsn(), repository)
            except LeaseHeld as error:
                refused.append(error)

    outcome = take_backup(server.dsn(), repository, wal=_StartsAnother())

    assert len(refused) == 1
    assert backup_ids(repository, SOURCE) == [outcome.backup_id]


class _Hand:
    """A clock of the store that is put on by hand."""

    def __init__(self) -> None:
        self.time = datetime(2024, 5, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        return until.wait(seconds) if until else False


def test_a_backup_that_slept_past_its_lease_is_not_published(server: PostgresServer) -> None:
    """PITFALLS 33: another run has taken over; the sleeper finds out before its manifest."""
    hand = _Hand()
    repository = new_repository(MemoryStore(clock=hand))
    others: list[Lease] = []

    class _Sleeps(WalElsewhere):
        def finish(self, stop: Lsn) -> Lsn:
            hand.time += timedelta(minutes=5)
            others.append(Lease(repository, LEASE, clock=CLOCK))
            return stop

    try:
        with pytest.raises(LeaseHeld):
            take_backup(server.dsn(), repository, wal=_Sleeps())
    finally:
        for other in others:
            other.release()

    assert backup_ids(repository, SOURCE) == []
    assert (
        manifest_of(repository, take_backup(server.dsn(), repository)).fencing > others[0].fencing
    )
