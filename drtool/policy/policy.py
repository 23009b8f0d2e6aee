"""The policy of one protected stack: what is promised, of what, and where it is kept."""

# `described` is dataclasses.field with a sentence; the rule knows only the original.
# ruff: noqa: RUF009

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from zoneinfo import ZoneInfo

from drtool.errors import PolicyError, UsageError
from drtool.model.objective import Objective
from drtool.policy.described import described
from drtool.policy.scalars import CronLine, Name, StoreUrl, WeeklyWindow
from drtool.policy.secrets import NoEncryption, SecretReference
from drtool.policy.sources import PostgresSource, RedisSource, SourcePolicy

VERSION = 1
DEFAULT_OBJECTIVE = Name("default")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryPolicy:
    """Where backups and change logs are kept, and what opens them."""

    url: StoreUrl = described(
        "s3://BUCKET/PREFIX or file:///DIRECTORY; gs:// and az:// likewise. A server of one's own:"
        " s3://BUCKET/PREFIX?endpoint=https://HOST:PORT, with &region= and &path_style=false if need be."
    )
    key: SecretReference | NoEncryption = described(
        "The repository key, by reference; 'none' goes without encryption."
    )
    compression_level: int = described("zstd level, 1 to 19.", default=1)

    def __post_init__(self) -> None:
        if not 1 <= self.compression_level <= 19:
            raise ValueError(f"compression_level {self.compression_level} is not between 1 and 19")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How many backups stay, by age."""

    daily: int = described("One a day for this many days.", default=0)
    weekly: int = described("One a week for this many weeks.", default=0)
    monthly: int = described("One a month for this many months.", default=0)

    def __post_init__(self) -> None:
        if min(self.daily, self.weekly, self.monthly) < 0:
            raise ValueError("a number of backups to keep is not below zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What `expire` must leave."""

    recovery_window: timedelta = described("Every moment of this span stays recoverable.")
    keep: Keep = described("What stays beyond the window.", factory=Keep)
    minimum: int = described("This many good backups stay, whatever their age.", default=2)

    def __post_init__(self) -> None:
        if self.minimum < 1:
            raise ValueError(f"minimum {self.minimum} would let go of the last good backup")
        if self.recovery_window < timedelta(0):
            raise ValueError("recovery_window is not below zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """A window in which work on the stack is expected."""

    window: WeeklyWindow = described("Days and times, such as 'Tue 02:00-04:00'.")
    timezone: ZoneInfo | None = described("Its IANA zone; else the policy's.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """A rehearsal that is due again and again."""

    scenario: Name = described("What it pretends has been lost.")
    schedule: CronLine = described("When it is due.")


class NotifyEvent(StrEnum):
    """What people are told of."""

    FAILED = "failed"
    MISSED = "missed"
    OVERDUE = "overdue"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """Somebody who is told."""

    webhook: SecretReference = described("Address that takes a JSON document, by reference.")
    when: tuple[NotifyEvent, ...] = described(
        "What is told.", default=(NotifyEvent.FAILED, NotifyEvent.MISSED, NotifyEvent.OVERDUE)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that one policy file promises."""

    version: int = described("Version of this format: 1.")
    stack: Name = described("The name of what is protected.")
    timezone: ZoneInfo = described("IANA zone in which a time without an offset is read.")
    objectives: Mapping[Name, Objective] = described(
        "The promise by kind of disruption; 'default' holds for every other kind."
    )
    repository: RepositoryPolicy = described("Where backups are kept.")
    sources: Mapping[Name, SourcePolicy] = described(
        "What is protected, by name, in the order in which it is brought back."
    )
    retention: Retention | None = described("What expire must leave.", default=None)
    maintenance: tuple[Maintenance, ...] = described("When work is expected.", default=())
    drills: tuple[Drill, ...] = described("What is rehearsed, and when.", default=())
    notify: tuple[Notify, ...] = described("Who is told.", default=())
    restore_root: Path = described(
        "Restores without --into make a new directory here.",
        factory=lambda: Path("/var/lib/drtool/restore"),
    )

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(
                f"version {self.version} of the format is not known: this drtool reads 1"
            )
        if DEFAULT_OBJECTIVE not in self.objectives:
            raise ValueError("objectives has no 'default'")
        if not self.sources:
            raise ValueError("sources names nothing to protect")
        object.__setattr__(self, "objectives", MappingProxyType(dict(self.objectives)))
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    @property
    def default_objective(self) -> Objective:
        """The promise of the stack."""
        return self.objectives[DEFAULT_OBJECTIVE]

    def objective_of(self, name: str) -> Objective:
        """The promise for a source: its own, or the stack's default."""
        return self.source(name).objective or self.default_objective

    def source(self, name: str) -> SourcePolicy:
        """The source of that name; UsageError, with the names there are, if there is none."""
        try:
            return self.sources[Name(name)]
        except (KeyError, ValueError):
            raise UsageError(
                f"the policy of stack {self.stack} has no source {name!r}",
                hint=f"It has: {', '.join(self.sources)}.",
            ) from None

    def postgres(self, name: str) -> PostgresSource:
        """The source of that name; PolicyError if it is of another kind, and so has no WAL."""
        source = self.source(name)
        if not isinstance(source, PostgresSource):
            is_redis = isinstance(source, RedisSource)
            raise PolicyError(
                f"source {name} is of kind {source.kind}, and WAL is PostgreSQL's",
                hint=f"Its stream is archived by `drtool redis receive {name}`."
                if is_redis
                else "Name a source of kind postgres.",
            )
        return source

    def secret_references(self) -> tuple[SecretReference, ...]:
        """Every secret that the policy refers to, so that a redactor can learn them all."""
        return tuple(_references_in(self))


def unsupported(name: str, source: SourcePolicy) -> PolicyError:
    """What a verb of the repository raises for a source that is kept in a mirror alone."""
    return PolicyError(
        f"source {name} is of kind {source.kind}, which is mirrored and not backed up",
        hint=f"Run `drtool sync {name}`; `drtool sync {name} --restore` brings it back.",
    )


def _references_in(value: object) -> list[SecretReference]:
    if isinstance(value, SecretReference):
        return [value]
    if isinstance(value, tuple):
        return [found for item in value for found in _references_in(item)]
    if isinstance(value, Mapping):
        return [found for item in value.values() for found in _references_in(item)]
    fields = getattr(type(value), "__dataclass_fields__", ())
    return [found for name in fields for found in _references_in(getattr(value, name, None))]
