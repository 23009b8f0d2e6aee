"""Something a person should know: found by a check, a backup or a verification, with its fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is: a `problem` fails the check that found it, a `warning` does not."""

    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`subject` names the thing (a file and block, a setting, an object); `fact` says what is so."""

    severity: Severity
    subject: str
    fact: str
    fix: str = ""
