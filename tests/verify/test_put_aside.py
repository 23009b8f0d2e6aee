"""What somebody added to a bucket is told by a verification, and put aside by a repair."""

from __future__ import annotations

from drtool.model.progress import silent
from drtool.repository.keys import NO_SECRET
from drtool.repository.lease import Lease
from drtool.stores.open import open_store
from drtool.system.clock import SystemClock
from drtool.verify.depth import Quick
from drtool.verify.quarantine import movable, put_aside
from drtool.verify.repository import verify_repository
from tests.repository.building import new_repository
from tests.servers.object_stores import S3Server

JUNK = {
    "log/junk",
    "log/main/junk",
    "marks/junk",
    "marks/main/7/99999999T000000Z",
    "leases/wal-main",
}


def test_what_was_added_to_a_bucket_is_told_and_put_aside(moto_s3: S3Server) -> None:
    clock = SystemClock()
    bucket = moto_s3.new_bucket()
    store = open_store(moto_s3.url(bucket, "main"), clock=clock)
    repository = new_repository(store, NO_SECRET)
    before = {found.key for found in store.list("")}
    for key in JUNK:
        store.create(key, [b"junk"])

    outcome = verify_repository(
        repository, depth=Quick(), sources=["main"], emit=silent, clock=clock, seed=1
    )
    keys = movable(repository, outcome.foreign)
    became = put_aside(repository, keys, now=store.now(), emit=silent, clock=clock)

    assert set(became) == JUNK
    assert all("was put aside" in fact for fact in became.values())
    left = {
        found.key for found in store.list("") if not found.key.startswith(("quarantine/", "evi"))
    }
    assert left == {key for key in before if not key.startswith("evi")}
    with Lease(repository, "wal-main", clock=clock) as lease:
        assert lease.fencing == 1
