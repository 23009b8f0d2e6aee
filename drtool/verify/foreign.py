"""Objects in the store that nobody with the key has put there: found by name and by head, and told.

They change no answer, and nothing is missing without them; but somebody who may write to the store has
put them. `--repair` puts them aside (`quarantine`). One listing of all that there is, save packs and those
logs that were read back: there whoever reads them tells. Heads are read as far as contents are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from drtool.model.measure import counted
from drtool.repository import layout
from drtool.repository.lease import is_lease
from drtool.repository.named import what_it_is_not
from drtool.repository.names import own_name
from drtool.repository.recovery_findings import added_object
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES, ObjectType
from drtool.repository.taken import has_head
from drtool.stores.keys import in_order
from drtool.stores.protocol import Store, StoredObject
from drtool.verify.depth import Choice
from drtool.verify.tally import MOST_FOREIGN, Tally, side_by_side

NOT_OURS = "nobody with the key has put it there"
# Of which type an object is that lies below a directory, where it is sealed as a whole.
SEALED = {
    "attempts": ObjectType.ATTEMPT,
    "backups": ObjectType.MANIFEST,
    "evidence": ObjectType.EVIDENCE,
    "log": ObjectType.LOG,
    "marks": ObjectType.MARK,
}
_LAST = chr(0x10FFFF)
_Look = Callable[[], tuple[str, str | None]]


def find_foreign(
    repository: Repository, tally: Tally, choice: Choice, *, read_back: Iterable[str]
) -> None:
    """Look through everything but the packs and what lies in `read_back`; tell all that is foreign."""
    listed = _listed_outside(repository.store, ["packs/", *read_back])
    for key, fact in side_by_side(_looks(repository, listed, choice, tally=tally)):
        if fact is not None:
            tally.not_ours(key, fact)
    _tell_foreign(tally)


def _tell_foreign(tally: Tally) -> None:
    """Findings for all that was found: warnings, for nothing of ours is the worse for them."""
    tally.findings += [added_object(key, tally.foreign[key]) for key in sorted(tally.foreign)]
    if tally.more_foreign:
        tally.warn(
            "the store",
            f"holds {counted(tally.more_foreign, 'more object')} that nobody with the key has put",
            "Run `drtool verify --repair` again once the first of them are put aside.",
        )


def _listed_outside(store: Store, places: Iterable[str]) -> Iterator[StoredObject]:
    """All objects but those below `places`, which are passed over with one listing each."""
    after: str | None = None
    for place in sorted(places, key=in_order):
        for found in store.list("", after=after):
            if in_order(found.key) >= in_order(place):
                break
            yield found
        after = f"{place}{_LAST}"
    yield from store.list("", after=after)


def _looks(
    repository: Repository, listed: Iterator[StoredObject], choice: Choice, *, tally: Tally
) -> Iterator[_Look]:
    """One task for each object of which more than its name has to be seen; the others are told here."""
    ring = repository.ring
    for found in listed:
        key, room = found.key, found.key.partition("/")[0]
        fact = what_it_is_not(key, repository_id=ring.repository_id)
        if fact is not None:
            # Of ours under such a name is what a later drtool has put. Of millions not all are read.
            if room in SEALED and len(tally.foreign) < MOST_FOREIGN:
                yield partial(_unless_sealed, repository, found, fact)
            else:
                tally.not_ours(key, fact)
        elif room == "leases":
            yield partial(_unless_lease, repository, key)
        elif room == "keys" and _is_unopened_version(repository, key):
            tally.not_ours(key, "is no key version that opens")
        elif room in SEALED and choice.takes():
            tally.looked_at(key)
            look = _unless_manifest if room == "backups" else _unless_sealed
            yield partial(look, repository, found, NOT_OURS)


def _unless_sealed(
    repository: Repository, found: StoredObject, fact: str
) -> tuple[str, str | None]:
    return found.key, None if _is_sealed(repository, found) else fact


def _unless_manifest(
    repository: Repository, found: StoredObject, fact: str
) -> tuple[str, str | None]:
    """A backup that was begun, and of which nothing else opens, is one that was damaged."""
    if _is_sealed(repository, found):
        return found.key, None
    name = own_name(found.key)
    _, source, backup_id = name.split("/")
    was_begun = repository.holds(ObjectType.ATTEMPT, layout.attempt_key(source, backup_id))
    if was_begun and not repository.holds(ObjectType.MANIFEST, name):
        return found.key, None
    return found.key, fact


def _is_sealed(repository: Repository, found: StoredObject) -> bool:
    if found.size_bytes < SMALLEST_SEALED_BYTES:
        return False
    object_type = SEALED[found.key.partition("/")[0]]
    return has_head(repository.store, repository.ring, object_type, key=found.key)


def _unless_lease(repository: Repository, key: str) -> tuple[str, str | None]:
    return key, None if is_lease(repository, key) else "is no lease"


def _is_unopened_version(repository: Repository, key: str) -> bool:
    ring = repository.ring
    version = layout.parse_version_key(ring.repository_id, key)
    return version is not None and version not in ring.versions
