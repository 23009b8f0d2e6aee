"""What the checks of every kind of source share: the source's name, promise, schedule, and manifests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.check.freshness import Timetable, check_age, check_loss
from drtool.check.run import Seen, not_looked
from drtool.config.promises import longest_pause
from drtool.errors import DrtoolError, RepositoryUnavailable
from drtool.model.checked import Look
from drtool.model.finding import Finding
from drtool.model.measure import format_span
from drtool.model.objective import Objective
from drtool.policy.policy import Policy
from drtool.repository.backups import Manifest, read_manifests
from drtool.repository.repository import Repository
from drtool.wiring.surroundings import Surroundings

# Clocks of two machines are never quite the same.
_TOLERATED_AHEAD = timedelta(minutes=1)


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
        line = self.policy.source(self.name).schedule.backup
        pause = longest_pause(line, self.policy.timezone) if line else None
        return Timetable(source=self.name, what=what, command=command, pause=pause)

    def manifests(self, kind: str) -> tuple[list[Manifest], list[Look]]:
        """The backups, oldest first, and a look for each that is damaged."""
        manifests, errors = read_manifests(self.opened(), self.name)
        for manifest in manifests:
            manifest.require_kind(kind)
        return manifests, [not_looked("a manifest", error) for error in errors]

    def backup(self, manifests: list[Manifest], what: str) -> Seen:
        """The newest backup: its age, and what it found itself."""
        newest = manifests[-1] if manifests else None
        ended = newest.ended if newest else None
        table = self.timetable(what, f"drtool backup {self.name}")
        findings: list[Finding] = [*check_age(table, ended, now=self.now)]
        findings += newest.findings if newest else ()
        if newest is None or ended is None:
            return "none", findings
        age = format_span(self.now - ended)
        return f"{len(manifests)} held, the newest ended {age} ago", findings

    def loss(self, latest: datetime | None, rpo_now: timedelta | None, *, fix: str) -> Seen:
        """How much would be lost now, against the promise."""
        findings = check_loss(self.name, self.objective, rpo_now=rpo_now, fix=fix)
        if latest is None or rpo_now is None:
            return "unknown", findings
        shown = latest.astimezone(self.policy.timezone).isoformat(timespec="seconds")
        return f"{shown}, {format_span(rpo_now)} ago", findings


def age_of(moment: datetime | None, now: datetime) -> timedelta | None:
    """None for a moment that nobody knows, or that lies so far ahead that nobody can tell."""
    if moment is None or moment - now > _TOLERATED_AHEAD:
        return None
    return max(now - moment, timedelta(0))
