"""A server's clock that jumped: marks with times that cannot be prove nothing to anybody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from drtool.model.objective import Mark
from drtool.model.target import ToLatest
from drtool.repository.backups import read_manifests
from drtool.repository.keys import NO_SECRET
from drtool.repository.layout import Lineage
from drtool.repository.marks import put_mark
from drtool.repository.repository import open_repository
from drtool.restore.look import look
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from tests.acceptance.site import SOURCE, Site
from tests.restore.rig import rows, started
from tests.servers.postgres import new_server, server_directory

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def past() -> Iterator[Site]:
    """A machine with a backup and some WAL of a server that is gone. Leave it as it was."""
    server = new_server(15, segment_mb=1)
    site = Site(root=server_directory(), environ={"MAIN_DB_DSN": server.dsn()})
    try:
        server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
        site.write_policy()
        site.run("repository", "init")
        with site.receiving():
            site.run("backup", SOURCE)
            server.query("INSERT INTO ledger VALUES (1)")
            site.mark_after(datetime.now(UTC))
        server.kill9()
        yield site
    finally:
        server.close()
        shutil.rmtree(site.root, ignore_errors=True)


@pytest.fixture(
    params=[timedelta(hours=2), timedelta(days=400), -timedelta(days=400), -timedelta(hours=2)],
    ids=["2 hours ahead", "400 days ahead", "400 days behind", "2 hours behind"],
)
def jumped(request: pytest.FixtureRequest, past: Site, site: Site) -> Site:
    """The same, where the newest WAL bears a mark that was made while the server's clock was wrong."""
    shutil.copytree(past.repository, site.repository)
    site.environ.update(past.environ)
    site.write_policy()
    repository = open_repository(LocalStore(site.repository, clock=SystemClock()), NO_SECRET)
    extent = read_manifests(repository, SOURCE)[0][-1].postgres
    end = look(repository, SOURCE, ToLatest()).candidates[-1].chain.end
    lineage = Lineage(SOURCE, extent.system_id, extent.timeline)
    put_mark(repository, lineage, Mark(datetime.now(UTC) + request.param, end, extent.timeline))
    return site


def test_a_moment_ahead_of_now_is_no_proof_that_nothing_would_be_lost(jumped: Site) -> None:
    """PITFALLS 74, promise 7: the RPO is never negative, the window never upside down, and what
    cannot be told is UNKNOWN.
    """
    row = jumped.status()

    latest = datetime.fromisoformat(row["latest"])
    assert latest >= datetime.fromisoformat(row["earliest"])
    if latest > datetime.now(UTC):
        assert (row["verdict"], row["rpo_now"]) == ("UNKNOWN", None)
        assert [found["subject"] for found in row["findings"]].count("clocks") == 1
    else:
        assert row["rpo_now"]["at_most_seconds"] >= row["rpo_now"]["at_least_seconds"] >= 0


def test_what_was_committed_comes_back_all_the_same(jumped: Site) -> None:
    """And a loss that nobody can tell is not called none."""
    place = jumped.root / "copy"
    is_ahead = datetime.fromisoformat(jumped.status()["latest"]) > datetime.now(UTC)

    report = jumped.run("restore", "--to", "latest", "--into", str(place), "--json", code=None)

    [judgement] = [j for j in report.answer["outcomes"][0]["judgements"] if j["objective"] == "rpo"]
    assert (judgement["verdict"] == "UNKNOWN") == is_ahead
    assert is_ahead or judgement["measured"]["at_most_seconds"] >= 0
    with started(15, place) as copy:
        assert rows(copy) == [1]
