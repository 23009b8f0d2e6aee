"""Which clusters a source's log is of: a foreign one is refused before a byte of it is stored."""

from __future__ import annotations

from dataclasses import replace

from drtool.errors import SourceUnsuitable
from drtool.model.cluster import describe_cluster, system_of
from drtool.repository.backups import read_newest_manifest
from drtool.repository.clusters import logged_systems
from drtool.repository.repository import Repository
from drtool.sources.postgres.facts import ServerFacts


def known_systems(repository: Repository, source: str) -> frozenset[int]:
    """The clusters that have WAL or, with the newest readable backup, a backup here; each branch counts."""
    systems = set(logged_systems(repository, source))
    # A damaged backup must not keep the next one from being taken.
    newest, _ = read_newest_manifest(repository, source)
    if newest is not None:
        systems.add(newest.postgres.system_id)
    return frozenset(systems)


def as_archived(
    repository: Repository, source: str, facts: ServerFacts, *, accepts_new: bool
) -> ServerFacts:
    """The facts with the cluster's number as the repository has it: on its newest branch.

    SourceUnsuitable if the repository holds `source` as another cluster (PITFALLS 2).
    `accepts_new`: a person has said that the source is another cluster from now on, as it is after
    pg_upgrade (PITFALLS 64); the old one's backups and WAL stay beside the new one's.
    """
    known = known_systems(repository, source)
    system = system_of(facts.system_id)
    branches = [cluster for cluster in known if system_of(cluster) == system]
    if branches:
        return replace(facts, system_id=max(branches))
    if accepts_new or not known:
        return replace(facts, system_id=system)
    shown = ", ".join(describe_cluster(cluster) for cluster in sorted(known))
    raise SourceUnsuitable(
        f"{facts.place} is cluster {system}, and the repository holds {source} as {shown}",
        hint="A clone or a restored copy must not archive here: give it a source of its own. After"
        " pg_upgrade, or where it was rebuilt, say so once: `drtool wal receive"
        f" {source} --accept-source`, or `drtool backup {source} --accept-source`.",
    )
