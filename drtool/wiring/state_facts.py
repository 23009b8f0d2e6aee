"""What the state of a source is made from, and what is wrong with the backups of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from drtool.backup.shrunken import breaks
from drtool.check.freshness import Timetable, check_age
from drtool.check.state import SourceState, Topic, by_topic
from drtool.config.promises import longest_pause
from drtool.errors import IntegrityError
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.measure import CLOCK_SKEW, format_age
from drtool.model.objective import Objective
from drtool.model.outcome import Fact
from drtool.policy.policy import Policy
from drtool.policy.sources import (
    SourcePolicy,
)
from drtool.repository.backups import Manifest, read_manifests
from drtool.repository.damage import Damage, known_damage
from drtool.repository.recovery_findings import damage_findings, manifest_finding, shown
from drtool.repository.recovery_windows import damage_of
from drtool.repository.repository import Repository
from drtool.wiring.origins import strangers

_WORDS = {"postgres": "backup", "redis": "snapshot", "files": "snapshot"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """What the state of a source is made from. `damaged` is what verifications found, by key."""

    name: str
    policy: Policy
    repository: Repository
    manifests: Sequence[Manifest]
    unreadable: Sequence[IntegrityError]
    damaged: Mapping[str, Damage]
    now: datetime

    @property
    def objective(self) -> Objective:
        """What the policy promises for it."""
        return self.policy.objective_of(self.name)

    @property
    def usable(self) -> list[Manifest]:
        """The backups of which nothing is known to be damaged, oldest first."""
        return [one for one in self.manifests if not damage_of(one, self.damaged)]

    @property
    def newest(self) -> Manifest | None:
        """The newest usable backup."""
        return self.usable[-1] if self.usable else None


def read_facts_of_state(
    name: str, policy: Policy, repository: Repository, *, now: datetime
) -> StateFacts:
    """Read what a state is made from; NotRecoverable for backups of another kind than the policy's."""
    manifests, unreadable = read_manifests(repository, name)
    for manifest in manifests:
        manifest.require_kind(policy.source(name).kind)
    return StateFacts(
        name=name,
        policy=policy,
        repository=repository,
        manifests=manifests,
        unreadable=unreadable,
        damaged=known_damage(repository),
        now=now,
    )


def window_fact(state: SourceState) -> Fact:
    """The windows of a source as one line of a fact sheet."""
    zone = state.zone
    texts = tuple(f"{shown(one.begin, zone)} to {shown(one.end, zone)}" for one in state.windows)
    name = state.source
    return Fact(name=f"{name}_windows", value=texts, label=f"{name}: windows")


def timetable(
    name: str, source: SourcePolicy, policy: Policy, *, what: str, command: str
) -> Timetable:
    """When `what` is due, by the source's schedule of backups."""
    line = source.schedule.backup
    pause = longest_pause(line, policy.timezone) if line else None
    return Timetable(source=name, what=what, command=command, pause=pause)


def backup_findings(facts: StateFacts) -> tuple[Topic, Iterable[Finding]]:
    """What is wrong with the backups of any kind of source: none, overdue, damaged, misdated."""
    return Topic.BACKUPS, tuple(_backup_findings(facts))


def _backup_findings(facts: StateFacts) -> Iterator[Finding]:
    for error in facts.unreadable:
        yield manifest_finding(facts.name, error)
    yield from damage_findings(
        facts.name, facts.manifests, facts.damaged, zone=facts.policy.timezone
    )
    source, newest = facts.policy.source(facts.name), facts.newest
    yield from strangers(source, facts.policy, newest)
    table = timetable(
        facts.name,
        source,
        facts.policy,
        what=_WORDS[source.kind],
        command=f"drtool backup {facts.name}",
    )
    yield from check_age(table, newest.ended if newest else None, now=facts.now)
    for manifest in facts.usable[:-1]:
        if manifest.ended - facts.now > CLOCK_SKEW:
            yield Finding(
                severity=Severity.NOTE,
                subject=f"backup {manifest.backup_id} of {facts.name}",
                fact=f"it was taken under a clock that ran ahead: {format_age(manifest.ended, facts.now)}",
            )
    yield from breaks(facts.usable)
    for finding in newest.findings if newest else ():
        # Manifests do not keep what a problem costs: damage, as the backup itself said by its exit code.
        yield replace(finding, harm=Harm.DAMAGE)


def state_of(facts: StateFacts, kind: str) -> SourceState:
    """A state of which only what all kinds have in common is told."""
    newest = facts.newest
    return SourceState(
        source=facts.name,
        kind=kind,
        objective=facts.objective,
        at=facts.now,
        zone=facts.policy.timezone,
        backups=len(facts.manifests),
        backup_ids=tuple(one.backup_id for one in facts.manifests),
        last_backup=newest.backup_id if newest else None,
        last_backup_finished=newest.ended if newest else None,
        found=by_topic(backup_findings(facts)),
    )
