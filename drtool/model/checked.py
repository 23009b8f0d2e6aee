"""What a check of readiness found: each thing that was looked at, and whether it was as it must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from drtool.model.finding import Finding, Severity


class Readiness(StrEnum):
    """A part is READY if everything was looked at and no finding is a problem.

    Not looked at is not ready: UNKNOWN fails a check as NOT READY does.
    """

    READY = "READY"
    UNKNOWN = "UNKNOWN"
    NOT_READY = "NOT READY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One thing that was looked at: `seen` says what stood there, in a few words.

    `exit_code` is that of the error that kept us from looking, which is then a finding; 0 if we did.
    """

    name: str
    seen: str
    findings: tuple[Finding, ...] = ()
    exit_code: int = 0

    @property
    def readiness(self) -> Readiness:
        """UNKNOWN if nobody could look."""
        if self.exit_code:
            return Readiness.UNKNOWN
        is_bad = any(finding.severity is Severity.PROBLEM for finding in self.findings)
        return Readiness.NOT_READY if is_bad else Readiness.READY


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPart:
    """A source, or the repository: everything that was looked at of it."""

    name: str
    kind: str
    looks: tuple[Look, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all looks, in their order."""
        return tuple(finding for look in self.looks for finding in look.findings)

    @property
    def readiness(self) -> Readiness:
        """The worst of its looks."""
        return _worst(look.readiness for look in self.looks)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The repository and the sources, as they were at `at`."""

    stack: str
    timezone: str
    at: datetime
    parts: tuple[CheckedPart, ...]

    @property
    def readiness(self) -> Readiness:
        """The worst of its parts."""
        return _worst(part.readiness for part in self.parts)


def _worst(all_of: Iterable[Readiness]) -> Readiness:
    """UNKNOWN of none: where nothing was looked at, nobody knows."""
    order = list(Readiness)
    return max(all_of, key=order.index, default=Readiness.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorStanding:
    """How a mirror stands, from what its runs left in the bucket. None is what nobody knows.

    A run that failed leaves nothing, so `ended` of the newest one growing old is how it shows.
    `began` is when that run began to read. It wrote or let go of `changes` objects, all of them if
    `is_whole`; `holder` has the mirror's lease: a run is going on. `trouble` says why the bucket
    could not be looked at.
    """

    url: str
    run_id: str | None = None
    began: datetime | None = None
    ended: datetime | None = None
    changes: int | None = None
    is_whole: bool = False
    runs: int | None = None
    holder: str | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFinding:
    """A finding of a check, with the part and the look that it belongs to."""

    part: str
    look: str
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckChanges:
    """What one check found that the one before, at `since`, had not, and the other way round.

    `since` is None where none is known: then all is new. `gone` holds what was looked at again and is
    no longer so; `still` counts what both found, by severity.
    """

    names: tuple[str, ...]
    stack: str
    at: datetime
    since: datetime | None
    readiness: Readiness
    new: tuple[PartFinding, ...]
    gone: tuple[PartFinding, ...]
    still: Mapping[Severity, int]
