"""Outcomes as versioned JSON objects: ISO times, bytes as integers, durations as seconds.

Every object begins `{"drtool": 1, "kind": ...}`. Within a version keys are only ever added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from pathlib import PurePath

from drtool.model.checked import CheckChanges, CheckReport
from drtool.model.outcome import (
    BackupOutcome,
    FactSheet,
    Failure,
    Outcome,
    PolicyReport,
    RestoreOutcome,
    RestorePreview,
    RestoreReport,
    StatusReport,
    SyncOutcome,
    VerifyOutcome,
)
from drtool.model.wal import Lsn

VERSION = 1

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

_KINDS: dict[type, str] = {
    RestoreReport: "restore",
    RestorePreview: "restore-plan",
    BackupOutcome: "backup",
    StatusReport: "status",
    VerifyOutcome: "verify",
    SyncOutcome: "sync",
    PolicyReport: "policy-check",
    CheckReport: "check",
    CheckChanges: "check-changes",
    Failure: "error",
}


def document(outcome: Outcome) -> dict[str, Json]:
    """The JSON object of an outcome."""
    if isinstance(outcome, FactSheet):
        facts: dict[str, Json] = {fact.name: plain(fact.value) for fact in outcome.facts}
        text: dict[str, Json] = {"text": outcome.text} if outcome.text else {}
        return _headed(outcome.kind, {**facts, **text, "findings": plain(outcome.findings)})
    kind, content = _KINDS[type(outcome)], _fields(outcome)
    if "kind" in content:
        # `kind` is the object's own: a backup's kind is its `backup_kind`.
        content[f"{kind}_kind"] = content.pop("kind")
    return _headed(kind, content)


def several(kind: str, outcomes: tuple[Outcome, ...]) -> dict[str, Json]:
    """One object for several outcomes of one command."""
    return _headed(kind, {"items": [document(outcome) for outcome in outcomes]})


def dumps(content: dict[str, Json]) -> str:
    """The text of an object, as a person can read it too."""
    return json.dumps(content, indent=2, ensure_ascii=False)


def plain(value: object) -> Json:
    """A value of the house as JSON. TypeError for what has no such form."""
    match value:
        case Lsn():
            return str(value)
        case None | bool() | int() | float() | str():
            return value if not isinstance(value, str) else str(value)
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case PurePath():
            return str(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    if is_dataclass(value):
        return dict(_fields(value))
    raise TypeError(f"no JSON form of a {type(value).__name__}")


def _headed(kind: str, content: dict[str, Json]) -> dict[str, Json]:
    return {"drtool": VERSION, "kind": kind, **content}


def _fields(value: object) -> dict[str, Json]:
    """Fields under their names; a span's name gains its unit, and verdicts that follow are added."""
    content: dict[str, Json] = {}
    if not is_dataclass(value):
        raise TypeError(f"no JSON form of a {type(value).__name__}")
    for field in fields(value):
        inner = getattr(value, field.name)
        name = f"{field.name}_seconds" if isinstance(inner, timedelta) else field.name
        content[name] = plain(inner)
    if isinstance(value, RestoreOutcome):
        content["unaccounted_seconds"] = value.unaccounted_seconds
    verdict = getattr(value, "verdict", None)
    if verdict is not None:
        content["verdict"] = str(verdict)
    readiness = getattr(value, "readiness", None)
    if readiness is not None:
        content["readiness"] = str(readiness)
    rate = getattr(value, "bytes_per_second", None)
    if rate is not None:
        content["bytes_per_second"] = rate
    return content
