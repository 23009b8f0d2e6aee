"""A repository: a store, opened with its keys. Made once, probed before the first byte goes up."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from drtool import __version__
from drtool.errors import (
    AlreadyExists,
    IntegrityError,
    ObjectMissing,
    RepositoryNotInitialised,
    UsageError,
    WrongKey,
)
from drtool.model.strict_json import read_object
from drtool.repository import layout
from drtool.repository.keys import (
    KEY_BYTES,
    WRAPPED_BYTES,
    KeyRing,
    KeySecret,
    Slot,
    SlotKind,
    affordable,
    make_slot,
    new_version,
    open_slot,
    open_version,
)
from drtool.repository.root_seal import (
    NO_SEAL,
    RESCUE_FILES,
    RootSeal,
    put_root_seal,
    read_root_seal,
    rescue_file,
)
from drtool.repository.sealing import ObjectType
from drtool.repository.taken import find_ours, put_sealed, read_sealed
from drtool.stores.capabilities import Capabilities
from drtool.stores.protocol import Store

FORMAT_VERSION = 1
# Each has less than a kilobyte.
MOST_ROOT_BYTES = MOST_SLOT_BYTES = 64 << 10
MOST_SLOTS = 256
REPOSITORY_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Repository:
    """An opened repository. Any thread may use it.

    What the root says of the store is what was sealed; where nothing was, it counts as not measured.
    """

    store: Store
    ring: KeyRing
    root: RepositoryRoot
    seal: RootSeal = NO_SEAL

    def put(self, object_type: ObjectType, key: str, plain: bytes) -> None:
        """Seal `plain` and create the object `key`; AlreadyExists if there is one of ours.

        Where the name is taken by anything else, the object goes beside it (`repository/taken.py`).
        """
        put_sealed(self.store, self.ring, object_type, key=key, plain=plain)

    def get(self, object_type: ObjectType, key: str) -> bytes:
        """The plain bytes of the sealed object `key`, authenticated; NotAuthentic if it is not ours."""
        return read_sealed(self.store, self.ring, object_type, key=key)

    def holds(self, object_type: ObjectType, key: str) -> bool:
        """Whether a holder of the key has put `key`, or an object beside it: one short read of its head."""
        return find_ours(self.store, self.ring, object_type, key=key) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryRoot:
    """What `drtool.json` tells: readable without a key, holding nothing secret, and not authenticated."""

    format_version: int
    repository_id: bytes
    created: str
    made_by: str
    capabilities: Capabilities

    def to_json(self) -> bytes:
        document = {
            "drtool": self.format_version,
            "repository": self.repository_id.hex(),
            "created": self.created,
            "made_by": self.made_by,
            "capabilities": self.capabilities.to_json(),
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> RepositoryRoot:
        """Read `drtool.json`; IntegrityError if it is damaged, or of a later format."""
        try:
            document = read_object(content)
            made_by = document.text("made_by", "another drtool")
            _require_format(document.whole("drtool"), made_by=made_by)
            return cls(
                format_version=document.whole("drtool"),
                repository_id=_repository_id(document.text("repository")),
                created=document.text("created"),
                made_by=made_by,
                capabilities=Capabilities.from_json(dict(document.inner("capabilities").members)),
            )
        except ValueError as error:
            raise IntegrityError(
                f"object {layout.ROOT} is not a repository's root: {error}",
                hint="Bring it back from a copy of the repository; it holds no secret and never changes.",
            ) from error


def _repository_id(told: str) -> bytes:
    repository_id = bytes.fromhex(told)
    if len(repository_id) != REPOSITORY_ID_BYTES:
        raise ValueError(f"{told!r} is no repository's id")
    return repository_id


def _require_format(format_version: int, *, made_by: str) -> None:
    if format_version != FORMAT_VERSION:
        raise IntegrityError(
            f"the repository has format {format_version}, this drtool reads {FORMAT_VERSION}",
            hint=f"Use a drtool as new as the one that made it ({made_by}).",
        )


def create_repository(
    store: Store, secret: KeySecret, *, now: datetime, capabilities: Capabilities
) -> Repository:
    """Make an empty repository in `store` and open it the way a restore will.

    The root is put last: a creation that was cut off leaves none, and may simply be run again.
    Of several at once the one that puts the root wins; nobody touches the keys of another.
    UsageError if there is a repository already.
    """
    if store.stat(layout.ROOT) is not None:
        raise _taken(store)
    repository_id, master = os.urandom(REPOSITORY_ID_BYTES), os.urandom(KEY_BYTES)
    created = now.isoformat(timespec="seconds")
    slot = make_slot(master, secret, repository_id=repository_id, created=created)
    store.create(layout.slot_key(repository_id, slot.slot_id), [slot.to_json()])
    _, wrapped = new_version(master, repository_id, 1)
    store.create(layout.version_key(repository_id, 1), [wrapped])
    _write_rescue(store)
    root = RepositoryRoot(
        format_version=FORMAT_VERSION,
        repository_id=repository_id,
        created=created,
        made_by=f"drtool {__version__}",
        capabilities=capabilities,
    )
    _probe_keys(store, root, secret, now=now)
    try:
        store.create(layout.ROOT, [root.to_json()])
    except AlreadyExists:
        raise _taken(store) from None
    return open_repository(store, secret)


def _taken(store: Store) -> UsageError:
    return UsageError(
        f"there is a repository in {store.url} already",
        hint="Run `drtool repository info` to see whose it is, or choose another url.",
    )


def open_repository(store: Store, secret: KeySecret) -> Repository:
    """Open what is in `store` with `secret`.

    RepositoryNotInitialised if nothing is there, WrongKey if no slot opens, IntegrityError if a
    key object is damaged.
    """
    root = read_root(store)
    ring = _open_keys(store, root, secret)
    seal = read_root_seal(store, ring)
    believed = seal.capabilities or root.capabilities.unproved()
    return Repository(store, ring, replace(root, capabilities=believed), seal)


def read_root(store: Store) -> RepositoryRoot:
    """What the repository is and what its store can do, which needs no key; errors as above."""
    try:
        return RepositoryRoot.from_json(store.read(layout.ROOT, most_bytes=MOST_ROOT_BYTES))
    except ObjectMissing:
        raise RepositoryNotInitialised(
            f"there is no repository in {store.url}",
            hint="Run `drtool repository init` to make one, or correct `repository.url` in the policy.",
        ) from None


def read_slots(repository: Repository) -> tuple[list[Slot], list[IntegrityError]]:
    """All key slots of the repository, oldest first, and an error for each that is damaged."""
    slots, errors = _read_slots(repository.store, repository.ring.repository_id)
    return sorted(slots, key=lambda slot: (slot.created, slot.slot_id)), errors


def _read_slots(store: Store, repository_id: bytes) -> tuple[list[Slot], list[IntegrityError]]:
    """In the order in which the store got them. One damaged slot must not shut the others."""
    slots: list[Slot] = []
    errors: list[IntegrityError] = []
    # Slots that somebody added come last, by the store's clock; of thousands, not all are read.
    listed = sorted(store.list(layout.slots(repository_id)), key=lambda one: one.modified)
    for found in listed[:MOST_SLOTS]:
        try:
            slots.append(
                Slot.from_json(store.read(found.key, most_bytes=MOST_SLOT_BYTES), key=found.key)
            )
        except ObjectMissing:
            continue  # removed by somebody since it was listed
        except IntegrityError as error:
            errors.append(error)
    return slots, errors


def add_slot(repository: Repository, secret: KeySecret, *, now: datetime) -> Slot:
    """One more way in. The slot is read back and opened before this returns.

    UsageError for a slot without a secret: it would lay open what others sealed (PITFALLS 75).
    """
    ring, store = repository.ring, repository.store
    if secret.kind is SlotKind.NONE:
        raise UsageError(
            "a slot without a secret would open the repository to everybody",
            hint="Make a new repository with `key: none` if its content needs no secrecy.",
        )
    created = now.isoformat(timespec="microseconds")
    slot = make_slot(ring.master, secret, repository_id=ring.repository_id, created=created)
    key = layout.slot_key(ring.repository_id, slot.slot_id)
    store.create(key, [slot.to_json()])
    read_back = Slot.from_json(store.read(key, most_bytes=MOST_SLOT_BYTES), key=key)
    if open_slot(read_back, secret, repository_id=ring.repository_id) != ring.master:
        raise IntegrityError(f"object {key} does not open to the key that was put into it")
    return slot


def remove_slot(repository: Repository, slot_id: str, *, kept: KeySecret) -> None:
    """Drop a slot; refused unless `kept` opens another one, so that nobody locks himself out."""
    ring, store = repository.ring, repository.store
    key = layout.slot_key(ring.repository_id, slot_id)
    if store.stat(key) is None:
        raise UsageError(
            f"the repository has no slot {slot_id}",
            hint="Run `drtool repository key list` to see the slots.",
        )
    remaining = [slot for slot in read_slots(repository)[0] if slot.slot_id != slot_id]
    if ring.master not in _masters(remaining, kept, ring.repository_id):
        raise UsageError(
            f"slot {slot_id} is the only one that the present repository key opens",
            hint="Add another first with `drtool repository key add`, and point `repository.key`"
            " of the policy at it.",
        )
    store.delete(key)


def _why_closed(slots: Sequence[Slot], secret: KeySecret) -> str:
    """Whether it is the wrong key of the right kind, or of another kind than the repository's."""
    if not slots:
        return "it has no key slot"
    given = secret.kind.taken
    if secret.kind in {slot.kind for slot in slots}:
        return f"the {given.removeprefix('a ')} given opens none of its slots"
    kinds = " or ".join(sorted({slot.kind.taken for slot in slots}))
    return f"its slots take {kinds}, and {given} was given"


