"""WAL arrives byte by byte as the server wrote it, over segments, restarts and timelines."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from drtool.errors import PolicyError, SourceUnavailable, SourceUnsuitable
from drtool.model.wal import Lsn, TimelineHistory, WalSegment
from drtool.sources.postgres.connection import ReplicationConnection, connect, connect_replication
from drtool.sources.postgres.facts import read_facts
from drtool.sources.postgres.heartbeat import beat
from drtool.sources.postgres.refusals import NotInHistory, SlotLost, WalNotYetWritten, WalRemoved
from drtool.sources.postgres.slots import create_slot, drop_slot, slot_state
from drtool.sources.postgres.wal import HEADER_BYTES, check_segment_header
from drtool.sources.postgres.walstream import (
    Keepalive,
    TimelineEnded,
    WalBytes,
    WalStream,
    fetch_history,
    open_wal_stream,
)
from tests.postgres.unpack import fetch_wal
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres

SECONDS = 30


def _replication(server: PostgresServer) -> ReplicationConnection:
    return connect_replication(server.dsn(), purpose="wal")


def _receive(stream: WalStream, at: Lsn, *, until: Lsn) -> tuple[bytes, Lsn, TimelineEnded | None]:
    """Everything from `at` to `until` or the end of the timeline, checked to be without a hole."""
    received = bytearray()
    deadline = time.monotonic() + SECONDS
    while at < until:
        item = stream.receive(1)
        assert time.monotonic() < deadline
        if isinstance(item, TimelineEnded):
            return bytes(received), at, item
        if isinstance(item, WalBytes):
            assert item.begin == at
            received += item.data
            at = Lsn(at + len(item.data))
    return bytes(received), at, None


@pytest.mark.parametrize("major", [15, 18])
@pytest.mark.parametrize("segment_mb", [1, 16, 64])
def test_streamed_wal_is_byte_for_byte_what_lies_in_the_servers_segments(
    make_postgres: MakePostgres, server_root: Path, segment_mb: int, major: int
) -> None:
    """PITFALLS 15: with segments of 1, 16 and 64 MB."""
    server = make_postgres(major, segment_mb=segment_mb, settings={"wal_keep_size": "2GB"})
    facts = read_facts(server.dsn())
    server.query(
        "CREATE TABLE filler AS SELECT repeat('x', 500) AS x FROM generate_series(1, 3000)"
    )
    server.query("SELECT pg_switch_wal()")
    with connect(server.dsn(), purpose="heartbeat") as connection:
        end = Lsn(beat(connection).lsn)

    names = fetch_wal(
        server,
        server_root,
        begin=Lsn(facts.flushed),
        end=end,
        timeline=1,
        segment_bytes=segment_mb << 20,
    )

    assert len(names) >= 2
    for name in names[:-1]:
        content = (server_root / name).read_bytes()
        assert content == (server.data / "pg_wal" / name).read_bytes()
        header = check_segment_header(
            content[:HEADER_BYTES],
            segment=WalSegment.parse(name, segment_mb << 20),
            segment_bytes=segment_mb << 20,
            system_id=facts.system_id,
        )
        assert header.major == major


@pytest.mark.parametrize("major", [15, 18])
def test_a_promotion_ends_the_stream_at_the_switch_point_and_the_new_timeline_goes_on(
    make_postgres: MakePostgres, server_root: Path, major: int
) -> None:
    """PITFALLS 18: the tail of the old timeline arrives before the new one begins."""
    primary = make_postgres(major, segment_mb=1)
    standby = primary.make_standby(server_root, wal_keep_size="1GB")
    try:
        start = WalSegment.holding(1, read_facts(primary.dsn()).flushed, 1 << 20).begin(1 << 20)
        with _replication(standby) as connection:
            stream = open_wal_stream(connection, start=start, timeline=1)
            primary.query("CREATE TABLE t AS SELECT generate_series(1, 20000)")
            primary.stop()
            standby.query("SELECT pg_promote()")
            standby.query("CREATE TABLE u AS SELECT generate_series(1, 20000)")
            old, at, ended = _receive(stream, start, until=Lsn(1 << 60))
            assert ended is not None
            history = TimelineHistory.parse(2, fetch_history(connection, 2).decode())
            onward = open_wal_stream(connection, start=at, timeline=ended.next_timeline)
            new, _, _ = _receive(onward, at, until=read_facts(standby.dsn()).flushed)
            onward.finish()
            again = open_wal_stream(connection, start=ended.switch_point, timeline=1).receive(10)
    finally:
        standby.stop()

    assert (ended.next_timeline, ended.switch_point) == (2, at)
    assert history.end_of(1) == at
    assert again == ended
    # The old timeline's bytes lie at the head of the new timeline's segment, as on its own disk.
    segment = WalSegment.holding(2, at, 1 << 20)
    content = (standby.data / "pg_wal" / segment.name(1 << 20)).read_bytes()
    within = at - segment.begin(1 << 20)
    assert content[:within] == old[len(old) - within :]
    length = min(len(new), (1 << 20) - within)
    assert content[within : within + length] == new[:length]


def test_positions_reported_are_what_the_server_believes_of_us(
    make_postgres: MakePostgres,
) -> None:
    """PITFALLS 20: neither flushed nor applied is ever told to be ahead of what is durable."""
    server = make_postgres(15)
    start = WalSegment.holding(1, read_facts(server.dsn()).flushed, 16 << 20).begin(16 << 20)
    query = (
        "SELECT flush_lsn - '0/0', replay_lsn - '0/0', write_lsn - '0/0' FROM pg_stat_replication"
    )
    with _replication(server) as connection:
        stream = open_wal_stream(connection, start=start, timeline=1)
        _, at, _ = _receive(stream, start, until=read_facts(server.dsn()).flushed)
        durable = Lsn(at - 100)

        stream.report(received=at, flushed=durable, wants_reply=True)
        answer = stream.receive(SECONDS)
        while not isinstance(answer, Keepalive):
            answer = stream.receive(SECONDS)
        first = server.query(query)
        stream.report(received=at, flushed=Lsn(durable - 5000), wants_reply=True)
        while not isinstance(stream.receive(SECONDS), Keepalive):
            pass
        second = server.query(query)
        stream.finish()

    assert first == [(durable, durable, at)]
    assert second == first


@pytest.mark.parametrize("level", ["on", "remote_apply"])
def test_a_commit_waits_for_our_report_when_we_are_the_synchronous_standby(
    make_postgres: MakePostgres, level: str
) -> None:
    server = make_postgres(
        15,
        settings={
            "synchronous_standby_names": '"drtool wal"',
            "synchronous_commit": level,
        },
    )
    with connect(server.dsn(), purpose="heartbeat") as local:
        # A mark never waits for the standby that we are.
        start = WalSegment.holding(1, Lsn(beat(local).lsn), 16 << 20).begin(16 << 20)
    with _replication(server) as connection, server.connect() as writer:
        stream = open_wal_stream(connection, start=start, timeline=1)
        _, at, _ = _receive(stream, start, until=read_facts(server.dsn()).flushed)
        stream.report(received=at, flushed=at)
        writer.pgconn.send_query(b"CREATE TABLE waited ()")
        deadline = time.monotonic() + SECONDS
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        while server.query(waiting) != [(1,)]:
            assert time.monotonic() < deadline

        _, at, _ = _receive(stream, at, until=read_facts(server.dsn()).flushed)
        stream.report(received=at, flushed=at)
        while writer.pgconn.is_busy():
            assert time.monotonic() < deadline
            writer.pgconn.consume_input()
        result = writer.pgconn.get_result()
        assert writer.pgconn.get_result() is None
        stream.finish()

    assert result is not None
    assert result.error_message == b""


def test_wal_that_is_gone_is_told_as_gone(make_postgres: MakePostgres) -> None:
    """PITFALLS 21: removed WAL is an error of its own, so that it can be recorded as a gap."""
    server = make_postgres(
        15, segment_mb=1, settings={"max_wal_size": "2MB", "min_wal_size": "2MB"}
    )
    for _ in range(5):
        server.query("SELECT pg_switch_wal(), pg_logical_emit_message(true, 'x', 'y')")
    server.query("CHECKPOINT")
    with _replication(server) as connection, pytest.raises(WalRemoved) as caught:
        _receive(
            open_wal_stream(connection, start=Lsn(1 << 20), timeline=1),
            Lsn(1 << 20),
            until=Lsn(1 << 60),
        )

    assert "000000010000000000000001" in caught.value.message
    assert not caught.value.retryable


def test_a_position_the_server_never_reached_is_told_apart(postgres: PostgresServer) -> None:
    with _replication(postgres) as connection:
        stream = open_wal_stream(connection, start=Lsn(1 << 40), timeline=1)
        with pytest.raises(WalNotYetWritten):
            _receive(stream, Lsn(1 << 40), until=Lsn(1 << 60))


def test_a_position_beyond_a_fork_is_another_history(
    make_postgres: MakePostgres, server_root: Path
) -> None:
    """PITFALLS 3, 27: a server that took another path is told so, not followed."""
    primary = make_postgres(15, segment_mb=1)
    standby = primary.make_standby(server_root, wal_keep_size="1GB")
    try:
        standby.query("SELECT pg_promote()")
        standby.query("CREATE TABLE t AS SELECT generate_series(1, 50000)")
        beyond = read_facts(standby.dsn()).flushed
        with _replication(standby) as connection, pytest.raises(NotInHistory) as caught:
            open_wal_stream(connection, start=Lsn(beyond - 100), timeline=1)
    finally:
        standby.stop()

    assert "forked" in caught.value.message


def _acknowledge_all(stream: WalStream, received: Lsn) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        item = stream.receive(1)
        if isinstance(item, WalBytes):
            received = Lsn(item.begin + len(item.data))
        # A walsender waits with its shutdown until all that it sent is flushed.
        stream.report(received=received, flushed=received)


def test_a_server_that_shuts_down_ends_the_stream_as_unavailable(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres(18)
    start = WalSegment.holding(1, read_facts(server.dsn()).flushed, 16 << 20).begin(16 << 20)
    with _replication(server) as connection:
        stream = open_wal_stream(connection, start=start, timeline=1)
        assert server._process is not None
        server._process.send_signal(signal.SIGINT)

        with pytest.raises(SourceUnavailable) as caught:
            _acknowledge_all(stream, start)

    assert caught.value.retryable


def test_finishing_leaves_the_session_fit_for_the_next_command(postgres: PostgresServer) -> None:
    start = WalSegment.holding(1, read_facts(postgres.dsn()).flushed, 16 << 20).begin(16 << 20)
    with _replication(postgres) as connection:
        for _ in range(3):
            stream = open_wal_stream(connection, start=start, timeline=1)
            while not isinstance(stream.receive(SECONDS), WalBytes):
                pass

            stream.finish()

            assert connection.rows("SHOW wal_level") == [("replica",)]


@pytest.mark.parametrize("major", [15, 18])
def test_a_slot_keeps_wal_and_its_loss_is_told(make_postgres: MakePostgres, major: int) -> None:
    """PITFALLS 21: a slot that lost its WAL says so."""
    server = make_postgres(
        major,
        segment_mb=1,
        settings={"max_slot_wal_keep_size": "2MB", "max_wal_size": "2MB", "min_wal_size": "2MB"},
    )
    with _replication(server) as connection, connect(server.dsn(), purpose="slots") as sql:
        absent = slot_state(sql, "kept")
        made = create_slot(connection, "kept")
        again = create_slot(connection, "kept")
        fresh = slot_state(sql, "kept")
        assert fresh is not None
        start = fresh.restart_lsn
        assert start is not None
        for _ in range(8):
            server.query("SELECT pg_switch_wal(), pg_logical_emit_message(true, 'x', 'y')")
        server.query("CHECKPOINT")
        lost = slot_state(sql, "kept")
        with pytest.raises((WalRemoved, SlotLost)):  # 18 says it of the slot, 15 of its WAL
            _receive(
                open_wal_stream(connection, start=start, timeline=1, slot="kept"),
                start,
                until=Lsn(1 << 60),
            )

    assert absent is None
    assert (made, again) == (True, False)
    assert fresh.wal_status == "reserved"
    assert lost is not None
    assert lost.is_lost


def test_a_slot_in_use_and_a_missing_slot_are_told_apart(make_postgres: MakePostgres) -> None:
    server = make_postgres(18)
    start = read_facts(server.dsn()).flushed
    with _replication(server) as first, _replication(server) as second:
        create_slot(first, "mine")
        stream = open_wal_stream(first, start=start, timeline=1, slot="mine")

        with pytest.raises(SourceUnavailable, match="slot in use"):
            open_wal_stream(second, start=start, timeline=1, slot="mine")
        stream.finish()
        drop_slot(first, "mine")

    with _replication(server) as third:
        with pytest.raises(SourceUnsuitable, match="no such replication slot"):
            open_wal_stream(third, start=start, timeline=1, slot="absent")
        with pytest.raises(PolicyError):
            create_slot(third, "Bad; DROP")


def test_a_session_that_is_ended_while_a_slot_is_looked_at_is_told_in_one_line(
    make_postgres: MakePostgres,
) -> None:
    """The trial: "unexpectedly\\u000a\\u0009This probably means", as libpq breaks its lines."""
    server = make_postgres()
    connection = connect(server.dsn(), purpose="test")
    os.kill(connection.info.backend_pid, signal.SIGKILL)
    time.sleep(0.5)

    with pytest.raises(SourceUnavailable, match="cannot look at slot") as told:
        slot_state(connection, "any")

    assert "\n" not in told.value.message
    assert "\t" not in told.value.message
