"""The probe finds out what servers do, whatever they accept; and says it in plain words."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from drtool.errors import PlaceMissing, RepositoryUnavailable
from drtool.model.finding import Severity
from drtool.stores.capabilities import Capabilities, describe_capabilities
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.stores.open import open_store
from drtool.stores.probe import probe_store
from drtool.stores.protocol import Store
from drtool.stores.remote import RemoteStore
from drtool.system.clock import SystemClock
from tests.servers.object_stores import S3Server

CLOCK = SystemClock()


def probed(store: Store) -> Capabilities:
    found = probe_store(store, clock=CLOCK)
    assert [one.key for one in store.list("")] == [], "the probe left something behind"
    assert found.clock_skew is not None
    assert abs(found.clock_skew) < timedelta(seconds=30)
    return found


def test_seaweedfs_honours_everything_but_the_order(seaweedfs: S3Server) -> None:
    """PITFALLS 73: with the checksums of newer clients."""
    found = probed(open_store(seaweedfs.new_url(), clock=CLOCK))

    assert found.creates_atomically
    assert found.replaces_if_matching
    assert found.reads_after_write
    assert found.ranges
    assert found.refuses_wrong_checksum is True
    assert found.versioning is False
    assert found.object_lock is False
    assert not found.lists_in_order


def test_moto_honours_conditions_and_accepts_wrong_checksums(moto_s3: S3Server) -> None:
    found = probed(open_store(moto_s3.new_url(), clock=CLOCK))

    assert found.creates_atomically
    assert found.replaces_if_matching
    assert found.ranges
    assert found.lists_in_order
    assert found.refuses_wrong_checksum is False


def test_rclone_is_found_out_not_to_honour_conditions(rclone_s3: S3Server) -> None:
    """Several servers accept If-None-Match and overwrite all the same."""
    store = open_store(rclone_s3.new_url(), clock=CLOCK)
    assert isinstance(store, RemoteStore)
    assert store.creates_atomically, "so it is believed until it was probed"

    found = probed(store)

    assert not found.creates_atomically
    assert not found.replaces_if_matching
    assert found.reads_after_write
    assert not store.with_capabilities(found).creates_atomically
    said = describe_capabilities(found)
    assert any("If-None-Match" in one.fact and "single writer" in one.fact for one in said)
    assert any("If-Match" in one.fact for one in said)


def test_versions_are_seen_and_none_of_the_probes_own_is_left(moto_s3: S3Server) -> None:
    bucket = moto_s3.new_bucket()
    client = moto_s3.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    found = probed(open_store(moto_s3.url(bucket, "main"), clock=CLOCK))

    assert (found.versioning, found.object_lock, found.outlives_deletion) == (True, False, False)
    assert {"Versions", "DeleteMarkers"}.isdisjoint(client.list_object_versions(Bucket=bucket))
    said = [one.fact for one in describe_capabilities(found)]
    assert any("keeps versions, but these credentials may delete them" in fact for fact in said)


def test_a_directory_and_memory_do_what_they_promise(tmp_path: Path) -> None:
    for store in (LocalStore(tmp_path, clock=CLOCK), MemoryStore()):
        found = probed(store)

        assert found.creates_atomically
        assert found.replaces_if_matching
        assert found.reads_after_write
        assert found.ranges
        assert found.lists_in_order
        assert found.versioning is None
    assert list(tmp_path.rglob("*/*")) == []


def test_a_store_that_cannot_be_asked_has_no_abilities_to_tell(seaweedfs: S3Server) -> None:
    """STYLE 7: not measured is not met."""
    with pytest.raises(PlaceMissing):
        probe_store(open_store(seaweedfs.url("no-such-bucket"), clock=CLOCK), clock=CLOCK)


def test_abilities_survive_being_written_down() -> None:
    for found in (
        Capabilities(
            creates_atomically=True,
            replaces_if_matching=False,
            reads_after_write=True,
            ranges=True,
            lists_in_order=False,
            refuses_wrong_checksum=None,
            versioning=True,
            object_lock=False,
            outlives_deletion=False,
            clock_skew=timedelta(seconds=-1.5),
        ),
        probe_store(MemoryStore(), clock=CLOCK),
    ):
        record = json.loads(json.dumps(found.to_json()))

        assert Capabilities.from_json(record) == found


@pytest.mark.parametrize(
    "change",
    [{"ranges": "yes"}, {"ranges": None}, {"versioning": 1}, {"clock_skew_seconds": "soon"}],
)
def test_abilities_that_cannot_be_read_are_not_guessed(change: dict[str, object]) -> None:
    record = probe_store(MemoryStore(), clock=CLOCK).to_json() | change

    with pytest.raises(RepositoryUnavailable, match=next(iter(change))):
        Capabilities.from_json(record)


def test_every_missing_ability_is_said_and_the_worst_first() -> None:
    nothing = Capabilities(
        creates_atomically=False,
        replaces_if_matching=False,
        reads_after_write=False,
        ranges=False,
        lists_in_order=False,
        refuses_wrong_checksum=False,
        versioning=False,
        object_lock=False,
        outlives_deletion=False,
        clock_skew=timedelta(minutes=-20),
    )
    everything = Capabilities(
        creates_atomically=True,
        replaces_if_matching=True,
        reads_after_write=True,
        ranges=True,
        lists_in_order=True,
        refuses_wrong_checksum=True,
        versioning=True,
        object_lock=True,
        outlives_deletion=True,
        clock_skew=timedelta(seconds=1),
    )

    said = describe_capabilities(nothing)

    assert len(said) == 8
    assert said[0].severity is Severity.PROBLEM
    assert any("1200 s behind" in one.fact for one in said)
    assert describe_capabilities(everything) == []
