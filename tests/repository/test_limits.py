"""What somebody who writes the store, and has no key, can make a repository cost: little.

Each object here would have taken gigabytes or minutes before it was refused.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import zstandard

from drtool.errors import IntegrityError, WrongKey
from drtool.repository import layout
from drtool.repository.keys import KeySecret, Slot, SlotKind, affordable, open_slot
from drtool.repository.lease import Lease, read_lease
from drtool.repository.repository import Repository, open_repository
from drtool.repository.sealing import (
    Codec,
    ObjectType,
    most_sealed_bytes,
    seal_whole,
    unpack,
    unseal_whole,
)
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.system.clock import SystemClock
from tests.fuzz.harness import address_space
from tests.repository.building import SECRET, new_repository

GIB = 1 << 30
PASSPHRASE = KeySecret(SlotKind.PASSPHRASE, b"correct horse battery staple")


def slot_of(**changes: object) -> bytes:
    """A slot as somebody might plant it."""
    document = {
        "slot": "ffffffff", "kind": "passphrase", "created": "2000-01-01T00:00:00+00:00",
        "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "scrypt": [65536, 8, 2], "wrapped": "A" * 80, **changes,
    }  # fmt: skip
    return json.dumps(document).encode()


def frame_that_tells(content_bytes: int) -> bytes:
    """The head of a zstd frame (RFC 8878, 3.1.1) with that content size, and one empty last block."""
    return b"\x28\xb5\x2f\xfd\xe0" + content_bytes.to_bytes(8, "little") + b"\x01\0\0"


@pytest.mark.parametrize(
    "key", ["leases/backup-main", layout.ROOT, "keys/slot", "marks/main/x", "backups/main/x"]
)
def test_a_planted_object_of_gigabytes_is_refused_without_being_read(
    tmp_path: Path, key: str
) -> None:
    store = LocalStore(tmp_path, clock=SystemClock())
    repository = new_repository(store)
    if key == "keys/slot":
        key = layout.slot_key(repository.ring.repository_id, "ffffffff")
    path = tmp_path / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with path.open("r+b") as file:
        file.truncate(3 * GIB)

    with address_space(256 << 20):
        if key.startswith("keys/"):
            # Another way in is not shut by it.
            assert open_repository(store, SECRET).ring.master == repository.ring.master
        else:
            with pytest.raises(IntegrityError, match="3221225472 bytes"):
                read_it(repository, key)


def read_it(repository: Repository, key: str) -> None:
    """Read an object as what its name says that it is."""
    match key.partition("/")[0]:
        case "leases":
            assert read_lease(repository, "backup-main") is None  # nobody holds it
            Lease(repository, "backup-main", clock=SystemClock())
        case "marks":
            repository.get(ObjectType.MARK, key)
        case "backups":
            repository.get(ObjectType.MANIFEST, key)
        case _:
            open_repository(repository.store, SECRET)


@pytest.mark.parametrize("told", [1 << 40, 3 * GIB])
def test_a_frame_that_tells_a_greater_size_is_refused_before_room_is_made(told: int) -> None:
    with address_space(256 << 20), pytest.raises(IntegrityError, match="another length"):
        unpack(Codec.ZSTD, frame_that_tells(told), 1 << 20, name="log/x")


def test_a_frame_that_tells_no_size_is_unpacked_up_to_what_was_authenticated() -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))

    with address_space(32 << 20), pytest.raises(IntegrityError, match="does not unpack"):
        unpack(Codec.ZSTD, bomb, 1 << 20, name="log/x")


def test_an_object_holds_no_more_than_its_kind_may() -> None:
    ring = new_repository().ring
    for plain in (b"", b"x" * 1000, bytes(3 << 20)):
        sealed = b"".join(seal_whole(ring, ObjectType.LOG, "log/x", plain=[plain]))

        assert len(sealed) <= most_sealed_bytes(len(plain))
        found = unseal_whole(ring, ObjectType.LOG, "log/x", sealed=sealed, most_bytes=len(plain))
        assert found == plain
        if plain:
            with pytest.raises(IntegrityError, match="holds more than"):
                unseal_whole(
                    ring, ObjectType.LOG, "log/x", sealed=sealed, most_bytes=len(plain) - 1
                )


@pytest.mark.parametrize(
    "scrypt",
    [
        [1 << 20, 8, 1], [1 << 30, 1, 1], [1 << 17, 8, 16], [65536, 8, 1 << 70], [65535, 8, 2], [0, 0, 0],
        [-65536, 8, -2], [65536, 8], [65536, 8, 2, 2], ["65536", 8, 2], [65536.0, 8, 2], None, {},
        [True, 8, 2],
    ],
    ids=str,
)  # fmt: skip
def test_a_slot_that_asks_for_too_much_is_refused_before_it_is_tried(scrypt: object) -> None:
    with pytest.raises(IntegrityError, match="not a key slot"):
        Slot.from_json(slot_of(scrypt=scrypt), key="keys/x")


def test_planted_slots_do_not_keep_the_right_passphrase_waiting() -> None:
    """They come after those that were there, and all together take half a minute at most."""
    store = MemoryStore()
    repository = new_repository(store, PASSPHRASE)
    for number in range(1000):
        key = layout.slot_key(repository.ring.repository_id, f"{number:08x}")
        store.create(key, [slot_of(slot=f"{number:08x}")])

    began = time.process_time()
    opened = open_repository(store, PASSPHRASE)

    assert opened.ring.master == repository.ring.master
    assert time.process_time() - began < 3


def test_what_is_tried_in_all_is_bounded() -> None:
    slots = [Slot.from_json(slot_of(scrypt=[65536, 8, 16]), key="keys/x")] * 1000

    assert len(list(affordable(slots))) == 8
    with pytest.raises(WrongKey):
        open_slot(Slot.from_json(slot_of(), key="x"), PASSPHRASE, repository_id=bytes(16))


@pytest.mark.parametrize(
    ("told", "is_lease"),
    [
        ({"until": "2099-01-01T00:00:00+00:00"}, True),
        ({"until": "2000-01-01T00:00:00+00:00", "fencing": (1 << 64) - 1}, True),
        ({"until": "9999-12-31T23:59:59-14:00"}, False),
        ({"until": "2000-01-01T00:00:00"}, False),
        ({"fencing": 1 << 64}, False),
        ({"fencing": -1}, False),
        ({"owner": ["x"]}, False),
        ({"owner": "\ud800"}, False),
    ],
    ids=str,
)
def test_a_planted_lease_is_taken_over(told: dict[str, object], *, is_lease: bool) -> None:
    repository = new_repository()
    document = {"owner": "x", "until": "2000-01-01T00:00:00+00:00", "fencing": 7, **told}
    repository.store.create("leases/backup-main", [json.dumps(document).encode()])

    taken = Lease(repository, "backup-main", clock=SystemClock(), numbered_above=lambda: 11)
    with taken as lease:
        lease.check()
        assert lease.fencing > 7 if is_lease else lease.fencing == 12
    with Lease(repository, "backup-main", clock=SystemClock()) as again:
        again.check()
