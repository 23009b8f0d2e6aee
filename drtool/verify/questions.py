"""The policy's questions to a restored copy: what counts as an answer.

Passed is exactly one row whose first column is the boolean true. NULL, no row, several rows, another
value, an error and a statement that is no query fail; what could not be asked is not measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

import psycopg

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_promise
from drtool.model.outcome import Question
from drtool.policy.sources import Check
from drtool.sources.postgres.asking import Answer, Asker, CutOff, NotAsked
from drtool.sources.postgres.environment_errors import is_of_environment
from drtool.verify.copy_findings import one_line

_LONGEST_ERROR = 500
_QUERY = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|values|table|with)\b", re.I | re.S)
# A prepared transaction holds a lock, here as at the source; what a question that only reads may not
# do, or may not write to temporary files, tells nothing about the copy.
_NOT_OF_THE_COPY = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ConfigurationLimitExceeded,
)


def put(asker: Asker, check: Check, *, database: str) -> Question:
    """Ask it, in `database` if it names none. Nothing is raised."""
    try:
        return _judged(check, asker.ask(check.database or database, check.sql))
    except NotAsked as error:
        told = _shown(error)
        if is_of_environment(told):
            return not_asked(check, told)
    except CutOff as error:
        told = f"no answer: {_shown(error)}"
        if error.is_late:
            return Question(_named(check), _late(asker), passed=False)
    except psycopg.errors.QueryCanceled:
        return Question(_named(check), _late(asker), passed=False)
    except psycopg.Error as error:
        told = _shown(error)
        if isinstance(error, psycopg.errors.SyntaxError) and not is_query(check.sql):
            told = f"this is no query, and only SELECT, VALUES, TABLE and WITH are asked: {told}"
        if isinstance(error, _NOT_OF_THE_COPY):
            return not_asked(check, told)
    return Question(_named(check), f"error: {told}", passed=False)


def about_failed(questions: Sequence[Question]) -> list[Finding]:
    """What a person does about questions that were answered otherwise than with true."""
    failed = sum(one.passed is False for one in questions)
    if not failed:
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            subject="questions",
            fact=f"{counted(failed, 'question was', 'questions were')} not answered with true. The copy is"
            " whole all the same: it was restored to what was asked for, and is not thrown away",
            fix="Look at the answers. If the data is not as it should be, restore --to an earlier moment;"
            " if it is, change the question, `checks` of the source in the policy.",
        )
    ]


def _late(asker: Asker) -> str:
    return f"no answer within {format_promise(timedelta(seconds=asker.limits.seconds))}"


def is_query(question: str) -> bool:
    """Whether it begins as a query does, behind blanks, remarks and parentheses."""
    return _QUERY.match(question) is not None


def not_asked(check: Check, why: str) -> Question:
    """The question stays open."""
    return Question(_named(check), f"not measured: {why}", passed=None)


def _judged(check: Check, answers: Sequence[Answer]) -> Question:
    if not answers:
        return Question(_named(check), "no row", passed=False)
    first = answers[0]
    told = "NULL" if first.text is None else first.text
    if len(answers) > 1:
        told = f"several rows, the first of them: {told}"
    return Question(_named(check), told, passed=first.is_true and len(answers) == 1)


def _named(check: Check) -> str:
    return check.sql if check.database is None else f"{check.sql} (in database {check.database})"


def _shown(error: Exception) -> str:
    text = one_line(error)
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"
