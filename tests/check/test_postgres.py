"""`drtool check` on real PostgreSQL servers, each in the state that the check is there to find."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg.pq import PGconn

from drtool.errors import ExitCode
from drtool.model.checked import Readiness
from drtool.model.finding import Severity
from drtool.model.wal import Lsn
from drtool.sources.postgres.checks import check_archiving, check_slot
from drtool.sources.postgres.readiness import ArchiverFacts, SlotFacts
from drtool.sources.postgres.slots import SlotState
from tests.check.rig import (
    Stack,
    exit_code,
    facts,
    has_marks,
    look,
    part,
    problems,
    receiving,
    told,
    until,
)
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres
_SOURCE = """\
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    wal: {{mode: {mode}, flush: 500ms, heartbeat: 250ms{more}}}
    schedule: {{backup: "0 2 * * *"}}
"""
SAFE = {"fsync": "on"}


def stack_of(
    root: Path, server: PostgresServer, *, mode: str = "stream", slot: str | None = None
) -> Stack:
    more = f", slot: {slot}" if slot else ""
    sources = _SOURCE.format(mode=mode, more=more)
    stack = Stack(root=root, sources=sources, environ={"MAIN_DB_DSN": server.dsn()})
    stack.init()
    return stack


def test_a_server_that_is_protected_has_no_problem(
    make_postgres: MakePostgres, tmp_path: Path
) -> None:
    """And with the role that the README recommends: LOGIN REPLICATION, nothing more."""
    server = make_postgres(15, segment_mb=1, settings=SAFE)
    server.make_role("drtool")
    stack = stack_of(tmp_path, server, slot="drtool")
    stack.environ["MAIN_DB_DSN"] = server.dsn(user="drtool")
    with receiving(stack, "main-db"):
        stack.backup()
        until(lambda: has_marks(stack, "main-db"), "a mark")

        report = stack.check()

    assert "ERROR" not in server.log_text()  # nothing is asked that our role may not know
    assert problems(report) == []
    assert exit_code(report) == ExitCode.DONE
    assert report.readiness is Readiness.READY
    names = [one.name for one in part(report, "main-db").looks]
    assert names == [
        "server", "backups", "restore", "receiver", "log", "slot", "recoverable until", "restores to",
    ]  # fmt: skip
    assert all(one.seen for one in part(report, "main-db").looks)
    assert "in use" in look(report, "main-db", "slot").seen


def test_a_receiver_that_does_not_run_is_a_problem(
    postgres15: PostgresServer, tmp_path: Path
) -> None:
    stack = stack_of(tmp_path, postgres15)
    stack.backup()
    stack.rpo = "1ms"

    report = stack.check()

    assert look(report, "main-db", "receiver").readiness is Readiness.NOT_READY
    assert told(problems(report), "nobody receives it")
    assert told(problems(report), "of work would be lost now, and promised is at most")
    assert exit_code(report) == ExitCode.OBJECTIVE_MISSED


def test_settings_that_lose_data_are_found(make_postgres: MakePostgres, tmp_path: Path) -> None:
    server = make_postgres(
        15, checksums=False, settings={"fsync": "off", "full_page_writes": "off"}
    )

    report = stack_of(tmp_path, server).check()

    assert told(problems(report), "fsync is off")
    assert told(problems(report), "full_page_writes is off")
    assert told(facts(report, Severity.WARNING), "data checksums are off")
    assert told(problems(report), "there is no backup")


def test_a_server_at_wal_level_minimal_is_found(
    make_postgres: MakePostgres, tmp_path: Path
) -> None:
    server = make_postgres(15, settings={"wal_level": "minimal", "max_wal_senders": "0"})

    report = stack_of(tmp_path, server).check()

    assert look(report, "main-db", "server").exit_code == ExitCode.SOURCE_UNAVAILABLE
    assert told(problems(report), "max_wal_senders is 0")


def test_senders_that_are_all_in_use_are_found(make_postgres: MakePostgres, tmp_path: Path) -> None:
    server = make_postgres(15, segment_mb=1, settings={"max_wal_senders": "2", **SAFE})
    stack = stack_of(tmp_path, server)
    others = [PGconn.connect(server.dsn(replication="true").encode()) for _ in range(2)]

    report = stack.check()

    for other in others:
        other.finish()

    assert told(problems(report), "max_wal_senders are all in use")
    assert exit_code(report) == ExitCode.SOURCE_UNAVAILABLE


def test_a_server_that_is_down_keeps_no_other_source_from_being_checked(
    make_postgres: MakePostgres, tmp_path: Path
) -> None:
    server = make_postgres(15)
    stack = stack_of(tmp_path, server)
    stack.backup()
    server.stop()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("x")
    stack.sources += f"  uploads: {{kind: files, path: {tmp_path}/tree}}\n"
    stack.backup("uploads")

    report = stack.check()

    assert exit_code(report) == ExitCode.SOURCE_UNAVAILABLE
    assert part(report, "main-db").readiness is not Readiness.READY
    assert look(report, "main-db", "server").readiness is Readiness.UNKNOWN
    # What the repository holds of it is looked at all the same.
    assert look(report, "main-db", "backups").readiness is Readiness.READY
    assert part(report, "uploads").readiness is Readiness.READY


def test_a_slot_that_is_missing_and_one_that_is_lost_are_found(
    make_postgres: MakePostgres, tmp_path: Path
) -> None:
    """PITFALLS 21."""
    server = make_postgres(
        15,
        segment_mb=1,
        settings={"max_slot_wal_keep_size": "2MB", "max_wal_size": "2MB", "min_wal_size": "2MB"},
    )
    stack = stack_of(tmp_path, server, slot="drtool")

    missing = stack.check()
    server.query("SELECT pg_create_physical_replication_slot('drtool', true)")
    there = stack.check()
    for _ in range(8):
        server.query("SELECT pg_logical_emit_message(false, 'x', repeat('x', 900000))")
        server.query("SELECT pg_switch_wal()")
    server.query("CHECKPOINT")
    lost = stack.check()

    assert told(facts(missing, Severity.WARNING), "it is not there")
    assert look(there, "main-db", "slot").readiness is Readiness.READY
    assert look(lost, "main-db", "slot").readiness is Readiness.NOT_READY
    assert told(problems(lost), "it is lost: the server removed WAL")


def test_an_archiver_that_fails_is_found(make_postgres: MakePostgres, tmp_path: Path) -> None:
    """PITFALLS 8 and 79."""
    server = make_postgres(15, segment_mb=1, settings={"archive_mode": "on"})
    stack = stack_of(tmp_path, server, mode="push")

    empty = stack.check()
    server.restart(archive_command="false")
    server.query("SELECT pg_switch_wal()")
    failed = "SELECT failed_count FROM pg_stat_archiver"
    until(lambda: server.query(failed)[0][0], "archive_command fails")
    failing = stack.check()

    assert told(problems(empty), "archive_command is empty")
    assert told(problems(failing), "its last attempt failed, with 0000")
    assert told(facts(failing, Severity.WARNING), "does not name drtool")


def test_archiving_that_is_off_is_found_where_the_server_is_to_push(
    postgres15: PostgresServer, tmp_path: Path
) -> None:
    assert told(
        problems(stack_of(tmp_path, postgres15, mode="push").check()), "archive_mode is off"
    )


def test_a_role_that_may_not_see_what_waits_is_told_what_it_lacks(
    postgres15: PostgresServer, tmp_path: Path
) -> None:
    stack = stack_of(tmp_path, postgres15, mode="push")
    stack.environ["MAIN_DB_DSN"] = postgres15.dsn(user="drtool")

    looked = look(stack.check(), "main-db", "archiving")

    assert "unknown how many files waiting" in looked.seen


def test_a_gap_in_the_log_is_a_problem(make_postgres: MakePostgres, tmp_path: Path) -> None:
    server = make_postgres(15, segment_mb=1, settings=SAFE)
    stack = stack_of(tmp_path, server)
    with receiving(stack, "main-db"):
        stack.backup()
        for _ in range(4):
            server.query("SELECT pg_logical_emit_message(false, 'x', repeat('x', 900000))")
            server.query("SELECT pg_switch_wal()")
        segments = tmp_path / "repository" / "log" / "main-db"
        until(lambda: len(whole_segments(segments)) >= 4, "segments")
    whole_segments(segments)[-2].unlink()

    report = stack.check()

    assert told(problems(report), "it is missing")
    assert "1 gap" in look(report, "main-db", "log").seen


def whole_segments(log: Path) -> list[Path]:
    return sorted(path for path in log.rglob("0*") if len(path.name) == 24)


def test_a_repository_that_cannot_be_opened_keeps_no_server_from_being_checked(
    postgres15: PostgresServer, tmp_path: Path
) -> None:
    stack = stack_of(tmp_path, postgres15)
    (tmp_path / "repository").rename(tmp_path / "elsewhere")

    report = stack.check()

    assert exit_code(report) == ExitCode.REPOSITORY_UNAVAILABLE
    assert look(report, "repository", "store").readiness is Readiness.UNKNOWN
    assert look(report, "main-db", "repository").readiness is Readiness.UNKNOWN
    assert "PostgreSQL 15" in look(report, "main-db", "server").seen


def test_a_missing_secret_is_told_and_fails_the_check(
    postgres15: PostgresServer, tmp_path: Path
) -> None:
    stack = stack_of(tmp_path, postgres15)
    del stack.environ["MAIN_DB_DSN"]

    report = stack.check()

    assert told(problems(report), "MAIN_DB_DSN")
    assert exit_code(report) != ExitCode.DONE


def test_a_server_to_back_up_from_that_is_no_standby_of_the_source_is_found(
    postgres15: PostgresServer, postgres18: PostgresServer, tmp_path: Path
) -> None:
    stack = stack_of(tmp_path, postgres15)
    stack.sources += "    backup_from: {dsn: env:REPLICA_DSN}\n"
    stack.environ["REPLICA_DSN"] = postgres18.dsn()

    report = stack.check()

    assert told(problems(report), "it is another cluster than the one that dsn leads to")
    assert told(facts(report, Severity.WARNING), "backup_from leads to a primary")


def slot_facts(wal_status: str, *, retained: int, safe: int | None) -> SlotFacts:
    state = SlotState(name="drtool", is_active=True, restart_lsn=Lsn(1), wal_status=wal_status)
    return SlotFacts(
        state=state,
        retained_bytes=retained,
        safe_bytes=safe,
        server_at=Lsn(retained + 1),
        moment=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("slot", "severities", "words"),
    [
        (slot_facts("reserved", retained=1, safe=1 << 30), [], ""),
        (slot_facts("reserved", retained=1, safe=None), [Severity.NOTE], "fills the server's disk"),
        (
            slot_facts("extended", retained=9 << 20, safe=1 << 20),
            [Severity.WARNING],
            "1.05 MB more",
        ),
        (
            slot_facts("unreserved", retained=9 << 20, safe=-1),
            [Severity.PROBLEM, Severity.WARNING],
            "the next checkpoint may remove WAL",
        ),
    ],
)
def test_a_slot_is_judged_by_how_much_more_it_will_keep(
    slot: SlotFacts, severities: list[Severity], words: str
) -> None:
    found = list(check_slot("server a:1", "drtool", slot))

    assert [finding.severity for finding in found] == severities
    assert words in (found[0].fact if found else "")


def test_wal_that_waits_for_long_is_a_problem_although_no_failure_was_counted() -> None:
    """PITFALLS 8: an archive_command that is killed by a signal is not in pg_stat_archiver."""
    archiver = ArchiverFacts(
        mode="on",
        command="drtool-wal push %p",
        library="",
        failed_count=0,
        last_failed_wal=None,
        last_failed=None,
        last_archived=None,
        ready_files=7,
        oldest_ready=timedelta(minutes=6),
    )

    [finding] = check_archiving("server a:1", archiver)

    assert finding.severity is Severity.PROBLEM
    assert "7 files wait to be archived, the oldest for 6 min" in finding.fact
    assert not list(
        check_archiving("server a:1", replace(archiver, oldest_ready=timedelta(minutes=4)))
    )
