"""What a look at a restored copy tells: a problem, or that something could not be measured here."""

from __future__ import annotations

from drtool.model.finding import Finding, Severity
from drtool.sources.postgres.environment_errors import is_of_environment


def problem(subject: str, fact: str) -> Finding:
    """Something is wrong with the copy."""
    return Finding(severity=Severity.PROBLEM, subject=subject, fact=fact)


def not_measured(subject: str, why: str) -> Finding:
    """Nobody can tell whether it is right."""
    return Finding(
        severity=Severity.WARNING,
        subject=subject,
        fact=f"not measured: {why}",
        fix="Not measured is not met: make it measurable, or check the copy by hand.",
    )


def failed(subject: str, what: str, error: Exception) -> Finding:
    """What an error tells: no damage if it is one of the machine, the configuration or of rights."""
    text = one_line(error)
    if is_of_environment(text):
        return not_measured(subject, text)
    return problem(subject, f"{what}: {text}" if what else text)


def one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())
