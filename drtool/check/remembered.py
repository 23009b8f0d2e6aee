"""What this machine saw of a repository at an earlier check, held against what is there now. Pure.

Whoever can take objects from the store, or put back an older copy of all of it, can hide backups so that
nothing in the store tells. Somebody outside the store has to remember them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from drtool.model.finding import Finding, Harm, Severity
from drtool.model.measure import CLOCK_SKEW, counted
from drtool.repository.recovery_findings import Zone, shown

_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """One source as a check saw it `at` a moment: the repository's id, the ids of all its backups, and
    the newest moment that its change log told of.
    """

    repository: str
    at: datetime
    backups: frozenset[str]
    until: datetime | None = None


def compare_with_remembered(
    before: Remembered,
    seen: Remembered,
    *,
    removed: Collection[str],
    source: str,
    place: str,
    zone: Zone,
) -> tuple[tuple[Finding, ...], Remembered]:
    """What is hidden or was rolled back, and what to remember from now on.

    `removed` are backups whose removal is recorded under the repository's key. What is missed stays
    remembered, so that it is told until `place` is removed.
    """
    findings = tuple(
        _findings(before, seen, removed=removed, source=source, place=place, zone=zone)
    )
    untils = [one.until for one in (before, seen) if one.until is not None]
    # Of a clock that ran ahead nothing is remembered: what it said lies before nothing for years.
    believed = [until for until in untils if until <= seen.at + CLOCK_SKEW]
    kept = replace(
        seen if before.repository == seen.repository else before,
        at=seen.at,
        backups=(before.backups | seen.backups) - set(removed),
        until=max(believed, default=None),
    )
    return findings, kept


def _findings(
    before: Remembered,
    seen: Remembered,
    *,
    removed: Collection[str],
    source: str,
    place: str,
    zone: Zone,
) -> Iterator[Finding]:
    fix = (
        "Find out who took it from the store, or put an older copy there. If it was right, remove"
        f" {place}: the next check remembers anew."
    )
    if before.repository != seen.repository:
        yield _problem(
            source,
            f"repository {seen.repository} stands where this machine saw {before.repository}",
            fix,
        )
        return
    gone = sorted(before.backups - seen.backups - set(removed))
    if gone:
        named = ", ".join(gone[-_NAMED:])
        more = f", and {len(gone) - _NAMED} older" if len(gone) > _NAMED else ""
        newest = max(seen.backups, default=None)
        older = ": the newest that is there is older than that" if (newest or "") < gone[-1] else ""
        yield _problem(
            source,
            f"{counted(len(gone), 'backup')} that this machine saw here cannot be read any more, and nobody"
            f" has recorded that they were removed: {named}{more}{older}",
            fix,
        )
    if before.until is None or (seen.until is not None and seen.until >= before.until):
        return
    now = "has none now" if seen.until is None else f"has them until {shown(seen.until, zone)} now"
    fact = (
        f"this machine saw marks of its log until {shown(before.until, zone)}, and the store {now}"
    )
    yield _problem(source, fact, fix)


def _problem(source: str, fact: str, fix: str) -> Finding:
    return Finding(
        severity=Severity.PROBLEM,
        subject=f"what was seen of {source}",
        fact=fact,
        fix=fix,
        harm=Harm.DAMAGE,
    )
