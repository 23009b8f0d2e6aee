"""What was lost: the ledger of acknowledged writes against what a recovery brought back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.drill.ledger import LedgerEntry
from drtool.model.objective import LossInterval
from drtool.model.outcome import LostWrites

Write = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Loss:
    """The time that was lost, as an interval that surely contains it, and the writes."""

    interval: LossInterval | None
    writes: LostWrites


def measure_loss(
    ledger: Sequence[LedgerEntry], recovered: AbstractSet[Write], *, failed_at: datetime
) -> Loss:
    """Judge a recovery to the latest moment after a failure at `failed_at`.

    Lower end: from the first write that is missing to the failure. Upper end: from the last
    acknowledged write that came back to the failure. The interval is None if nothing came back.
    """
    by_time = sorted(ledger, key=lambda entry: entry.acknowledged)
    lost = [entry for entry in by_time if entry.name not in recovered]
    kept = [entry for entry in by_time if entry.name in recovered]
    acknowledged = {entry.name for entry in ledger}
    writes = LostWrites(
        acknowledged=len(ledger),
        recovered=len(kept),
        lost=len(lost),
        unacknowledged_recovered=len(recovered - acknowledged),
        is_prefix=is_prefix(ledger, recovered),
    )
    if not kept:
        return Loss(None, writes)
    # A write that is missing was acknowledged after everything before it had come back.
    at_least = failed_at - lost[0].acknowledged if lost else timedelta(0)
    at_most = failed_at - kept[-1].acknowledged
    low, high = max(at_least, timedelta(0)), max(at_most, timedelta(0))
    return Loss(LossInterval(min(low, high), max(low, high)), writes)


def is_prefix(ledger: Iterable[LedgerEntry], recovered: AbstractSet[Write]) -> bool:
    """Whether of each writer's writes exactly the first ones came back, without a hole."""
    last_kept: dict[int, int] = {}
    first_lost: dict[int, int] = {}
    for entry in ledger:
        if entry.name in recovered:
            last_kept[entry.writer] = max(last_kept.get(entry.writer, 0), entry.number)
        else:
            known = first_lost.get(entry.writer, entry.number)
            first_lost[entry.writer] = min(known, entry.number)
    return all(
        last_kept.get(writer, 0) < number for writer, number in first_lost.items()
    )  # fmt: skip


def violations(
    ledger: Iterable[LedgerEntry], recovered: AbstractSet[Write], moment: datetime
) -> list[str]:
    """Why a recovery to `moment` is not exactly that moment; empty if it is.

    Every write acknowledged at or before `moment` must be there, and none begun after it.
    """
    faults = []
    for entry in ledger:
        present = entry.name in recovered
        if entry.acknowledged <= moment and not present:
            faults.append(f"write {entry.name}, acknowledged at {entry.acknowledged}, is missing")
        if entry.begun > moment and present:
            faults.append(f"write {entry.name}, begun at {entry.begun}, should not be there")
    return faults
