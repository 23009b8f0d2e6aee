"""The servers that drtool starts on restored data have no network, where this machine gives a namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from drtool.model.finding import Finding
from drtool.restore.network import network_findings
from drtool.sources.postgres.binaries import find_binaries
from drtool.sources.postgres.server import RunningServer, ServerPlan, start_server
from drtool.sources.postgres.single_user import read_names
from drtool.system.clock import SystemClock
from drtool.system.users import choose_user
from tests.servers.postgres import PostgresServer, new_server

pytestmark = pytest.mark.postgres

_DIAL = "COPY (SELECT 1) TO PROGRAM $$exec bash -c 'echo > /dev/tcp/127.0.0.1/{port}'$$"
_WRITE = "SELECT dblink_exec('{dsn}', 'CREATE TABLE reached_{attack} ()')"


@pytest.fixture(scope="module")
def plan() -> Iterator[ServerPlan]:
    """A stopped cluster with dblink in it, and how to start it."""
    server = new_server(15)
    try:
        server.query("CREATE EXTENSION dblink")
        server.stop()
        yield ServerPlan(
            data_directory=server.data,
            binaries=find_binaries(15),
            run_as=choose_user(server.data),
            settings={"listen_addresses": "", "shared_buffers": "16MB"},
        )
    finally:
        server.close()


def ready(plan: ServerPlan) -> RunningServer:
    server = start_server(plan, clock=SystemClock())
    server.wait_ready(timeout_seconds=60)
    return server


def attack(server: RunningServer, other: PostgresServer, *, name: str) -> list[str]:
    """What code of the data, with a superuser's rights, reaches of another server of this machine."""
    tries = {
        "a program": _DIAL.format(port=other.port),
        "dblink": _WRITE.format(dsn=other.dsn(), attack=name),
    }
    reached = []
    for what, statement in tries.items():
        try:
            with psycopg.connect(server.dsn(), autocommit=True) as session:
                session.execute(statement.encode())
        except psycopg.Error:
            continue
        reached.append(what)
    return reached


def test_a_server_on_restored_data_reaches_no_address_or_it_is_told(
    plan: ServerPlan, postgres15: PostgresServer
) -> None:
    told = network_findings(plan.run_as)

    with ready(plan) as server:
        reached = attack(server, postgres15, name="inside")
    names = read_names(plan)

    assert not isinstance(names, str)
    assert names.roles == ("postgres",)
    assert bool(reached) == bool(told), (reached, told)
    if not told:
        assert postgres15.query("SELECT to_regclass('reached_inside')") == [(None,)]


def test_without_namespaces_servers_start_all_the_same_and_it_is_told(
    plan: ServerPlan, postgres15: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel, or a container, that refuses."""
    # Of our own: from a directory of another user's root takes no program.
    refusing = Path(tempfile.mkdtemp(prefix="drtool-test-"))
    refusing.chmod(0o755)
    try:
        program = refusing / "unshare"
        program.write_text(
            "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{refusing}:/usr/bin:/bin")
        [told] = network_findings(plan.run_as)
        with ready(plan) as server:
            reached = attack(server, postgres15, name="outside")
    finally:
        shutil.rmtree(refusing, ignore_errors=True)
    postgres15.query("DROP TABLE IF EXISTS reached_outside")

    assert isinstance(told, Finding)
    assert "Operation not permitted" in told.fact
    assert reached == ["a program", "dblink"]


def test_root_without_rights_over_namespaces_takes_one_of_users(plan: ServerPlan) -> None:
    """As in a container without CAP_SYS_ADMIN that may make namespaces of users."""
    without_rights = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    told = (
        "from drtool.system.network_namespace import without_network;"
        "from drtool.system.users import RunAs;"
        f"found = without_network({plan.run_as!r});"
        "print('net', '--user' in found.prefix, found.refused)"
    )
    command = [*(without_rights if os.geteuid() == 0 else ()), sys.executable, "-c", told]

    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

    gives = subprocess.run(["unshare", "--user", "--net", "true"], check=False, capture_output=True)
    expected = "net True None" if gives.returncode == 0 else "net False unshare"
    assert done.stdout.startswith(expected), done.stdout
