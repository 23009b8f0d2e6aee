"""`drtool check --changes FILE`: what the last check found is kept in a file, for the next one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from drtool.check.changes import CheckRecord, compare
from drtool.errors import DestinationRefused, UsageError
from drtool.model.checked import CheckChanges, CheckReport, Look, PartFinding
from drtool.model.finding import Finding, Severity
from drtool.model.strict_json import JsonObject, read_object
from drtool.policy.secrets import Redactor
from drtool.system.durable import replace_durably

_KIND = "check-record"
_MOST_BYTES = 16 * 1024 * 1024


def read_record(path: Path) -> CheckRecord:
    """What the check before left in `path`; an empty record where there is no file yet.

    UsageError for a file that holds anything else: it would be written over.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return CheckRecord()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}",
            hint="Give --changes a file that this user may read and replace.",
        ) from error
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        return _parse(read_object(content, most_bytes=_MOST_BYTES))
    except ValueError as error:
        raise UsageError(
            f"{path} is not what a check left for the next one, and was left as it is: {error}",
            hint="Give --changes a file of its own: it is written over by each check.",
        ) from error


def _parse(document: JsonObject) -> CheckRecord:
    if document.text("kind") != _KIND:
        raise ValueError(f"it is no {_KIND}")
    found = tuple(_part_finding(JsonObject(one)) for one in document.items("findings"))
    return CheckRecord(at=document.moment("at"), found=found)


def _part_finding(told: JsonObject) -> PartFinding:
    return PartFinding(
        part=told.text("part"),
        look=told.text("look"),
        finding=Finding(
            severity=Severity(told.text("severity")),
            subject=told.text("subject"),
            fact=told.text("fact"),
        ),
    )


def changes_since(
    before: CheckRecord, report: CheckReport, names: tuple[str, ...], *, redactor: Redactor
) -> tuple[CheckChanges, CheckRecord]:
    """What `report` changes, and the record for the next check; no secret is in either."""
    return compare(before, _without_secrets(report, redactor), names)


def write_record(path: Path, record: CheckRecord) -> None:
    """Replace the file, whole or not at all."""
    findings = [
        {
            "part": one.part,
            "look": one.look,
            "severity": one.finding.severity,
            "subject": one.finding.subject,
            "fact": one.finding.fact,
        }
        for one in record.found
    ]
    moment = None if record.at is None else record.at.isoformat()
    document = {"drtool": 1, "kind": _KIND, "at": moment, "findings": findings}
    try:
        replace_durably(path, json.dumps(document).encode())
    except OSError as error:
        raise DestinationRefused(
            f"{path} cannot be written: {error.strerror}; the next check will tell the same again",
            hint="Give --changes a file in a directory that this user may write to.",
        ) from error


def _without_secrets(report: CheckReport, redactor: Redactor) -> CheckReport:
    def redacted(look: Look) -> Look:
        found = (
            replace(one, subject=redactor.redact(one.subject), fact=redactor.redact(one.fact))
            for one in look.findings
        )
        return replace(look, findings=tuple(found))

    parts = (replace(part, looks=tuple(map(redacted, part.looks))) for part in report.parts)
    return replace(report, parts=tuple(parts))
