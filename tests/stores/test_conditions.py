"""Servers that know no conditional put say so in several ways; each means a single writer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drtool.errors import AccessDenied, AlreadyExists
from drtool.stores import multipart, remote
from drtool.stores.capabilities import describe_capabilities
from drtool.stores.probe import probe_store
from drtool.stores.remote import RemoteStore
from drtool.system.clock import SystemClock
from tests.servers.object_stores import SHARED_BUCKET, S3Server
from tests.servers.proxy import Acknowledge, Answer, FaultProxy, first, proxied
from tests.stores.test_faults import IN_ORDER
from tests.stores.test_faults import remote as opened

pytestmark = pytest.mark.object_store

REFUSALS = [
    Answer(501, "NotImplemented"),
    Answer(400, "InvalidArgument"),
    Answer(405, "MethodNotAllowed"),
]


@pytest.fixture
def proxy(seaweedfs: S3Server) -> Iterator[FaultProxy]:
    with proxied(seaweedfs.address) as found:
        yield found


@pytest.fixture
def store(seaweedfs: S3Server, proxy: FaultProxy) -> RemoteStore:
    """Over the proxy; believed to honour everything."""
    prefix = seaweedfs.new_url().partition("?")[0].removeprefix(f"s3://{SHARED_BUCKET}/")
    url = seaweedfs.url(SHARED_BUCKET, prefix, endpoint=proxy.endpoint)
    return opened(url).with_capabilities(IN_ORDER)


@pytest.mark.parametrize("refusal", REFUSALS, ids=repr)
def test_a_store_that_refuses_conditions_is_found_to_need_a_single_writer(
    store: RemoteStore, proxy: FaultProxy, refusal: Answer
) -> None:
    """Issue 8.6: 501 is no reason to run the command again."""
    proxy.by_header = {"if-none-match": refusal, "if-match": refusal}

    found = probe_store(store, clock=SystemClock())

    assert not found.creates_atomically
    assert not found.replaces_if_matching
    assert found.reads_after_write
    assert found.ranges
    assert any("single writer" in one.fact for one in describe_capabilities(found))


def test_a_store_that_only_refuses_compare_and_swap_keeps_its_conditional_put(
    store: RemoteStore, proxy: FaultProxy
) -> None:
    proxy.by_header = {"if-match": Answer(501, "NotImplemented")}

    found = probe_store(store, clock=SystemClock())

    assert found.creates_atomically
    assert not found.replaces_if_matching


@pytest.mark.parametrize("refusal", REFUSALS, ids=repr)
def test_a_store_that_came_to_refuse_conditions_is_looked_at_before_each_put(
    store: RemoteStore, proxy: FaultProxy, refusal: Answer
) -> None:
    """A repository that moved to another provider: what was measured of the old one is not true."""
    proxy.by_header = {"if-none-match": refusal, "if-match": refusal}

    store.create("key", [b"one"])
    store.create("key", [b"one"])
    with pytest.raises(AlreadyExists):
        store.create("key", [b"two"])
    is_taken = store.replace_if("lease", b"first", None)
    is_swapped = store.replace_if("lease", b"second", b"first")
    is_refused = store.replace_if("lease", b"third", b"first")

    assert (is_taken, is_swapped, is_refused) == (True, True, False)
    assert (store.read("key"), store.read("lease")) == (b"one", b"second")
    assert store.has_refused_conditions


def test_a_large_object_goes_up_plainly_where_its_condition_is_refused(
    store: RemoteStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SINGLE_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(multipart, "PART_BYTES", 5 << 20)
    proxy.by_header = {"if-none-match": Answer(501, "NotImplemented")}
    content = bytes(range(256)) * (6 << 12)

    store.create("large", [content])

    assert store.read("large") == content
    assert not store.creates_atomically


def test_a_refusal_that_is_no_matter_of_conditions_stays_an_error(
    store: RemoteStore, proxy: FaultProxy
) -> None:
    proxy.choice = first(50, Answer(403, "AccessDenied"), method="PUT")

    with pytest.raises(AccessDenied):
        probe_store(store, clock=SystemClock())
    assert not store.has_refused_conditions


def test_a_store_that_acknowledges_and_keeps_nothing_is_found_out_by_the_probe(
    store: RemoteStore, proxy: FaultProxy
) -> None:
    proxy.choice = lambda _number, line: Acknowledge() if line.startswith("PUT") else None

    found = probe_store(store, clock=SystemClock())

    assert not found.reads_after_write
