"""The receiver keeps every byte of WAL, and acknowledges only what is durable."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from drtool.errors import LeaseHeld, SourceUnsuitable
from drtool.model.progress import PhaseAdvanced
from drtool.model.wal import Lsn
from drtool.repository.layout import Lineage
from drtool.repository.marks import newest_mark
from drtool.sources.postgres.facts import read_facts
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
    sent,
    settings_for,
    until,
)
from tests.servers.postgres import MakePostgres

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize(("major", "segment_mb"), [(15, 1), (15, 16), (18, 16), (18, 64)])
def test_the_log_equals_the_servers_own_wal(
    make_postgres: MakePostgres, major: int, segment_mb: int
) -> None:
    """PITFALLS 15: segments of 1, 16 and 64 MB, whole ones and the tail."""
    server = make_postgres(major, segment_mb=segment_mb, settings={"wal_keep_size": "1GB"})
    repository = new_repository()
    with receiving(repository, settings_for(server)):
        until(lambda: is_streaming(server), "streaming")
        begin = flushed(server)
        fill(server, 4 if segment_mb < 64 else 70)
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "all is held")

    run = inventory(repository, server).timelines[1].runs[-1]
    assert run.begin <= begin
    assert logged(repository, server, run.begin, end=end) == own_files(server, run.begin, end=end)


def test_what_is_acknowledged_is_durable_and_marks_follow(make_postgres: MakePostgres) -> None:
    """PITFALLS 20: the flush position that the server sees never runs ahead of the repository."""
    server = make_postgres(15)
    repository = new_repository()
    facts = read_facts(server.dsn())
    lineage = Lineage(SOURCE, facts.system_id, 1)
    with receiving(repository, settings_for(server)):
        until(lambda: held_to(repository, server), "something is held")
        for _ in range(20):
            fill(server, 1)
            told = acknowledged(server)
            assert told is not None
            assert told <= held_to(repository, server)
        until(lambda: newest_mark(repository, lineage, most_lsn=2**63), "a mark")

    mark = newest_mark(repository, lineage, most_lsn=2**63)
    assert mark is not None
    assert mark.lsn <= held_to(repository, server)


def test_progress_counts_the_bytes_that_have_become_durable(make_postgres: MakePostgres) -> None:
    server = make_postgres(15)
    repository = new_repository()
    with receiving(repository, settings_for(server)) as running:
        until(lambda: held_to(repository, server), "something is held")
        begin = held_to(repository, server)
        fill(server, 3)
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "it is held")

        def told() -> list[PhaseAdvanced]:
            return [event for event in running.events if isinstance(event, PhaseAdvanced)]

        until(lambda: told() and told()[-1].done >= end - begin, "it is told")

    run = inventory(repository, server).timelines[1].runs[-1]
    assert told()[-1].done <= run.end - run.begin
    assert told()[-1].detail.startswith("durable to 0/")


def test_a_second_receiver_is_refused(make_postgres: MakePostgres) -> None:
    """PITFALLS 22: the second instance says so and exits with 9."""
    server = make_postgres(15)
    repository = new_repository()
    with receiving(repository, settings_for(server)):
        until(lambda: is_streaming(server), "streaming")
        second = Running(repository, settings_for(server))

        with pytest.raises(LeaseHeld) as refused:
            second.end()

    assert refused.value.exit_code == 9


def test_a_stop_leaves_a_clean_end_and_the_next_run_goes_on_there(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    repository = new_repository()
    settings = settings_for(server, flush=3600, slot="drtool")
    ends: list[Lsn] = []
    for _ in range(3):
        running = Running(repository, settings)
        until(lambda: is_streaming(server), "streaming")
        fill(server, 2)
        until(lambda: (acknowledged(server) or 0) >= flushed(server) - (1 << 20), "received")
        received = running.end()
        assert received.durable is not None
        ends.append(held_to(repository, server))
        assert received.durable == ends[-1]
        until(lambda: not is_streaming(server), "the session is gone")

    runs = inventory(repository, server).timelines[1].runs
    assert len(runs) == 1
    assert ends == sorted(ends)
    begin, end = runs[0].begin, runs[0].end
    assert logged(repository, server, begin, end=end) == own_files(server, begin, end=end)
    assert server.query("SELECT count(*) FROM pg_replication_slots") == [(1,)]


def test_a_restart_of_the_server_loses_nothing(make_postgres: MakePostgres) -> None:
    server = make_postgres(15, settings={"wal_keep_size": "1GB"})
    repository = new_repository()
    with receiving(repository, settings_for(server, flush=3600)) as running:
        until(lambda: is_streaming(server), "streaming")
        fill(server, 1)
        server.stop()
        until(lambda: running.told("it is tried again", "warning"), "the outage is told")
        server.start()
        until(lambda: is_streaming(server), "streaming again")
        until(lambda: running.told("is received again", "recovery"), "and that it is over")
        until(lambda: running.told("marks are made again", "recovery"), "of the marks too")
        fill(server, 1)
        end = flushed(server)
        assert running.told("again", "recovery") == 2
        # Told to stop, it makes durable what has arrived, and waits for nothing more.
        until(lambda: (sent(server) or 0) >= end, "all is on its way")

    run = inventory(repository, server).timelines[1].runs
    assert len(run) == 1
    held = logged(repository, server, run[0].begin, end=end)
    # Not compared in the assertion: pytest would look for hours how megabytes differ.
    is_equal = held == own_files(server, run[0].begin, end=end)
    assert is_equal


def test_a_commit_waits_for_the_repository_and_not_for_the_interval(
    make_postgres: MakePostgres,
) -> None:
    """PITFALLS 20: named in synchronous_standby_names while it runs, it flushes at once."""
    server = make_postgres(15)
    repository = new_repository()
    with receiving(repository, settings_for(server, flush=3600, heartbeat=0.1)):
        until(lambda: is_streaming(server), "streaming")
        server.query("""ALTER SYSTEM SET synchronous_standby_names = '"drtool-main-db"'""")
        server.query("SELECT pg_reload_conf()")
        server.query("CREATE TABLE answered (id int)")
        for number in range(50):
            server.query("INSERT INTO answered VALUES (%s)", number)
            end = flushed(server)
            assert end - held_to(repository, server) < 4096


def test_another_cluster_is_refused_until_somebody_says_it_is_meant(
    make_postgres: MakePostgres,
) -> None:
    """PITFALLS 2, 64: a clone archives nothing here; after pg_upgrade a flag says so."""
    server, other = make_postgres(15, segment_mb=1), make_postgres(18, segment_mb=1)
    repository = new_repository()
    with receiving(repository, settings_for(server)):
        until(lambda: held_to(repository, server), "something is held")

    foreign = Running(repository, settings_for(other))
    until(lambda: not foreign.thread.is_alive(), "the foreign receiver ended by itself")
    with pytest.raises(SourceUnsuitable, match="is cluster") as refused:
        foreign.end()
    upgraded = replace(settings_for(other), accepts_new_system=True)
    with receiving(repository, upgraded):
        until(lambda: held_to(repository, other), "the new cluster is held")

    assert "--accept-source" in refused.value.hint
    assert refused.value.exit_code == 5
    assert len(repository.store.list_directories(f"log/{SOURCE}/")) == 2


def test_a_standby_gives_wal_but_no_marks_and_says_so_once(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    primary = make_postgres(15, segment_mb=1)
    standby = primary.make_standby(server_root)
    repository = new_repository()
    try:
        with receiving(repository, settings_for(standby, heartbeat=0.05)) as running:
            fill(primary, 1)
            end = flushed(primary)
            until(lambda: held_to(repository, standby) >= end, "all is held")
            until(lambda: running.warnings, "the warning")
            fill(primary, 1)
            end = flushed(primary)
            until(lambda: held_to(repository, standby) >= end, "all is held")
            warnings = [text for text in running.warnings if "marks" in text]
    finally:
        standby.close()

    assert len(warnings) == 1


def test_no_session_and_no_thread_is_left_behind(make_postgres: MakePostgres) -> None:
    server = make_postgres(15)
    before = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    repository = new_repository()
    for _ in range(3):
        with receiving(repository, settings_for(server)):
            until(lambda: held_to(repository, server), "something is held")

    def sessions() -> int:
        return int(
            server.query(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'drtool%'"
            )[0][0]
        )

    until(lambda: sessions() == 0, "sessions are gone")
    assert threading.active_count() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
