"""What the checks of every kind of source share: the source's name, promise, schedule, and manifests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.check.freshness import Timetable, check_loss
from drtool.check.run import Seen
from drtool.check.state import SourceState, Topic
from drtool.errors import DrtoolError, RepositoryUnavailable
from drtool.model.checked import Look
from drtool.model.measure import format_age
from drtool.model.objective import Objective
from drtool.policy.policy import Policy
from drtool.repository.recovery_findings import shown
from drtool.repository.repository import Repository
from drtool.wiring.check_remembered import remembered_findings
from drtool.wiring.state import read_state
from drtool.wiring.state_facts import timetable
from drtool.wiring.surroundings import Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class Checking:
    """One source that is looked at. `repository` is an error where it could not be opened."""

    name: str
    policy: Policy
    repository: Repository | DrtoolError
    around: Surroundings

    @property
    def now(self) -> datetime:
        return self.around.clock.now()

    @property
    def objective(self) -> Objective:
        return self.policy.objective_of(self.name)

    def opened(self) -> Repository:
        """The repository; RepositoryUnavailable, or what its own error was, if it could not be opened."""
        if isinstance(self.repository, DrtoolError):
            error = RepositoryUnavailable(
                f"what the repository holds of {self.name} is not known: it could not be opened",
                hint="See what is said of the repository above.",
            )
            error.exit_code = self.repository.exit_code
            raise error
        return self.repository

    def known(self) -> Repository | None:
        """The repository, for those who can do without."""
        return None if isinstance(self.repository, DrtoolError) else self.repository

    def timetable(self, what: str, command: str) -> Timetable:
        """When `what` is due, by the source's schedule of backups."""
        source = self.policy.source(self.name)
        return timetable(self.name, source, self.policy, what=what, command=command)

    def state(self) -> SourceState:
        """How the source stands, as every screen shows it."""
        return read_state(self.name, self.policy, self.opened(), now=self.now)

    def backups(self, state: SourceState) -> Look:
        """What is held of backups, and was held when this machine last looked, as a line of the check."""
        if state.last_backup_finished is None:
            seen = "none" if not state.backups else f"{state.backups} held, none of them usable"
        else:
            age = format_age(state.last_backup_finished, state.at)
            seen = f"{state.backups} held, the newest ended {age}"
            if "ago" not in age:
                seen = f"{state.backups} held, the newest is {age}"
        missed = remembered_findings(self.opened(), state, self.around.environ)
        return Look(name="backups", seen=seen, findings=(*state.of(Topic.BACKUPS), *missed))

    def recoverable(self, state: SourceState) -> Look:
        """How far a recovery could come now, and what would be lost, as a line of the check."""
        until, rpo_now = state.proven_until, state.rpo_now
        seen = "unknown" if until is None else shown(until, self.policy.timezone)
        if until is not None:
            seen += f", {format_age(until, state.at)}"
            if rpo_now is None:
                seen = f"unknown: {seen}"
        return Look(name="recoverable until", seen=seen, findings=state.of(Topic.LOSS))

    def loss(self, latest: datetime | None, rpo_now: timedelta | None, *, fix: str) -> Seen:
        """How much would be lost now, against the promise, of what is kept outside the repository."""
        findings = check_loss(self.name, self.objective, rpo_now=rpo_now, fix=fix)
        if latest is None or rpo_now is None:
            return "unknown", findings
        return f"{shown(latest, self.policy.timezone)}, {format_age(latest, self.now)}", findings
