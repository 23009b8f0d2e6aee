"""Damage that a restore meets: the next one, and every screen, know of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.acceptance.site import SOURCE, Site
from tests.archiving.rig import fill
from tests.servers.postgres import MakePostgres

pytestmark = pytest.mark.postgres


def test_a_damaged_segment_is_known_once_a_restore_has_met_it(
    make_postgres: MakePostgres, site: Site
) -> None:
    server = make_postgres(15, segment_mb=1)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy()
    site.run("repository", "init")
    with site.receiving():
        site.run("backup", SOURCE)
        fill(server, 3)
        site.mark_after(datetime.now(UTC))
    wal = sorted(site.repository.glob(f"log/{SOURCE}/*/*/????????????????????????"))[-2]
    content = wal.read_bytes()
    wal.chmod(0o600)
    wal.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    latest = ("restore", SOURCE, "--to", "latest")

    met = site.run(*latest, "--into", str(site.root / "copy"), code=7)
    status = site.run("status", "--json", code=7)
    plan = site.run(*latest, "--plan", code=4)

    assert wal.name in met.err
    assert wal.name in status.out
    assert "it reaches" in plan.err
