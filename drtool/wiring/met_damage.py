"""Damage that a restore meets is remembered, as that which a verification finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from drtool.errors import DrtoolError, IntegrityError, ObjectMissing
from drtool.model.progress import Noted
from drtool.repository.damage import remember_damage
from drtool.repository.repository import Repository
from drtool.wiring.surroundings import Surroundings

_PACKS = "packs/"
# Names that errors give to parts of objects are no keys.
_OBJECTS = (_PACKS, "log/", "backups/")


@contextmanager
def damage_remembered(repository: Repository, around: Surroundings) -> Iterator[None]:
    """Put a record of each object that an error of the block tells to be damaged, or a pack to be missing.

    From then on `drtool status`, `check` and the next restore know of it, until it was read whole. The
    error is raised as it came: it is no worse for a store that takes no writes.
    """
    try:
        yield
    except DrtoolError as error:
        found = dict(_damaged(error))
        try:
            remember_damage(repository, found)
        except DrtoolError as refused:
            text = f"the damage is not recorded in the repository: {refused.message}"
            around.emit(Noted(text, "warning"))
        raise


def _damaged(error: BaseException) -> Iterator[tuple[str, str]]:
    """The objects that an error, and those that led to it, tell of; each with the fact."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        match following:
            case IntegrityError(key=str(key), message=fact) if key.startswith(_OBJECTS):
                yield key, fact
            case ObjectMissing(key=key, message=fact) if key.startswith(_PACKS):
                yield key, fact
        following = following.__cause__ or following.__context__
