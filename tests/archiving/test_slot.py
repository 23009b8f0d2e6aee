"""The replication slot: there by default, let go at its limit, and never a reason for a full disk."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from drtool.archiving.slot_keeping import KeptSlot, let_go_at_limit
from drtool.model.progress import Event, Noted
from drtool.model.wal import Lsn
from drtool.policy.sources import WalMode, WalSettings
from drtool.sources.postgres.connection import connect, connect_replication
from drtool.sources.postgres.readiness import SlotFacts
from drtool.sources.postgres.slot_forecast import forecast_slot
from drtool.sources.postgres.slots import SlotState, create_slot, slot_name
from drtool.stores.memory import MemoryStore
from tests.archiving.faults import FaultyStore
from tests.archiving.rig import (
    fill,
    flushed,
    held_to,
    inventory,
    is_streaming,
    new_repository,
    receiving,
    settings_for,
    until,
)
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres
SLOT = "drtool_main_db"
NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)


def slots(server: PostgresServer) -> list[tuple[object, ...]]:
    return server.query("SELECT slot_name, active FROM pg_replication_slots ORDER BY slot_name")


def test_a_streamed_source_has_a_slot_unless_the_policy_says_none() -> None:
    wal = WalSettings()
    settings = settings_for_policy(wal)

    assert settings.slot == SLOT
    assert replace(settings, wal=WalSettings(slot="none")).slot is None
    assert replace(settings, wal=WalSettings(slot="mine")).slot == "mine"
    assert replace(settings, wal=WalSettings(mode=WalMode.PUSH)).slot is None
    assert replace(settings, is_window=True).slot is None
    long = slot_name("a" * 60, None)
    assert long is not None
    assert (len(long), long != slot_name("a" * 59 + "b", None)) == (63, True)


def settings_for_policy(wal: WalSettings):  # type: ignore[no-untyped-def]
    from drtool.archiving.receive_settings import ReceiveSettings

    return ReceiveSettings(source="main-db", dsn="host=nowhere", wal=wal)


def test_wal_waits_for_a_receiver_that_is_away_and_no_gap_comes_of_it(
    make_postgres: MakePostgres,
) -> None:
    """PITFALLS 97: checkpoints while the receiver is down remove nothing that it still needs."""
    server = make_postgres(
        15, segment_mb=1, settings={"max_wal_size": "2MB", "min_wal_size": "2MB"}
    )
    repository = new_repository()
    settings = settings_for(server)
    settings = replace(settings, wal=replace(settings.wal, slot=None))
    with receiving(repository, settings):
        until(lambda: is_streaming(server), "streaming")
        assert slots(server) == [(SLOT, True)]
    for _ in range(3):
        fill(server, 3)
        server.query("CHECKPOINT")
    with receiving(repository, settings) as second:
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "all is held")
        warnings = list(second.warnings)

    assert len(inventory(repository, server).timelines[1].runs) == 1
    assert warnings == []


def test_a_slot_at_its_limit_is_let_go_and_taken_again_once_the_log_has_caught_up(
    make_postgres: MakePostgres,
) -> None:
    """With the store away nothing is acknowledged: production's disk comes before our log."""
    server = make_postgres(
        15, segment_mb=1, settings={"max_wal_size": "4MB", "min_wal_size": "2MB"}
    )
    store = FaultyStore(MemoryStore())
    repository = new_repository(store)
    settings = settings_for(server, heartbeat=0.1)
    wal = replace(settings.wal, slot=None)
    object.__setattr__(wal, "slot_limit", 8 << 20)  # smaller than a policy may say
    with receiving(repository, replace(settings, wal=wal)) as running:
        until(lambda: held_to(repository, server), "something is held")
        store.is_away = True
        fill(server, 12)
        until(lambda: slots(server) == [], "the slot is let go")
        server.query("CHECKPOINT")
        fill(server, 3)
        server.query("CHECKPOINT")
        store.is_away = False
        until(lambda: slots(server) == [(SLOT, True)], "it is taken again")
        fill(server, 1)
        end = flushed(server)
        until(lambda: held_to(repository, server) >= end, "all is held")
        warnings = list(running.warnings)

    assert any("is dropped so that its disk does not fill" in text for text in warnings)
    log = inventory(repository, server).timelines[1]
    assert len(log.runs) == len(log.gaps) + 1


