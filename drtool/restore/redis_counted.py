"""How many keys a restored Redis has, compared with the snapshot that the restore began from."""

from __future__ import annotations

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_exact
from drtool.repository.held import are_most_gone
from drtool.restore.redis_plan import RedisPlan


def about_keys(plan: RedisPlan, keys: int, *, gone_percent: float) -> list[Finding]:
    """A warning where most of the snapshot's keys are gone: FLUSHALL is replayed like any other write."""
    before = plan.manifest.redis.keys
    if before is None or not are_most_gone(before, keys, max_percent=gone_percent):
        return []
    snapshot = plan.manifest.backup_id
    gone = 100 * (before - keys) / before
    return [
        Finding(
            severity=Severity.WARNING,
            subject="content",
            fact=f"the copy holds {counted(keys, 'key')}, and snapshot {snapshot}, which it began from, held"
            f" {before:,}: {gone:.0f} % of the keys are gone, deleted or expired in the source by then",
            fix="If that was the disaster, restore again --to a moment before it, after"
            f" {format_exact(plan.manifest.redis.stopped_at, plan.zone)}; the snapshot alone comes back"
            f" with --backup {snapshot}.",
        )
    ]
