"""The same over S3: on a server that honours everything, on one that ignores conditions, on none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.config.policy_file import parse_policy
from drtool.errors import RepositoryUnavailable
from drtool.model.target import ToLatest
from drtool.repository.keys import KeySecret, SlotKind
from drtool.repository.repository import open_repository
from drtool.stores.place import RemotePlace, parse_place
from drtool.stores.remote import RemoteStore
from drtool.stores.remote_client import RemoteLimits
from drtool.system.clock import SystemClock
from tests.acceptance.site import SOURCE, Site, until
from tests.restore.rig import IMPATIENT, restore, rows, started
from tests.servers.object_stores import ENVIRONMENT, S3Server
from tests.servers.postgres import PostgresServer, give_to_server_user, new_server, server_directory
from tests.servers.proxy import Answer, Choice, Fault, Reset, proxied

pytestmark = [pytest.mark.postgres, pytest.mark.object_store]
KEY = "correct horse battery staple"


def source_with_rows() -> PostgresServer:
    server = new_server(15, segment_mb=1)
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    server.query("INSERT INTO ledger VALUES (1)")
    return server


def protect(site: Site, server: PostgresServer, url: str) -> str:
    """Initialise, receive, back up, write 2 and 3; what `repository init` said."""
    site.environ.update(ENVIRONMENT, MAIN_DB_DSN=server.dsn(), DRTOOL_KEY=KEY)
    site.write_policy(url=url, key="env:DRTOOL_KEY", flush="250ms")
    said = site.run("repository", "init").out
    site.run("backup", SOURCE)
    with site.receiving():
        server.query("INSERT INTO ledger VALUES (2)")
        for _ in range(6):
            server.query("SELECT pg_logical_emit_message(true, 'test', repeat(md5('x'), 20000))")
        server.query("INSERT INTO ledger VALUES (3)")
        after = datetime.now(UTC)
        until(lambda: (newest := site.status()["latest"]) and is_after(newest, after), "a mark")
    return said


def is_after(moment: str, other: datetime) -> bool:
    return datetime.fromisoformat(moment) > other


@pytest.fixture(scope="module")
def on_seaweedfs(seaweedfs: S3Server) -> Iterator[Site]:
    """A machine whose backups are on SeaweedFS, and whose server is gone."""
    server, site = source_with_rows(), Site(root=server_directory())
    try:
        protect(site, server, seaweedfs.new_url())
        server.kill9()
        yield site
    finally:
        server.close()
        shutil.rmtree(site.root, ignore_errors=True)


def test_a_cluster_comes_back_from_an_object_store(on_seaweedfs: Site) -> None:
    place = on_seaweedfs.root / "copy"

    on_seaweedfs.run("restore", SOURCE, "--to", "latest", "--into", str(place))

    on_seaweedfs.run("verify", "--whole")
    with started(15, place) as copy:
        assert rows(copy) == [1, 2, 3]


def leaving(fault: Fault) -> Choice:
    """The store answers until the third object of the log is read, and from then on with `fault`."""
    segments: set[str] = set()

    def choose(_number: int, line: str) -> Fault | None:
        if line.startswith("GET") and "/log/" in line and "list-type" not in line:
            segments.add(line)
        return fault if len(segments) > 2 else None

    return choose


@pytest.fixture
def half(on_seaweedfs: Site) -> Path:
    """Where a restore will fail; its log is nobody else's."""
    parent = on_seaweedfs.root / "failing"
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir()
    give_to_server_user(parent)
    return parent / "half"


def test_a_store_that_refuses_in_mid_replay_never_ends_in_a_shortened_database(
    on_seaweedfs: Site, seaweedfs: S3Server, half: Path
) -> None:
    """PITFALLS 39, 40, promise 4: with `--to latest` nothing but the store says where the WAL ends."""
    policy = on_seaweedfs.root / "policies" / "shop.yaml"
    before = policy.read_text()
    with proxied(seaweedfs.address) as proxy:
        proxy.choice = leaving(Answer(403, "AccessDenied"))
        policy.write_text(before.replace(seaweedfs.endpoint, proxy.endpoint))
        try:
            ran = on_seaweedfs.run("restore", "--to", "latest", "--into", str(half), code=6)
        finally:
            policy.write_text(before)

    assert "AccessDenied" in ran.err or "refuse" in ran.err
    assert f"lies in {half}" in ran.err
    refuses_to_start(half)


def test_a_store_that_vanishes_in_mid_replay_never_ends_in_a_shortened_database(
    on_seaweedfs: Site, seaweedfs: S3Server, half: Path
) -> None:
    """The same where connections are reset; by a restore that is less patient than a user's."""
    text = (on_seaweedfs.root / "policies" / "shop.yaml").read_text()
    url = str(parse_policy(text, "the policy").repository.url)
    secret = KeySecret(SlotKind.PASSPHRASE, KEY.encode())
    with proxied(seaweedfs.address) as proxy:
        place = parse_place(url.replace(seaweedfs.endpoint, proxy.endpoint))
        assert isinstance(place, RemotePlace)
        store = RemoteStore(place, clock=SystemClock(), limits=RemoteLimits(retries=IMPATIENT))
        repository = open_repository(store, secret)
        proxy.choice = leaving(Reset())

        with pytest.raises(RepositoryUnavailable) as caught:
            restore(repository, half, target=ToLatest())
        store.close()

    assert str(half) in caught.value.hint
    refuses_to_start(half)


def refuses_to_start(place: Path) -> None:
    """Started by hand it stops by itself, and has never taken a connection."""
    server = PostgresServer(place.parent, 15)
    server.data = place
    server.start(wait=False)
    until(lambda: not server.is_running, "it stops by itself")
    server.stop()
    assert "FATAL" in server.log_text()
    assert "ready to accept connections" not in server.log_text()
    assert "archive recovery complete" not in server.log_text()


def test_a_store_that_ignores_conditions_is_said_to_need_a_single_writer(
    site: Site, rclone_s3: S3Server
) -> None:
    server = source_with_rows()
    try:
        said = protect(site, server, rclone_s3.url(rclone_s3.new_bucket(), "main"))
    finally:
        server.close()
    place = site.root / "copy"

    site.run("restore", SOURCE, "--to", "latest", "--into", str(place))

    assert "one machine" in said or "single writer" in said, said
    with started(15, place) as copy:
        assert rows(copy) == [1, 2, 3]
