"""What changed from one check to the next: found for the first time, no longer so, as before. Pure.

A finding is the same although an amount in it has changed: its age, its size, how far it goes on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from drtool.model.checked import CheckChanges, CheckReport, PartFinding

# `2 min 10 s`, `1.5 GB`, `91 %`; and the moment up to which something that goes on has come.
_AMOUNT = re.compile(r"-?\d[\d.,]*\s?(?:ms|s|min|h|d|[kMGT]?B|[KMGT]iB|%)(?![\w/])(?:\s+(?=\d))?")
_UNTIL = re.compile(r"\buntil \d{4}-\d\d-\d\d[ T][\d:.]+(?:Z|[+-]\d\d:\d\d)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRecord:
    """What a check found, kept for the next one; None as `at` where there was none before."""

    at: datetime | None = None
    found: tuple[PartFinding, ...] = ()


def compare(
    before: CheckRecord, report: CheckReport, names: tuple[str, ...]
) -> tuple[CheckChanges, CheckRecord]:
    """What `report` changes, and the record to keep from now on. `names` are the sources asked for.

    What this check could not look at, or was not asked to, is neither gone nor as before: it stays in
    the record until somebody has looked.
    """
    present = [
        PartFinding(part=part.name, look=look.name, finding=finding)
        for part in report.parts
        for look in part.looks
        for finding in look.findings
    ]
    looked = {
        (part.name, look.name) for part in report.parts for look in part.looks if not look.exit_code
    }
    known = Counter(_identity(one) for one in before.found)
    new = list(_beyond(known, present))
    missing = list(_beyond(Counter(_identity(one) for one in present), before.found))
    is_seen = [(one.part, one.look) in looked for one in missing]
    gone = [one for one, seen in zip(missing, is_seen, strict=True) if seen]
    kept = [one for one, seen in zip(missing, is_seen, strict=True) if not seen]
    severities = Counter(one.finding.severity for one in present)
    severities.subtract(one.finding.severity for one in new)
    changes = CheckChanges(
        names=names,
        stack=report.stack,
        at=report.at,
        since=before.at,
        readiness=report.readiness,
        new=tuple(new),
        gone=tuple(gone),
        still={severity: count for severity, count in severities.items() if count},
    )
    return changes, CheckRecord(at=report.at, found=(*present, *kept))


def _beyond(
    known: Counter[tuple[str, ...]], findings: Iterable[PartFinding]
) -> Iterator[PartFinding]:
    """Those of `findings` that are not among `known`, each as often as it comes too often."""
    left = known.copy()
    for one in findings:
        identity = _identity(one)
        if left[identity] > 0:
            left[identity] -= 1
        else:
            yield one


def _identity(one: PartFinding) -> tuple[str, ...]:
    finding = one.finding
    fact = _AMOUNT.sub("#", _UNTIL.sub("until #", finding.fact))
    return one.part, one.look, finding.severity, finding.subject, fact
