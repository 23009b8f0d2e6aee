"""How a tree of files stands: its snapshots."""

from __future__ import annotations

from dataclasses import replace

from drtool.check.freshness import check_loss
from drtool.check.state import SourceState, Topic, by_topic
from drtool.model.measure import age_of
from drtool.model.window import TimeRange
from drtool.repository.extents import FilesExtent
from drtool.wiring.state_facts import StateFacts, backup_findings, state_of


def files_state(facts: StateFacts) -> SourceState:
    """What stands now is what the newest whole snapshot has; files changed after it began are at risk."""
    extents = [manifest.files for manifest in facts.usable]
    whole = [extent.taken_from for extent in extents if extent.is_complete]
    # One that bears a wrong time tells nothing of now as long as there is another.
    dated = [moment for moment in whole if age_of(moment, facts.now) is not None]
    latest = max(dated or whole, default=None)
    rpo_now = age_of(latest, facts.now)
    fix = f"Run `drtool backup {facts.name}`, or schedule it as often as the promise needs."
    loss = check_loss(facts.name, facts.objective, rpo_now=rpo_now, fix=fix)
    return replace(
        state_of(facts, FilesExtent.kind),
        windows=_windows(extents),
        proven_until=latest,
        rpo_now=rpo_now,
        found=by_topic(backup_findings(facts), (Topic.LOSS, loss)),
    )


def _windows(extents: list[FilesExtent]) -> tuple[TimeRange, ...]:
    """From the end of the oldest snapshot to the end of the newest: each stands until the next one."""
    ends = [extent.taken_until for extent in extents]
    return (TimeRange(min(ends), max(ends)),) if ends else ()
