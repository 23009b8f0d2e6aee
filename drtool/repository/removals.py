"""Backups that were removed rightly: a sealed word of each, without which its absence is missed.

`expire`, still to come, puts one before it deletes a manifest. FORMAT.md, section 11.
"""

from __future__ import annotations

from drtool.repository import layout
from drtool.repository.names import is_backup_id, own_name
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType


def recorded_removals(repository: Repository, source: str) -> frozenset[str]:
    """The ids of the backups of a source whose removal a holder of the key has recorded."""
    prefix = layout.evidence_key("removed", f"{source}/")
    names = {own_name(found.key) for found in repository.store.list(prefix)}
    return frozenset(
        backup_id
        for name in names
        if is_backup_id(backup_id := name.removeprefix(prefix))
        and repository.holds(ObjectType.EVIDENCE, name)
    )
