"""Whether a database still holds what it held: one that came back empty must not become the newest backup.

Trees have a guard of their own (`sources/files/guard.py`), which knows which files went.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from drtool.backup.plan import BackupPlan
from drtool.errors import SourceUnsuitable
from drtool.model.finding import Finding, Severity
from drtool.repository.backups import Manifest, in_order
from drtool.repository.held import Held, held_in, shrank


def judge_held(plan: BackupPlan, now: Held | None) -> tuple[Finding, ...]:
    """What to say of a backup that holds much less than the one before it, if that is accepted.

    SourceUnsuitable if it is not: the manifest must not be put.
    """
    previous = plan.previous
    before = held_in(previous) if previous else None
    if previous is None or before is None or now is None:
        return ()
    fact = shrank(before, now, max_percent=plan.accepted.gone_percent)
    if fact is None:
        return ()
    if not plan.accepted.source:
        raise shrunken(previous, fact)
    return (
        Finding(
            severity=Severity.WARNING,
            subject=f"source {previous.source}",
            fact=f"{fact} in backup {previous.backup_id}; it was accepted as it is",
            fix=f"What it held before is reached by a time before this backup, or by --backup"
            f" {previous.backup_id}.",
        ),
    )


def shrunken(previous: Manifest, fact: str) -> SourceUnsuitable:
    """The source lost most of its content since the backup `previous`."""
    name = previous.source
    return SourceUnsuitable(
        f"source {name} was not backed up: {fact} in backup {previous.backup_id}",
        hint="Look whether the server came back without its data, or somebody dropped it: what it held"
        f" is reached by `drtool restore {name} --backup {previous.backup_id}` or by a time. If it is as"
        f" it should be, run `drtool backup {name} --accept-source` once.",
    )


def breaks(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """The newest place in the window where a source lost most of its content, found in the backups."""
    found = []
    for before, after in pairwise(in_order(manifests)):
        had, has = held_in(before), held_in(after)
        if had is not None and has is not None and (fact := shrank(had, has)) is not None:
            found.append((before, after, fact))
    for before, after, fact in found[-1:]:
        others = f"; there are {len(found) - 1} older breaks" if len(found) > 1 else ""
        yield Finding(
            severity=Severity.WARNING,
            subject=f"source {after.source}",
            fact=f"the window has a break between backups {before.backup_id} and {after.backup_id}:"
            f" since then {fact} before{others}",
            fix="`latest` means what it has held since then; what it held before is reached by a time"
            f" before the break, or by --backup {before.backup_id}.",
        )
