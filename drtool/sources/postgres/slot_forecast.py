"""How long a replication slot can go on keeping WAL: what ends it first, and when. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.model.measure import format_limit, format_size, format_span
from drtool.sources.postgres.readiness import SlotFacts

# So much time must be left for somebody to mend what keeps the receiver away.
LEAST_LEFT = timedelta(hours=4)
_LONGEST = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotForecast:
    """`left_bytes` more WAL until `ended_by` is reached; `left` at the rate measured, None if unknown."""

    kept_bytes: int
    left_bytes: int
    ended_by: str
    bytes_per_second: float | None
    left: timedelta | None

    @property
    def is_near(self) -> bool:
        """Whether it is time to do something: half is used up, or little time is left."""
        is_soon = self.left is not None and self.left < LEAST_LEFT
        return is_soon or self.left_bytes < self.kept_bytes

    def describe(self, now: datetime) -> str:
        """At the rate measured, what is reached, in what time, and when: in the zone of `now`."""
        if self.bytes_per_second is None or self.left is None:
            return f"after {format_size(self.left_bytes)} more {self.ended_by} is reached"
        rate = f"{format_size(int(self.bytes_per_second))}/s"
        if self.left >= _LONGEST:
            return f"at {rate} {self.ended_by} is not reached within a year"
        at = (now + self.left).isoformat(sep=" ", timespec="minutes").replace("+00:00", "Z")
        return f"at {rate}, as measured, {self.ended_by} is reached in {format_span(self.left)}, at {at}"


def forecast_slot(
    slot: SlotFacts,
    *,
    limit_bytes: int,
    free_bytes: int | None,
    bytes_per_second: float | None,
) -> SlotForecast:
    """What ends it first: our own limit, the server's, or the room on its disk where that is known."""
    kept = max(0, slot.retained_bytes or 0)
    ends = [(max(0, limit_bytes - kept), f"slot_limit ({format_limit(limit_bytes)})")]
    if slot.safe_bytes is not None:
        ends.append((max(0, slot.safe_bytes), "max_slot_wal_keep_size"))
    if free_bytes is not None:
        ends.append((free_bytes, "the end of its disk"))
    left_bytes, ended_by = min(ends)
    left = None
    if bytes_per_second is not None:
        seconds = left_bytes / bytes_per_second if bytes_per_second > 0 else float("inf")
        left = timedelta(seconds=min(seconds, _LONGEST.total_seconds()))
    return SlotForecast(
        kept_bytes=kept,
        left_bytes=left_bytes,
        ended_by=ended_by,
        bytes_per_second=bytes_per_second,
        left=left,
    )
