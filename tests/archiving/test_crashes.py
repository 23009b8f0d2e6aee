"""Whatever dies, and whenever: nothing that was acknowledged is lost, and the log stays whole."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from drtool.model.wal import Lsn, segments_between
from drtool.repository.keys import NO_SECRET
from drtool.repository.layout import Lineage
from drtool.repository.log import read_segment
from drtool.repository.repository import Repository, open_repository
from drtool.sources.postgres.facts import read_facts
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.system.clock import SystemClock
from tests.archiving.faults import Died, FaultyStore
from tests.archiving.rig import (
    SOURCE,
    Running,
    acknowledged,
    fill,
    flushed,
    held_to,
    inventory,
    is_streaming,
    logged,
    new_repository,
    own_files,
    receiving,
    settings_for,
    until,
)
from tests.servers.postgres import MakePostgres, PostgresServer, give_to_server_user

pytestmark = pytest.mark.postgres


def slot_position(server: PostgresServer, slot: str) -> Lsn:
    """What was acknowledged last, as the server has written down."""
    row = server.query("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = %s", slot)
    return Lsn.parse(str(row[0][0])) if row and row[0][0] else Lsn(0)


@pytest.mark.parametrize("after_put", [False, True], ids=["before the put", "after the put"])
def test_a_death_at_any_put_loses_nothing_acknowledged(
    make_postgres: MakePostgres, after_put: bool
) -> None:
    """PITFALLS 5, 20: for every n; the next run goes on, and the log equals the server's WAL."""
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    for number in range(1, 9):
        store = FaultyStore(MemoryStore())
        repository = new_repository(store)
        store.creates, store.dies_at, store.after_put = 0, number, after_put
        die_and_go_on(server, repository, store, slot=f"s{number}")


def die_and_go_on(
    server: PostgresServer, repository: Repository, store: FaultyStore, *, slot: str
) -> None:
    """One receiver that dies where `store` lets it, another that goes on, and a look at the log."""
    settings = settings_for(server, flush=0.02, heartbeat=0.1, slot=slot)
    running = Running(repository, settings)
    while running.thread.is_alive():
        server.query("SELECT pg_logical_emit_message(true, 'test', repeat('x', 200000))")
    with pytest.raises(Died):
        running.end()
    store.dies_at = None
    told = slot_position(server, slot)
    # A slot begins at the start of a segment, before anything was acknowledged.
    assert held_to(repository, server) >= told or told % (1 << 20) == 0

    with receiving(repository, settings):
        server.query("SELECT pg_logical_emit_message(true, 'test', repeat('x', 1500000))")
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "all is held")

    runs = inventory(repository, server).timelines[1].runs
    assert len(runs) == 1, runs
    assert runs[0].begin <= told
    begin = runs[0].begin
    assert logged(repository, server, begin, end=end) == own_files(server, begin, end=end)


PROGRAM = """
import sys, threading
from datetime import timedelta
from pathlib import Path
from drtool.archiving.receive import receive_wal
from drtool.archiving.receive_settings import ReceiveSettings
from drtool.policy.sources import WalSettings
from drtool.repository.keys import NO_SECRET
from drtool.repository.repository import open_repository
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
clock = SystemClock()
repository = open_repository(LocalStore(Path(sys.argv[1]), clock=clock), NO_SECRET)
wal = WalSettings(flush=timedelta(hours=1), heartbeat=timedelta(seconds=1), slot="drtool")
settings = ReceiveSettings(source="main-db", dsn=sys.argv[2], wal=wal)
receive_wal(repository, settings, stop=threading.Event(), clock=clock)
"""


class Writer:
    """Commits as fast as it is answered, and writes down the transaction of each answered commit."""

    def __init__(self, server: PostgresServer) -> None:
        self.acknowledged: list[int] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._server.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS ledger (id bigserial)")
            while not self._stop.is_set():
                try:
                    row = connection.execute(
                        "INSERT INTO ledger DEFAULT VALUES RETURNING pg_current_xact_id()::text"
                    ).fetchone()
                except psycopg.Error:
                    return
                assert row is not None
                self.acknowledged.append(int(row[0]))

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)


