"""A copy that is backed up under its source's name does not take over the latest moment (PITFALLS 112)."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from drtool.repository.live_timelines import TOLERATED_SKEW
from tests.acceptance.site import SOURCE, Site
from tests.servers.postgres import MakePostgres, PostgresServer, give_to_server_user

pytestmark = pytest.mark.postgres


def promoted_copy(server: PostgresServer) -> PostgresServer:
    """As `drtool restore`, or anybody's script, brings one up: the same system id, timeline 2."""
    copy = PostgresServer(server.root / "copy", server.major, settings=server.settings)
    copy.root.mkdir(mode=0o700)
    give_to_server_user(copy.root)
    subprocess.run(["cp", "-a", str(server.data), str(copy.data)], check=True)
    signal = copy.data / "recovery.signal"
    signal.touch()
    give_to_server_user(signal)
    copy.start(restore_command="false")
    return copy


def test_two_live_timelines_are_a_problem_and_latest_asks_which(
    make_postgres: MakePostgres, site: Site
) -> None:
    server = make_postgres(15, segment_mb=1)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy()
    site.run("repository", "init")
    with site.receiving():
        site.run("backup", SOURCE)
        site.mark_after(datetime.now(UTC))
    server.stop()
    copy = promoted_copy(server)
    server.start()
    try:
        site.run("backup", SOURCE, MAIN_DB_DSN=copy.dsn())
        taken = datetime.now(UTC)
    finally:
        copy.close()
    clear = site.run("restore", SOURCE, "--to", "latest", "--plan")
    with site.receiving():
        site.mark_after(taken + TOLERATED_SKEW + timedelta(seconds=1))

    asked = site.run("restore", SOURCE, "--to", "latest", "--plan", code=4)
    chosen = site.run("restore", SOURCE, "--to", "latest", "--timeline", "1", "--plan")
    status = site.run("status", code=None)
    between = (site.first_mark_after(taken) - timedelta(milliseconds=20)).isoformat()
    ended = site.run("restore", SOURCE, "--to", between, "--plan", code=4)
    with site.receiving():
        site.run("backup", SOURCE, "--accept-source")
        accepted = datetime.now(UTC)
        site.mark_after(accepted)

    assert "on timeline 2" in clear.out  # as after any failover
    assert "--timeline 2 or --timeline 1" in asked.err
    assert "on timeline 1" in chosen.out
    assert status.code != 0
    assert "two servers write it, on timelines 2 (until" in status.out, str(status)
    told = " ".join(status.out.split())
    assert "Timeline 2 has had no new mark since" in told, told
    assert "counts as alive until" in told, told
    assert "--timeline 1" in ended.err, str(ended)
    settled = site.run("status", code=None)
    latest = site.run("restore", SOURCE, "--to", "latest", "--plan")
    at_moment = site.run("restore", SOURCE, "--to", between, "--plan")
    assert "two servers" not in settled.out, str(settled)
    assert "on timeline 1" in latest.out
    assert "on timeline 1" in at_moment.out
