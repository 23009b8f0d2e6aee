"""A while of wal_level = minimal, as for a bulk load: told by every screen, and left behind at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.archiving import push
from tests.acceptance.site import SOURCE, Site, until
from tests.archiving.test_push import reachable_python
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres


def write_and_wait(server: PostgresServer, site: Site) -> None:
    """Until a mark that was made after the write is durable."""
    server.query("INSERT INTO ledger SELECT generate_series(1, 10)")
    site.mark_after(datetime.now(UTC))


def load_in_bulk(server: PostgresServer) -> None:
    """As pg_restore does in one transaction: with wal_level = minimal the rows are in no WAL."""
    server.restart(wal_level="minimal", max_wal_senders="0")
    with server.connect() as session, session.transaction():
        session.execute("CREATE TABLE loaded (id int)")
        session.execute("INSERT INTO loaded SELECT generate_series(1, 10000)")
    server.restart(wal_level="replica", max_wal_senders="10")


def test_a_bulk_load_is_a_gap_and_a_new_base_backup_is_taken_by_itself(
    make_postgres: MakePostgres, site: Site
) -> None:
    """PITFALLS 99: READY, "nothing is wrong", and no restore."""
    server = make_postgres(15, settings={"wal_keep_size": "1GB"})
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy(checks='["select count(*) = 10000 from loaded"]')
    policy = site.root / "policies" / "shop.yaml"
    policy.write_text(policy.read_text().replace("mode: stream", "mode: stream, slot: none"))
    site.run("repository", "init")
    server.query("CREATE TABLE ledger (id int)")
    with site.receiving():
        site.run("backup", SOURCE)
        server.query("INSERT INTO ledger SELECT generate_series(1, 10)")
        site.mark_after(datetime.now(UTC))
    load_in_bulk(server)
    server.query("INSERT INTO ledger SELECT generate_series(11, 20)")
    backups = site.repository / "backups" / SOURCE

    with site.receiving():
        site.mark_after(datetime.now(UTC))
        until(lambda: len(list(backups.iterdir())) == 2, "a second backup")
        site.mark_after(datetime.now(UTC))
    told = site.ran[-1].err

    assert "the server was started with wal_level = minimal at" in told
    assert "a new base backup is taken, behind the gap" in told
    shown = site.run("wal", "gaps").out
    assert "it was written with wal_level = minimal and lacks changes" in shown
    assert "a newer backup needs nothing of it" in shown
    site.run("restore", SOURCE, "--to", "latest", "--into", str(site.root / "copy"))
    # Without the newer backup nothing leads past the load.
    max(backups.iterdir()).unlink()
    for words in (("status",), ("check",), ("verify",), ("wal", "gaps"), ("wal", "status")):
        ran = site.run(*words, code=None)
        assert ran.code != 0, str(ran)
        assert "it was written with wal_level = minimal and lacks changes" in ran.out, str(ran)
    refused = site.run("restore", SOURCE, "--to", "latest", "--plan", code=4)
    assert "it was written with wal_level = minimal and lacks changes" in refused.err


@pytest.mark.soak  # the receiver looks at the server again after a minute
def test_a_bulk_load_of_a_server_that_pushes_its_wal_is_a_gap_too(
    make_postgres: MakePostgres, site: Site, server_root: Path
) -> None:
    """Nothing is archived meanwhile: wal_level = minimal forbids archive_mode."""
    server = make_postgres(15, segment_mb=1, settings={"archive_timeout": "1s"})
    (server_root / "push.py").write_bytes(Path(push.__file__).read_bytes())
    (server_root / "push.py").chmod(0o644)
    (server_root / "drtool").mkdir(mode=0o755)
    site.environ.update({"MAIN_DB_DSN": server.dsn(), "XDG_RUNTIME_DIR": str(server_root)})
    site.write_policy()
    policy = site.root / "policies" / "shop.yaml"
    policy.write_text(policy.read_text().replace("mode: stream", "mode: push"))
    site.run("repository", "init")
    place = server_root / f"drtool/{SOURCE}.sock"
    archiving = f"{reachable_python()} {server_root}/push.py push --socket {place} %p"
    server.restart(archive_mode="on", archive_command=archiving)
    with site.receiving():
        server.query("CREATE TABLE ledger (id int)")
        site.run("backup", SOURCE)
        write_and_wait(server, site)
        server.settings |= {"archive_mode": "off"}
        load_in_bulk(server)
        server.restart(archive_mode="on")
        write_and_wait(server, site)
        backups = site.repository / "backups" / SOURCE
        until(lambda: len(list(backups.iterdir())) == 2, "a second backup")
        for words in (("status",), ("check",), ("wal", "gaps"), ("verify",)):
            told = site.run(*words, code=None).out
            assert "it was written with wal_level = minimal and lacks changes" in told, words
        site.run("restore", SOURCE, "--to", "latest", "--into", str(site.root / "copy"))

    assert "a new base backup is taken, behind the gap" in site.ran[-1].err
