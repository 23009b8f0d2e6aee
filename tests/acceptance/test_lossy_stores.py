"""Commands on a store that acknowledges puts and keeps nothing, as gateways and full disks do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.site import Site
from tests.servers.object_stores import ENVIRONMENT, S3Server
from tests.servers.proxy import Acknowledge, Answer, proxied

pytestmark = pytest.mark.object_store

POLICY = """\
version: 1
stack: shop
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "{url}", key: none}}
sources:
  uploads: {{kind: files, path: "{tree}"}}
"""


def small_tree(site: Site) -> Path:
    tree = site.root / "tree"
    (tree / "below").mkdir(parents=True)
    for number in range(5):
        (tree / "below" / str(number)).write_bytes(bytes([number]) * 10_000)
    return tree


def test_the_command_ends_with_6_and_says_which_object_the_store_does_not_have(
    site: Site, seaweedfs: S3Server
) -> None:
    site.environ.update(ENVIRONMENT)
    tree = small_tree(site)
    url = seaweedfs.new_url()
    (site.root / "policies").mkdir()
    policy = site.root / "policies" / "shop.yaml"

    def keeps_no_packs(_number: int, line: str) -> Acknowledge | None:
        return Acknowledge() if line.startswith("PUT") and "/packs/" in line else None

    with proxied(seaweedfs.address) as proxy:
        over = url.replace(seaweedfs.endpoint, proxy.endpoint)
        policy.write_text(POLICY.format(url=over, tree=tree))
        site.run("repository", "init")
        proxy.choice = keeps_no_packs

        ran = site.run("backup", code=6)

        assert "acknowledged object packs/" in ran.err
        assert "it is not there" in ran.err
        assert site.status()["latest"] is None
        proxy.choice = lambda _number, _line: None
        site.run("backup")
        site.run("verify", "--whole")


def test_no_repository_is_made_in_a_store_that_keeps_nothing(
    site: Site, seaweedfs: S3Server
) -> None:
    site.environ.update(ENVIRONMENT)
    (site.root / "policies").mkdir()
    with proxied(seaweedfs.address) as proxy:
        url = seaweedfs.new_url().replace(seaweedfs.endpoint, proxy.endpoint)
        (site.root / "policies" / "shop.yaml").write_text(POLICY.format(url=url, tree="/srv"))
        proxy.choice = lambda _number, line: Acknowledge() if line.startswith("PUT") else None

        ran = site.run("repository", "init", code=6)

    assert "does not have what it has just acknowledged" in ran.err


def test_a_store_that_refuses_conditions_is_backed_up_into_by_a_single_writer(
    site: Site, seaweedfs: S3Server
) -> None:
    """Issue 8.6: it answers 501, as Backblaze B2 and others do."""
    site.environ.update(ENVIRONMENT)
    tree = small_tree(site)
    (site.root / "policies").mkdir()
    with proxied(seaweedfs.address) as proxy:
        url = seaweedfs.new_url().replace(seaweedfs.endpoint, proxy.endpoint)
        (site.root / "policies" / "shop.yaml").write_text(POLICY.format(url=url, tree=tree))
        refusal = Answer(501, "NotImplemented")
        proxy.by_header = {"if-none-match": refusal, "if-match": refusal}

        said = site.run("repository", "init").out
        site.run("backup")
        site.run("restore", "--to", "latest", "--into", str(site.root / "back"))
        site.run("verify", "--whole")

    assert "single writer" in said


def test_a_store_that_came_to_refuse_conditions_is_told_of(site: Site, seaweedfs: S3Server) -> None:
    site.environ.update(ENVIRONMENT)
    tree = small_tree(site)
    (site.root / "policies").mkdir()
    with proxied(seaweedfs.address) as proxy:
        url = seaweedfs.new_url().replace(seaweedfs.endpoint, proxy.endpoint)
        (site.root / "policies" / "shop.yaml").write_text(POLICY.format(url=url, tree=tree))
        site.run("repository", "init")
        proxy.by_header = {"if-none-match": Answer(501, "NotImplemented")}

        ran = site.run("backup")

    assert "refuses conditional puts" in ran.err
