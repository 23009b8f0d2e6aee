"""What is stored of a source already, as every new backup of it wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from drtool.errors import IntegrityError
from drtool.model.outcome import Fact
from drtool.model.progress import Noted
from drtool.repository.backups import (
    Attempt,
    Manifest,
    new_backup_id,
    newest_fencing,
    read_manifests,
    read_newest_manifest,
    unfinished_attempts,
)
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository
from drtool.wiring.surroundings import Surroundings

MOST_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The manifests that open, oldest first, and what interrupted backups left; `next_id` is free."""

    manifests: tuple[Manifest, ...]
    attempts: tuple[Attempt, ...]
    next_id: str


def look_back(repository: Repository, name: str, around: Surroundings) -> Earlier:
    """Manifests that do not open are told of, and left out: a new backup does without them."""
    manifests, errors = read_manifests(repository, name)
    return _earlier(repository, name, around, manifests=manifests, errors=errors)


def look_back_at_newest(repository: Repository, name: str, around: Surroundings) -> Earlier:
    """The same, with the newest manifest alone: a catalog of years has thousands, and each is a read."""
    newest, errors = read_newest_manifest(repository, name)
    manifests = [newest] if newest else []
    return _earlier(repository, name, around, manifests=manifests, errors=errors)


def _earlier(
    repository: Repository,
    name: str,
    around: Surroundings,
    *,
    manifests: Sequence[Manifest],
    errors: Sequence[IntegrityError],
) -> Earlier:
    for error in errors:
        around.emit(Noted(f"{error.message}. {error.hint}", "warning"))
    return Earlier(
        manifests=tuple(manifests),
        attempts=tuple(unfinished_attempts(repository, name, most=MOST_ATTEMPTS)),
        next_id=new_backup_id(repository.store.now()),
    )


def lease_of_backup(repository: Repository, name: str, around: Surroundings) -> Lease:
    """The lease under which a source is backed up; LeaseHeld if another backup of it runs."""
    above = partial(newest_fencing, repository, name)
    return Lease(repository, f"backup-{name}", clock=around.clock, numbered_above=above)


def facts_of_store(repository: Repository, *, unfinished: int) -> tuple[Fact, Fact]:
    """The last lines of every preview of a backup."""
    return (
        Fact(name="repository", value=repository.store.url, label="into"),
        Fact(name="unfinished", value=unfinished, label="interrupted backups to use"),
    )
