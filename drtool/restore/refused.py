"""Why a target of a PostgreSQL cluster is refused, and what can be asked for instead. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from drtool.errors import NotRecoverable
from drtool.model.measure import format_exact
from drtool.model.target import RecoveryTarget, ToBackup, ToLsn, ToName, ToXid, describe_target
from drtool.model.wal import Lsn
from drtool.repository.logpath import WalSpan
from drtool.repository.recovery_windows import latest_moment
from drtool.restore.look import Candidate, RecoveryFacts
from drtool.restore.place_choice import named_is_behind, no_backup_before


def window(facts: RecoveryFacts) -> tuple[datetime | None, datetime | None]:
    """The earliest and the latest moment that can be returned to; None where nobody can tell."""
    usable = [candidate for candidate in facts.candidates if candidate.is_consistent]
    if not usable:
        return None, None
    earliest = min(candidate.manifest.postgres.stopped_at for candidate in usable)
    return earliest, latest_of(usable[-1])


def latest_of(candidate: Candidate) -> datetime | None:
    """The latest moment that a recovery from there can be asked for."""
    return latest_moment(candidate.newest, candidate.manifest.postgres)


def nothing_usable(facts: RecoveryFacts, target: RecoveryTarget) -> NotRecoverable:
    """No backup can become consistent, or none lies on the path."""
    if facts.candidates:
        worst = facts.candidates[-1]
        missing = worst.chain.missing
        name = missing.name(facts.inventory.segment_bytes) if missing else "of its end"
        return NotRecoverable(
            f"backup {worst.manifest.backup_id} of source {facts.source} cannot be made consistent:"
            f" WAL segment {name} is not in the repository",
            hint="Run `drtool wal gaps` to see what is missing, and `drtool backup` to begin anew.",
        )
    others = ", ".join(manifest.backup_id for manifest in facts.elsewhere) or "none"
    return NotRecoverable(
        f"no backup of source {facts.source} lies on the way to timeline {facts.history.timeline},"
        f" so {describe_target(target)} cannot be reached there",
        hint=f"Choose another timeline with --timeline; backups on other ones: {others}.",
    )


def before_everything(
    facts: RecoveryFacts, usable: Sequence[Candidate], target: RecoveryTarget
) -> NotRecoverable:
    """Each backup that is `usable` ends behind the target."""
    if isinstance(target, ToBackup):
        return NotRecoverable(
            f"backup {target.backup_id} of source {facts.source} cannot be made consistent: WAL of"
            " its own stretch is not in the repository",
            hint="Run `drtool wal gaps` to see what is missing, and restore from another backup.",
        )
    first = usable[0].manifest
    if facts.is_named:
        return named_is_behind(facts, first, target)
    if isinstance(target, ToXid | ToName):
        return no_backup_before(facts, usable, target)
    if isinstance(target, ToLsn):
        return NotRecoverable(
            f"{describe_target(target)} lies before the end of the first backup of source"
            f" {facts.source}, {first.postgres.stop_lsn}",
            hint=f"The earliest position is {first.postgres.stop_lsn}: use --to-lsn with a later one.",
        )
    return NotRecoverable(
        f"{describe_target(target)} lies before the end of the first backup of source"
        f" {facts.source}: {_window_text(facts)}",
        hint=f"The earliest moment is {format_exact(first.postgres.stopped_at, facts.zone)}: use --to"
        f" '{format_exact(first.postgres.stopped_at, facts.zone)}' or later.",
    )


def beyond_marks(facts: RecoveryFacts, chosen: Candidate, moment: datetime) -> NotRecoverable:
    """No mark tells of a moment so late."""
    if chosen.newest is None and facts.furthest is None:
        return NotRecoverable(
            f"source {facts.source} has no marks, so nobody can tell which WAL position belongs to"
            f" {format_exact(moment, facts.zone)}",
            hint="Use --to latest, --to-lsn, --to-xid, --to-name or --backup; marks are made by"
            " `drtool wal receive`.",
        )
    latest = window(facts)[1]
    ways = [f"--to '{format_exact(latest, facts.zone)}'"] if latest else []
    ways += [f"--to latest --timeline {one.timeline}" for one in facts.choices] or ["--to latest"]
    return NotRecoverable(
        f"time {format_exact(moment, facts.zone)} lies after what can be recovered of source {facts.source}"
        f" on timeline {facts.history.timeline}: {_window_text(facts)}",
        hint=f"{_also(facts)}To come as near as possible, use {' or '.join(ways)}.",
    )


def _also(facts: RecoveryFacts) -> str:
    others = [number for number in facts.also if number != facts.history.timeline]
    if not others:
        return ""
    told = " or ".join(f"--timeline {number}" for number in others)
    return f"Another timeline was written at that time: if it is production, add {told}. "


def hole(facts: RecoveryFacts, chosen: Candidate, what: str) -> NotRecoverable:
    """`what` cannot be, since WAL is missing."""
    latest = latest_of(chosen)
    how = (
        f"use --to '{format_exact(latest, facts.zone)}'"
        if latest
        else f"use --to-lsn {chosen.chain.end}"
    )
    return NotRecoverable(
        f"{what}: of source {facts.source} {lack(facts, chosen)}; without a gap it reaches"
        f" {chosen.chain.end}",
        hint=f"For the newest moment before the gap {how}; to go to the gap knowingly, --to latest"
        " --accept-gap. `drtool wal gaps` shows every gap.",
    )


def lack(facts: RecoveryFacts, chosen: Candidate) -> str:
    """What keeps the replay from going on, as a clause."""
    size, chain = facts.inventory.segment_bytes, chosen.chain
    if chain.blocked is not None:
        return f"WAL {chain.blocked.lack}"
    if chain.missing is not None:
        name = chain.missing.name(size)
    else:
        span = WalSpan(chain.timeline, chain.end, Lsn(chain.end + 1))
        name = next(span.segments(size)).name(size)
    return f"WAL segment {name} is not in the repository, though later WAL was"


def _window_text(facts: RecoveryFacts) -> str:
    earliest, latest = window(facts)
    until = format_exact(latest, facts.zone) if latest else "a moment that no mark tells"
    return f"recoverable from {format_exact(earliest, facts.zone) if earliest else 'nowhere'} to {until}"
