"""How one source stands: computed once, and shown by every screen, plan and exit code.

`status`, `check`, `wal status`, `wal gaps` and `redis status` print parts of the same `SourceState`. A
finding is added where the state is made (`wiring/state*.py`), under the topic that it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from drtool.model.finding import Finding
from drtool.model.objective import Objective, Verdict, judge
from drtool.model.window import LogGap, TimeRange, UncertainSpan


class Topic(StrEnum):
    """What a finding is about; `drtool check` shows each topic as a line of its own."""

    BACKUPS = "backups"
    RECEIVER = "receiver"
    LOG = "log"
    RESTORE = "restore"
    LOSS = "recoverable until"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """One source as the repository shows it at `at`; moments are shown in `zone`. None is what nobody knows.

    `windows` are the moments that can be returned to, `uncertain` the spans in them of which nobody knows
    what was held. `proven_until` is the newest moment of which
    everything acknowledged is in the repository; `rpo_now` is how long ago that was. `told_until` is the
    newest moment that marks of the log tell of, on whatever timeline or history. `receiver` is who
    holds the receiver's lease, `log_seen` what is held of the log, in a few words.
    """

    source: str
    kind: str
    objective: Objective
    at: datetime
    zone: ZoneInfo
    windows: tuple[TimeRange, ...] = ()
    uncertain: tuple[UncertainSpan, ...] = ()
    proven_until: datetime | None = None
    told_until: datetime | None = None
    rpo_now: timedelta | None = None
    backups: int = 0
    backup_ids: tuple[str, ...] = ()
    last_backup: str | None = None
    last_backup_finished: datetime | None = None
    receiver: str | None = None
    log_seen: str = ""
    gaps: tuple[LogGap, ...] = ()
    found: Mapping[Topic, tuple[Finding, ...]] = field(default_factory=dict)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, by topic in the order of `Topic`."""
        return tuple(finding for topic in Topic for finding in self.of(topic))

    @property
    def verdict(self) -> Verdict:
        """Whether the promised RPO is kept now."""
        return judge(self.rpo_now, self.objective.rpo)

    def of(self, *topics: Topic) -> tuple[Finding, ...]:
        """The findings of these topics."""
        return tuple(finding for topic in topics for finding in self.found.get(topic, ()))


def with_refused_backup(state: SourceState) -> SourceState:
    """The state of a source whose content is not what it was: no finding says to take a backup, which
    would be refused.
    """
    fix = "See what is said of its content: until that is settled a backup is refused."
    command = f"`drtool backup {state.source}`"

    def mended(finding: Finding) -> Finding:
        return replace(finding, fix=fix) if command in finding.fix else finding

    found = {
        topic: tuple(mended(one) for one in findings) for topic, findings in state.found.items()
    }
    return replace(state, found=found)


def by_topic(*found: tuple[Topic, Iterable[Finding]]) -> dict[Topic, tuple[Finding, ...]]:
    """Findings gathered under their topics; a topic may come several times."""
    gathered: dict[Topic, tuple[Finding, ...]] = {}
    for topic, findings in found:
        gathered[topic] = (*gathered.get(topic, ()), *findings)
    return gathered
