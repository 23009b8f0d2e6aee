"""Objects that were found damaged or missing: remembered until they were read whole again.

A record is evidence like any other: put once, never overwritten, and deleted by `expire` alone. The
records of one object are numbered, so that no clock decides which is the newest; that one counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.model.strict_json import read_object
from drtool.repository import layout
from drtool.repository.names import own_name
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType

_KIND = "damage"


@dataclass(frozen=True, slots=True)
class Damage:
    """Object `key` could not be read whole at `found`, by the store's clock; `fact` says why."""

    key: str
    fact: str
    found: datetime


def remember_damage(repository: Repository, damaged: Mapping[str, str]) -> None:
    """Put a record of each object in `damaged`, with the fact that is wrong with it."""
    known = known_damage(repository) if damaged else {}
    for key, fact in damaged.items():
        if key not in known:
            _put(repository, key, {"fact": fact, "is_damaged": True})


def remember_read(repository: Repository, keys: Iterable[str]) -> None:
    """Put the word that objects which had been damaged were read whole."""
    for key in keys:
        _put(repository, key, {"fact": "it was read whole", "is_damaged": False})


def known_damage(repository: Repository) -> dict[str, Damage]:
    """What is damaged as far as anybody has found, by key. One listing where nothing ever was.

    A record that is not authentic says nothing, neither for nor against: the one before it counts.
    """
    prefix = layout.evidence_key(_KIND, "")
    by_object: dict[str, list[str]] = {}
    for found in repository.store.list(prefix):
        name, _, _ = found.key.removeprefix(prefix).partition("/")
        by_object.setdefault(name, []).append(found.key)
    newest = (_newest(repository, keys) for keys in by_object.values())
    return {one.key: one for one in newest if one is not None}


def _newest(repository: Repository, records: list[str]) -> Damage | None:
    """None if the object was read whole since."""
    for record in sorted({own_name(record) for record in records}, reverse=True):
        try:
            document = read_object(repository.get(ObjectType.EVIDENCE, record))
            is_damaged = document.flag("is_damaged")
            moment = document.moment("at")
            one = Damage(document.text("object"), document.text("fact"), moment)
        except (IntegrityError, ObjectMissing, ValueError):
            continue
        return one if is_damaged else None
    return None


def _put(repository: Repository, key: str, document: Mapping[str, object]) -> None:
    now = repository.store.now().astimezone(UTC)
    prefix = layout.evidence_key(_KIND, hashlib.sha256(key.encode()).hexdigest()[:32])
    names = (own_name(found.key) for found in repository.store.list(f"{prefix}/"))
    ours = {name for name in names if repository.holds(ObjectType.EVIDENCE, name)}
    content = json.dumps({"object": key, "at": now.isoformat(), **document})
    try:
        repository.put(ObjectType.EVIDENCE, f"{prefix}/{len(ours):06d}", content.encode())
    except AlreadyExists:
        return  # another run found the same at the same time
