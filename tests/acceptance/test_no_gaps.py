"""Backups under load with the policy that init writes: no gap; where one cannot be helped, a new base."""

from __future__ import annotations

import subprocess
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.acceptance.site import SOURCE, Site, until
from tests.archiving.rig import fill
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres
# As small as a server takes it: each checkpoint removes what no slot keeps.
_SMALL = {"max_wal_size": "2MB", "min_wal_size": "2MB"}


class Load:
    """Writes while the block lasts, and lets checkpoints follow one another."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            fill(self._server, 1)
            self._server.query("CHECKPOINT")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)


def gaps(site: Site, *, code: int | None = 0) -> Any:
    return site.run("wal", "gaps", "--json", code=code).answer["main-db_gaps"]


def protected(server: PostgresServer, site: Site, *, slot: str | None = None) -> None:
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy()
    if slot is not None:
        policy = site.root / "policies" / "shop.yaml"
        policy.write_text(policy.read_text().replace("mode: stream", f"mode: stream, slot: {slot}"))
    site.run("repository", "init")


def keep_wal(server: PostgresServer, size: str) -> None:
    """From here on checkpoints leave so much WAL in place for whoever receives without a slot."""
    server.query(f"ALTER SYSTEM SET wal_keep_size = '{size}'")
    server.query("SELECT pg_reload_conf()")
    until(lambda: server.query("SHOW wal_keep_size") == [(size,)], "the setting is in force")


def test_backups_under_load_and_restarts_of_the_receiver_leave_no_gap(
    make_postgres: MakePostgres, site: Site
) -> None:
    """PITFALLS 97: three gaps in six backups, before there was a slot."""
    server = make_postgres(15, segment_mb=1, settings=_SMALL)
    protected(server, site)

    with Load(server):
        with site.receiving():
            site.run("backup", SOURCE)
        fill(server, 4)
        # Nobody receives now: this backup brings the log up by itself before it begins.
        site.run("backup", SOURCE)
    with site.receiving():
        site.mark_after(datetime.now(UTC))

    assert gaps(site) == 0
    shown = site.run("wal", "slot", "show", SOURCE, code=7).out  # nobody empties it any more
    assert "drtool_main_db, not in use, reserved, keeps" in shown
    assert "as measured, slot_limit (16 GiB) is reached in" in shown
    site.run("wal", "slot", "drop", SOURCE)
    assert server.query("SELECT slot_name FROM pg_replication_slots") == []


def test_behind_a_gap_a_new_base_backup_is_taken_at_once_and_by_itself(
    make_postgres: MakePostgres, site: Site
) -> None:
    """PITFALLS 9: as the receiver of Redis does it."""
    server = make_postgres(15, segment_mb=1, settings=_SMALL)
    protected(server, site, slot="none")
    keep_wal(server, "64MB")
    with site.receiving():
        site.run("backup", SOURCE)
    keep_wal(server, "0")
    for _ in range(3):
        fill(server, 3)
        server.query("CHECKPOINT")
    # From here on the server keeps what it has: the new base's own checkpoint makes no second gap.
    keep_wal(server, "64MB")
    backups = site.repository / "backups" / SOURCE

    with site.receiving():
        until(lambda: len(list(backups.iterdir())) == 2, "a second backup")
        site.mark_after(datetime.now(UTC))
    told = site.ran[-1].err

    assert gaps(site, code=None) == 1
    assert "is lost: the server has removed it" in told
    assert "a new base backup is taken, behind the gap" in told
    site.run("restore", SOURCE, "--to", "latest", "--plan")
    with site.receiving():
        site.mark_after(datetime.now(UTC))
    assert len(list(backups.iterdir())) == 2  # one is enough


@pytest.mark.soak
def test_six_backups_under_pgbench_with_the_policy_that_init_writes_leave_no_gap(
    make_postgres: MakePostgres, site: Site
) -> None:
    """PITFALLS 97: three gaps in six backups, before there was a slot."""
    server = make_postgres(15, settings={"max_wal_size": "64MB", "min_wal_size": "32MB"})
    protected(server, site)
    pgbench = "/usr/lib/postgresql/15/bin/pgbench"
    filled = [pgbench, "-i", "-s", "10", "-q", server.dsn()]
    subprocess.run(filled, check=True, capture_output=True)
    command = [pgbench, "-c", "4", "-T", "600", "-n", server.dsn()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        try:
            for _ in range(3):
                with site.receiving():
                    site.run("backup", SOURCE)
                    site.run("backup", SOURCE)
                time.sleep(10)  # nobody receives
            with site.receiving():
                site.mark_after(datetime.now(UTC))
            assert load.poll() is None
        finally:
            load.kill()

    assert len(list((site.repository / "backups" / SOURCE).iterdir())) == 6
    assert gaps(site) == 0
    site.run("restore", SOURCE, "--to", "latest", "--into", str(site.root / "copy"))
