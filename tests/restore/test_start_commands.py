"""The commands that a report prints start and stop the copy, as printed, beside its running source."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from drtool.model.outcome import RestoreOutcome
from drtool.stores.memory import MemoryStore
from tests.restore.printed import started_as_printed
from tests.restore.rig import protected, restore, settle, take_backup
from tests.servers.postgres import (
    PostgresServer,
    as_server_user,
    give_to_server_user,
    new_server,
    server_directory,
)

pytestmark = pytest.mark.postgres


def setting(outcome: RestoreOutcome, name: str) -> str:
    return {changed.name: changed.value for changed in outcome.changed_settings}[name]


def ask(outcome: RestoreOutcome, statement: str) -> list[str]:
    """What the started copy answers to its owner over its own socket, line by line."""
    psql = [
        *("psql", "-X", "-A", "-t", "-h", outcome.destination, "-p", setting(outcome, "port")),
        *("-U", "postgres", "-d", "postgres", "-c", statement),
    ]
    done = subprocess.run(
        psql, check=False, capture_output=True, text=True, timeout=60, cwd="/", **as_server_user()
    )
    assert done.returncode == 0, (statement, done.stderr)
    return str(done.stdout).splitlines()


@dataclass(frozen=True)
class Copied:
    """A running source, and a copy of it that was restored beside it."""

    source: PostgresServer
    outcome: RestoreOutcome
    data: Path


def copied(source: PostgresServer, root: Path) -> Copied:
    with protected(source, MemoryStore()) as repository:
        take_backup(repository, source)
        source.query("INSERT INTO ledger VALUES (2)")
        settle(repository, source)
    outcome = restore(repository, root / "it's the copy")
    return Copied(source, outcome, root / "it's the copy")


def lead_astray(server: PostgresServer) -> None:
    """Settings in the data directory that are right for the source, and harm or stop a copy."""
    live, etc = server.data, server.root / "etc"
    for directory in (etc, server.root / "log", server.root / "sockets"):
        directory.mkdir()
        give_to_server_user(directory)
    (etc / "more.conf").write_text("work_mem = 5MB\n")
    shutil.copy(live / "pg_hba.conf", etc / "pg_hba.conf")
    (etc / "pg_ident.conf").write_text("")
    (live / "conf.d").mkdir(mode=0o755)
    (live / "conf.d" / "inner.conf").write_text(
        f"data_directory '{live}'\nmaintenance_work_mem = '33MB'\n"
    )
    with (live / "postgresql.conf").open("a") as conf:
        conf.write(
            f"""
