"""The words of a kind of source: what is WAL to PostgreSQL is the stream to Redis, and files have none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from drtool.model.measure import format_promise, format_size
from drtool.model.objective import DISASTER, LossInterval
from drtool.model.outcome import Judgement, RestoreOutcome
from drtool.model.window import LogGap

LOGS = {"postgres": "WAL", "redis": "stream"}


def backup_word(kind: str) -> str:
    """What a backup of that kind is called."""
    return "backup" if kind == "postgres" else "snapshot"


def reached_word(kind: str) -> str:
    """What the moment is that a restored copy stands at."""
    return {"postgres": "last commit", "redis": "last mark"}.get(kind, "as of")


def with_log(kind: str, size_bytes: int, log_bytes: int) -> str:
    """How much was brought back, with the log where the kind has one."""
    if kind not in LOGS:
        return f"{format_size(size_bytes)} of files"
    return f"{format_size(size_bytes)} and {format_size(log_bytes)} of {LOGS[kind]}"


def key_words(outcome: RestoreOutcome) -> str:
    """How many keys a restored Redis has, and how many its snapshot had; empty for other kinds."""
    if outcome.keys is None:
        return ""
    known = outcome.snapshot_keys
    before = "were not counted in the snapshot" if known is None else f"the snapshot had {known:,}"
    return f"{outcome.keys:,} now; {before}"


def show_measured(measured: LossInterval | timedelta | None) -> str:
    """`between 3.2 s and 10 s`, `8.5 s`, `not measured`."""
    match measured:
        case None:
            return "not measured"
        case LossInterval(at_least, at_most) if at_least == at_most:
            return format_promise(at_most)
        case LossInterval(at_least, at_most):
            return f"between {format_promise(at_least)} and {format_promise(at_most)}"
        case timedelta():
            return format_promise(measured)


def measured_words(judgement: Judgement) -> str:
    """The measurement, with what a loss was measured back from where that was not the disaster."""
    told = show_measured(judgement.measured)
    if judgement.measured is None or judgement.against == DISASTER:
        return told
    return f"{told} before {judgement.against}"


def gap_words(gaps: Sequence[LogGap]) -> list[str]:
    """Each gap in the WAL with its place."""
    return [
        f"gap on timeline {gap.timeline} from {gap.begin} to {gap.end}"
        + (f": {gap.reason}" if gap.reason else "")
        for gap in gaps
    ]
