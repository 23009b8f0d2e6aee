"""A bad network between drtool and its store: the call ends right or says so, and ends at all."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.errors import (
    AccessDenied,
    AlreadyExists,
    NotSupported,
    ObjectMissing,
    PlaceMissing,
    RepositoryUnavailable,
)
from drtool.stores.capabilities import Capabilities
from drtool.stores.place import RemotePlace, parse_place
from drtool.stores.probe import probe_store
from drtool.stores.remote import RemoteStore
from drtool.stores.remote_client import RemoteLimits
from drtool.system.clock import SystemClock
from drtool.system.retry import RetryLimits
from tests.servers.object_stores import (
    ACCESS_KEY,
    SECRET_KEY,
    SHARED_BUCKET,
    S3Server,
)
from tests.servers.ports import free_port
from tests.servers.proxy import (
    Answer,
    CutAnswer,
    CutRequest,
    Delay,
    Fault,
    FaultProxy,
    LoseAnswer,
    Reset,
    Silence,
    always,
    every_other,
    first,
    proxied,
)

QUICK = RemoteLimits(
    connect_seconds=2,
    read_stall_seconds=2,
    read_seconds=20,
    write_seconds=10,
    retries=RetryLimits(attempts=4, within_seconds=30, first_pause_seconds=0.02),
)
PASSING: list[Fault] = [
    CutAnswer(0),
    CutAnswer(100),
    CutAnswer(400_000),
    CutRequest(0),
    CutRequest(300_000),
    LoseAnswer(),
    Reset(),
    Delay(0.5),
    Answer(500, "InternalError"),
    Answer(503, "ServiceUnavailable"),
    Answer(503, "SlowDown"),
    Answer(429, "TooManyRequests"),
]
LASTING: list[Fault] = [
    CutAnswer(0),
    CutAnswer(400_000),
    LoseAnswer(),
    Reset(),
    Answer(500, "InternalError"),
    Answer(503, "SlowDown"),
]
IN_ORDER = Capabilities(
    creates_atomically=True,
    replaces_if_matching=True,
    reads_after_write=True,
    ranges=True,
    lists_in_order=True,
)
CONTENT = random.Random(73).randbytes(2_000_000)


def remote(url: str) -> RemoteStore:
    place = parse_place(url)
    assert isinstance(place, RemotePlace)
    return RemoteStore(place, clock=SystemClock(), limits=QUICK)


@pytest.fixture
def proxy(seaweedfs: S3Server) -> Iterator[FaultProxy]:
    with proxied(seaweedfs.address) as found:
        yield found


@pytest.fixture
def stores(seaweedfs: S3Server, proxy: FaultProxy) -> tuple[RemoteStore, RemoteStore]:
    """The same place, over the proxy and beside it."""
    prefix = f"faults/{time.monotonic_ns()}"
    return (
        remote(seaweedfs.url(SHARED_BUCKET, prefix, endpoint=proxy.endpoint)),
        remote(seaweedfs.url(SHARED_BUCKET, prefix)),
    )


@pytest.mark.parametrize("fault", PASSING, ids=repr)
def test_a_create_gets_through_a_fault_that_passes(
    stores: tuple[RemoteStore, RemoteStore], proxy: FaultProxy, fault: Fault
) -> None:
    """PITFALLS 5, 10: an answer that was lost is not an object that is somebody else's."""
    bad, good = stores
    proxy.choice = first(2, fault)

    bad.create("key", [CONTENT])

    assert good.read("key") == CONTENT
    with pytest.raises(AlreadyExists):
        bad.create("key", [CONTENT[:-1], b"!"])


@pytest.mark.parametrize("fault", PASSING, ids=repr)
def test_reads_get_through_a_fault_that_passes(
    stores: tuple[RemoteStore, RemoteStore], proxy: FaultProxy, fault: Fault
) -> None:
    """PITFALLS 45: never short data."""
    bad, good = stores
    good.create("key", [CONTENT])

    proxy.choice = first(2, fault)
    assert bad.read("key") == CONTENT
    proxy.choice = first(2, fault)
    assert bytes(bad.read_range("key", 500_000, 1_000_000)) == CONTENT[500_000:1_500_000]
    proxy.choice = first(2, fault)
    assert bytes(bad.read_tail("key", 900_000)) == CONTENT[-900_000:]


