"""A base backup and streamed WAL, put on disk by hand, recover to every kind of target."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from drtool.errors import NotRecoverable
from drtool.model.target import (
    RecoveryTarget,
    ToBackup,
    ToLatest,
    ToLsn,
    ToName,
    ToTime,
    ToXid,
)
from drtool.model.wal import Lsn
from drtool.sources.postgres.binaries import ServerBinaries, find_binaries
from drtool.sources.postgres.control import read_control
from drtool.sources.postgres.facts import read_facts
from drtool.sources.postgres.heartbeat import beat
from drtool.sources.postgres.log import (
    ConsistencyReached,
    LastCommit,
    LogEvent,
    RecoveryStopped,
    RedoBegan,
    RedoEnded,
    SegmentRestored,
    ServerReady,
    TimelineSelected,
)
from drtool.sources.postgres.recovery_settings import (
    isolated_settings,
    rewrite_auto_conf,
    target_settings,
)
from drtool.sources.postgres.replay_needs import replay_needs
from drtool.sources.postgres.server import RunningServer, ServerPlan, start_server
from drtool.system.clock import SystemClock
from drtool.system.users import choose_user, current_user
from tests.postgres.unpack import fetch_wal, unpack_backup
from tests.servers.postgres import PostgresServer, give_to_server_user, new_server, server_directory

pytestmark = pytest.mark.postgres

E = TypeVar("E")
READY_SECONDS = 60
MEMORY = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Story:
    """A cluster's past: a backup, an archive, and what was true when. Row n was committed n-th."""

    base: Path
    archive: Path
    binaries: ServerBinaries
    moments: dict[int, datetime]
    xids: dict[int, int]
    positions: dict[int, Lsn]
    stop: Lsn


@pytest.fixture(scope="module", params=[15, 18], ids=["pg15", "pg18"])
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """Rows 1 to 5 after a backup, in a cluster whose settings would be fatal for a copy."""
    root = server_directory()
    server = new_server(
        request.param,
        segment_mb=1,
        settings={"max_connections": "137", "max_prepared_transactions": "7"},
    )
    try:
        yield _tell(server, root)
    finally:
        server.close()
        shutil.rmtree(root, ignore_errors=True)


def _tell(server: PostgresServer, root: Path) -> Story:
    for setting in (
        "archive_command = 'touch LEAKED'",
        "primary_conninfo = 'host=production'",
        "restore_command = 'touch LEAKED; false'",
        "recovery_target_time = '2001-01-01 00:00:00'",
        "work_mem = '5MB'",
    ):
        server.query(f"ALTER SYSTEM SET {setting}")
    server.query("CREATE TABLE story (n int)")
    archive = root / "archive"
    archive.mkdir()
    base = unpack_backup(server.socket_dsn(), root / "base")
    assert base.began is not None
    assert base.ended is not None
    moments, xids, positions = {}, {}, {}
    with server.connect() as connection:
        for n in range(1, 6):
            with connection.transaction():
                connection.execute("INSERT INTO story VALUES (%s)", [n])
                row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            assert row is not None
            xids[n] = int(row[0])
            moments[n] = beat(connection).moment
            positions[n] = Lsn(beat(connection).lsn)
            if n == 3:
                connection.execute("SELECT pg_create_restore_point('name with ''quotes'' ż')")
        end = Lsn(beat(connection).lsn)
    facts = read_facts(server.socket_dsn())
    fetch_wal(
        server,
        archive,
        begin=base.began.start_lsn,
        end=end,
        timeline=1,
        segment_bytes=facts.segment_bytes,
    )
    # What the old cluster's superuser left in force by ALTER SYSTEM after the backup is not in it.
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    return Story(
        base=base.directory,
        archive=archive,
        binaries=find_binaries(facts.major, bin_dir=server.bin_dir),
        moments=moments,
        xids=xids,
        positions=positions,
        stop=base.ended.stop_lsn,
    )


def _copy(story: Story, root: Path) -> Path:
    """A restored copy, ready to recover."""
    copy = root / "copy"
    subprocess.run(["cp", "-a", str(story.base), str(copy)], check=True)
    auto_conf = copy / "postgresql.auto.conf"
    auto_conf.write_text(rewrite_auto_conf(auto_conf.read_text()))
    signal_file = copy / "recovery.signal"
    signal_file.touch()
    give_to_server_user(signal_file)
    return copy


def _recover(
    story: Story, copy: Path, target: RecoveryTarget, *, restore_command: str | None = None
) -> RunningServer:
    control = read_control(copy, story.binaries, run_as=current_user())
    needs = replay_needs(control, {}, data_directory=copy)
    major = story.binaries.major
    settings = isolated_settings(control, needs, major=major, memory_bytes=MEMORY)
    settings |= target_settings(
        target,
        timeline=1,
        restore_command=restore_command or f"cp {story.archive}/%f %p",
    )
    plan = ServerPlan(
        data_directory=copy,
        binaries=story.binaries,
        run_as=choose_user(copy),
        settings=settings,
    )
    return start_server(plan, clock=SystemClock())


def _rows(server: RunningServer) -> list[int]:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM story ORDER BY n")]


