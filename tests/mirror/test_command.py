"""`drtool sync` as a person types it, against a plain server."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from drtool.errors import ExitCode
from drtool.repository.lease import Lease
from drtool.stores.open import open_store
from drtool.system.clock import SystemClock
from tests.mirror.rig import contents
from tests.servers.object_stores import SHARED_BUCKET, S3Server

pytestmark = pytest.mark.object_store

PROGRAM = [sys.executable, "-c", "from drtool.cli.main import main; main()"]
ROOT = Path(__file__).parent.parent.parent
POLICY = """\
version: 1
stack: shop
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: "file:{root}/drtool.key"}}
sources:
  uploads: {{kind: files, path: {root}/tree, mirror: "{mirror}", exclude: ["*.tmp"]}}
  copies: {{kind: bucket, url: "{mirror}", mirror: "{other}"}}
  private: {{kind: files, path: {root}/tree}}
retention: {{recovery_window: 14d, minimum: 1}}
"""


class Site:
    """A policy with a tree, on a machine of its own."""

    def __init__(self, root: Path, server: S3Server) -> None:
        self.root = root
        self.tree = root / "tree"
        self.tree.mkdir(parents=True)
        prefix = uuid.uuid4().hex[:8]
        text = POLICY.format(
            root=root,
            mirror=server.url(SHARED_BUCKET, f"{prefix}/up"),
            other=server.url(SHARED_BUCKET, f"{prefix}/other"),
        )
        (root / "policy.yaml").write_text(text)
        # A random key, which no command has to stretch.
        (root / "drtool.key").touch(mode=0o600)
        (root / "drtool.key").write_text(secrets.token_hex(32))
        self.run("repository", "init")

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        """The answer to a command, as JSON."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(self.root / "cache"),
        }
        command = [*PROGRAM, *words, "--policy", str(self.root / "policy.yaml"), "--json", "-q"]
        done = subprocess.run(
            command,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture
def site(tmp_path: Path, rclone_s3: S3Server) -> Site:
    """A tree of three files, one of them left out."""
    site = Site(tmp_path, rclone_s3)
    for name in ("a", "b", "c.tmp"):
        (site.tree / name).write_text(name)
    return site


def test_a_tree_goes_up_and_comes_back(site: Site) -> None:
    planned = site.run("sync", "uploads", "--dry-run")
    done = site.run("sync", "uploads")
    into = site.root / "out"
    site.run("sync", "uploads", "--restore", "--to", "latest", "--into", str(into))

    assert (planned["kind"], planned["new"]) == ("sync-plan", 2)
    assert (done["kind"], done["put_files"]) == ("sync", 2)
    assert contents(into) == {b"a": b"a", b"b": b"b"}


def test_all_sources_with_a_mirror_are_meant_where_none_is_named(site: Site) -> None:
    done = site.run("sync")

    assert [item["source"] for item in done["items"]] == ["uploads", "copies"]
    assert [item["put_files"] for item in done["items"]] == [2, 2]


def test_a_source_that_fails_keeps_no_other_from_its_mirror(site: Site) -> None:
    site.run("sync")
    for path in site.tree.iterdir():
        path.unlink()

    ended = site.run("sync", code=ExitCode.SOURCE_UNAVAILABLE)

    failed, done = ended["items"]
    assert "uploads" in failed["message"]
    assert (done["source"], done["kind"]) == ("copies", "sync")


def test_an_emptied_source_is_unavailable_and_says_what_to_do(site: Site) -> None:
    """PITFALLS 86."""
    site.run("sync", "uploads")
    for path in site.tree.iterdir():
        path.unlink()

    failed = site.run("sync", "uploads", code=ExitCode.SOURCE_UNAVAILABLE)
    planned = site.run("sync", "uploads", "--dry-run", code=ExitCode.INTEGRITY)

    assert "empty" in failed["message"]
    assert "mounted" in failed["hint"]
    assert "empty" in planned["findings"][0]["fact"]


def test_a_second_run_at_the_same_time_is_refused(site: Site) -> None:
    class Store:
        store = open_store(f"file://{site.root}/repository", clock=SystemClock())

    with Lease(Store(), "mirror-uploads", clock=SystemClock()):
        failed = site.run("sync", "uploads", code=ExitCode.LEASE_HELD)

    assert "mirror-uploads" in failed["message"]


def test_a_source_without_a_mirror_is_a_mistake_in_the_policy(site: Site) -> None:
    failed = site.run("sync", "private", code=ExitCode.USAGE)

    assert "private has no mirror" in failed["message"]


def test_a_restore_says_what_it_needs(site: Site) -> None:
    failed = site.run("sync", "uploads", "--restore", code=ExitCode.USAGE)
    other = site.run("sync", "uploads", "--to", "latest", code=ExitCode.USAGE)

    assert "--into" in failed["hint"]
    assert "--restore" in other["hint"]


def test_a_second_stack_does_not_take_over_the_mirror_of_the_first(
    tmp_path: Path, seaweedfs: S3Server
) -> None:
    """Issue 8.15: its run would delete the first one's files, and its restore would give them."""
    first = Site(tmp_path / "first", seaweedfs)
    (first.tree / "mine").write_text("first")
    first.run("sync", "uploads")
    second = Site(tmp_path / "second", seaweedfs)
    (second.tree / "mine").write_text("second")
    text = (first.root / "policy.yaml").read_text()
    text = text.replace("stack: shop", "stack: archive").replace(str(first.root), str(second.root))
    (second.root / "policy.yaml").write_text(text)
    into = second.root / "back"

    second.run("sync", "uploads", code=ExitCode.SOURCE_UNAVAILABLE)
    second.run(
        "sync", "uploads", "--restore", "--to", "latest", "--into", str(into),
        code=ExitCode.NOT_RECOVERABLE,
    )  # fmt: skip
    first.run("sync", "uploads", "--restore", "--to", "latest", "--into", str(first.root / "back"))
    assert contents(first.root / "back") == contents(first.tree)
    second.run("sync", "uploads", "--accept-source")
    second.run("sync", "uploads")
    second.run("sync", "uploads", "--restore", "--to", "latest", "--into", str(into))

    assert contents(into) == contents(second.tree)