@pytest.mark.parametrize("fault", LASTING, ids=repr)
def test_a_fault_that_lasts_is_an_outage_and_never_a_missing_object(
    stores: tuple[RemoteStore, RemoteStore], proxy: FaultProxy, fault: Fault
) -> None:
    """PITFALLS 39: an outage taken for the end of the archive ends in a promoted, shorter server."""
    bad, good = stores
    good.create("key", [CONTENT])
    proxy.choice = always(fault)

    for call in (
        lambda: bad.read("key"),
        lambda: bad.read_range("key", 0, 1_900_000),
        lambda: bad.read_tail("key", 1_900_000),
    ):
        with pytest.raises(RepositoryUnavailable) as caught:
            call()
        assert "s3://" in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("fault", [f for f in LASTING if f != CutAnswer(400_000)], ids=repr)
def test_small_questions_are_not_answered_by_an_outage_either(
    stores: tuple[RemoteStore, RemoteStore], proxy: FaultProxy, fault: Fault
) -> None:
    bad, good = stores
    good.create("dir/key", [b"x"])
    proxy.choice = always(fault)

    for call in (
        lambda: bad.create("dir/other", [b"x"]),
        lambda: bad.stat("dir/key"),
        lambda: bad.stat("dir/nothing"),
        lambda: bad.read("dir/nothing"),
        lambda: list(bad.list("dir/")),
        lambda: bad.list_directories(""),
        lambda: bad.delete("dir/key"),
        lambda: bad.replace_if("dir/lease", b"x", None),
        lambda: bad.replace_if("dir/key", b"y", b"x"),
    ):
        with pytest.raises(RepositoryUnavailable):
            call()


def test_a_silent_store_is_waited_for_no_longer_than_the_limits_say(
    stores: tuple[RemoteStore, RemoteStore], proxy: FaultProxy
) -> None:
    bad, good = stores
    good.create("key", [b"x"])
    proxy.choice = always(Silence())
    begin = time.monotonic()

    with pytest.raises(RepositoryUnavailable, match="no answer in time"):
        bad.read("key")

    # Four tries of two seconds and their pauses; the bound of the retries is thirty.
    assert time.monotonic() - begin < 60


def test_a_listing_that_is_cut_goes_on_where_it_was(moto_s3: S3Server) -> None:
    """PITFALLS 69: a failure in mid-listing is never its end."""
    prefix = f"cut/{time.monotonic_ns()}"
    names = [f"d/{number:05d}" for number in range(1100)]
    direct = remote(moto_s3.url(SHARED_BUCKET, prefix))
    for name in names:
        direct.create(name, [b""])
    with proxied(moto_s3.address) as between:
        store = remote(moto_s3.url(SHARED_BUCKET, prefix, endpoint=between.endpoint))
        flat = store.with_capabilities(IN_ORDER)
        for fault in (CutAnswer(9_000), Reset()):
            between.choice = first(2, fault)
            assert [one.key for one in store.list("d/", after=names[10])] == names[11:]
            # Every other request fails: what came before must not be asked for again.
            between.choice = every_other(fault)
            assert [one.key for one in flat.list("d/")] == names
        between.choice = always(CutAnswer(9_000))
        with pytest.raises(RepositoryUnavailable):
            list(flat.list("d/"))


@pytest.mark.parametrize("fault", [LoseAnswer(), Reset(), Answer(503, "SlowDown")], ids=repr)
def test_a_lease_taken_over_a_bad_line_is_known_to_be_taken(
    stores: tuple[RemoteStore, RemoteStore], proxy: FaultProxy, fault: Fault
) -> None:
    bad, good = stores

    proxy.choice = first(1, fault, method="PUT")
    assert bad.replace_if("lease", b"mine", None)
    proxy.choice = first(1, fault, method="PUT")
    assert bad.replace_if("lease", b"mine again", b"mine")

    assert good.read("lease") == b"mine again"
    proxy.choice = first(1, fault, method="PUT")
    assert not bad.replace_if("lease", b"other", b"mine")
    assert good.read("lease") == b"mine again"


