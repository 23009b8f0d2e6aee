"""What a restore is asked for decides what it is judged by, and what cannot be so is refused at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.site import SOURCE, Site
from tests.servers.postgres import MakePostgres

pytestmark = pytest.mark.postgres

# `facts` lies in a database of its own, and not in the one that the DSN names.
CHECKS = '["SELECT count(*) = 3 FROM facts"]\n    checks_database: shop'


def test_a_position_that_was_reached_ends_with_zero_and_a_disaster_that_cannot_be_is_refused(
    make_postgres: MakePostgres, site: Site
) -> None:
    """The trials: a perfect --to-lsn ended with 3; --lost-at before the target, or to come, was MET."""
    server = make_postgres(15)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy(checks=CHECKS)
    site.run("repository", "init")
    server.query("CREATE DATABASE shop")
    with site.receiving():
        site.run("backup", SOURCE)
        server.query("CREATE TABLE facts AS SELECT generate_series(1, 3)", dbname="shop")
        lsn = str(server.query("SELECT pg_current_wal_flush_lsn()")[0][0])
        moment = datetime.now(UTC)
        server.query("DELETE FROM facts", dbname="shop")
        site.mark_after(moment)
    copy = str(site.root / "copy")

    to_come = (moment + timedelta(hours=1)).isoformat()
    before = (moment - timedelta(minutes=1)).isoformat()
    for lost_at, fact in ((to_come, "has not come yet"), (before, "lies before the moment")):
        words = ("restore", SOURCE, "--to", moment.isoformat(), "--lost-at", lost_at)
        for more in (("--into", copy), ("--into", copy, "--plan")):
            assert fact in site.run(*words, *more, code=2).err
    assert not (site.root / "copy").exists()

    ran = site.run("restore", SOURCE, "--to-lsn", lsn, "--into", copy, "--json")

    [outcome] = ran.answer["outcomes"]
    assert [one["objective"] for one in outcome["judgements"]] == ["rto"]
    assert [one["passed"] for one in outcome["questions"]] == [True] * len(outcome["questions"])
    assert any("facts" in one["question"] for one in outcome["questions"])
    assert any("it is not judged" in one["fact"] for one in outcome["findings"])


def test_the_backup_to_begin_with_can_be_named_and_what_cannot_be_is_refused(
    make_postgres: MakePostgres, site: Site
) -> None:
    """`--from-backup` as typed: the older of two, for a transaction behind the newer."""
    server = make_postgres(15)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy()
    site.run("repository", "init")
    server.query("CREATE TABLE facts (id int)")
    with site.receiving():
        first = site.run("backup", SOURCE, "--json").answer["backup_id"]
        second = site.run("backup", SOURCE, "--json").answer["backup_id"]
        with server.connect() as session:
            row = session.execute(
                "INSERT INTO facts VALUES (1) RETURNING pg_current_xact_id()::text"
            ).fetchone()
        assert row is not None
        site.mark_after(datetime.now(UTC))
    to_xid = ("restore", SOURCE, "--to-xid", str(row[0]))

    def planned(*words: str) -> str:
        plan = site.run(*words, "--plan", "--json").answer
        return str(plan["backup_id"])

    assert planned(*to_xid) == second
    assert planned(*to_xid, "--from-backup", first) == first
    nowhere = site.run(*to_xid, "--from-backup", "nothing", "--plan", code=4)
    assert f"There are: {first}, {second}." in nowhere.err
    both = ("restore", SOURCE, "--backup", second, "--from-backup", first)
    assert "exclude each other" in site.run(*both, "--plan", code=2).err
