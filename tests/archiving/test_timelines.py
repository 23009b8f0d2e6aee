"""A promotion is followed exactly: the old timeline to its last byte, its history, then the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtool.archiving.gaps import find_gaps
from drtool.model.wal import Lsn
from drtool.model.window import LogGap
from drtool.repository.log import read_history
from drtool.repository.repository import Repository
from drtool.stores.memory import MemoryStore
from tests.archiving.faults import FaultyStore, GatedStore
from tests.archiving.rig import (
    SOURCE,
    Running,
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
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres


def replayed(standby: PostgresServer) -> Lsn:
    return Lsn.parse(str(standby.query("SELECT pg_last_wal_replay_lsn()")[0][0]))


def gaps_of(repository: Repository, server: PostgresServer) -> list[LogGap]:
    log = inventory(repository, server)
    return find_gaps(
        log, read_history(repository, SOURCE, log.system_id, timeline=max(log.timelines))
    )


@pytest.mark.parametrize("major", [15, 18])
def test_a_promotion_while_streaming_is_followed(
    make_postgres: MakePostgres, server_root: Path, major: int
) -> None:
    """PITFALLS 11, 18: bytes up to the switch point, the history, and the new timeline are there."""
    primary = make_postgres(major, segment_mb=1, settings={"wal_keep_size": "1GB"})
    standby = primary.make_standby(server_root)
    repository = new_repository()
    try:
        with receiving(repository, settings_for(standby)):
            until(lambda: is_streaming(standby), "streaming")
            fill(primary, 2)
            until(lambda: replayed(standby) >= flushed(primary), "replayed")
            primary.stop()
            standby.query("SELECT pg_promote()")
            fill(standby, 2)
            end = flushed(standby)
            until(lambda: held_to(repository, standby, 2) >= end, "timeline 2 is held")

        log = inventory(repository, standby)
        history = read_history(repository, SOURCE, log.system_id, timeline=2)
        switch = history.ancestors[0].switch_point
        begin = log.timelines[1].runs[0].begin
        assert log.timelines[1].runs[-1].end == switch
        assert gaps_of(repository, standby) == []
        assert logged(repository, standby, switch, end=end, timeline=2) == own_files(
            standby, switch, end=end, timeline=2
        )
        whole = switch // (1 << 20) * (1 << 20)
        assert logged(repository, standby, begin, end=Lsn(whole)) == own_files(
            standby, begin, end=Lsn(whole)
        )
        # The new timeline's first segment begins with the last bytes of the old one.
        tail = logged(repository, standby, Lsn(whole), end=switch)
        assert own_files(standby, switch, end=end, timeline=2)[: len(tail)] == tail
    finally:
        standby.close()


def test_a_promotion_while_the_store_and_the_receiver_are_away_is_caught_up(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """PITFALLS 11, 18: the history appears once the store is back, and no tail is skipped."""
    primary = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    standby = primary.make_standby(server_root)
    store = FaultyStore(MemoryStore())
    repository = new_repository(store)
    try:
        running = Running(repository, settings_for(standby))
        until(lambda: held_to(repository, standby), "something is held")
        fill(primary, 1)
        until(lambda: held_to(repository, standby) >= flushed(primary), "all is held")
        store.is_away = True
        fill(primary, 1)
        until(lambda: replayed(standby) >= flushed(primary), "replayed")
        primary.stop()
        standby.query("SELECT pg_promote()")
        fill(standby, 1)
        end = flushed(standby)
        store.is_away = False
        until(lambda: held_to(repository, standby, 2) >= end, "timeline 2 is held")
        running.end()
        # Twice more, without a receiver to see it.
        for _ in (3, 4):
            standby.stop()
            (standby.data / "standby.signal").touch()
            standby.start()
            standby.query("SELECT pg_promote()")
            until(lambda: not standby.query("SELECT pg_is_in_recovery()")[0][0], "promoted")
            fill(standby, 1)
        end = flushed(standby)
        with receiving(repository, settings_for(standby)):
            until(lambda: held_to(repository, standby, 4) >= end, "timeline 4 is held")

        log = inventory(repository, standby)
        assert sorted(log.timelines) == [1, 2, 3, 4]
        assert log.histories >= {2, 3, 4}
        assert gaps_of(repository, standby) == []
    finally:
        standby.close()


def test_the_log_goes_on_over_the_ff_boundary(make_postgres: MakePostgres) -> None:
    """PITFALLS 16: 0000000100000000000000FE, ..FF, 000000010000000100000000."""
    server = make_postgres(15, settings={"wal_keep_size": "1GB"})
    server.stop()
    server.run("pg_resetwal", "-D", str(server.data), "-l", "0000000100000000000000FE")
    server.start()
    repository = new_repository()
    with receiving(repository, settings_for(server)):
        until(lambda: is_streaming(server), "streaming")
        for _ in range(3):
            fill(server, 1)
            server.query("SELECT pg_switch_wal()")
        fill(server, 1)
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "all is held")

    run = inventory(repository, server).timelines[1].runs
    assert len(run) == 1
    assert run[0].begin < 1 << 32 < end
    assert logged(repository, server, run[0].begin, end=end) == own_files(
        server, run[0].begin, end=end
    )


@pytest.mark.parametrize("major", [15, 18])
def test_a_lost_slot_is_a_recorded_gap_and_receiving_goes_on(
    make_postgres: MakePostgres, major: int
) -> None:
    """PITFALLS 19, 21: exactly what is lost is told, recorded, and found again by the listing."""
    server = make_postgres(
        major,
        segment_mb=1,
        settings={"max_slot_wal_keep_size": "2MB", "max_wal_size": "2MB", "min_wal_size": "2MB"},
    )
    repository = new_repository()
    settings = settings_for(server, slot="drtool")
    first = Running(repository, settings)
    until(lambda: held_to(repository, server), "something is held")
    fill(server, 1)
    first.end()
    lost_from = held_to(repository, server)
    for _ in range(4):
        fill(server, 3)
        server.query("CHECKPOINT")
    slots = server.query("SELECT wal_status FROM pg_replication_slots")

    with receiving(repository, settings) as second:
        fill(server, 1)
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "all is held")
        fill(server, 3)
        warnings = list(second.warnings)

    log = inventory(repository, server).timelines[1]
    assert slots == [("lost",)]
    assert len(log.runs) == 2
    assert [(gap.begin, gap.end) for gap in log.gaps] == [(lost_from, log.runs[1].begin)]
    assert gaps_of(repository, server) == [
        LogGap(timeline=1, begin=lost_from, end=log.runs[1].begin)
    ]
    assert any("is lost" in text and str(lost_from) in text for text in warnings)
    assert server.query("SELECT active, wal_status FROM pg_replication_slots") == [
        (False, "reserved")
    ]


def test_wal_removed_while_the_store_was_slow_is_a_recorded_gap(
    make_postgres: MakePostgres,
) -> None:
    """Without a slot the server does not wait: it removes WAL in mid-stream, and says so by another code."""
    server = make_postgres(
        15,
        segment_mb=1,
        settings={"max_wal_size": "2MB", "min_wal_size": "2MB", "wal_keep_size": "0"},
    )
    store = GatedStore(MemoryStore())
    repository = new_repository(store)
    with receiving(repository, settings_for(server)) as running:
        until(lambda: held_to(repository, server), "something is held")
        store.gate.clear()
        # More than the receiver and both socket buffers take in, so that the walsender falls behind.
        for _ in range(12):
            fill(server, 8)
            server.query("CHECKPOINT")
        store.gate.set()
        until(lambda: any("is lost" in text for text in running.warnings), "the gap is told")
        fill(server, 1)
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "receiving goes on")

    log = inventory(repository, server).timelines[1]
    assert len(log.gaps) == 1
    assert len(log.runs) == 2
    assert (log.gaps[0].begin, log.gaps[0].end) == (log.runs[0].end, log.runs[1].begin)
