"""The exit code of an answer: done, an objective missed, or something corrupt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from drtool.errors import ExitCode

if TYPE_CHECKING:
    from drtool.model.checked import CheckReport
    from drtool.model.finding import Finding
    from drtool.model.objective import Verdict
    from drtool.model.outcome import Outcome


def leave(outcomes: Iterable[Outcome]) -> None:
    """End the command with the gravest code of its answers; return if all is well."""
    code = max((code_of(outcome) for outcome in outcomes), default=ExitCode.DONE)
    if code is not ExitCode.DONE:
        raise click.exceptions.Exit(code)


def code_of(outcome: Outcome) -> ExitCode:
    """Not measured is not met: UNKNOWN fails like MISSED wherever something was judged."""
    # The words of every answer take a while to load: not before the command has something to say.
    from drtool.model.checked import CheckChanges, CheckReport, Readiness
    from drtool.model.objective import Verdict
    from drtool.model.outcome import (
        BackupOutcome,
        FactSheet,
        Failure,
        PolicyReport,
        RestorePreview,
        RestoreReport,
        StatusReport,
        SyncOutcome,
        VerifyOutcome,
    )

    match outcome:
        case PolicyReport():
            return _of_verdict(outcome.verdict)
        case StatusReport():
            found = [finding for row in outcome.rows for finding in row.findings]
            return max(_of_verdict(outcome.verdict), _of_findings(found))
        case CheckReport():
            return _of_looks(outcome)
        case CheckChanges():
            is_ready = outcome.readiness is Readiness.READY
            return ExitCode.DONE if is_ready else ExitCode.OBJECTIVE_MISSED
        case RestoreReport():
            found = [finding for one in outcome.outcomes for finding in one.findings]
            if _has_problem(found):
                return _of_findings(found, otherwise=ExitCode.INTEGRITY)
            judged = [one for one in outcome.outcomes if one.judgements or one.questions]
            is_met = all(one.verdict is Verdict.MET for one in judged if one.judgements)
            is_answered = all(question.passed for one in judged for question in one.questions)
            return ExitCode.DONE if is_met and is_answered else ExitCode.OBJECTIVE_MISSED
        case VerifyOutcome():
            from drtool.verify.repository import exit_code_of

            return exit_code_of(outcome)
        case BackupOutcome() | FactSheet() | RestorePreview() | SyncOutcome():
            return _of_findings(outcome.findings, otherwise=ExitCode.INTEGRITY)
        case Failure():
            return ExitCode(outcome.exit_code)


def _of_looks(report: CheckReport) -> ExitCode:
    """A problem counts as in `drtool status`; what kept us from looking counts with its own code, and
    the gravest of all wins.
    """
    looks = [look for part in report.parts for look in part.looks]
    codes = [ExitCode(look.exit_code) for look in looks]
    codes += [_of_findings(look.findings) for look in looks if not look.exit_code]
    return max(codes, default=ExitCode.OBJECTIVE_MISSED)


def _of_findings(
    findings: Iterable[Finding], *, otherwise: ExitCode = ExitCode.OBJECTIVE_MISSED
) -> ExitCode:
    from drtool.model.finding import code_of_findings

    return code_of_findings(findings, otherwise=otherwise)


def _of_verdict(verdict: Verdict) -> ExitCode:
    from drtool.model.objective import Verdict

    return ExitCode.DONE if verdict is Verdict.MET else ExitCode.OBJECTIVE_MISSED


def _has_problem(findings: Iterable[Finding]) -> bool:
    from drtool.model.finding import Severity

    return any(finding.severity is Severity.PROBLEM for finding in findings)
