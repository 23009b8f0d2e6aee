"""A copy restored to an earlier moment takes its source's place, while the receiver runs (PITFALLS 18)."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tests.acceptance.site import SOURCE, Site
from tests.archiving.rig import flushed
from tests.servers.postgres import MakePostgres, PostgresServer, give_to_server_user

pytestmark = pytest.mark.postgres


def put_in_place(site: Site, server: PostgresServer) -> None:
    """The restored copy becomes the source: its directory and its port."""
    server.stop()
    server.destroy_data()
    (site.root / "restored").rename(server.data)
    give_to_server_user(server.data)
    server.start()
    server.query("SELECT pg_promote() WHERE pg_is_in_recovery()")


def test_the_running_receiver_goes_on_from_the_fork(
    make_postgres: MakePostgres, site: Site
) -> None:
    server = make_postgres(15, segment_mb=1)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy()
    site.run("repository", "init")
    server.query("CREATE TABLE story (kind text)")
    with site.receiving():
        site.run("backup", SOURCE)
        server.query("INSERT INTO story VALUES ('kept')")
        site.mark_after(datetime.now(UTC))
        moment = datetime.now(UTC)
        time.sleep(0.1)
        server.query("INSERT INTO story VALUES ('left behind')")
        server.query("SELECT pg_switch_wal()")
        server.query("INSERT INTO story VALUES ('left behind too')")
        site.mark_after(datetime.now(UTC))
        left = datetime.now(UTC)
        site.mark_after(left)
        site.run("check", code=None)
        site.run("restore", SOURCE, "--to", moment.isoformat(), "--into", "restored")
        old_end = flushed(server)
        put_in_place(site, server)
        assert flushed(server) < old_end
        server.query("INSERT INTO story VALUES ('on the copy')")
        site.mark_after(datetime.now(UTC))
        between = datetime.now(UTC)
        site.mark_after(between)
        looked = site.run("check", code=None)
    at_left = site.run("restore", SOURCE, "--to", left.isoformat(), "--plan")
    at_between = site.run("restore", SOURCE, "--to", between.isoformat(), "--plan")
    row = site.status()

    assert "on timeline 1" in at_left.out, str(at_left)
    assert "on timeline 1 > 2" in at_between.out, str(at_between)
    assert row["gaps"] == []
    assert "this machine saw" not in looked.out, str(looked)
