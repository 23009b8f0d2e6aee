"""Objects that somebody added to the store, put aside: copied to `quarantine/`, and only then deleted.

Only what a verification has just told of, each judged again under all keys that there are by then. What
may be ours is never touched: packs, slots, keys of another repository and the root, and whatever opens or
would be missed. The name of a lease is held while what lay there goes, so that no run loses its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from drtool.errors import AccessDenied, AlreadyExists, IntegrityError, LeaseHeld, ObjectMissing
from drtool.model.finding import Finding, Severity
from drtool.model.progress import Emit, Noted
from drtool.repository import layout
from drtool.repository.lease import MOST_LEASE_BYTES, Lease, is_lease
from drtool.repository.named import is_of_another_repository, what_it_is_not
from drtool.repository.repository import Repository, with_all_versions
from drtool.repository.sealing import ObjectType
from drtool.repository.taken import has_head
from drtool.system.clock import Clock
from drtool.verify.foreign import SEALED

# A larger one is not copied through memory.
MOST_BYTES = 64 << 20
_FIX = "Find out who may write to the store."
_STAYS = "; it stays: it may be ours, or is none of others any more"


def movable(repository: Repository, keys: Iterable[str]) -> tuple[str, ...]:
    """Those of the keys that a repair would put aside: looked at again, for a key may be new."""
    ours = with_all_versions(repository)
    return tuple(key for key in keys if _is_foreign(ours, key))


def with_what_became_of(
    findings: Iterable[Finding], foreign: Iterable[str], became: Mapping[str, str]
) -> Iterator[Finding]:
    """The findings of a verification, those about foreign objects with what became of each."""
    added = set(foreign)
    for finding in findings:
        if finding.subject in added and finding.severity is Severity.WARNING:
            fact = finding.fact + became.get(finding.subject, _STAYS)
            yield replace(finding, fact=fact, fix=_FIX)
        else:
            yield finding


def would_put_aside(keys: Iterable[str]) -> dict[str, str]:
    """What would become of each."""
    return dict.fromkeys(keys, "; it would be put aside in quarantine/; nothing was done")


def put_aside(
    repository: Repository, keys: Iterable[str], *, now: datetime, emit: Emit, clock: Clock
) -> dict[str, str]:
    """Put the objects aside, each after it was named, and return what became of each; what cannot be, stays.

    Nothing is overwritten, and nothing is deleted that was not read back from its copy.
    """
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    moved: list[str] = []
    became: dict[str, str] = {}
    for key in keys:
        emit(Noted(f"putting {key} aside in quarantine/{stamp}/", "info"))
        trouble = _put_one_aside(repository, key, f"quarantine/{stamp}/{key}", clock=clock)
        if trouble is None:
            moved.append(key)
            became[key] = f"; it was put aside as quarantine/{stamp}/{key}"
        else:
            became[key] = f"; it stays where it is: {trouble}"
    if moved:
        content = json.dumps({"put_aside": moved}).encode()
        repository.put(ObjectType.EVIDENCE, layout.evidence_key("quarantine", stamp), content)
    return became


def _put_one_aside(repository: Repository, key: str, aside: str, *, clock: Clock) -> str | None:
    """None, or why it could not be."""
    store = repository.store
    if not movable(repository, [key]):
        return "it is none of others any more"
    try:
        content = store.read(key, most_bytes=MOST_BYTES)
        store.create(aside, [content])
        if store.read(aside, most_bytes=MOST_BYTES) != content:
            return "its copy is not what was copied"
        if store.read(key, most_bytes=MOST_BYTES) != content:
            return "it was changed meanwhile"
        if key.startswith("leases/") and len(content) <= MOST_LEASE_BYTES:
            # A larger one is no run's way to a lease: nobody can have replaced it since.
            with Lease(repository, key.removeprefix("leases/"), clock=clock):
                store.delete(key)
        else:
            store.delete(key)
    except (
        AccessDenied,
        AlreadyExists,
        IntegrityError,
        LeaseHeld,
        ObjectMissing,
        ValueError,
    ) as error:
        return str(error)
    return None


def _is_foreign(repository: Repository, key: str) -> bool:
    ring, room = repository.ring, key.partition("/")[0]
    if room in SEALED:
        return not has_head(repository.store, ring, SEALED[room], key=key)
    if room == "leases":
        return not is_lease(repository, key)
    if is_of_another_repository(key, repository_id=ring.repository_id):
        return False
    if what_it_is_not(key, repository_id=ring.repository_id) is not None:
        return True
    version = layout.parse_version_key(ring.repository_id, key)
    return version is not None and version not in ring.versions
