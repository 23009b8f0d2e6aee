"""The contract of `Store`, on memory, a directory, and three S3 servers.

`rclone serve s3` ignores conditions; it is opened as drtool opens it after the probe said so.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.stores.capabilities import Capabilities
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.stores.open import open_store
from drtool.stores.protocol import Store
from drtool.stores.remote import RemoteStore
from drtool.system.clock import SystemClock

WITHOUT_CONDITIONS = Capabilities(
    creates_atomically=False,
    replaces_if_matching=False,
    reads_after_write=True,
    ranges=False,
    lists_in_order=True,
)
# What the probe finds on moto: its listings are S3's, and need no walk.
AS_S3 = replace(WITHOUT_CONDITIONS, creates_atomically=True, replaces_if_matching=True, ranges=True)
ATOMIC = ["memory", "local", "seaweedfs", "moto"]
ODD_KEYS = [
    "space in name",
    "plus+plus",
    "percent%20percent",
    "percent%",
    "zażółć/gęślą jaźń",
    "日本",
    "db.tmp.x",
    "x.tmp",
    ".drtool-x.tmp.y",
    "it's~!@$&()=;:,",
    "question?mark#hash[1]{2}",
    "UPPER/lower",
    "star*\"quote'<>|^`",
]


def opened(kind: str, request: pytest.FixtureRequest) -> Store:
    if kind == "memory":
        return MemoryStore()
    if kind == "local":
        tmp_path: Path = request.getfixturevalue("tmp_path")
        return LocalStore(tmp_path, clock=SystemClock())
    fixture = {"seaweedfs": "seaweedfs", "moto": "moto_s3", "rclone": "rclone_s3"}[kind]
    server = request.getfixturevalue(fixture)
    store = open_store(server.new_url("ma in/prefix+"), clock=SystemClock())
    assert isinstance(store, RemoteStore)
    measured = {"rclone": WITHOUT_CONDITIONS, "moto": AS_S3}.get(kind)
    return store if measured is None else store.with_capabilities(measured)


@pytest.fixture(params=[*ATOMIC, "rclone"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    found = opened(request.param, request)
    yield found
    found.close()


@pytest.fixture(params=ATOMIC)
def atomic_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    found = opened(request.param, request)
    yield found
    found.close()


def keys(store: Store, prefix: str = "", *, after: str | None = None) -> list[str]:
    return [one.key for one in store.list(prefix, after=after)]


def in_order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name.encode())


def test_what_was_created_is_read_back_at_once(store: Store) -> None:
    before = store.now()

    store.create("a/b", [b"one", bytearray(b"-two"), memoryview(b"--three")[1:]])

    assert store.read("a/b") == b"one-two-three"
    found = store.stat("a/b")
    assert found is not None
    assert (found.key, found.size_bytes) == ("a/b", 13)
    assert abs((found.modified - before).total_seconds()) < 60
    assert [one.size_bytes for one in store.list("")] == [13]


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.create("empty", [])
    store.create("empty too", [b"", b""])

    assert store.read("empty") == b""
    assert bytes(store.read_tail("empty", 10)) == b""
    assert bytes(store.read_range("empty", 0, 0)) == b""
    found = store.stat("empty")
    assert found is not None
    assert found.size_bytes == 0
    assert keys(store) == ["empty", "empty too"]


def test_other_bytes_under_the_same_key_are_refused_and_the_old_ones_stay(store: Store) -> None:
    """PITFALLS 1: an overwrite with different bytes returned success."""
    store.create("key", [b"first"])

    with pytest.raises(AlreadyExists):
        store.create("key", [b"other"])
    with pytest.raises(AlreadyExists):
        store.create("key", [b"much longer than the first"])

    assert store.read("key") == b"first"


def test_the_same_bytes_under_the_same_key_are_a_success(store: Store) -> None:
    """PITFALLS 1: a put that is tried again meets its own first try."""
    store.create("key", [b"fir", b"st"])

    store.create("key", [b"first"])

    assert store.read("key") == b"first"


def test_of_eight_writers_at_once_exactly_one_wins(atomic_store: Store) -> None:
    for round_number in range(3):
        key = f"race/{round_number}"
        start = threading.Barrier(8)

        def write(number: int, key: str = key, start: threading.Barrier = start) -> bool:
            start.wait(30)
            try:
                atomic_store.create(key, [b"writer %d" % number])
            except AlreadyExists:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(write, range(8)))

        assert won.count(True) == 1
        assert atomic_store.read(key) == b"writer %d" % won.index(True)


def test_a_missing_object_is_said_to_be_missing(store: Store) -> None:
    store.create("there", [b"x"])

    with pytest.raises(ObjectMissing):
        store.read("there/not")
    with pytest.raises(ObjectMissing):
        store.read("not there")
    with pytest.raises(ObjectMissing):
        store.read_range("not there", 0, 1)
    with pytest.raises(ObjectMissing):
        store.read_range("not there", 0, 0)
    with pytest.raises(ObjectMissing):
        store.read_tail("not there", 1)
    assert store.stat("not there") is None
    assert keys(store, "not there") == []
    assert store.list_directories("not there/") == []


def test_ranges_are_exact_or_refused(store: Store) -> None:
    store.create("ten", [b"0123456789"])

    assert bytes(store.read_range("ten", 0, 10)) == b"0123456789"
    assert bytes(store.read_range("ten", 3, 4)) == b"3456"
    assert bytes(store.read_range("ten", 10, 0)) == b""
    for start, length in ((3, 8), (9, 2), (10, 1), (20, 1), (11, 0)):
        with pytest.raises(IntegrityError):
            store.read_range("ten", start, length)


def test_tails_are_the_last_bytes_or_all_of_them(store: Store) -> None:
    store.create("ten", [b"0123456789"])

    assert bytes(store.read_tail("ten", 3)) == b"789"
    assert bytes(store.read_tail("ten", 10)) == b"0123456789"
    assert bytes(store.read_tail("ten", 1000)) == b"0123456789"
    assert bytes(store.read_tail("ten", 0)) == b""


def test_an_object_larger_than_its_kind_can_be_is_refused(store: Store) -> None:
    store.create("ten", [b"0123456789"])

    assert store.read("ten", most_bytes=10) == b"0123456789"
    with pytest.raises(IntegrityError, match="ten has 10 bytes"):
        store.read("ten", most_bytes=9)
    assert not store.replace_if("ten", b"x", b"012345678")
    assert not store.replace_if("ten", b"x", b"0123456789a")


def test_odd_names_are_kept_as_they_are(store: Store) -> None:
    """PITFALLS 70, 88: temp markers inside names, spaces, plus, percent, other alphabets."""
    for key in ODD_KEYS:
        store.create(f"odd/{key}", [key.encode()])

    assert keys(store, "odd/") == in_order([f"odd/{key}" for key in ODD_KEYS])
    for key in ODD_KEYS:
        assert store.read(f"odd/{key}") == key.encode()
        found = store.stat(f"odd/{key}")
        assert found is not None
        assert found.key == f"odd/{key}"
    assert store.list_directories("odd/") == in_order(["zażółć", "UPPER"])
    for key in ODD_KEYS:
        store.delete(f"odd/{key}")
    assert keys(store) == []


@pytest.mark.parametrize(
    "key",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b", "a\nb", "a\\b", "\udcff"]
    + [".drtool-x.tmp", "a/.drtool-.tmp/b"],
)
def test_bad_keys_are_refused_before_anything_is_asked(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        store.create(key, [b"x"])
    with pytest.raises(ValueError, match="key"):
        store.read(key)
    with pytest.raises(ValueError, match="key"):
        store.stat(key)
    with pytest.raises(ValueError, match="key"):
        store.delete(key)
    with pytest.raises(ValueError, match="key"):
        store.replace_if(key, b"x", None)


def test_listings_come_in_the_order_of_bytes_also_across_directories(store: Store) -> None:
    """SeaweedFS itself lists `b/x` before `b-2/x`; sources named main and main-2 do that."""
    names = ["b/x", "b-2/x", "b.txt", "b0", "ba/a/a", "a", "c/ż", "c/z", "c/日", "bb"]
    for name in names:
        store.create(f"log/{name}", [b"1"])
    store.create("log2", [b"1"])
    store.create("aaa", [b"1"])

    everything = in_order([f"log/{name}" for name in names])

    assert keys(store) == ["aaa", *everything, "log2"]
    assert keys(store, "log/") == everything
    assert keys(store, "log") == [*everything, "log2"]
    for prefix in ("log/b", "log/b-", "log/b/", "log/b0", "log/c/", "log/ba/a", "x", "log/b/xy"):
        assert keys(store, prefix) == [key for key in everything if key.startswith(prefix)]
    for after in [*everything, "log/b", "log/b-", "log/b/zzz", "log/b-2", "log/", "zzz"]:
        expected = [key for key in everything if key.encode() > after.encode()]
        assert keys(store, "log/", after=after) == expected
        assert keys(store, "log/b", after=after) == [k for k in expected if k.startswith("log/b")]
    assert store.list_directories("log/") == ["b", "b-2", "ba", "c"]
    assert store.list_directories("") == ["log"]


def test_listings_do_not_end_at_a_thousand(store: Store) -> None:
    """PITFALLS 69: pages of 1,000."""
    names = [f"many/{number:05d}" for number in range(2600)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: store.create(name, [b"x"]), names))

    assert keys(store, "many/") == names
    assert keys(store, "many/01") == [name for name in names if name.startswith("many/01")]
    assert keys(store, "many/", after="many/01500") == names[1501:]


def test_directories_do_not_end_at_a_thousand(store: Store) -> None:
    """PITFALLS 69: common prefixes come in pages too."""
    names = [f"{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: store.create(f"wide/{name}/x", [b"x"]), names))

    assert store.list_directories("wide/") == names


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.create("dir/key", [b"x"])

    store.delete("dir/key")
    store.delete("dir/key")
    store.delete("other/key")

    assert store.stat("dir/key") is None
    assert keys(store) == []
    assert store.list_directories("") == []


def test_a_deleted_key_can_be_created_again(store: Store) -> None:
    store.create("dir/key", [b"x"])
    store.delete("dir/key")

    store.create("dir/key", [b"other"])

    assert store.read("dir/key") == b"other"


def test_a_large_object_comes_back_byte_for_byte(store: Store) -> None:
    content = random.Random(5).randbytes(40 * 1024 * 1024)
    view = memoryview(content)

    store.create("large", [view[:1], view[1 : 30 << 20], view[30 << 20 :]])

    assert hashlib.sha256(store.read("large")).digest() == hashlib.sha256(content).digest()
    assert store.read_range("large", 33_000_000, 1_000_000) == view[33_000_000:34_000_000]
    assert store.read_tail("large", 1_000_000) == view[-1_000_000:]
    store.create("large", [content])
    with pytest.raises(AlreadyExists):
        store.create("large", [view[:-1], b"\0" if content[-1] else b"\1"])
    store.delete("large")


def test_an_object_of_many_parts_is_put_whole_and_only_once(store: Store) -> None:
    """PITFALLS 10: multipart uploads that came out cut or mixed up."""
    content = random.Random(10).randbytes(70 * 1024 * 1024)
    view = memoryview(content)

    store.create("huge", [view[:5], view[5 : 20 << 20], view[20 << 20 :]])

    assert hashlib.sha256(store.read("huge")).digest() == hashlib.sha256(content).digest()
    store.create("huge", [content])
    with pytest.raises(AlreadyExists):
        store.create("huge", [view[:-1], b"\0" if content[-1] else b"\1"])
    assert bytes(store.read_tail("huge", 100)) == content[-100:]
    store.delete("huge")


def test_a_lease_is_taken_only_as_expected(store: Store) -> None:
    assert not store.replace_if("leases/x", b"mine", b"somebody's")
    assert store.replace_if("leases/x", b"mine", None)
    assert not store.replace_if("leases/x", b"other", None)
    assert not store.replace_if("leases/x", b"other", b"wrong")
    assert store.replace_if("leases/x", b"renewed", b"mine")

    assert store.read("leases/x") == b"renewed"


def test_of_eight_renewals_at_once_exactly_one_wins(atomic_store: Store) -> None:
    """PITFALLS 33: a stale lease was broken by two at once."""
    current = b"0"
    atomic_store.replace_if("leases/x", current, None)
    for round_number in range(1, 4):
        start = threading.Barrier(8)
        offers = [b"%d by %d" % (round_number, number) for number in range(8)]

        def renew(
            offer: bytes, start: threading.Barrier = start, expected: bytes = current
        ) -> bool:
            start.wait(30)
            return atomic_store.replace_if("leases/x", offer, expected)

        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(renew, offers))

        assert won.count(True) == 1
        current = offers[won.index(True)]
        assert atomic_store.read("leases/x") == current


def test_the_stores_clock_is_near_ours(store: Store) -> None:
    assert abs((store.now() - SystemClock().now()).total_seconds()) < 60


def test_a_url_holds_no_credentials(store: Store) -> None:
    assert "://" in store.url
    assert "secret" not in store.url
