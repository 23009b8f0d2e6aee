"""Whether a database still holds what it held: one that came back empty must not become the newest backup.

Trees have a guard of their own (`sources/files/guard.py`), which knows which files went.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from drtool.backup.plan import MOST_GONE_PERCENT, BackupPlan
from drtool.errors import SourceUnsuitable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import format_size
from drtool.repository.backups import Manifest, in_order
from drtool.repository.extents import FilesExtent, PostgresExtent, RedisExtent

# Below these, a count or a size moves by more than half on any ordinary day.
_LEAST_COUNT = 10
_LEAST_BYTES = 8 << 20
# Content that is rewritten or compacted shrinks by half; it does not shrink to a tenth.
_MOST_BYTES_GONE_PERCENT = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a source holds, counted while it was read: so many `noun`s in so many bytes."""

    count: int
    noun: str
    size_bytes: int

    def __str__(self) -> str:
        noun = self.noun if self.count != 1 else self.noun.removesuffix("s")
        return f"{self.count:,} {noun} in {format_size(self.size_bytes)}"


def held_in(manifest: Manifest) -> Held | None:
    """What a backup holds; None where that was not counted, and for trees."""
    match manifest.extent:
        case RedisExtent() as redis if redis.keys is not None:
            return Held(count=redis.keys, noun="keys", size_bytes=manifest.sizes.read_bytes)
        case PostgresExtent(relations=int(relations), relation_bytes=int(size)):
            return Held(count=relations, noun="relations", size_bytes=size)
        case FilesExtent() | _:
            return None


def shrank(before: Held, now: Held, *, max_percent: float = MOST_GONE_PERCENT) -> str | None:
    """How `now` is much less than `before`, in words; None if it is not.

    Nothing at all where there was something is always less, whatever `max_percent` allows.
    """
    if before.count and not now.count:
        return f"it is empty, and held {before}"
    if before.count >= _LEAST_COUNT:
        gone = 100 * (before.count - now.count) / before.count
        if gone > max_percent:
            return f"it holds {now}, and held {before}: {gone:.0f} % of the {now.noun} are gone"
    if before.size_bytes >= _LEAST_BYTES:
        gone = 100 * (before.size_bytes - now.size_bytes) / before.size_bytes
        if gone > max(max_percent, _MOST_BYTES_GONE_PERCENT):
            return f"it holds {now}, and held {before}: {gone:.0f} % of the bytes are gone"
    return None


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
