"""Rotation of the repository's key: one more key version, and a record of which versions there are.

A number that somebody without the key has taken is passed over; the record tells such a number from that
of a version of ours that is missing or damaged.
"""

from __future__ import annotations

import json

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.model.strict_json import read_object
from drtool.repository import layout
from drtool.repository.keys import WRAPPED_BYTES, new_version, open_version
from drtool.repository.names import own_name
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType

_KIND = "key-versions"
# Numbers that are passed over before rotation gives up.
_MOST_TAKEN = 1000


def rotate_key(repository: Repository) -> int:
    """Add a key version; what is sealed from the next opening on uses it. Return its number.

    AlreadyExists if another rotation was quicker.
    """
    ring = repository.ring
    version = ring.newest
    for remaining in reversed(range(_MOST_TAKEN)):
        version += 1
        _, wrapped = new_version(ring.master, ring.repository_id, version)
        try:
            repository.store.create(layout.version_key(ring.repository_id, version), [wrapped])
            break
        except AlreadyExists:
            if not remaining or _is_version(repository, version):
                raise
    content = json.dumps({"versions": [*sorted(ring.versions), version]}).encode()
    repository.put(ObjectType.EVIDENCE, _record(version), content)
    return version


def recorded_versions(repository: Repository) -> set[int]:
    """The key versions that there have been, as recorded; up to the newest that opens without a record."""
    prefix = layout.evidence_key(_KIND, "")
    names = {own_name(found.key) for found in repository.store.list(prefix)}
    for name in sorted(names, reverse=True):
        try:
            document = read_object(repository.get(ObjectType.EVIDENCE, name))
            return {*document.numbers("versions")} | {*repository.ring.versions}
        except (ObjectMissing, IntegrityError, ValueError):
            continue
    return set(range(1, repository.ring.newest + 1))


def _record(version: int) -> str:
    return layout.evidence_key(_KIND, f"{version:09d}")


def _is_version(repository: Repository, version: int) -> bool:
    """Whether what stands under the name of a key version is one of ours."""
    ring = repository.ring
    key = layout.version_key(ring.repository_id, version)
    try:
        content = repository.store.read(key, most_bytes=WRAPPED_BYTES)
        open_version(ring.master, content, repository_id=ring.repository_id, version=version)
    except (ObjectMissing, IntegrityError):
        return False
    return True
