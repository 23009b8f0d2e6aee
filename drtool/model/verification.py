"""What a restored copy showed when it was asked and looked at."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.model.finding import Finding
from drtool.model.outcome import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Answers, findings, and whether a first write went through.

    A check that could not run is a finding that says so: it never counts as passed.
    """

    questions: tuple[Question, ...] = ()
    findings: tuple[Finding, ...] = ()
    is_writable: bool = False
