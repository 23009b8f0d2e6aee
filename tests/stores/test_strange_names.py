"""Names in a bucket that no key of ours can have: they are passed over, and hide nothing beside them."""

from __future__ import annotations

import pytest

from drtool.stores.open import open_store
from drtool.system.clock import SystemClock
from tests.servers.object_stores import S3Server

STRANGE = (
    "log/a//x",
    "log/a/./x",
    "log/a/../x",
    "log/a/\x1b[2Jx",
    "log/a\\b",
    "log/a/.drtool-1.tmp",
    "log//b",
    "/x",
)


@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_name_hides_nothing_and_ends_no_listing(moto_s3: S3Server, strange: str) -> None:
    bucket = moto_s3.new_bucket()
    store = open_store(moto_s3.url(bucket, "main"), clock=SystemClock())
    for key in ("log/a/one", "log/a/two", "log/z/three"):
        store.create(key, [b"ours"])
    moto_s3.client().put_object(Bucket=bucket, Key=f"main/{strange}", Body=b"strange")

    assert [found.key for found in store.list("log/")] == ["log/a/one", "log/a/two", "log/z/three"]
    assert [found.key for found in store.list("log/a/")] == ["log/a/one", "log/a/two"]
    assert store.list_directories("log/") == ["a", "z"]
    assert store.list_directories("") == ["log"]
