"""Whether WAL is held that no base backup leads to: behind a gap, or of a branch that has none yet."""

from __future__ import annotations

from drtool.archiving.lineages import known_systems
from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.cluster import system_of
from drtool.repository.backups import read_manifests
from drtool.repository.log import read_history
from drtool.repository.log_inventory import take_inventory
from drtool.repository.logpath import walk
from drtool.repository.repository import Repository


def is_base_needed(repository: Repository, source: str) -> bool:
    """Whether a backup that begins now would make WAL of use that is of none yet.

    False while there is no backup at all: the first one is taken by the schedule or by hand.
    """
    manifests, _ = read_manifests(repository, source)
    if not manifests:
        return False
    newest = manifests[-1].postgres
    system = system_of(newest.system_id)
    branches = [c for c in known_systems(repository, source) if system_of(c) == system]
    cluster = max(branches, default=newest.system_id)
    mine = [m.postgres for m in manifests if m.postgres.system_id == cluster]
    if not mine:
        return True
    extent = mine[-1]
    inventory = take_inventory(
        repository, source, cluster, segment_bytes=extent.segment_bytes, since=extent.start_lsn
    )
    last = max((t for t, log in inventory.timelines.items() if log.runs), default=extent.timeline)
    try:
        path = read_history(repository, source, cluster, timeline=last)
    except (ObjectMissing, IntegrityError):
        return False  # which way the log went cannot be told: `drtool status` says so
    if extent.timeline not in path.path():
        return False
    chain = walk(inventory, path, timeline=extent.timeline, begin=extent.start_lsn)
    return chain.is_cut
