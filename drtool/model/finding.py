"""Something a person should know: found by a check, a backup or a verification, with its fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from drtool.errors import DrtoolError, ExitCode


class Severity(StrEnum):
    """How bad it is: a `problem` fails the check that found it, a `warning` does not."""

    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


class Harm(StrEnum):
    """What a problem costs; it decides the exit code, the same on every screen that shows it."""

    PROMISE = "promise"  # an objective is missed, or nobody can tell
    UNREACHABLE = "unreachable"  # a stretch of time, or all of it, cannot be returned to
    DAMAGE = "damage"  # something that was stored is damaged or missing
    SOURCE = "source"  # a source cannot be reached, or refuses what a backup needs from it
    POLICY = "policy"  # what the policy refers to cannot be used as it stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`subject` names the thing (a file and block, a setting, an object); `fact` says what is so.

    `harm` is None where whoever shows the finding decides what it costs.
    """

    severity: Severity
    subject: str
    fact: str
    fix: str = ""
    harm: Harm | None = None


_CODES = {
    Harm.PROMISE: ExitCode.OBJECTIVE_MISSED,
    Harm.UNREACHABLE: ExitCode.NOT_RECOVERABLE,
    Harm.DAMAGE: ExitCode.INTEGRITY,
    Harm.SOURCE: ExitCode.SOURCE_UNAVAILABLE,
    Harm.POLICY: ExitCode.USAGE,
}


def harm_of(error: DrtoolError) -> Harm:
    """What it costs that a source could not be asked: a policy at fault is told apart from a server."""
    return Harm.POLICY if error.exit_code is ExitCode.USAGE else Harm.SOURCE


def code_of_findings(findings: Iterable[Finding], *, otherwise: ExitCode) -> ExitCode:
    """The gravest code of the problems among `findings`, DONE without one; `otherwise` is that of a
    problem that does not say what it costs.
    """
    problems = [finding for finding in findings if finding.severity is Severity.PROBLEM]
    codes = (_CODES[one.harm] if one.harm is not None else otherwise for one in problems)
    return max(codes, default=ExitCode.DONE)
