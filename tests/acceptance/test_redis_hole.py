"""What a receiver does about a gap: without anybody looking, all is recoverable again behind it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.redis_groups import Alone
from tests.acceptance.redis_story import (
    moment_of,
    recorded_holes,
    snapshot_moments,
    wait_archived,
    wait_joined,
    write_policy,
)
from tests.acceptance.site import Ran, Site, until
from tests.restore.redis_rig import started_by
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
            client.set("behind", "the gap")
        until(lambda: len(snapshot_moments(site.repository)) == 2, "the receiver has one taken")
        with server.client() as client:
            client.set("later", "still")
        # One shard, one gap, one snapshot; and the stream is joined to it.
        until(
            lambda: site.run(*RECEIVE[:1], "status", "cache", code=None).code == 0, "it is joined"
        )
        assert len(recorded_holes(site.repository)) == 1
    finally:
        receiver.terminate()
        ended = site.finished(receiver, RECEIVE, code=None)
    assert ended.code == 0, str(ended)
    assert "a new one is taken by itself" in ended.err
    assert "a new snapshot is taken, behind the gap" in ended.err
    report = site.run("restore", "cache", "--to", "latest", code=None)
    assert report.code == 0, str(report)
    # The newest pieces go, as by a bucket's rule: what is left looks like a log that ends there.
    log = site.repository / "log" / "cache"
    newest = max(log.glob("*/begins/*"), key=lambda word: word.stat().st_mtime).parent.parent
    for piece in newest.glob("*-*"):
        piece.unlink()
    status = site.run("status", "cache", "--json", code=7)
    plan = site.run("restore", "cache", "--to", "latest", "--plan", code=7)
    less = site.run("restore", "cache", "--to", "latest", "--into", "less", "--json", code=7)
    [row] = status.answer["rows"]
    assert row["rpo_now"] is None
    assert "nothing of it is held, and was archived up to" in plan.out, str(plan)
    [outcome] = less.answer["outcomes"]
    loss = [one for one in outcome["judgements"] if one["objective"] == "rpo"]
    assert [one["verdict"] for one in loss] == ["UNKNOWN"], str(less)
    assert "was archived up to" in loss[0]["explanation"]


def backup_behind_the_receiver(site: Site) -> Ran:
    """A backup, once the one that the receiver tries by itself no longer holds the lease."""
    ran: list[Ran] = []

    def is_free() -> bool:
        ran.append(site.run("backup", "cache", code=None))
        return ran[-1].code != 9

    until(is_free, "the receiver's own backup has ended")
    return ran[-1]


def test_a_master_that_comes_back_empty_keeps_the_old_window_until_that_is_accepted(
    site: Site, alone: Alone
) -> None:
    """Its stream goes on with another history and one key: that becomes no base without a word."""
    [server] = alone.nodes
    write_policy(site, alone)
    site.run("repository", "init")
    receiver = site.start(*RECEIVE)
    try:
        wait_joined(site, alone)
        with server.client() as client:
            client.mset({f"key:{number}": number for number in range(1000)})
        site.run("backup", "cache")
        with server.client() as client:
            client.set("streamed", 1)
        # Moments of a stream lie a tenth of a second apart: the one that is asked for lies behind its bytes.
        wait_archived(site, time.time())
        stamp = time.time()
        with server.client() as client:
            client.set("after", 1)
        wait_archived(site, stamp)
        server.kill9()
        shutil.rmtree(server.root / "appendonlydir")
        server.start()
        with server.client() as client:
            client.set("born", "empty")
        until(lambda: recorded_holes(site.repository), "the receiver follows the new history")

        refused = backup_behind_the_receiver(site)
        latest = site.run("restore", "cache", "--to", "latest", "--plan", code=4)
        check = site.run("check", "cache", code=None)
        status = site.run("status", "cache", code=4)
        back = site.run(
            "restore",
            "cache",
            "--to",
            moment_of(stamp).isoformat(),
            "--into",
            "old",
            "--json",
            code=None,
        )
    finally:
        receiver.terminate()
        ended = site.finished(receiver, RECEIVE, code=None)

    assert refused.code == 5, str(refused)
    assert "held 1,001 keys" in refused.err or "held 1,000 keys" in refused.err, str(refused)
    assert "--accept-source" in refused.err
    assert "has a gap after" in latest.err, str(latest)
    assert check.code != 0
    assert "most of its keys are gone" in check.out, str(check)
    assert "no snapshot was taken behind it" in status.out, str(status)
    assert len(snapshot_moments(site.repository)) == 1
    assert back.code == 0, str(back)
    with started_by(back.answer["outcomes"][0]["how_to_start"]) as [copy]:
        assert copy.exists("key:0", "key:999", "streamed") == 3
    assert "was not backed up" in ended.err, str(ended)

    site.run("backup", "cache", "--accept-source")

    assert "the window has a break" in site.run("status", "cache", code=None).out
    fresh = site.run("restore", "cache", "--to", "latest", "--into", "new", "--json", code=None)
    assert fresh.code == 0, str(fresh)
    with started_by(fresh.answer["outcomes"][0]["how_to_start"]) as [copy]:
        assert (copy.exists("born"), copy.exists("key:0")) == (1, 0)