def _only(events: list[LogEvent], kind: type[E]) -> E:
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def test_recovery_to_a_moment_has_every_commit_before_it_and_none_after(
    story: Story, server_root: Path
) -> None:
    copy = _copy(story, server_root)

    with _recover(story, copy, ToTime(story.moments[3])) as server:
        events = server.wait_ready(timeout_seconds=READY_SECONDS)
        rows = _rows(server)
        told = server.log_tail

    stopped = _only(events, RecoveryStopped)
    assert "external PID file" not in told
    assert rows == [1, 2, 3]
    assert stopped.is_before
    assert stopped.moment is not None
    assert stopped.moment > story.moments[3]
    assert _only(events, LastCommit).moment <= story.moments[3]
    assert _only(events, TimelineSelected).timeline == 2
    assert _only(events, RedoBegan).lsn <= story.stop
    assert _only(events, ConsistencyReached).lsn <= _only(events, RedoEnded).lsn
    assert any(isinstance(event, SegmentRestored) for event in events)
    assert isinstance(events[-1], ServerReady)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("lsn", [1, 2, 3, 4]),
        ("xid", [1, 2]),
        ("name", [1, 2, 3]),
        ("backup", []),
        ("latest", [1, 2, 3, 4, 5]),
    ],
)
def test_each_kind_of_target_stops_where_it_says(
    story: Story, server_root: Path, kind: str, expected: list[int]
) -> None:
    targets: dict[str, RecoveryTarget] = {
        "lsn": ToLsn(story.positions[4]),
        "xid": ToXid(story.xids[2]),
        "name": ToName("name with 'quotes' ż"),
        "backup": ToBackup("any"),
        "latest": ToLatest(),
    }
    copy = _copy(story, server_root)

    with _recover(story, copy, targets[kind]) as server:
        server.wait_ready(timeout_seconds=READY_SECONDS)
        rows = _rows(server)

    assert rows == expected


def test_a_recovered_copy_reaches_nothing_of_the_old_cluster(
    story: Story, server_root: Path
) -> None:
    """PITFALLS 2, 54, 55, 60: settings of the old cluster neither archive, follow, nor starve."""
    copy = _copy(story, server_root)

    with _recover(story, copy, ToTime(story.moments[2])) as server:
        server.wait_ready(timeout_seconds=READY_SECONDS)
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            # A commit would hang here if the copy waited for the standbys of the old cluster.
            connection.execute("SET statement_timeout = '20s'")
            connection.execute("INSERT INTO story VALUES (99)")
            settings: dict[str, str] = dict(
                connection.execute("SELECT name, setting FROM pg_settings").fetchall()
            )

    assert settings["archive_mode"] == "off"
    assert settings["primary_conninfo"] == ""
    assert settings["synchronous_standby_names"] == ""
    assert settings["listen_addresses"] == ""
    assert settings["max_connections"] == "137"
    assert settings["max_prepared_transactions"] == "7"
    assert int(settings["shared_buffers"]) * 8192 <= MEMORY // 8
    assert settings["work_mem"] == "5120"
    assert not list(server_root.rglob("LEAKED"))


def test_settings_of_an_older_recovery_do_not_count_even_if_they_are_left_in_place(
    story: Story, server_root: Path
) -> None:
    """PITFALLS 55: the command line outranks a postgresql.auto.conf that nobody rewrote."""
    copy = _copy(story, server_root)
    shutil.copy(story.base / "postgresql.auto.conf", copy / "postgresql.auto.conf")
    give_to_server_user(copy / "postgresql.auto.conf")

    with _recover(story, copy, ToLsn(story.positions[1])) as server:
        server.wait_ready(timeout_seconds=READY_SECONDS)
        rows = _rows(server)

    assert rows == [1]
    assert not list(server_root.rglob("LEAKED"))


def test_a_target_that_the_archive_does_not_reach_is_an_error_with_the_servers_words(
    story: Story, server_root: Path
) -> None:
    copy = _copy(story, server_root)
    server = _recover(story, copy, ToLsn(Lsn(story.positions[5] + (1 << 30))))

    with server, pytest.raises(NotRecoverable, match="before configured recovery target"):
        server.wait_ready(timeout_seconds=READY_SECONDS)

    assert server.exit_code is not None
    assert not server.socket_directory.exists()


def test_a_restore_command_that_could_not_look_never_ends_in_a_started_server(
    story: Story, server_root: Path
) -> None:
    """PITFALLS 39: exit codes above 125 end the recovery instead of promoting what there is."""
    copy = _copy(story, server_root)
    server = _recover(story, copy, ToLatest(), restore_command="exit 200")

    with server, pytest.raises(NotRecoverable):
        server.wait_ready(timeout_seconds=READY_SECONDS)

    assert (copy / "recovery.signal").exists()


def test_the_control_file_of_a_copy_tells_what_it_is(story: Story) -> None:
    control = read_control(story.base, story.binaries, run_as=current_user())

    assert control.state == "in production"
    assert control.timeline == 1
    assert control.segment_bytes == 1 << 20
    assert control.has_checksums
    assert control.redo <= control.checkpoint <= story.stop
    assert control.capacities.max_connections == 137


def test_nobody_but_its_user_and_root_reaches_the_socket_of_a_copy(
    story: Story, server_root: Path
) -> None:
    copy = _copy(story, server_root)

    with _recover(story, copy, ToBackup("any")) as server:
        server.wait_ready(timeout_seconds=READY_SECONDS)
        status = server.socket_directory.stat()
        owner = Path(f"/proc/{server.pid}").stat().st_uid

    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == owner
    assert owner != 0
