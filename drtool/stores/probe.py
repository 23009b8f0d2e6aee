"""Finds out what a store really does, by doing it: some servers accept conditions and ignore them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from drtool.errors import AlreadyExists, DrtoolError, NotSupported, ObjectMissing
from drtool.stores.capabilities import Capabilities
from drtool.stores.protection import Protection, measured_protection, removed_with_versions
from drtool.stores.protocol import Names, Store
from drtool.stores.remote import RemoteStore
from drtool.system.clock import Clock

RACERS = 8
ROUNDS = 3
_START_SECONDS = 30
# Listed by S3 in this order; by a store that walks directories with `b/x` first.
_ORDERED = ("order/b-2/x", "order/b.txt", "order/b/x")
_TOLD_TO_BELIEVE = Capabilities(
    creates_atomically=True,
    replaces_if_matching=True,
    reads_after_write=True,
    ranges=True,
    lists_in_order=True,
)


def probe_store(store: Store, *, clock: Clock) -> Capabilities:
    """What `store` does, measured with objects below `probe/<random>/`, which are removed again.

    A store that refuses conditions and takes plain puts is measured with those.

    RepositoryUnavailable and its kinds if it cannot be asked at all. What only some stores can be
    asked (versioning, lock, checksums) is None where the answer is not to be had. `left_behind` names
    `probe/<random>/` if some of it could not be removed.
    """
    # A remote store must send its conditions for the server to show what it makes of them.
    asked = store.with_capabilities(_TOLD_TO_BELIEVE) if isinstance(store, RemoteStore) else store
    place = f"probe/{secrets.token_hex(8)}/"
    try:
        found = _measured(asked, place, clock)
    except BaseException:
        _clean(store, place)
        raise
    is_removed = _clean(store, place)
    if is_removed or (is_removed is None and not found.versioning):
        return found
    return replace(found, left_behind=place)


def _measured(store: Store, place: str, clock: Clock) -> Capabilities:
    store.create(f"{place}first", [b"first"])
    is_kept = _reads_after_write(store, place)
    remote = store if isinstance(store, RemoteStore) else None
    control = remote.control() if remote is not None and remote.place.scheme == "s3" else None
    protection = Protection() if remote is None else measured_protection(remote, place, clock=clock)
    return Capabilities(
        creates_atomically=_creates_atomically(store, place),
        replaces_if_matching=_replaces_if_matching(store, place),
        reads_after_write=is_kept,
        ranges=is_kept and _ranges(store, f"{place}first"),
        lists_in_order=is_kept and _lists_in_order(store, place),
        refuses_wrong_checksum=_refuses_wrong_checksum(remote, control, place),
        versioning=protection.versioning,
        object_lock=protection.object_lock,
        outlives_deletion=protection.outlives_deletion,
        clock_skew=_clock_skew(store, clock),
    )


def _creates_atomically(store: Store, place: str) -> bool:
    if not store.creates_atomically:
        return False  # its first put was refused for its condition
    if _succeeds(lambda: store.create(f"{place}first", [b"other"])):
        return False
    return all(_one_creator_wins(store, f"{place}race-{number}") for number in range(ROUNDS))


def _one_creator_wins(store: Store, key: str) -> bool:
    offers = [b"racer %d" % number for number in range(RACERS)]
    won = _race(lambda offer: _succeeds(lambda: store.create(key, [offer])), offers)
    return won.count(True) == 1 and store.read(key) == offers[won.index(True)]


def _replaces_if_matching(store: Store, place: str) -> bool:
    """Whether of eight that saw the same content exactly one may replace it."""
    if not store.creates_atomically:
        return False
    current = b"0"
    key = f"{place}lease"
    try:
        store.replace_if(key, current, None)
        if store.replace_if(key, b"other", None):
            return False
        for number in range(ROUNDS):
            offers = [b"%d by %d" % (number, racer) for racer in range(RACERS)]
            won = _race(partial(_renew, store, key, seen=current), offers)
            if won.count(True) != 1:
                return False
            current = offers[won.index(True)]
            if store.read(key) != current:
                return False
    except NotSupported:
        return False
    return True


def _renew(store: Store, key: str, offer: bytes, *, seen: bytes) -> bool:
    return store.replace_if(key, offer, seen)


def _race(attempt: Callable[[bytes], bool], offers: list[bytes]) -> list[bool]:
    start = threading.Barrier(len(offers))

    def run(offer: bytes) -> bool:
        start.wait(_START_SECONDS)
        return attempt(offer)

    with ThreadPoolExecutor(len(offers)) as threads:
        return list(threads.map(run, offers))


def _succeeds(create: Callable[[], None]) -> bool:
    try:
        create()
    except (AlreadyExists, NotSupported):
        return False
    return True


def _reads_after_write(store: Store, place: str) -> bool:
    for number in range(ROUNDS):
        key = f"{place}written-{number}"
        store.create(key, [b"x"])
        listed: Names = [one.key for one in store.list(key)]
        try:
            if store.stat(key) is None or listed != [key] or store.read(key) != b"x":
                return False
        except ObjectMissing:
            return False
    return True


def _ranges(store: Store, key: str) -> bool:
    if isinstance(store, RemoteStore) and not store.answers_ranges(key):
        return False
    return bytes(store.read_range(key, 1, 3)) == b"irs" and bytes(store.read_tail(key, 2)) == b"st"


def _lists_in_order(store: Store, place: str) -> bool:
    for key in _ORDERED:
        store.create(place + key, [b"x"])
    try:
        found = [one.key for one in store.list(f"{place}order/")]
        later = [one.key for one in store.list(f"{place}order/", after=place + _ORDERED[1])]
    except DrtoolError as error:
        if error.retryable:
            raise
        return False  # the listing itself noticed
    return found == [place + key for key in _ORDERED] and later == [place + _ORDERED[2]]


def _refuses_wrong_checksum(
    remote: RemoteStore | None,
    control: Any,  # boto3's client, made at run time, or None
    place: str,
) -> bool | None:
    if remote is None or control is None:
        return None
    from botocore.exceptions import BotoCoreError, ClientError

    wrong = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="  # of no bytes at all
    try:
        control.put_object(
            Bucket=remote.place.bucket,
            Key=remote.object_path(f"{place}checksum"),
            Body=b"x",
            ChecksumSHA256=wrong,
        )
    except ClientError:
        return True
    except BotoCoreError:
        return None
    return False


def _clock_skew(store: Store, clock: Clock) -> timedelta | None:
    before = clock.now()
    try:
        theirs = store.now()
    except DrtoolError:
        return None
    after = clock.now()
    return theirs - (before + (after - before) / 2)


def _clean(store: Store, place: str) -> bool | None:
    """Remove what the probe put, all versions; whether it is gone. None: versions cannot be listed."""
    try:
        # Collected first: deleting while a listing goes on may move its pages.
        for key in [one.key for one in store.list(place)]:
            store.delete(key)
    except DrtoolError:
        return False
    return removed_with_versions(store, place) if isinstance(store, RemoteStore) else True
