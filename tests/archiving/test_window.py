"""A backup gets exactly the WAL that it needs, whether or not a receiver runs."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from drtool.archiving.preview import preview_receive
from drtool.archiving.status import wal_status
from drtool.archiving.window import (
    WalFetch,
    WalWindow,
    is_covered,
    store_wal_range,
    wait_for_wal,
)
from drtool.errors import LeaseHeld, SourceUnavailable
from drtool.model.wal import Lsn
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage, SegmentPart
from drtool.repository.log import put_part
from drtool.sources.postgres.facts import read_facts
from drtool.sources.postgres.refusals import WalRemoved
from drtool.system.clock import SystemClock
from tests.archiving.rig import (
    SOURCE,
    fill,
    flushed,
    held_to,
    logged,
    new_repository,
    own_files,
    receiving,
    settings_for,
    until,
)
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres
CLOCK = SystemClock()


def window(server: PostgresServer, begin: Lsn, end: Lsn) -> WalWindow:
    facts = read_facts(server.dsn())
    return WalWindow(
        lineage=Lineage(SOURCE, facts.system_id, 1),
        begin=begin,
        end=end,
        segment_bytes=facts.segment_bytes,
    )


@pytest.mark.parametrize("major", [15, 18])
def test_a_window_is_fetched_while_the_server_writes(
    make_postgres: MakePostgres, major: int
) -> None:
    """PITFALLS 28: the fetch runs beside the backup, and ends when the stop position is durable."""
    server = make_postgres(major, segment_mb=1, settings={"wal_keep_size": "1GB"})
    repository = new_repository()
    fill(server, 1)
    begin = flushed(server)

    with WalFetch(repository, settings_for(server), begin=begin, clock=CLOCK) as fetch:
        fill(server, 3)
        end = flushed(server)
        fetch.wait_until(end, timeline=1, timeout_seconds=30)

        assert is_covered(repository, window(server, begin, end))
    assert logged(repository, server, begin, end=end) == own_files(server, begin, end=end)
    assert not is_covered(repository, window(server, begin, Lsn(end + (4 << 20))))
    assert server.query("SELECT count(*) FROM pg_replication_slots") == [(0,)]


def test_two_windows_leave_a_hole_between_that_is_told(make_postgres: MakePostgres) -> None:
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    repository = new_repository()
    spans = []
    for _ in range(2):
        begin = flushed(server)
        fill(server, 2)
        spans.append(window(server, begin, flushed(server)))
        store_wal_range(
            repository, settings_for(server), spans[-1], clock=CLOCK, timeout_seconds=30
        )
        fill(server, 4)

    backups = {str(number): extent_of(server, span) for number, span in enumerate(spans)}
    status = wal_status(repository, SOURCE, backups, now=datetime.now(UTC))

    assert all(is_covered(repository, span) for span in spans)
    assert len(status.gaps) == 1
    assert spans[0].end <= status.gaps[0].begin < status.gaps[0].end <= spans[1].begin
    assert status.mark is None


def test_wal_that_is_gone_is_an_error_and_not_a_hole(make_postgres: MakePostgres) -> None:
    server = make_postgres(
        15, segment_mb=1, settings={"max_wal_size": "2MB", "min_wal_size": "2MB"}
    )
    repository = new_repository()
    begin = flushed(server)
    fill(server, 6)
    server.query("CHECKPOINT")
    fill(server, 6)
    server.query("CHECKPOINT")

    with pytest.raises(WalRemoved):
        store_wal_range(
            repository,
            settings_for(server),
            window(server, begin, flushed(server)),
            clock=CLOCK,
            timeout_seconds=30,
        )


def test_a_backup_waits_for_the_receiver_that_runs(make_postgres: MakePostgres) -> None:
    """PITFALLS 23: an idle server's last bytes come too."""
    server = make_postgres(15)
    repository = new_repository()
    begin = flushed(server)
    with receiving(repository, settings_for(server)):
        until(lambda: held_to(repository, server), "something is held")
        span = window(server, begin, flushed(server))
        with (
            pytest.raises(LeaseHeld),
            WalFetch(repository, settings_for(server), begin=begin, clock=CLOCK),
        ):
            pass

        wait_for_wal(repository, span, clock=CLOCK, timeout_seconds=30)

        assert is_covered(repository, span)
        beyond = window(server, begin, Lsn(span.end + (1 << 30)))
        with pytest.raises(SourceUnavailable):
            wait_for_wal(
                repository, beyond, clock=CLOCK, timeout_seconds=0.1, stop=threading.Event()
            )


