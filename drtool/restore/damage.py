"""Which backups a restore may use: those of which nothing is known to be damaged."""

from __future__ import annotations

from collections.abc import Mapping

from drtool.errors import IntegrityError
from drtool.model.measure import counted
from drtool.model.target import RecoveryTarget, ToBackup
from drtool.repository.backups import Manifest
from drtool.repository.damage import Damage
from drtool.repository.recovery_windows import damage_of


def without_damaged(
    manifests: list[Manifest],
    damaged: Mapping[str, Damage],
    target: RecoveryTarget,
    *,
    from_backup: str | None = None,
) -> tuple[list[Manifest], list[IntegrityError]]:
    """The backups of which nothing is known to be damaged, and an error for each of the others.

    The error of a backup that was asked for by its id, as the target or as the one to begin with, is raised.
    """
    named = target.backup_id if isinstance(target, ToBackup) else from_backup
    usable: list[Manifest] = []
    errors: list[IntegrityError] = []
    for manifest in manifests:
        found = damage_of(manifest, damaged)
        if not found:
            usable.append(manifest)
            continue
        error = IntegrityError(
            f"backup {manifest.backup_id} of {manifest.source} needs"
            f" {counted(len(found), 'pack that was', 'packs that were')} found damaged or missing:"
            f" {found[0].key}: {found[0].fact}",
            hint="Restore from another backup; once the object is whole again, `drtool verify --whole`"
            " says so.",
        )
        if named == manifest.backup_id:
            raise error
        errors.append(error)
    return usable, errors