def _open_keys(store: Store, root: RepositoryRoot, secret: KeySecret) -> KeyRing:
    slots, errors = _read_slots(store, root.repository_id)
    masters = list(_masters(slots, secret, root.repository_id))
    if not masters and errors:
        raise errors[0]
    if not masters:
        raise WrongKey(
            f"the repository key given does not open {store.url}: {_why_closed(slots, secret)}",
            hint="Check what `repository.key` in the policy refers to: env: holds a passphrase, file: names"
            " a key file. Whoever made the repository, or an escrowed copy, has the right one.",
        )
    wrapped = list(_read_versions(store, root.repository_id))
    if not wrapped:
        raise IntegrityError(
            f"{store.url} holds no key version",
            hint="Bring `keys/` back from a copy of the repository.",
        )
    opened: list[KeyRing] = []
    failures: list[IntegrityError] = []
    for master in masters:
        versions: dict[int, bytes] = {}
        for version, content in wrapped:
            try:
                versions[version] = open_version(
                    master, content, repository_id=root.repository_id, version=version
                )
            except IntegrityError as error:
                # Somebody may have added it: what it would open is missed where it is read.
                failures.append(error)
        if versions:
            opened.append(KeyRing(root.repository_id, master, versions))
    if not opened:
        raise failures[0]
    return opened[0]