def test_missing_and_unreachable_are_different_answers(seaweedfs: S3Server) -> None:
    """PITFALLS 39, 79: not there, no bucket, no rights, no server."""
    port = free_port()
    there = remote(seaweedfs.new_url())
    no_bucket = remote(seaweedfs.url("no-such-bucket", "main"))
    nobody = remote(seaweedfs.url(SHARED_BUCKET, endpoint=f"http://127.0.0.1:{port}"))

    assert there.stat("key") is None
    with pytest.raises(ObjectMissing):
        there.read("key")
    for call in (
        lambda: no_bucket.read("key"),
        lambda: no_bucket.stat("key"),
        lambda: no_bucket.create("key", [b"x"]),
        lambda: list(no_bucket.list("")),
        lambda: no_bucket.list_directories(""),
    ):
        with pytest.raises(PlaceMissing, match="the bucket no-such-bucket does not exist"):
            call()
    with pytest.raises(RepositoryUnavailable, match="refused"):
        nobody.stat("key")
    with pytest.raises(RepositoryUnavailable):
        nobody.now()


def test_without_credentials_the_host_the_bucket_and_where_was_looked_are_named(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The refusal of the machine's own metadata service was told as the store's 403."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none either"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweedfs.endpoint)

    with proxied(seaweedfs.address) as metadata:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.endpoint)
        for choice in (
            always(Answer(403, "Forbidden")),
            always(Answer(404, "None")),
            always(Reset()),
        ):
            metadata.choice = choice
            with pytest.raises(AccessDenied) as caught:
                remote(f"s3://{SHARED_BUCKET}/main?region=us-east-1").read("key")

            told = f"{caught.value.message} {caught.value.hint}"
            for word in (
                seaweedfs.endpoint,
                f"bucket {SHARED_BUCKET}",
                "AWS_ACCESS_KEY_ID",
                "none either",
            ):
                assert word in told
            assert "the store answered" not in told
    assert metadata.lines


def test_a_host_that_the_environment_names_is_named_in_every_error(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", nobody)
    with pytest.raises(RepositoryUnavailable, match=f"s3://shop/main at {nobody}.*refused"):
        remote("s3://shop/main").read("key")

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs.endpoint)
    with pytest.raises(PlaceMissing, match=f"{seaweedfs.endpoint}: the bucket shop ") as caught:
        remote("s3://shop/main").read("key")
    assert "endpoint=" in caught.value.hint


def test_what_a_store_cannot_do_is_not_answered_with_the_command_that_has_just_failed(
    seaweedfs: S3Server,
) -> None:
    """`repository init` asks the same of the store, and gave the hint to run `repository init`."""
    with proxied(seaweedfs.address) as proxy:
        proxy.choice = always(Answer(501, "NotImplemented"))
        with pytest.raises(NotSupported) as caught:
            probe_store(remote(seaweedfs.new_url(endpoint=proxy.endpoint)), clock=SystemClock())

    assert "repository init" not in caught.value.hint
    assert "endpoint=" in caught.value.hint


def test_wrong_credentials_are_refused_in_words(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PITFALLS 79: an expired credential is neither a missing object nor a secret in a message."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    store = remote(seaweedfs.new_url())

    for call in (
        lambda: store.read("key"),
        lambda: store.stat("key"),
        lambda: store.create("key", [b"x"]),
        lambda: store.create("large", [bytes(65 << 20)]),
        lambda: list(store.list("")),
        lambda: store.delete("key"),
        lambda: store.replace_if("key", b"x", None),
    ):
        with pytest.raises(AccessDenied) as caught:
            call()
        assert caught.value.hint
        assert "hunter2" not in str(caught.value)
        assert not caught.value.retryable


def test_an_aws_profile_gives_the_credentials(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "backup")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    (tmp_path / "credentials").write_text(
        f"[backup]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"
    )
    store = remote(seaweedfs.new_url())

    store.create("key", [b"x"])

    assert store.read("key") == b"x"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AccessDenied, match="profile"):
        remote(seaweedfs.new_url())