def extent_of(server: PostgresServer, span: WalWindow) -> PostgresExtent:
    """What a backup over `span` would say of itself."""
    return PostgresExtent(
        system_id=span.lineage.system_id,
        server_version=150000,
        timeline=1,
        start_lsn=span.begin,
        stop_lsn=span.end,
        segment_bytes=span.segment_bytes,
        stopped_at=datetime.now(UTC),
        bootstrap_role="postgres",
        has_checksums=True,
    )


def test_the_status_tells_how_far_a_recovery_could_come(make_postgres: MakePostgres) -> None:
    """PITFALLS 23, 79: an idle server stays fresh by its marks; one that is not received grows stale."""
    server = make_postgres(15)
    repository = new_repository()
    with receiving(repository, settings_for(server)) as running:
        until(lambda: held_to(repository, server), "something is held")
        begin = flushed(server)
        fill(server, 1)
        span = window(server, begin, flushed(server))
        extent = extent_of(server, span)
        until(lambda: is_covered(repository, span), "the window is held")

        def status() -> timedelta | None:
            return wal_status(repository, SOURCE, {"1": extent}, now=datetime.now(UTC)).rpo_now

        until(lambda: status() is not None, "a mark")
        now = wal_status(repository, SOURCE, {"1": extent}, now=datetime.now(UTC))
        assert now.receiver is not None
        assert now.gaps == ()
        running.end()

    later = wal_status(
        repository, SOURCE, {"1": extent}, now=datetime.now(UTC) + timedelta(hours=1)
    )
    assert later.receiver is None
    assert later.rpo_now is not None
    assert later.rpo_now > timedelta(minutes=59)
    without = wal_status(repository, SOURCE, {}, now=datetime.now(UTC))
    assert without.mark is None
    assert without.end is not None


def test_a_preview_tells_where_a_receiver_would_begin_and_changes_nothing(
    make_postgres: MakePostgres,
) -> None:
    server = make_postgres(15, segment_mb=1)
    repository = new_repository()
    settings = settings_for(server, slot="drtool")
    before = [found.key for found in repository.store.list("")]

    empty = preview_receive(repository, settings)
    untouched = [found.key for found in repository.store.list("")]
    with receiving(repository, settings):
        until(lambda: held_to(repository, server), "something is held")
        running = preview_receive(repository, settings)
    after = preview_receive(repository, settings)

    assert before == untouched
    assert (empty.held_by, empty.slot_position) == (None, None)
    assert empty.start.begin == empty.server_flushed // (1 << 20) * (1 << 20)
    assert running.held_by is not None
    assert after.held_by is None
    assert after.slot_position is not None
    assert after.start.durable == held_to(repository, server)


def test_a_missing_history_is_a_problem_and_not_an_end() -> None:
    """PITFALLS 41: a log of timeline 3 without 00000003.history is told as what it is."""
    repository = new_repository()
    lineage = Lineage(SOURCE, 7, 3)
    put_part(repository, lineage, SegmentPart("000000030000000000000002", 0, 10), plain=bytes(10))
    extent = PostgresExtent(
        system_id=7,
        server_version=150000,
        timeline=3,
        start_lsn=Lsn(2 << 20),
        stop_lsn=Lsn((2 << 20) + 5),
        segment_bytes=1 << 20,
        stopped_at=datetime.now(UTC),
        bootstrap_role="postgres",
        has_checksums=True,
    )

    status = wal_status(repository, SOURCE, {"1": extent}, now=datetime.now(UTC))

    assert [finding.subject for finding in status.findings] == ["00000003.history"]
    assert status.mark is None