def test_a_slot_that_nobody_uses_is_let_go_at_its_limit_only(postgres15: PostgresServer) -> None:
    """While the repository cannot be opened, each try of the receiver looks at the slot."""
    events: list[Event] = []
    dsn = postgres15.dsn()
    with connect_replication(dsn, purpose="test") as connection:
        create_slot(connection, "left_behind")
    postgres15.query("SELECT pg_switch_wal()")
    fill(postgres15, 1)

    let_go_at_limit(dsn, "left_behind", limit_bytes=1 << 40, emit=events.append)
    kept = [name for name, _ in slots(postgres15)]
    let_go_at_limit(dsn, "left_behind", limit_bytes=1 << 10, emit=events.append)
    left = [name for name, _ in slots(postgres15)]

    assert "left_behind" in kept
    assert "left_behind" not in left
    assert [event.level for event in events if isinstance(event, Noted)] == ["warning"]


def test_a_slot_that_shrinks_is_not_let_go(postgres15: PostgresServer) -> None:
    """Beyond the limit after an outage: a receiver that catches up is given the time."""
    events: list[Event] = []
    with connect_replication(postgres15.dsn(), purpose="test") as connection:
        create_slot(connection, "catching_up")
    fill(postgres15, 2)
    kept = KeptSlot("catching_up", limit_bytes=1 << 20, emit=events.append)
    try:
        with connect(postgres15.dsn(), purpose="test") as connection:
            kept.look(connection)
            connection.execute(
                "SELECT pg_replication_slot_advance('catching_up', restart_lsn + 1000)"
                " FROM pg_replication_slots WHERE slot_name = 'catching_up'"
            )
            kept.look(connection)
            is_there = "catching_up" in [name for name, _ in slots(postgres15)]
            kept.look(connection)
        is_gone = "catching_up" not in [name for name, _ in slots(postgres15)]
    finally:
        postgres15.query(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name = 'catching_up'"
        )

    assert is_there
    assert is_gone
    assert kept.prepare(connection=None, behind_bytes=1 << 30) is None  # type: ignore[arg-type]


def facts(kept: int, *, safe: int | None = None) -> SlotFacts:
    state = SlotState(name=SLOT, is_active=False, restart_lsn=Lsn(1), wal_status="reserved")
    return SlotFacts(
        state=state, retained_bytes=kept, safe_bytes=safe, server_at=Lsn(kept + 1), moment=NOW
    )


def test_the_forecast_names_what_ends_first_and_when() -> None:
    gib = 1 << 30
    ours = forecast_slot(
        facts(gib), limit_bytes=4 * gib, free_bytes=None, bytes_per_second=gib / 60
    )
    theirs = forecast_slot(
        facts(gib, safe=gib), limit_bytes=4 * gib, free_bytes=None, bytes_per_second=None
    )
    disk = forecast_slot(
        facts(gib, safe=gib), limit_bytes=4 * gib, free_bytes=1000, bytes_per_second=0
    )

    assert ours.left == timedelta(minutes=3)
    assert ours.is_near
    assert "slot_limit (4 GiB) is reached in 3 min 00 s, at 2026-05-01 10:03Z" in ours.describe(NOW)
    assert (theirs.ended_by, theirs.left_bytes) == ("max_slot_wal_keep_size", gib)
    assert (disk.ended_by, disk.left_bytes, disk.is_near) == ("the end of its disk", 1000, True)
    assert "is not reached within a year" in disk.describe(NOW)