data_directory = '{live}'   # the live one
hba_file='{etc}/pg_hba.conf'
IDENT_FILE = '{etc}/pg_ident.conf'
external_pid_file = '{server.root}/pid'
include = '{etc}/more.conf'
include_dir 'conf.d'
logging_collector = on
log_directory = '{server.root}/log'
unix_socket_directories = '{server.root}/sockets'
unix_socket_group = 'group_of_the_source'
listen_addresses = '203.0.113.9'
port = {server.port}
ssl = on
ssl_cert_file = '/etc/source/server.crt'
ssl_key_file = '/etc/source/server.key'
shared_preload_libraries = 'is_not_there, pg_stat_statements'
session_preload_libraries = 'is_not_there_either'
huge_pages = on
shared_buffers = '4096GB'
lc_time = 'xx_XX.UTF-8'
setting_of_another_version = 1
work_mem = '7MB'
"""
        )
    for path in live.rglob("*"):
        if path.is_file() and path.stat().st_uid == 0:
            give_to_server_user(path)
    give_to_server_user(live / "conf.d")


@pytest.fixture(scope="module")
def astray() -> Iterator[Copied]:
    root = server_directory()
    source = new_server(15)
    try:
        source.query("CREATE TABLE ledger (id int PRIMARY KEY)")
        source.query("INSERT INTO ledger VALUES (1)")
        lead_astray(source)
        yield copied(source, root)
    finally:
        source.close()
        shutil.rmtree(root, ignore_errors=True)


def test_the_printed_commands_start_and_stop_the_copy_and_nothing_else(astray: Copied) -> None:
    live = astray.source.pid
    before = sorted(path.name for path in astray.source.root.iterdir())

    with started_as_printed(astray.outcome):
        [directory] = ask(astray.outcome, "SHOW data_directory")
        rows = ask(astray.outcome, "SELECT id FROM ledger ORDER BY id")
        ask(astray.outcome, "INSERT INTO ledger VALUES (3)")
        memory = ask(astray.outcome, "SHOW work_mem") + ask(
            astray.outcome, "SHOW maintenance_work_mem"
        )

    assert directory == str(astray.data)
    assert rows == ["1", "2"]
    assert memory == ["7MB", "33MB"]
    assert astray.source.pid == live
    assert astray.source.query("SELECT count(*) FROM ledger") == [(2,)]
    assert sorted(path.name for path in astray.source.root.iterdir()) == before
    assert not list((astray.source.root / "log").iterdir())
    assert not (astray.data / "postmaster.pid").exists()


def test_what_does_not_start_here_is_named(astray: Copied) -> None:
    named = {changed.name for changed in astray.outcome.changed_settings}
    said = {finding.subject: finding.fact for finding in astray.outcome.findings}

    assert {
        *("data_directory", "hba_file", "ident_file", "external_pid_file", "log_directory", "port"),
        *("unix_socket_directories", "unix_socket_group", "listen_addresses", "ssl", "lc_time"),
        *("shared_preload_libraries", "session_preload_libraries", "shared_buffers", "huge_pages"),
        *("setting_of_another_version", "logging_collector"),
    } <= named
    assert setting(astray.outcome, "shared_preload_libraries") == "pg_stat_statements"
    assert setting(astray.outcome, "port") != str(astray.source.port)
    assert "more.conf" in said["include"]
    assert "is_not_there" in said["shared_preload_libraries"]
    assert "pg_hba.conf" in said


def test_a_start_without_the_printed_command_does_not_serve_the_source_either(
    astray: Copied,
) -> None:
    """`postgres -D COPY`, as a service manager would."""
    shown = subprocess.run(
        [astray.source.bin_dir / "postgres", "-C", "data_directory", "-D", astray.data],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert shown.stdout.strip() == str(astray.data)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Copied]:
    """Debian's layout, and settings of ALTER SYSTEM that are valid on the source's machine alone."""
    root = server_directory()
    settings = {"max_prepared_transactions": "7", "max_connections": "137", "wal_level": "logical"}
    source = new_server(18, settings=settings)
    try:
        source.query("CREATE TABLE ledger (id int PRIMARY KEY)")
        source.query("INSERT INTO ledger VALUES (1)")
        source.query("BEGIN; INSERT INTO ledger VALUES (9); PREPARE TRANSACTION 'held'")
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            (source.data / name).rename(source.root / name)
        with (source.data / "postgresql.auto.conf").open("a") as auto:
            auto.write(
                "log_error_verbosity = verbose\nunix_socket_group = 'group_of_the_source'\n"
                "lc_time = 'xx_XX.UTF-8'\nmax_stack_depth = '1TB'\nio_method = io_uring\n"
                "min_dynamic_shared_memory = '8000GB'\nhuge_pages = on\nwork_mem = '7MB'\n"
                "external_pid_file = '/etc/source/pid'\n"
            )
        yield copied(source, root)
    finally:
        source.close()
        shutil.rmtree(root, ignore_errors=True)


def test_settings_of_the_sources_machine_stop_neither_recovery_nor_start(
    elsewhere: Copied,
) -> None:
    named = {changed.name for changed in elsewhere.outcome.changed_settings}

    with started_as_printed(elsewhere.outcome):
        held = ask(elsewhere.outcome, "SELECT gid FROM pg_prepared_xacts")
        shown = ask(
            elsewhere.outcome,
            "SELECT setting FROM pg_settings WHERE name IN ('max_connections', 'wal_level',"
            " 'max_prepared_transactions', 'log_error_verbosity') ORDER BY name",
        )
        ask(elsewhere.outcome, "COMMIT PREPARED 'held'")
        rows = ask(elsewhere.outcome, "SELECT id FROM ledger ORDER BY id")

    assert held == ["held"]
    assert shown == ["verbose", "137", "7", "logical"]
    assert rows == ["1", "2", "9"]
    assert {
        *("unix_socket_group", "lc_time", "max_stack_depth", "io_method", "huge_pages"),
        *("min_dynamic_shared_memory", "max_prepared_transactions", "external_pid_file"),
    } <= named


def test_no_log_of_a_copy_complains_of_an_external_pid_file(elsewhere: Copied) -> None:
    log = (elsewhere.data / "server.log").read_text()

    assert "database system is ready" in log
    assert "external PID file" not in log
