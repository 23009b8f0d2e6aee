"""What outlives a deletion is found by deleting, on servers that keep what they promise and on others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest

from drtool.stores.capabilities import Capabilities, describe_capabilities
from drtool.stores.open import open_store
from drtool.stores.probe import probe_store
from drtool.stores.protection import Protection, measured_protection, removed_with_versions
from drtool.stores.remote import RemoteStore
from drtool.system.clock import SystemClock
from tests.servers.object_stores import S3Server
from tests.servers.proxy import Answer, FaultProxy, proxied

CLOCK = SystemClock()
LOCK_HEADERS = frozenset({"x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date"})
LOCK_ENABLED = Answer(
    200,
    "OK",
    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>",
)
VERSIONING_ENABLED = Answer(
    200, "OK", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
)


def opened(url: str) -> RemoteStore:
    store = open_store(url, clock=CLOCK)
    assert isinstance(store, RemoteStore)
    return store


def locking_bucket(server: S3Server) -> str:
    """A bucket with object lock switched on and no default retention, as `create-bucket` makes it."""
    name = server.new_bucket()
    client = server.client()
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.put_object_lock_configuration(
        Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
    )
    return name


def with_default_retention(server: S3Server, bucket: str, mode: str) -> None:
    server.client().put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": mode, "Days": 1}},
        },
    )


def left_in(server: S3Server, bucket: str) -> list[str]:
    answer = server.client().list_object_versions(Bucket=bucket)
    return [one["Key"] for kind in ("Versions", "DeleteMarkers") for one in answer.get(kind, [])]


@contextmanager
def boasting(server: S3Server) -> Iterator[FaultProxy]:
    """In front of a server: it is said to keep versions and to lock objects, whatever it does."""

    def choose(_number: int, line: str) -> Answer | None:
        if "?object-lock" in line:
            return LOCK_ENABLED
        return VERSIONING_ENABLED if "?versioning" in line and line.startswith("GET") else None

    with proxied(server.address) as proxy:
        proxy.choice = choose
        yield proxy


def test_a_locked_version_that_outlives_its_deletion_is_a_lock_and_nothing_is_left_of_it(
    moto_s3: S3Server,
) -> None:
    """Switched on without a default retention: then drtool's own objects are not locked, and it says so."""
    bucket = locking_bucket(moto_s3)

    found = probe_store(opened(moto_s3.url(bucket, "main")), clock=CLOCK)

    assert (found.versioning, found.object_lock, found.outlives_deletion) == (True, True, False)
    assert found.left_behind is None
    assert left_in(moto_s3, bucket) == []
    said = [one for one in describe_capabilities(found) if "delet" in one.subject]
    assert len(said) == 1
    assert "locks objects, but not drtool's" in said[0].fact
    assert "delete every backup" in said[0].fact


@pytest.fixture(scope="module")
def of_seaweedfs(seaweedfs: S3Server) -> dict[str, Protection]:
    """What was found by the mode of the bucket's default retention; side by side, as each waits."""

    def measured(mode: str) -> Protection:
        bucket = locking_bucket(seaweedfs)
        if mode != "none":
            with_default_retention(seaweedfs, bucket, mode)
        store = opened(seaweedfs.url(bucket, "main"))
        found = measured_protection(store, "probe/x/", clock=CLOCK)
        is_removed = removed_with_versions(store, "probe/x/")
        assert is_removed is (left_in(seaweedfs, bucket) == [])
        assert is_removed is (mode != "COMPLIANCE")
        return found

    modes = ("none", "GOVERNANCE", "COMPLIANCE")
    with ThreadPoolExecutor(len(modes)) as threads:
        return dict(zip(modes, threads.map(measured, modes), strict=True))


@pytest.mark.parametrize("mode", ["none", "GOVERNANCE", "COMPLIANCE"])
def test_a_default_retention_protects_drtools_objects_unless_these_credentials_may_bypass_it(
    of_seaweedfs: dict[str, Protection], mode: str
) -> None:
    found = of_seaweedfs[mode]

    assert (found.versioning, found.object_lock) == (True, True)
    assert found.outlives_deletion is (mode == "COMPLIANCE")


