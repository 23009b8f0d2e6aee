"""Confirms that what was put is in the store, before anybody relies on it.

A store may answer a put with success and keep nothing, or lose an object afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from drtool.errors import NotKept, ObjectMissing
from drtool.model.measure import counted
from drtool.repository import layout
from drtool.repository.sealing import SMALLEST_SEALED_BYTES
from drtool.stores.protocol import Buffer, Store, StoredObject

Item = TypeVar("Item")
Found = TypeVar("Found")

_AT_A_TIME = 8
# Up to so many packs are asked for one by one; of more, the directories that hold them are listed.
MOST_ASKED = 256
_ADVICE = "Look at the store: a rule that deletes objects, a full disk, a gateway that acknowledges early."


def confirm_put(
    store: Store, key: str, parts: Sequence[Buffer], *, compares_digest: bool = False
) -> None:
    """One look (HEAD) after a put. NotKept if `key` is not there, or has another size.

    `compares_digest`: also the MD5 that the store tells, if it tells one; where that differs the
    object is read back, since an ETag may be no MD5. For stores that do not check what comes in.
    """
    size = sum(memoryview(part).nbytes for part in parts)
    found = store.stat(key)
    if found is None:
        raise _not_kept(store, key, "it is not there")
    if found.size_bytes != size:
        raise _not_kept(store, key, f"it has {found.size_bytes} bytes of {size}")
    if compares_digest and found.md5 is not None and found.md5 != _md5(parts):
        _read_back(store, key, parts)


def confirm_there(store: Store, key: str) -> None:
    """NotKept if `key`, which was put just now, is not there."""
    if store.stat(key) is None:
        raise _not_kept(store, key, "it is not there")


def _read_back(store: Store, key: str, parts: Sequence[Buffer]) -> None:
    try:
        content = store.read(key, most_bytes=sum(memoryview(part).nbytes for part in parts))
    except ObjectMissing:
        raise _not_kept(store, key, "it is not there") from None
    if _md5([content]) != _md5(parts):
        raise _not_kept(store, key, "it has other bytes")


def _md5(parts: Sequence[Buffer]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _not_kept(store: Store, key: str, fact: str) -> NotKept:
    return NotKept(
        f"{store.url}: the store acknowledged object {key}, and {fact}",
        hint=_ADVICE,
    )


def confirm_packs(store: Store, pack_ids: Collection[bytes], *, sizes: Mapping[bytes, int]) -> None:
    """NotKept, naming the first, if packs that a backup is about to need are not in the store.

    `sizes` are those of the packs that this run has put. One HEAD a pack up to 256 packs, eight at a
    time; of more, their directories are listed, of which there are 256 at most.
    """
    look = _ask_each if len(pack_ids) <= MOST_ASKED else _list_directories
    found = look(store, pack_ids)
    wrong = sorted(
        pack_id
        for pack_id in pack_ids
        if found.get(pack_id, 0) < SMALLEST_SEALED_BYTES
        or found[pack_id] != sizes.get(pack_id, found[pack_id])
    )
    if not wrong:
        return
    error = NotKept(
        f"{store.url}: the store does not have {len(wrong)} of the"
        f" {counted(len(pack_ids), 'pack')} of this backup as they were"
        f" acknowledged; the first is {layout.pack_key(wrong[0])}",
        hint="No backup was recorded. Run it again: what is lost is stored again. "
        f"`drtool verify` tells which earlier backups suffer. {_ADVICE}",
    )
    error.retryable = False  # the packs are no longer at hand
    raise error


def _ask_each(store: Store, pack_ids: Collection[bytes]) -> dict[bytes, int]:
    wanted = list(pack_ids)

    def look(pack_id: bytes) -> StoredObject | None:
        return store.stat(layout.pack_key(pack_id))

    found = _side_by_side(look, wanted)
    return {
        pack_id: one.size_bytes
        for pack_id, one in zip(wanted, found, strict=True)
        if one is not None
    }


def _list_directories(store: Store, pack_ids: Collection[bytes]) -> dict[bytes, int]:
    wanted = {layout.pack_key(pack_id): pack_id for pack_id in pack_ids}
    directories = sorted({key.rpartition("/")[0] for key in wanted})

    def look(directory: str) -> list[tuple[bytes, int]]:
        listed = store.list(f"{directory}/")
        return [(wanted[one.key], one.size_bytes) for one in listed if one.key in wanted]

    return dict(pair for pairs in _side_by_side(look, directories) for pair in pairs)


def _side_by_side(look: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    executor = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="confirm")
    try:
        return list(executor.map(look, items))
    finally:
        # A store that is away is not asked for all the others too.
        executor.shutdown(cancel_futures=True)
