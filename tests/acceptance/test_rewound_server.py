"""A data directory put back from a copy: the same cluster and timeline, and other WAL (PITFALLS 98)."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acceptance.site import RECEIVE, SOURCE, Site
from tests.archiving.rig import flushed
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres


def cold_copy(data: Path, place: Path) -> None:
    """As an engineer would, with owner and modes."""
    subprocess.run(["cp", "-a", str(data), str(place)], check=True)


def put_back(server: PostgresServer, copy: Path) -> None:
    server.stop()
    server.destroy_data()
    cold_copy(copy, server.data)
    server.start()


def write(server: PostgresServer, kind: str, megabytes: int) -> None:
    server.query(
        "INSERT INTO story SELECT %s, string_agg(md5(random()::text), '') FROM"
        " generate_series(1, 32 * 1024 * %s) AS n GROUP BY n %% (8 * %s)",
        kind, megabytes, megabytes,
    )  # fmt: skip


def test_a_server_put_back_from_a_copy_is_refused_and_then_kept_as_a_branch(
    make_postgres: MakePostgres, site: Site
) -> None:
    server = make_postgres(15, segment_mb=1)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy()
    site.run("repository", "init")
    server.query("CREATE TABLE story (kind text, content text)")
    server.stop()
    copy = server.root / "copy"
    cold_copy(server.data, copy)
    server.start()
    with site.receiving():
        site.run("backup", SOURCE)
        write(server, "abandoned", 4)
        site.mark_after(datetime.now(UTC))
    old_end = flushed(server)

    put_back(server, copy)
    behind = site.run("backup", SOURCE, code=5)
    refused = site.run(*RECEIVE, code=5)
    write(server, "production", 7)
    assert flushed(server) > old_end
    past = site.run("backup", SOURCE, code=5)
    past_too = site.run(*RECEIVE, code=5)
    looked = site.run("check", code=None)

    for ran in (behind, refused, past, past_too):
        assert "--accept-source" in ran.err, str(ran)
    assert "and the repository holds its WAL up to" in behind.err
    assert "has other WAL in segment" in past.err
    assert looked.code != 0
    assert "has other WAL in segment" in looked.out, str(looked)
    site.run("verify")

    # The step that was told, and then production's own latest moment.
    accepting = site.start(*RECEIVE, "--accept-new-system")
    try:
        site.mark_after(datetime.now(UTC))  # it streams: until then a backup is refused, as above
        site.run("backup", SOURCE)
        write(server, "production later", 1)
        site.mark_after(datetime.now(UTC))
    finally:
        accepting.terminate()
        site.finished(accepting, RECEIVE)
    with site.receiving():  # by itself, without the option
        site.mark_after(datetime.now(UTC))
    site.run("restore", SOURCE, "--to", "latest", "--into", "restored", code=None)

    kinds = kinds_in(site.root / "restored", server)
    assert kinds == [("production",), ("production later",)]
    row = site.status()
    assert row["gaps"] == []
    site.run("verify")


def kinds_in(place: Path, source: PostgresServer) -> list[tuple[object, ...]]:
    """What a restored copy holds, asked of it once it runs."""
    data = place / "data" if (place / "data").exists() else place
    found = next(path.parent for path in data.rglob("PG_VERSION") if path.parent.name != "base")
    copy = PostgresServer(source.root / "asked", source.major)
    copy.root.mkdir(mode=0o755)
    shutil.chown(copy.root, user=found.owner())
    copy.data = found
    try:
        copy.start()
        return copy.query("SELECT DISTINCT kind FROM story ORDER BY kind")
    finally:
        copy.stop()