def with_all_versions(repository: Repository) -> Repository:
    """The same with the key versions that were added since it was opened."""
    ring = repository.ring
    versions = dict(ring.versions)
    for version, content in _read_versions(repository.store, ring.repository_id):
        try:
            versions[version] = open_version(
                ring.master, content, repository_id=ring.repository_id, version=version
            )
        except IntegrityError:
            continue
    return replace(repository, ring=replace(ring, versions=versions))


def _read_versions(store: Store, repository_id: bytes) -> Iterator[tuple[int, bytes]]:
    """What is wrapped in each object that bears the name of a key version, and its number."""
    for found in store.list(layout.versions(repository_id)):
        version = layout.parse_version_key(repository_id, found.key)
        if version is not None and found.size_bytes == WRAPPED_BYTES:
            yield version, store.read(found.key, most_bytes=WRAPPED_BYTES)


def _masters(slots: list[Slot], secret: KeySecret, repository_id: bytes) -> Iterator[bytes]:
    """The master keys that `secret` finds. A slot that takes none proves nothing by itself."""
    for slot in affordable(slot for slot in slots if slot.kind is secret.kind):
        try:
            yield open_slot(slot, secret, repository_id=repository_id)
        except WrongKey:
            continue
        if secret.kind is not SlotKind.NONE:
            return  # an authentic one: another would cost half a second more


def _probe_keys(store: Store, root: RepositoryRoot, secret: KeySecret, *, now: datetime) -> None:
    """Seal and open once with the code a restore uses, before anybody relies on it (PITFALLS 76)."""
    ring = _open_keys(store, root, secret)
    put_root_seal(store, ring, root.capabilities, root=root.to_json(), now=now)
    seal = read_root_seal(store, _open_keys(store, root, secret))
    if seal.capabilities is None or seal.capabilities.to_json() != root.capabilities.to_json():
        raise IntegrityError(
            f"what was sealed does not read back as it was written: {seal.missing}"
        )


def _write_rescue(store: Store) -> None:
    for key in RESCUE_FILES:
        try:
            store.create(key, [rescue_file(key)])
        except AlreadyExists:
            continue  # of a creation by another drtool, cut off: it reads this format as well


def is_encrypted(repository: Repository) -> bool:
    """Whether any secret guards the repository at all."""
    return all(slot.kind is not SlotKind.NONE for slot in read_slots(repository)[0])
