"""Objects that somebody added to the store, put aside: copied to `quarantine/`, and only then deleted.

Only what a verification has just told of, each judged again under all keys that there are by then. What
may be ours is never touched: packs, slots and the root, and whatever opens or would be missed. A lease
that is none is replaced by the next run that needs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from drtool.errors import AccessDenied, AlreadyExists, IntegrityError, ObjectMissing
from drtool.model.finding import Finding, Severity
from drtool.model.progress import Emit, Noted
from drtool.repository import layout
from drtool.repository.repository import Repository, with_all_versions
from drtool.repository.sealing import ObjectType
from drtool.repository.taken import has_head

# A larger one is not copied through memory.
MOST_BYTES = 64 << 20
_TYPES = {
    "attempts": ObjectType.ATTEMPT,
    "backups": ObjectType.MANIFEST,
    "evidence": ObjectType.EVIDENCE,
    "log": ObjectType.LOG,
    "marks": ObjectType.MARK,
}
_KEPT = ("leases", "quarantine", "trash")


def movable(repository: Repository, keys: Iterable[str]) -> tuple[str, ...]:
    """Those of the keys that a repair would put aside: looked at again, for a key may be new."""
    ours = with_all_versions(repository)
    return tuple(key for key in keys if _is_foreign(ours, key))


def would_put_aside(keys: Iterable[str]) -> Iterator[Finding]:
    """The plan, as findings."""
    for key in keys:
        yield _told(Severity.NOTE, key, "would be put aside in quarantine/; nothing was done")


def put_aside(
    repository: Repository, keys: Iterable[str], *, now: datetime, emit: Emit
) -> Iterator[Finding]:
    """Put the objects aside, each after it was named; what cannot be is told, and stays.

    Nothing is overwritten, and nothing is deleted that was not read back from its copy.
    """
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    moved: list[str] = []
    for key in keys:
        emit(Noted(f"putting {key} aside in quarantine/{stamp}/", "info"))
        trouble = _put_one_aside(repository, key, f"quarantine/{stamp}/{key}")
        if trouble is None:
            moved.append(key)
            yield _told(Severity.NOTE, key, f"was put aside as quarantine/{stamp}/{key}")
        else:
            yield _told(Severity.WARNING, key, f"stays where it is: {trouble}")
    if moved:
        content = json.dumps({"put_aside": moved}).encode()
        repository.put(ObjectType.EVIDENCE, layout.evidence_key("quarantine", stamp), content)


def _put_one_aside(repository: Repository, key: str, aside: str) -> str | None:
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
        store.delete(key)
    except (AccessDenied, AlreadyExists, IntegrityError, ObjectMissing, ValueError) as error:
        return str(error)
    return None


def _is_foreign(repository: Repository, key: str) -> bool:
    room, slash, _ = key.partition("/")
    if key == layout.ROOT or room in _KEPT:
        return False
    if room == "keys":
        version = layout.parse_version_key(repository.ring.repository_id, key)
        is_slot = key.startswith(layout.slots(repository.ring.repository_id))
        return not is_slot and version not in repository.ring.versions
    if room == "packs":
        return not layout.is_pack_key(key)
    if slash and room in _TYPES:
        return not has_head(repository.store, repository.ring, _TYPES[room], key=key)
    return key not in (layout.RESCUE_PROGRAM, layout.RESCUE_TEXT)


def _told(severity: Severity, key: str, fact: str) -> Finding:
    return Finding(severity=severity, subject=key, fact=fact)
