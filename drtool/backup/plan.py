"""What a backup will do: facts in, plan out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drtool.model.origin import Origin
from drtool.repository.backups import Attempt, Manifest, in_order
from drtool.repository.held import MOST_GONE_PERCENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What a person says is as it should be: content that shrank, servers of an unknown version.

    A database that lost no more than `gone_percent` of its keys or relations needs no word.
    """

    source: bool = False
    unread: bool = False
    gone_percent: float = MOST_GONE_PERCENT


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """The backup to compare with, and the interrupted attempts whose packs can be used again.

    `level` is zstd's, `origin` what the manifest tells of the source.
    """

    source: str
    backup_id: str
    previous: Manifest | None
    attempts: tuple[Attempt, ...]
    level: int = 1
    accepted: Accepted = Accepted()
    origin: Origin | None = None


def plan_backup(
    source: str,
    backup_id: str,
    *,
    system_id: int,
    manifests: Sequence[Manifest],
    attempts: Sequence[Attempt],
    level: int = 1,
) -> BackupPlan:
    """Compare with the newest backup of the same cluster; another cluster's pages help nobody."""
    same = [manifest for manifest in manifests if manifest.postgres.system_id == system_id]
    return _plan(source, backup_id, same=same, attempts=attempts, level=level)


def plan_snapshot(
    source: str,
    backup_id: str,
    *,
    kind: str,
    manifests: Sequence[Manifest],
    attempts: Sequence[Attempt],
    level: int = 1,
) -> BackupPlan:
    """Compare with the newest snapshot, wherever it was taken: content tells by itself if it is the same.

    IntegrityError if an earlier backup of this name is not of `kind`.
    """
    for manifest in manifests:
        manifest.require_kind(kind)
    return _plan(source, backup_id, same=manifests, attempts=attempts, level=level)


def _plan(
    source: str,
    backup_id: str,
    *,
    same: Sequence[Manifest],
    attempts: Sequence[Attempt],
    level: int,
) -> BackupPlan:
    ordered = in_order(same)
    previous = ordered[-1] if ordered else None
    newer = [
        attempt
        for attempt in attempts
        if previous is None or attempt.backup_id > previous.backup_id
    ]
    return BackupPlan(
        source=source,
        backup_id=backup_id,
        previous=previous,
        attempts=tuple(newer),
        level=level,
    )
