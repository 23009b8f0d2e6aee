"""Objects in the store that nobody with the key has put there: found by name and by head, and told.

They change no answer, and nothing is missing without them; but somebody who may write to the store has
put them. `--repair` puts them aside (`quarantine`). What lies below `log/` and `packs/` is told of by those
who read it; names alone are looked at here, and heads as far as contents are read at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from drtool.repository import layout
from drtool.repository.layout import ReplicationHistory
from drtool.repository.lease import is_lease
from drtool.repository.names import is_backup_id, is_day, own_name, parse_system_id, parse_timeline
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES, ObjectType
from drtool.repository.taken import has_head
from drtool.stores.protocol import StoredObject
from drtool.verify.depth import Choice
from drtool.verify.tally import Tally, side_by_side

_ROOMS = ("RESCUE", "attempts", "backups", "evidence", "keys", "leases", "log", "marks", "packs")
# What a repair or an expire has put aside.
_ASIDE = ("quarantine", "trash")
_EVIDENCE = re.compile(r"evidence/[a-z-]+/.+")
_NOT_OURS = "nobody with the key has put it there"
_LAST = chr(0x10FFFF)


def find_foreign(repository: Repository, tally: Tally, choice: Choice) -> None:
    """Look through everything but log and packs, and tell of all that is foreign, there too.

    Of marks, which are many, the days alone are listed unless contents are read.
    """
    for key in _objects_at_the_top(repository):
        if key != layout.ROOT:
            tally.not_ours(key, "is no object of a repository")
    for name in repository.store.list_directories(""):
        if name not in (*_ROOMS, *_ASIDE):
            _tell_all(repository, f"{name}/", "is no object of a repository", tally=tally)
    for found in repository.store.list("RESCUE/"):
        if found.key not in (layout.RESCUE_PROGRAM, layout.RESCUE_TEXT):
            tally.not_ours(found.key, "is not part of the rescue program")
    _look_at_keys(repository, tally)
    _look_at_leases(repository, tally)
    _look_at_backups(repository, tally, choice)
    _look_at_evidence(repository, tally, choice)
    _look_at_marks(repository, tally, choice)
    _tell_foreign(tally)


def _tell_foreign(tally: Tally) -> None:
    """Findings for all that was found: warnings, for nothing of ours is the worse for them."""
    for key in sorted(tally.foreign):
        tally.warn(
            key,
            f"{tally.foreign[key]}: it changes nothing",
            "Find out who may write to the store. `drtool verify --repair --plan` tells what would be put"
            " aside.",
        )
    if tally.more_foreign:
        tally.warn(
            "the store", f"holds {tally.more_foreign} more objects that nobody with the key has put"
        )


def _objects_at_the_top(repository: Repository) -> Iterator[str]:
    """The keys without a slash; what lies in directories is passed over, each with one listing."""
    after: str | None = None
    while True:
        found = next(iter(repository.store.list("", after=after)), None)
        if found is None:
            return
        directory, slash, _ = found.key.partition("/")
        if slash:
            after = f"{directory}/{_LAST}"
        else:
            yield found.key
            after = found.key


def _tell_all(repository: Repository, prefix: str, fact: str, *, tally: Tally) -> None:
    for found in repository.store.list(prefix):
        tally.not_ours(found.key, fact)


def _look_at_keys(repository: Repository, tally: Tally) -> None:
    ring = repository.ring
    for found in repository.store.list(f"keys/{ring.repository_id.hex()}/"):
        if found.key.startswith(layout.slots(ring.repository_id)):
            continue  # told of by whoever reads the slots
        version = layout.parse_version_key(ring.repository_id, found.key)
        if version is None or version not in ring.versions:
            tally.not_ours(found.key, "is no key version that opens")


def _look_at_leases(repository: Repository, tally: Tally) -> None:
    for found in repository.store.list("leases/"):
        if not is_lease(repository, found.key):
            tally.not_ours(found.key, "is no lease")


def _look_at_backups(repository: Repository, tally: Tally, choice: Choice) -> None:
    """Of manifests the names: they are all read by whoever verifies their source."""
    store = repository.store
    for room in ("backups", "attempts"):
        for found in store.list(f"{room}/"):
            source, _, name = found.key.removeprefix(f"{room}/").partition("/")
            if not (layout.is_source(source) and is_backup_id(own_name(name))):
                tally.not_ours(found.key, "has no name of a backup")
    _look_at_heads(
        repository,
        _manifests_beside(repository),
        ObjectType.MANIFEST,
        choice=choice,
        tally=tally,
    )
    _look_at_heads(
        repository,
        (found for found in store.list("attempts/") if found.key not in tally.foreign),
        ObjectType.ATTEMPT,
        choice=choice,
        tally=tally,
    )


def _manifests_beside(repository: Repository) -> Iterator[StoredObject]:
    """Those that were put beside a name, and what has that name: reading the backup tells of one alone."""
    named: dict[str, list[StoredObject]] = {}
    for found in repository.store.list("backups/"):
        if is_backup_id(own_name(found.key.rpartition("/")[2])):
            named.setdefault(own_name(found.key), []).append(found)
    for name, objects in named.items():
        if any(found.key != name for found in objects):
            yield from objects


def _look_at_evidence(repository: Repository, tally: Tally, choice: Choice) -> None:
    named = []
    for found in repository.store.list("evidence/"):
        if _EVIDENCE.fullmatch(found.key):
            named.append(found)
        else:
            tally.not_ours(found.key, "is no evidence")
    _look_at_heads(repository, iter(named), ObjectType.EVIDENCE, choice=choice, tally=tally)


def _look_at_marks(repository: Repository, tally: Tally, choice: Choice) -> None:
    for prefix in _days_of_marks(repository, tally):
        if choice.takes():
            listed = (
                found for found in repository.store.list(prefix) if _is_mark(found, prefix, tally)
            )
            _look_at_heads(repository, listed, ObjectType.MARK, choice=choice, tally=tally)


def _is_mark(found: StoredObject, prefix: str, tally: Tally) -> bool:
    """Whether it has the name of a mark, or of a word beside marks."""
    name = found.key.removeprefix(prefix)
    if prefix.endswith("/known/"):
        reached, word = layout.parse_reached_name(name), layout.parse_stream_name(name)
        is_mark = reached is not None or word is not None
    else:
        day = prefix.rstrip("/").rpartition("/")[2]
        is_mark = layout.parse_mark_name(f"{day}/{name}") is not None
    if not is_mark:
        tally.not_ours(found.key, "is no mark")
    return is_mark


def _days_of_marks(repository: Repository, tally: Tally) -> Iterator[str]:
    """The directories that hold marks; whatever else is there is told."""
    lists = repository.store.list_directories
    for source in lists("marks/"):
        for log in lists(f"marks/{source}/"):
            log_of = f"marks/{source}/{log}/"
            if layout.is_replication_id(log):
                yield from _days(repository, ReplicationHistory("x", log), log_of, tally=tally)
            elif parse_system_id(log) is None:
                _tell_all(repository, log_of, "is no mark", tally=tally)
            else:
                for timeline in lists(log_of):
                    place = f"{log_of}{timeline}/"
                    if parse_timeline(timeline) is None:
                        _tell_all(repository, place, "is no mark", tally=tally)
                    else:
                        yield from _days(repository, None, place, tally=tally)


def _days(
    repository: Repository, history: ReplicationHistory | None, place: str, *, tally: Tally
) -> Iterator[str]:
    for name in repository.store.list_directories(place):
        if is_day(name) or (history is not None and name == "known"):
            yield f"{place}{name}/"
        else:
            _tell_all(repository, f"{place}{name}/", "is no mark", tally=tally)


def _look_at_heads(
    repository: Repository,
    listed: Iterator[StoredObject],
    object_type: ObjectType,
    *,
    choice: Choice,
    tally: Tally,
) -> None:
    tasks = (
        partial(_head_of, repository, found, object_type) for found in listed if choice.takes()
    )
    for key, is_ours in side_by_side(tasks):
        tally.looked_at(key)
        if not is_ours:
            tally.not_ours(key, _NOT_OURS)


def _head_of(
    repository: Repository, found: StoredObject, object_type: ObjectType
) -> tuple[str, bool]:
    if found.size_bytes < SMALLEST_SEALED_BYTES:
        return found.key, False
    return found.key, has_head(repository.store, repository.ring, object_type, key=found.key)
