"""`check` and `init` say of a server whether the link to it crosses a network unprotected."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from drtool.check.links import check_link
from drtool.stores.place import VERIFY, link_of
from tests.check.rig import Stack, part
from tests.postgres.test_links import own_address
from tests.servers.postgres import TRUST, new_server, server_directory
from tests.servers.redis import new_redis
from tests.wiring.test_init import init

SOURCES = """\
  db: {kind: postgres, dsn: "env:DB_DSN", wal: {mode: stream, slot: none}}
  cache: {kind: redis, topology: standalone, nodes: ["%s"]}
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A PostgreSQL and a Redis that are spoken to by an address that is not loopback, in clear text."""
    with ExitStack() as held:
        listening = f"127.0.0.1,{own_address()}"
        server = new_server(15, settings={"listen_addresses": listening})
        held.callback(server.close)
        server.write_hba(f"{TRUST}\nhost all,replication all {own_address()}/32 trust")
        server.restart()
        cache = new_redis(settings={"bind": f"127.0.0.1 {own_address()}", "protected-mode": "no"})
        held.callback(cache.close)
        root = server_directory()
        held.callback(shutil.rmtree, root)
        nodes = f"{own_address()}:{cache.port}"
        environ = {"DB_DSN": server.dsn(host=own_address()), "CACHE_DSN": f"redis://{nodes}"}
        stack = Stack(root=root, sources=SOURCES % nodes, environ=environ)
        stack.init()
        yield stack


def test_check_says_of_each_server_that_its_link_is_in_clear_text(stack: Stack) -> None:
    report = stack.check()

    for name in ("db", "cache"):
        told = [one for one in part(report, name).findings if "in clear text" in one.fact]
        assert len(told) == 1, part(report, name).findings
        assert "verify-full" in told[0].fix or "tls" in told[0].fix
    assert not [one for one in part(report, "repository").findings if "clear text" in one.fact]


def test_init_says_so_too_and_proposes_what_to_add(stack: Stack, tmp_path: Path) -> None:
    sheet = init(tmp_path / "shop.yaml", **stack.environ)

    fixes = [one.fix for one in sheet.findings if "in clear text" in one.fact]
    assert len(fixes) == 2
    assert any("sslmode=verify-full" in fix for fix in fixes)
    assert "sslmode=verify-full" in (tmp_path / "shop.yaml").read_text()


@pytest.mark.parametrize(
    ("url", "is_told"),
    [
        ("s3://shop/main?endpoint=http://192.0.2.7:9000", True),
        ("s3://shop/main?endpoint=https://192.0.2.7:9000", False),
        ("s3://shop/main?endpoint=http://127.0.0.1:9000", False),
        ("s3://shop/main?endpoint=http://[::1]:9000", False),
        ("s3://shop/main", False),
        ("file:///srv/drtool", False),
    ],
)
def test_a_store_without_tls_across_a_network_is_told(url: str, is_told: bool) -> None:
    findings = list(check_link(url, link_of(url), fix=VERIFY))

    assert bool(findings) == is_told
