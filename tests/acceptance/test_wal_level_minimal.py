"""A while of wal_level = minimal, as for a bulk load: told by every screen, and left behind at once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.acceptance.site import SOURCE, Site, until
from tests.servers.postgres import MakePostgres, PostgresServer

pytestmark = pytest.mark.postgres


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
