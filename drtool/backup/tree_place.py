"""The tree that a snapshot reads: where it lies, and what there keeps a run from beginning or ending."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from drtool.backup.plan import BackupPlan
from drtool.errors import SourceUnsuitable
from drtool.sources.files.exclude import NOTHING_EXCLUDED, ExcludeRules
from drtool.sources.files.guard import (
    Alarm,
    PlaceSigns,
    has_sentinel,
    judge_place,
    judge_sentinel,
    look_at_place,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSource:
    """The tree to read, and what makes a run stop: see `guard`.

    `accepts_changes`: an alarm of the guard is known, and this run goes on all the same. Once `stop` is
    set, the reading ends.
    """

    path: Path
    exclude: ExcludeRules = NOTHING_EXCLUDED
    one_file_system: bool = True
    max_delete_percent: float = 50.0
    sentinel: bytes | None = None
    accepts_changes: bool = False
    stop: threading.Event = field(default_factory=threading.Event)


def checked_place(root: int, plan: BackupPlan, tree: TreeSource) -> PlaceSigns:
    """The signs of the open root; SourceUnsuitable if it is not where it was, unless that is accepted."""
    place = look_at_place(root)
    alarms = judge_place(place, _place_before(plan))
    if tree.sentinel is not None:
        alarms += judge_sentinel(tree.sentinel, is_there=has_sentinel(root, tree.sentinel))
    refuse_alarms(alarms, plan, tree)
    return place


def refuse_alarms(alarms: list[Alarm], plan: BackupPlan, tree: TreeSource) -> None:
    """SourceUnsuitable for the first alarm, unless the run accepts them."""
    if not alarms or tree.accepts_changes:
        return
    raise SourceUnsuitable(
        f"source {plan.source} at {tree.path} was not backed up: {alarms[0].fact}",
        hint=f"See that it is mounted and whole. If it is as it should be, run `drtool backup"
        f" {plan.source} --accept-source` once. Earlier snapshots are untouched.",
    )


def _place_before(plan: BackupPlan) -> PlaceSigns | None:
    if plan.previous is None:
        return None
    extent = plan.previous.files
    return PlaceSigns(
        is_mount_point=extent.is_mount_point,
        device=extent.device,
        file_system_id=extent.file_system_id,
    )
