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
