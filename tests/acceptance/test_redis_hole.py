"""What a receiver does about a hole: without anybody looking, all is recoverable again behind it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.acceptance.redis_groups import Alone
from tests.acceptance.redis_story import recorded_holes, snapshot_moments, wait_joined, write_policy
from tests.acceptance.site import Site, until
from tests.servers.postgres import server_directory

pytestmark = pytest.mark.redis
RECEIVE = ("redis", "receive", "cache")


@pytest.fixture
def site() -> Iterator[Site]:
    root = server_directory()
    yield Site(root=root)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def alone() -> Iterator[Alone]:
    group = Alone()
    yield group
    group.close()


def test_behind_a_hole_a_new_snapshot_is_taken_at_once(site: Site, alone: Alone) -> None:
    """A server that was restarted has another history: its stream leads on from no old snapshot."""
    [server] = alone.nodes
    write_policy(site, alone)
    site.run("repository", "init")
    receiver = site.start(*RECEIVE)
    try:
        wait_joined(site, alone)
        site.run("backup", "cache")
        server.kill9()
        server.start()
        with server.client() as client:
            client.set("behind", "the hole")
        until(lambda: len(snapshot_moments(site.repository)) == 2, "the receiver has one taken")
        with server.client() as client:
            client.set("later", "still")
        # One shard, one hole, one snapshot; and the stream is joined to it.
        until(
            lambda: site.run(*RECEIVE[:1], "status", "cache", code=None).code == 0, "it is joined"
        )
        assert len(recorded_holes(site.repository)) == 1
    finally:
        receiver.terminate()
        ended = site.finished(receiver, RECEIVE, code=None)
    assert ended.code == 0, str(ended)
    assert "a new one is taken now" in ended.err
    assert "a new snapshot is taken, behind the hole" in ended.err
    report = site.run("restore", "cache", "--to", "latest", code=None)
    assert report.code == 0, str(report)
