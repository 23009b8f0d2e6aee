"""The root of a repository and its rescue program: looked at, and sealed where an earlier drtool had not."""

from __future__ import annotations

from dataclasses import replace

from drtool.errors import DrtoolError
from drtool.model.finding import Finding
from drtool.model.progress import Noted
from drtool.repository import layout
from drtool.repository.repository import MOST_ROOT_BYTES, Repository
from drtool.repository.root_seal import put_root_seal, root_findings
from drtool.stores.open import believing
from drtool.wiring.surroundings import Surroundings


def look_at_root(repository: Repository) -> tuple[Finding, ...]:
    """What is wrong with `drtool.json` and `RESCUE/`, as they are now."""
    return tuple(root_findings(repository.store, repository.seal))


def sealed_root(repository: Repository, around: Surroundings) -> Repository:
    """The same, with its store measured again and sealed if nothing vouched for what was recorded of it.

    A store that cannot be measured now is told, and a backup is not worse for it.
    """
    if not repository.seal.missing:
        return repository
    from drtool.stores.probe import probe_store

    store = repository.store
    try:
        measured = probe_store(store, clock=around.clock)
        root, now = store.read(layout.ROOT, most_bytes=MOST_ROOT_BYTES), around.clock.now()
        seal = put_root_seal(store, repository.ring, measured, root=root, now=now)
    except DrtoolError as error:
        around.emit(Noted(f"the root of the repository was not sealed: {error.message}", "warning"))
        return repository
    believed = replace(repository.root, capabilities=measured)
    return replace(repository, store=believing(store, measured), root=believed, seal=seal)
