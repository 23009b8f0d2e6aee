"""The second reader on what the real program stored: `drtool backup` and `drtool wal receive`."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acceptance.site import SOURCE, Site
from tests.repository.isolation import bare_packages, run_rescue
from tests.repository.test_rescue import let_replay, succeeded
from tests.servers.postgres import MakePostgres, PostgresServer, give_to_server_user

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
PASSPHRASE = "zażółć a long passphrase"


@pytest.mark.parametrize("major", [15, 18])
def test_a_server_starts_on_two_backups_and_streamed_wal_restored_without_drtool(
    make_postgres: MakePostgres, server_root: Path, major: int
) -> None:
    """The second backup takes most pages from the packs of the first."""
    server = make_postgres(major, segment_mb=1)
    live = server_root / "live"
    live.mkdir()
    give_to_server_user(live)
    server.query(f"CREATE TABLESPACE elsewhere LOCATION '{live}'")
    server.query("CREATE TABLE kept AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n")
    server.query("CREATE TABLE moved TABLESPACE elsewhere AS SELECT 7 AS n")
    site = Site(
        root=server_root,
        environ={"DRTOOL_KEY": PASSPHRASE, "MAIN_DB_DSN": server.dsn()},
    )
    site.write_policy(key="env:DRTOOL_KEY")
    site.run("repository", "init")
    site.run("backup")
    server.query("UPDATE kept SET md5 = 'changed' WHERE n % 500 = 0")
    site.run("backup")
    with site.receiving():
        server.query("INSERT INTO kept SELECT n, 'late' FROM generate_series(20001, 30000) n")
        site.mark_after(datetime.now(UTC))
        server.kill9()
    server.destroy_data()
    shutil.rmtree(live)

    packages, program = bare_packages(server_root / "packages"), "RESCUE/rescue.py"

    def rescue(command: str, *words: object) -> str:
        place = site.repository
        given = [command, str(place), *map(str, words)]
        return succeeded(run_rescue(packages, place / program, *given, key=PASSPHRASE)).stdout

    backup = sorted(os.listdir(site.repository / "backups" / SOURCE))[-1]
    assert backup in rescue("list")
    rescue("verify")
    rescue("restore", SOURCE, backup, server_root / "data")
    rescue("wal", SOURCE, server_root / "wal")

    restored = PostgresServer(server_root, major)
    let_replay(server_root)
    restored.start()
    try:
        found = "SELECT count(*), count(*) FILTER (WHERE md5 = 'changed'), max(n) FROM kept"
        held = sorted(os.listdir(server_root / "wal"))
        assert restored.query(found) == [(30000, 40, 30000)], (held, restored.log_text())
        assert restored.query("SELECT n FROM moved") == [(7,)]
    finally:
        restored.stop()
