"""Which backup comes before a transaction's end or a restore point, and what is told of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.target import RecoveryTarget, ToName, describe_target
from drtool.repository.backups import Manifest, name_backups
from drtool.restore.look import Candidate, RecoveryFacts
from drtool.restore.stop_position import StopPosition


def before_place(facts: RecoveryFacts, usable: Sequence[Candidate]) -> list[Candidate]:
    """The backups that a replay to the target may begin with: where it is found, all that ended before.

    Else those behind whose end not all WAL was searched, or the one that was named.
    """
    place = facts.place
    if place is None:
        return list(usable)
    before = place.begin if place.begin is not None else place.searched_from
    if before is None or (facts.is_named and place.begin is None):
        return list(usable)
    is_found = place.begin is not None
    return [
        candidate
        for candidate in usable
        if (stop := candidate.manifest.postgres.stop_lsn) < before or (is_found and stop == before)
    ]


def no_backup_before(
    facts: RecoveryFacts, usable: Sequence[Candidate], target: RecoveryTarget
) -> NotRecoverable:
    """That no backup is before the target, or that the target is nowhere."""
    place, first, last = facts.place, usable[0], usable[-1]
    begin = first.manifest.postgres.stop_lsn
    if place is not None and place.begin is not None:
        return NotRecoverable(
            f"{describe_target(target)} of source {facts.source} is at {place.begin}, before {begin},"
            f" the end of backup {first.manifest.backup_id}",
            hint="No backup that can be used ended before it: choose a target behind that end.",
        )
    return NotRecoverable(
        f"{describe_target(target)} is nowhere in the WAL of source {facts.source} that can be replayed"
        f" on the way to timeline {facts.history.timeline}, from {begin} to {last.chain.end}",
        hint="Choose another timeline with --timeline, or another target; `drtool wal gaps` shows the WAL"
        " that is missing. To let a replay look for it all the same, name a backup with --from-backup.",
    )


def named_is_behind(
    facts: RecoveryFacts, named: Manifest, target: RecoveryTarget
) -> NotRecoverable:
    """That the backup which was named to begin with ended after the target."""
    extent, end = named.postgres, named.postgres.stop_lsn
    older = [
        one
        for one in facts.elsewhere
        if one.postgres.system_id == extent.system_id and one.postgres.stop_lsn < end
    ]
    older.sort(key=lambda one: one.postgres.stop_lsn)
    there_are = name_backups([one.backup_id for one in older])
    return NotRecoverable(
        f"{describe_target(target)} of source {facts.source} lies before the end of backup"
        f" {named.backup_id}, {end}, which was named to begin with",
        hint="Leave out --from-backup"
        + (f", or name an older backup. {there_are}" if older else "."),
    )


def stop_at_place(facts: RecoveryFacts, target: RecoveryTarget) -> StopPosition | None:
    """Where restore points share the name, the position says which is meant: PostgreSQL takes the first."""
    place = facts.place
    if not isinstance(target, ToName) or place is None or place.begin is None or not place.others:
        return None
    return StopPosition(lsn=place.begin)


def told_of_place(
    facts: RecoveryFacts, manifest: Manifest, target: RecoveryTarget
) -> list[Finding]:
    """Where the target was found, or that the replay has to look for it."""
    place, subject = facts.place, describe_target(target)
    if place is None or place.begin is None:
        looked = (
            f"; WAL from {place.searched_from} on was searched, and it is not there"
            if place is not None and place.searched_from is not None
            else ""
        )
        return [
            Finding(
                severity=Severity.WARNING,
                subject=subject,
                fact=f"nobody can tell beforehand where it is{looked}: the replay reads on from backup"
                f" {manifest.backup_id} until it comes by, and fails if it does not",
                fix="If it lies before that backup, name an older one with --from-backup.",
            )
        ]
    found = [
        Finding(
            severity=Severity.NOTE,
            subject=subject,
            fact=f"it is at {place.begin}, behind the end of backup {manifest.backup_id}",
        )
    ]
    if isinstance(target, ToName) and place.others:
        places = ", ".join(str(other) for other in place.others)
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject=subject,
                fact=f"there are older ones of this name, at {places}: the newest is taken",
                fix="For another one use --to-lsn with its position.",
            )
        )
    if place.is_rollback:
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject=subject,
                fact="it was rolled back there: nothing of it is in the copy",
            )
        )
    return found
