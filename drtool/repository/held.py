"""How much a database holds, and when that is much less than before: one rule for all commands."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.model.measure import format_size
from drtool.repository.backups import Manifest
from drtool.repository.extents import FilesExtent, PostgresExtent, RedisExtent

# Of a database's keys or relations, where the policy does not say how many may go.
MOST_GONE_PERCENT = 50.0
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
    if are_most_gone(before.count, now.count, max_percent=max_percent):
        gone = 100 * (before.count - now.count) / before.count
        return f"it holds {now}, and held {before}: {gone:.0f} % of the {now.noun} are gone"
    if before.size_bytes >= _LEAST_BYTES:
        gone = 100 * (before.size_bytes - now.size_bytes) / before.size_bytes
        if gone > max(max_percent, _MOST_BYTES_GONE_PERCENT):
            return f"it holds {now}, and held {before}: {gone:.0f} % of the bytes are gone"
    return None


def are_most_gone(before: int, now: int, *, max_percent: float = MOST_GONE_PERCENT) -> bool:
    """Whether of `before` keys or relations more than `max_percent` are gone; all of them always count."""
    if before and not now:
        return True
    return before >= _LEAST_COUNT and 100 * (before - now) / before > max_percent
