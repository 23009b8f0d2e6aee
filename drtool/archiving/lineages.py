"""Which clusters a source's log is of: a foreign one is refused before a byte of it is stored."""

from __future__ import annotations

from drtool.errors import IntegrityError, SourceUnsuitable
from drtool.repository.backups import backup_ids, read_manifest
from drtool.repository.repository import Repository
from drtool.sources.postgres.facts import ServerFacts


def known_systems(repository: Repository, source: str) -> frozenset[int]:
    """The system ids of the clusters that have WAL or, with the newest readable backup, a backup here."""
    names = repository.store.list_directories(f"log/{source}/")
    systems = {int(name) for name in names if name.isdigit()}
    for backup_id in reversed(backup_ids(repository, source)):
        try:
            systems.add(read_manifest(repository, source, backup_id).postgres.system_id)
        except IntegrityError:
            continue  # a damaged backup must not keep the next one from being taken
        break
    return frozenset(systems)


def require_known_system(
    repository: Repository, source: str, facts: ServerFacts, *, accepts_new: bool
) -> None:
    """SourceUnsuitable if the repository holds `source` as another cluster (PITFALLS 2).

    `accepts_new`: a person has said that the source is another cluster from now on, as it is after
    pg_upgrade (PITFALLS 64); the old one's backups and WAL stay beside the new one's.
    """
    known = known_systems(repository, source)
    if accepts_new or not known or facts.system_id in known:
        return
    shown = ", ".join(str(system) for system in sorted(known))
    raise SourceUnsuitable(
        f"{facts.place} is cluster {facts.system_id}, and the repository holds {source} as {shown}",
        hint="A clone or a restored copy must not archive here: give it a source of its own. After"
        " pg_upgrade, say so with `drtool wal receive --accept-new-system`.",
    )
