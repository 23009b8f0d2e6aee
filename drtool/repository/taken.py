"""Sealed objects whose name somebody without the key has taken: they are put, and found, beside it.

Whoever may write to the store can put an object under any name before we do, and nothing is ever
overwritten. So an object of ours whose name is taken goes to the same name with `~` and eight random
hexadecimal digits behind it, to which its seal is bound; readers that find nothing authentic under the
name itself look there. FORMAT.md, section 3.1.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.repository.keys import KeyRing
from drtool.repository.names import BESIDE, is_beside
from drtool.repository.sealing import (
    HEAD_BYTES,
    ObjectType,
    most_plain_bytes,
    most_sealed_bytes,
    open_head,
    seal_whole,
    unseal_whole,
)
from drtool.stores.protocol import Store

# A random name is free; a store that says otherwise every time is not asked for ever.
_MOST_TRIES = 5


def read_exactly(
    store: Store, ring: KeyRing, object_type: ObjectType, *, key: str, most_bytes: int | None = None
) -> bytes:
    """The plain bytes of the object `key` itself, at most so many; NotAuthentic if it is not one of ours."""
    most = most_plain_bytes(object_type) if most_bytes is None else most_bytes
    sealed = store.read(key, most_bytes=most_sealed_bytes(most))
    return unseal_whole(ring, object_type, key, sealed=sealed, most_bytes=most)


def read_sealed(
    store: Store, ring: KeyRing, object_type: ObjectType, *, key: str, most_bytes: int | None = None
) -> bytes:
    """The plain bytes of the object `key`, or of the one beside it where that name is taken or damaged.

    The error is that of `key` itself where there is none.
    """
    try:
        return read_exactly(store, ring, object_type, key=key, most_bytes=most_bytes)
    except (ObjectMissing, IntegrityError):
        for name in beside(store, key):
            try:
                return read_exactly(store, ring, object_type, key=name, most_bytes=most_bytes)
            except (ObjectMissing, IntegrityError):
                continue
        raise


def put_sealed(
    store: Store, ring: KeyRing, object_type: ObjectType, *, key: str, plain: bytes
) -> None:
    """Seal `plain` and create `key`, or an object beside it where the name is taken by what is not ours.

    AlreadyExists if an object of ours is there.
    """
    try:
        store.create(key, seal_whole(ring, object_type, key, plain=[plain]))
    except AlreadyExists:
        if find_ours(store, ring, object_type, key=key) is not None:
            raise
        put_beside(store, ring, object_type, key=key, plain=plain)


def put_beside(
    store: Store, ring: KeyRing, object_type: ObjectType, *, key: str, plain: bytes
) -> str:
    """Create an object beside `key`; return its name."""
    for remaining in reversed(range(_MOST_TRIES)):
        name = beside_name(key)
        try:
            store.create(name, seal_whole(ring, object_type, name, plain=[plain]))
        except AlreadyExists:
            if not remaining:
                raise
            continue
        return name
    raise AssertionError("the last try has returned or raised")


def beside_name(key: str) -> str:
    """A new name beside `key`, which nobody can know before."""
    return f"{key}{BESIDE}{secrets.token_hex(4)}"


def find_ours(store: Store, ring: KeyRing, object_type: ObjectType, *, key: str) -> str | None:
    """`key`, or a name beside it, whichever holds an object of ours; its head alone is read."""
    names = (name for names in ([key], beside(store, key)) for name in names)
    return next((name for name in names if has_head(store, ring, object_type, key=name)), None)


def has_head(store: Store, ring: KeyRing, object_type: ObjectType, *, key: str) -> bool:
    """Whether a holder of the key has put `key`: its first 72 bytes tell, and nothing of the rest."""
    try:
        head = store.read_range(key, 0, HEAD_BYTES)
        open_head(ring, object_type, key, head=head)
    except (ObjectMissing, IntegrityError):  # or it is shorter than a head
        return False
    return True


def beside(store: Store, key: str) -> Iterator[str]:
    """The names beside `key` that are there."""
    for found in store.list(f"{key}{BESIDE}"):
        if is_beside(found.key, key):
            yield found.key
