"""Keys: who opens a repository, who does not, and that nobody is locked out or let in by accident."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from drtool.errors import (
    IntegrityError,
    RepositoryNotInitialised,
    RepositoryUnavailable,
    UsageError,
    WrongKey,
)
from drtool.repository import layout
from drtool.repository.chunks import ChunkReader
from drtool.repository.keys import NO_SECRET, KeySecret, Slot, SlotKind, make_slot, open_slot
from drtool.repository.repository import (
    add_slot,
    create_repository,
    is_encrypted,
    open_repository,
    read_slots,
    remove_slot,
)
from drtool.repository.rotation import rotate_key
from drtool.repository.sealing import ObjectType
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import LARGEST_OBJECT_BYTES, Store, StoredObject
from drtool.system.clock import SystemClock
from tests.repository.building import (
    CAPABILITIES,
    NOW,
    SECRET,
    FailingStore,
    a_tree,
    new_repository,
    objects_of,
    put_segments,
    store_tree,
    tamper,
)

OTHER = KeySecret(SlotKind.KEY_FILE, b"ab" * 32)
PASSPHRASE = KeySecret(SlotKind.PASSPHRASE, "correct zażółć battery".encode())


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    stores: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "local": lambda: LocalStore(tmp_path, clock=SystemClock()),
    }
    return stores[request.param]()


def test_a_repository_opens_with_its_key_file_and_with_no_other(store: Store) -> None:
    new_repository(store)

    assert open_repository(store, SECRET).ring.newest == 1
    with pytest.raises(WrongKey, match="the key file given opens none of its slots"):
        open_repository(store, OTHER)
    with pytest.raises(WrongKey):
        open_repository(store, NO_SECRET)


def test_a_passphrase_opens_what_it_made_and_a_wrong_one_does_not() -> None:
    repository = new_repository(secret=PASSPHRASE)

    assert open_repository(repository.store, PASSPHRASE).ring.master == repository.ring.master
    with pytest.raises(WrongKey):
        open_repository(repository.store, KeySecret(SlotKind.PASSPHRASE, b"correct horse"))


def test_a_newline_at_the_end_of_a_key_file_is_no_part_of_the_key() -> None:
    repository = new_repository()

    for end in (b"\n", b"\r\n"):
        secret = KeySecret(SlotKind.KEY_FILE, SECRET.content + end)
        assert open_repository(repository.store, secret).ring.master == repository.ring.master


def test_a_phrase_in_a_key_file_is_stretched_and_32_random_bytes_are_not() -> None:
    phrase = KeySecret(SlotKind.KEY_FILE, b"correct horse battery staple, and once more\n")
    for content in (bytes(range(32)).hex().encode(), base64.b64encode(bytes(range(32))) + b"\n"):
        assert not slot_of(KeySecret(SlotKind.KEY_FILE, content)).is_stretched

    slot = slot_of(phrase)

    assert slot.is_stretched
    assert Slot.from_json(slot.to_json(), key="keys/x") == slot
    without_end = KeySecret(SlotKind.KEY_FILE, phrase.content.rstrip())
    assert open_slot(slot, without_end, repository_id=bytes(16)) == bytes(32)
    with pytest.raises(WrongKey):
        # What a guess without scrypt would find.
        open_slot(replace(slot, is_stretched=False), phrase, repository_id=bytes(16))


def slot_of(secret: KeySecret) -> Slot:
    return make_slot(bytes(32), secret, repository_id=bytes(16), created="2024")


def test_a_slot_of_an_earlier_drtool_opens_as_before() -> None:
    """A phrase whose slot was made without scrypt, byte for byte as FORMAT.md had it."""
    phrase, salt = b"correct horse battery staple, and once more", bytes(range(32))
    key = HKDF(SHA256(), 32, salt=salt, info=b"drtool 1 key file").derive(phrase)
    nonce, context = bytes(12), bytes(16) + b"slot 00 key-file"
    slot = {
        "slot": "00", "kind": "key-file", "created": "2024", "scrypt": [65536, 8, 2],
        "salt": base64.b64encode(salt).decode(),
        "wrapped": base64.b64encode(nonce + AESGCM(key).encrypt(nonce, bytes(32), context)).decode(),
    }  # fmt: skip

    found = Slot.from_json(json.dumps(slot).encode(), key="keys/x")

    secret = KeySecret(SlotKind.KEY_FILE, phrase)
    assert open_slot(found, secret, repository_id=bytes(16)) == bytes(32)


SHORT = (KeySecret(SlotKind.PASSPHRASE, b"hunter2"), KeySecret(SlotKind.KEY_FILE, b"x" * 31))


@pytest.mark.parametrize("short", SHORT, ids=str)
def test_no_slot_is_made_for_a_short_secret_and_it_is_not_repeated(short: KeySecret) -> None:
    repository, store = new_repository(), MemoryStore()
    slots = objects_of(repository.store)

    for make in (
        lambda: new_repository(store, short),
        lambda: add_slot(repository, short, now=NOW),
    ):
        with pytest.raises(UsageError) as refused:
            make()
        assert short.content.decode() not in refused.value.message + refused.value.hint

    assert list(store.list("")) == []
    assert objects_of(repository.store) == slots


_CLOSED = (
    r": the key file given opens none of its slots$"
    r"|: its slots take a key file, and a passphrase was given$"
)


@pytest.mark.parametrize("short", SHORT, ids=str)
def test_to_a_repository_that_is_there_a_short_secret_is_the_wrong_key(short: KeySecret) -> None:
    """The trial: whoever mistyped it was told to make a new one, which opens nothing."""
    repository = new_repository()

    with pytest.raises(WrongKey, match=_CLOSED) as refused:
        open_repository(repository.store, short)

    assert "an escrowed copy" in refused.value.hint
    assert "openssl" not in refused.value.hint


def test_a_store_without_a_repository_says_so(store: Store) -> None:
    with pytest.raises(RepositoryNotInitialised):
        open_repository(store, SECRET)


def test_a_second_repository_in_one_place_is_refused_and_harms_nothing(store: Store) -> None:
    new_repository(store)
    before = objects_of(store)

    with pytest.raises(UsageError, match="already"):
        new_repository(store, OTHER)

    assert objects_of(store) == before


def test_of_two_creations_at_once_one_wins_and_the_keys_of_the_winner_are_whole() -> None:
    """The slower one may not touch what the quicker one made after both had looked."""

    class Raced(MemoryStore):
        def stat(self, key: str) -> StoredObject | None:
            return None  # both looked before either had put anything

    store = Raced()
    winner = new_repository(store)

    with pytest.raises(UsageError, match="already"):
        new_repository(store, OTHER)

    assert open_repository(store, SECRET).ring.master == winner.ring.master


def test_a_creation_that_dies_at_any_put_leaves_none_or_a_whole_one_and_can_be_repeated() -> None:
    for puts in range(20):
        store = FailingStore()
        store.puts_left = puts
        try:
            new_repository(store)
        except RepositoryUnavailable:
            store.puts_left = None
            with pytest.raises(RepositoryNotInitialised):
                open_repository(store, SECRET)
            new_repository(store)
            assert open_repository(store, SECRET).ring.newest == 1
            continue
        assert puts == 6
        return
    raise AssertionError("creation never came to its end")


def test_a_key_that_does_not_open_again_is_found_out_before_the_root_is_put() -> None:
    """PITFALLS 76: keys were accepted for backups that restore then rejected."""

    class Garbling(MemoryStore):
        def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
            content = super().read(key, most_bytes=most_bytes)
            return content[:-1] + b"?" if "version-" in key else content

    store = Garbling()

    with pytest.raises(IntegrityError):
        new_repository(store)

    assert store.stat(layout.ROOT) is None


def test_a_second_slot_opens_the_repository_and_the_first_may_go(store: Store) -> None:
    repository = new_repository(store)
    [first] = read_slots(repository)[0]

    add_slot(repository, OTHER, now=NOW + timedelta(hours=1))
    remove_slot(repository, first.slot_id, kept=OTHER)

    assert open_repository(store, OTHER).ring.master == repository.ring.master
    with pytest.raises(WrongKey):
        open_repository(store, SECRET)


def test_nobody_can_lock_himself_out(store: Store) -> None:
    repository = new_repository(store)
    [first] = read_slots(repository)[0]
    add_slot(repository, OTHER, now=NOW)

    with pytest.raises(UsageError, match="only one"):
        remove_slot(repository, first.slot_id, kept=SECRET)
    with pytest.raises(UsageError, match="no slot"):
        remove_slot(repository, "0123456789abcdef", kept=OTHER)

    assert len(read_slots(repository)[0]) == 2


def test_a_slot_without_a_secret_is_never_added_to_a_repository_with_one() -> None:
    """PITFALLS 75: backups in clear text because an option was ignored."""
    repository = new_repository()

    with pytest.raises(UsageError):
        add_slot(repository, NO_SECRET, now=NOW)

    assert is_encrypted(repository)
    assert not is_encrypted(new_repository(secret=NO_SECRET))


def test_one_damaged_slot_does_not_shut_the_others() -> None:
    repository = new_repository()
    ring = repository.ring
    for number, content in enumerate((b"", b"{", b"[]", b'{"slot": "x", "scrypt": [3, 8, 1]}')):
        repository.store.create(layout.slot_key(ring.repository_id, f"00{number}"), [content])

    slots, errors = read_slots(repository)

    assert (len(slots), len(errors)) == (1, 4)
    assert open_repository(repository.store, SECRET).ring.master == ring.master


@pytest.mark.parametrize(
    "scrypt", [[0, 8, 1], [3, 8, 1], [1 << 25, 32, 1], [1024, 0, 1], [-2, 1, 1]]
)
def test_scrypt_parameters_that_would_hurt_are_refused(scrypt: list[int]) -> None:
    repository = new_repository()
    [slot] = read_slots(repository)[0]
    content = slot.to_json().replace(b"65536", str(scrypt[0]).encode(), 1)
    content = content.replace(b"  8,\n  2", f"  {scrypt[1]},\n  {scrypt[2]}".encode())

    with pytest.raises(IntegrityError):
        Slot.from_json(content, key="keys/x")


def test_every_bit_of_a_key_version_counts() -> None:
    repository = new_repository()
    key = layout.version_key(repository.ring.repository_id, 1)
    wrapped = repository.store.read(key)

    for place in range(len(wrapped) * 8):
        broken = bytearray(wrapped)
        broken[place // 8] ^= 1 << place % 8
        tamper(repository.store, key, bytes(broken))
        with pytest.raises(IntegrityError, match="key version 1"):
            open_repository(repository.store, SECRET)


def test_what_was_sealed_before_a_rotation_opens_after_it(store: Store) -> None:
    """PITFALLS 77."""
    old = new_repository(store)
    old.put(ObjectType.EVIDENCE, "evidence/old", b"before")

    assert rotate_key(old) == 2
    new = open_repository(store, SECRET)
    new.put(ObjectType.EVIDENCE, "evidence/new", b"after")

    assert new.ring.newest == 2
    assert new.get(ObjectType.EVIDENCE, "evidence/old") == b"before"
    with pytest.raises(IntegrityError, match="key version 2"):
        old.get(ObjectType.EVIDENCE, "evidence/new")


def test_two_rotations_at_once_make_one_version_only(store: Store) -> None:
    repository = new_repository(store)
    again = open_repository(store, SECRET)
    rotate_key(repository)

    with pytest.raises(Exception, match="exists already"):
        rotate_key(again)

    assert open_repository(store, SECRET).ring.newest == 2


def test_no_stored_object_contains_a_known_page_or_the_key(tmp_path: Path) -> None:
    """PITFALLS 75: a stored object never contains a known plaintext page."""
    repository = new_repository()
    page = os.urandom(8192)
    tree = a_tree(tmp_path, {"base/1/secret-table": page * 3, "base/1/text": b"known text " * 900})
    manifest = store_tree(repository, tree)
    put_segments(repository, [2])
    secrets = [page[:64], b"known text known", b"secret-table", b"segment 0000", SECRET.content]
    secrets += [repository.ring.master, repository.ring.versions[1]]

    for key, content in objects_of(repository.store).items():
        found = [secret for secret in secrets if secret in content]
        assert found == [], key

    reader = ChunkReader(repository.store, repository.ring)
    assert bytes(reader.read_one(manifest.table[0])).count(b"secret-table") == 1


def test_a_root_of_a_later_format_is_refused_by_name() -> None:
    repository = new_repository()
    root = repository.store.read(layout.ROOT)
    tamper(repository.store, layout.ROOT, root.replace(b'"drtool": 1', b'"drtool": 2'))

    with pytest.raises(IntegrityError, match="format 2, this drtool reads 1"):
        open_repository(repository.store, SECRET)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b'{"drtool": "x"}', b"\xff"])
def test_a_damaged_root_is_an_integrity_error(content: bytes) -> None:
    repository = new_repository()
    tamper(repository.store, layout.ROOT, content)

    with pytest.raises(IntegrityError, match=r"drtool\.json"):
        open_repository(repository.store, SECRET)


def test_secrets_do_not_show_themselves() -> None:
    repository = create_repository(MemoryStore(), SECRET, now=NOW, capabilities=CAPABILITIES)

    shown = repr(repository) + repr(SECRET) + str(repository.ring)

    for secret in (SECRET.content, repository.ring.master, repository.ring.versions[1]):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