def committed(repository: Repository, server: PostgresServer, scratch: Path) -> set[int]:
    """The transactions whose commit is in the repository's log, as pg_waldump reads it."""
    run = inventory(repository, server).timelines[1].runs[-1]
    facts = read_facts(server.dsn())
    lineage = Lineage(SOURCE, facts.system_id, 1)
    size = facts.segment_bytes
    scratch.mkdir()
    for segment in segments_between(1, run.begin, run.end, segment_bytes=size):
        (scratch / segment.name(size)).write_bytes(
            read_segment(repository, lineage, segment, segment_bytes=size)
        )
    give_to_server_user(scratch)
    for path in scratch.iterdir():
        give_to_server_user(path)
    said = server.run(
        "pg_waldump", "-p", str(scratch), "-s", str(run.begin), "-r", "Transaction", check=False
    )
    return {int(found) for found in re.findall(r"tx:\s*(\d+),.*desc: COMMIT", said)}


@pytest.mark.parametrize("major", [15, 18])
def test_a_synchronous_receiver_killed_at_any_moment_loses_no_commit(
    make_postgres: MakePostgres, tmp_path: Path, server_root: Path, major: int
) -> None:
    """PITFALLS 20: synchronous_commit = on, we are the standby that commits wait for, kill -9."""
    server = make_postgres(major, settings={"wal_keep_size": "1GB"})
    new_repository(LocalStore(tmp_path, clock=SystemClock()))
    receiver = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), server.dsn()])
    try:
        until(lambda: is_streaming(server), "streaming")
        server.restart(synchronous_standby_names='"drtool-main-db"')
        until(lambda: is_streaming(server), "streaming again")
        writer = Writer(server)
        until(lambda: len(writer.acknowledged) > 200, "commits are answered")
    finally:
        receiver.send_signal(signal.SIGKILL)
        receiver.wait(60)
    server.query("ALTER SYSTEM RESET synchronous_standby_names")
    answered = set(writer.acknowledged)
    server.kill9()
    writer.end()
    server.start(synchronous_standby_names="")

    repository = open_repository(LocalStore(tmp_path, clock=SystemClock()), NO_SECRET)
    assert answered - committed(repository, server, server_root / "wal") == set()


def test_a_store_that_is_away_is_waited_for_and_nothing_is_acknowledged(
    make_postgres: MakePostgres,
) -> None:
    """PITFALLS 20: the server keeps its WAL, the receiver stays, and all is there in the end."""
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    store = FaultyStore(MemoryStore())
    repository = new_repository(store)
    with receiving(repository, settings_for(server, flush=0.05)) as running:
        until(lambda: held_to(repository, server), "something is held")
        store.is_away = True
        server.query("SELECT pg_logical_emit_message(true, '', 'x')")
        until(lambda: running.warnings, "the outage is noted")
        told = acknowledged(server)
        fill(server, 3)
        assert acknowledged(server) == told
        store.is_away = False
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "all is held")
        until(lambda: running.told("the store is back", "recovery"), "that it is over is told")

    begin = inventory(repository, server).timelines[1].runs[-1].begin
    assert logged(repository, server, begin, end=end) == own_files(server, begin, end=end)


def test_wal_that_the_store_acknowledges_and_does_not_keep_is_not_acknowledged_to_the_server(
    make_postgres: MakePostgres,
) -> None:
    """Issue 8.6, promise 3: it is put again while it is in memory, until the store has it."""
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    store = FaultyStore(MemoryStore())
    repository = new_repository(store)
    with receiving(repository, settings_for(server)) as running:
        until(lambda: is_streaming(server), "it streams")
        begin = flushed(server)
        until(lambda: held_to(repository, server) >= begin, "it is held")
        store.forgets = "log/"
        fill(server, 3)
        end = flushed(server)
        until(lambda: len(store.forgotten) > 3, "it is put again and again")
        before = acknowledged(server)
        held = held_to(repository, server)
        store.forgets = None
        until(lambda: held_to(repository, server) >= end, "it is held in the end")

    assert before is not None
    assert before <= held < end
    assert logged(repository, server, begin, end=end) == own_files(server, begin, end=end)
    assert any("acknowledged object log/" in text for text in running.warnings)