def test_a_lock_that_is_switched_on_and_ignored_is_no_lock(moto_s3: S3Server) -> None:
    """The server takes the setting and never sees that an object is to be locked."""
    bucket = locking_bucket(moto_s3)

    with proxied(moto_s3.address) as proxy:
        proxy.hidden_headers = LOCK_HEADERS
        found = probe_store(
            opened(moto_s3.url(bucket, "main", endpoint=proxy.endpoint)), clock=CLOCK
        )

    assert (found.versioning, found.object_lock, found.outlives_deletion) == (True, False, False)
    assert left_in(moto_s3, bucket) == []


def test_a_server_that_shows_the_retention_and_deletes_keeps_nothing(rclone_s3: S3Server) -> None:
    """rclone gives `x-amz-object-lock-mode: COMPLIANCE` back, and deletes the object at once."""
    with boasting(rclone_s3) as proxy:
        store = opened(rclone_s3.new_url(endpoint=proxy.endpoint))
        found = measured_protection(store, "probe/x/", clock=CLOCK)

        assert any("?object-lock" in line for line in proxy.lines)
    assert (found.versioning, found.object_lock, found.outlives_deletion) == (False, False, False)


def test_versions_that_the_credentials_may_not_delete_are_protected_and_their_lock_is_not_known(
    moto_s3: S3Server,
) -> None:
    """As with a policy that denies s3:DeleteObjectVersion: then it is not the lock that was seen to hold."""
    bucket = locking_bucket(moto_s3)

    def choose(_number: int, line: str) -> Answer | None:
        is_version = line.startswith("DELETE") and "versionId=" in line
        return Answer(403, "AccessDenied") if is_version else None

    with proxied(moto_s3.address) as proxy:
        proxy.choice = choose
        store = opened(moto_s3.url(bucket, "main", endpoint=proxy.endpoint))
        found = probe_store(store, clock=CLOCK)

    assert (found.versioning, found.object_lock, found.outlives_deletion) == (True, None, True)
    assert found.left_behind is not None
    assert all(key.startswith(f"main/{found.left_behind}") for key in left_in(moto_s3, bucket))
    said = describe_capabilities(found)
    assert any(found.left_behind in one.fact for one in said)
    assert not any("delete every backup" in one.fact for one in said)


def test_a_server_that_does_not_answer_is_not_known_to_protect_anything(moto_s3: S3Server) -> None:
    bucket = locking_bucket(moto_s3)

    def choose(_number: int, line: str) -> Answer | None:
        is_version = line.startswith("DELETE") and "versionId=" in line
        return Answer(408, "NotNow") if is_version else None

    with proxied(moto_s3.address) as proxy:
        proxy.choice = choose
        store = opened(moto_s3.url(bucket, "main", endpoint=proxy.endpoint))
        found = measured_protection(store, "probe/x/", clock=CLOCK)

    assert (found.versioning, found.object_lock, found.outlives_deletion) == (True, None, None)


def test_what_was_recorded_from_the_settings_alone_is_not_believed() -> None:
    record = Capabilities(
        creates_atomically=True,
        replaces_if_matching=True,
        reads_after_write=True,
        ranges=True,
        lists_in_order=True,
        versioning=True,
        object_lock=True,
        outlives_deletion=True,
        clock_skew=timedelta(0),
    ).to_json()
    earlier = {name: value for name, value in record.items() if name != "outlives_deletion"}

    now, then = (Capabilities.from_json(json.loads(json.dumps(one))) for one in (record, earlier))

    assert (now.versioning, now.object_lock, now.outlives_deletion) == (True, True, True)
    assert (then.versioning, then.object_lock, then.outlives_deletion) == (None, None, None)
    assert describe_capabilities(now) == []
    assert any(
        "not known to keep deleted objects" in one.fact for one in describe_capabilities(then)
    )
