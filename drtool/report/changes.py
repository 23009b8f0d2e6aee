"""The text of what changed since the last check: one line where nothing did."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo

from drtool.model.checked import CheckChanges, PartFinding
from drtool.model.finding import Severity
from drtool.model.measure import counted

_MOMENT = "%Y-%m-%d %H:%M:%S %Z"


def changes_text(changes: CheckChanges, zone: ZoneInfo) -> str:
    """The verdict, then each new finding with its fix, then those that are gone."""
    return "\n".join(_lines(changes, zone))


def _lines(changes: CheckChanges, zone: ZoneInfo) -> Iterator[str]:
    count = len(changes.new), len(changes.gone)
    since = "" if changes.since is None else f" since {changes.since.astimezone(zone):{_MOMENT}}"
    changed = f"{count[0]} new, {count[1]} gone" if any(count) else "nothing changed"
    yield f"{changes.readiness}: {changed}{since}{_still(changes)}"
    for one in changes.new:
        yield f"new {_told(one)}"
        if one.finding.fix:
            yield f"  -> {one.finding.fix}"
    for one in changes.gone:
        yield f"gone: {_told(one)}"


def _told(one: PartFinding) -> str:
    finding = one.finding
    return f"{finding.severity} ({one.part}): {finding.subject}: {finding.fact}"


def _still(changes: CheckChanges) -> str:
    counts = [
        counted(count, str(severity))
        for severity in reversed(Severity)
        if (count := changes.still.get(severity, 0))
    ]
    if not counts:
        return ""
    command = " ".join(["drtool check", *changes.names])
    return f"; still {', '.join(counts)} (`{command}` lists them)"
