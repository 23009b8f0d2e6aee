"""The same over S3: on a server that honours everything, on one that ignores conditions, on none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acceptance.site import SOURCE, Site, until
from tests.restore.rig import rows, started
from tests.servers.object_stores import ENVIRONMENT, S3Server
from tests.servers.postgres import PostgresServer, new_server, server_directory
from tests.servers.proxy import Answer, proxied

pytestmark = [pytest.mark.postgres, pytest.mark.object_store]
KEY = "correct horse battery staple"


def source_with_rows() -> PostgresServer:
    server = new_server(15, segment_mb=1)
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    server.query("INSERT INTO ledger VALUES (1)")
    return server


def protect(site: Site, server: PostgresServer, url: str) -> str:
    """Initialise, receive, back up, write 2 and 3; what `repository init` said."""
    site.environ.update(ENVIRONMENT, MAIN_DB_DSN=server.dsn(), DRTOOL_KEY=KEY)
    site.write_policy(url=url, key="env:DRTOOL_KEY", flush="250ms")
    said = site.run("repository", "init").out
    site.run("backup", SOURCE)
    with site.receiving():
        server.query("INSERT INTO ledger VALUES (2)")
        for _ in range(6):
            server.query("SELECT pg_logical_emit_message(true, 'test', repeat(md5('x'), 20000))")
        server.query("INSERT INTO ledger VALUES (3)")
        after = datetime.now(UTC)
        until(lambda: (newest := site.status()["latest"]) and is_after(newest, after), "a mark")
    return said


def is_after(moment: str, other: datetime) -> bool:
    return datetime.fromisoformat(moment) > other


@pytest.fixture(scope="module")
def on_seaweedfs(seaweedfs: S3Server) -> Iterator[Site]:
    """A machine whose backups are on SeaweedFS, and whose server is gone."""
    server, site = source_with_rows(), Site(root=server_directory())
    try:
        protect(site, server, seaweedfs.new_url())
        server.kill9()
        yield site
    finally:
        server.close()
        shutil.rmtree(site.root, ignore_errors=True)


def test_a_cluster_comes_back_from_an_object_store(on_seaweedfs: Site) -> None:
    place = on_seaweedfs.root / "copy"

    on_seaweedfs.run("restore", SOURCE, "--to", "latest", "--into", str(place))

    on_seaweedfs.run("verify", "--whole")
    with started(15, place) as copy:
        assert rows(copy) == [1, 2, 3]


def test_a_store_that_goes_away_in_mid_replay_never_ends_in_a_shortened_database(
    on_seaweedfs: Site, seaweedfs: S3Server
) -> None:
    """PITFALLS 39, 40, promise 4: with `--to latest` nothing but the store says where the WAL ends.

    The store answers for everything until the third segment of WAL is read, and never again.
    """
    policy = on_seaweedfs.root / "policies" / "shop.yaml"
    place = on_seaweedfs.root / "half"
    with proxied(seaweedfs.address) as proxy:
        segments: set[str] = set()

        def choose(_number: int, line: str) -> Answer | None:
            if line.startswith("GET") and "/log/" in line and "list-type" not in line:
                segments.add(line)
            return Answer(503, "SlowDown") if len(segments) > 2 else None

        proxy.choice = choose
        before = policy.read_text()
        policy.write_text(before.replace(seaweedfs.endpoint, proxy.endpoint))
        try:
            ran = on_seaweedfs.run(
                "restore", SOURCE, "--to", "latest", "--into", str(place), code=6
            )
        finally:
            policy.write_text(before)

    assert str(place) in ran.err
    assert "refuses to be started" in ran.err
    refuses_to_start(place)


def refuses_to_start(place: Path) -> None:
    """Started by hand it stops by itself, and has never taken a connection."""
    server = PostgresServer(place.parent, 15)
    server.data = place
    server.start(wait=False)
    until(lambda: not server.is_running, "it stops by itself")
    server.stop()
    assert "ready to accept connections" not in server.log_text()
    assert "archive recovery complete" not in server.log_text()


def test_a_store_that_ignores_conditions_is_said_to_need_a_single_writer(
    site: Site, rclone_s3: S3Server
) -> None:
    server = source_with_rows()
    try:
        said = protect(site, server, rclone_s3.url(rclone_s3.new_bucket(), "main"))
    finally:
        server.close()
    place = site.root / "copy"

    site.run("restore", SOURCE, "--to", "latest", "--into", str(place))

    assert "one machine" in said or "single writer" in said, said
    with started(15, place) as copy:
        assert rows(copy) == [1, 2, 3]
