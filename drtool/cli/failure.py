"""What is said, and which code a command ends with, when something goes wrong."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from itertools import pairwise

import click

from drtool.cli.front import Front
from drtool.errors import DrtoolError, ExitCode, NotRecoverable, ObjectMissing
from drtool.model.outcome import Failure

# PostgreSQL takes every code of restore_command from 1 to 125 for "the archive ends here", and may
# promote; above that it stops (PITFALLS 0). archive_command is the other way round: above 125 the
# archiver restarts, and the failure is not even counted (PITFALLS 8).
NOT_THERE = 1
COULD_NOT_LOOK = 255
NOT_ARCHIVED = 1
HIGHEST_COUNTED = 125


def tell(front: Front, error: BaseException) -> int:
    """Say what went wrong; return the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        front.print_note(error.format_message())
        return ExitCode.USAGE
    failure = _describe(error)
    if failure is None:
        return _code_of_exit(error)
    if failure.error == "Bug" or front.verbosity:
        lines = "".join(traceback.format_exception(error))
        front.print_note(lines.rstrip())
    if front.wants_json:
        front.show(failure)
    else:
        front.print_note(_indented(f"drtool: error: {failure.message}"))
        if failure.hint:
            front.print_note(_indented(f"  {failure.hint}"))
    front.flush()
    return failure.exit_code


def _indented(text: str) -> str:
    """No line but the first at the margin: a server's message in it cannot pass for an answer of ours."""
    return re.sub(r"\n(?=\S)", "\n  ", text)


def _describe(error: BaseException) -> Failure | None:
    """The failure as a value; None for an exit that needs no words."""
    match error:
        case DrtoolError():
            return Failure(
                error=type(error).__name__,
                message=error.message,
                hint=error.hint,
                exit_code=error.exit_code,
                retryable=error.retryable,
            )
        case click.exceptions.Exit() | SystemExit():
            return None
        case click.ClickException():
            context = error.ctx if isinstance(error, click.UsageError) else None
            path = context.command_path if context is not None else "drtool"
            message = error.format_message().removesuffix(".")
            return _plain_failure(
                ExitCode.USAGE,
                error="UsageError",
                message=message[:1].lower() + message[1:],
                hint=f"Run `{path} --help`.",
            )
        case KeyboardInterrupt() | click.Abort():
            return _plain_failure(ExitCode.INTERRUPTED, error="Interrupted", message="interrupted")
    return _plain_failure(
        ExitCode.BUG,
        error="Bug",
        message=f"{type(error).__name__}: {error}",
        hint="This is a bug in drtool: please report it with the lines above.",
    )


def _plain_failure(code: ExitCode, *, error: str, message: str, hint: str = "") -> Failure:
    return Failure(error=error, message=message, hint=hint, exit_code=code, retryable=False)


def _code_of_exit(error: BaseException) -> int:
    match error:
        case click.exceptions.Exit(exit_code=code):
            return code
        case SystemExit(code=int(code)):
            return code
        case _:
            return ExitCode.BUG


def code_for_postgres(given: Sequence[str], error: BaseException, *, code: int) -> int:
    """The code of `wal fetch` and `wal push`, as PostgreSQL reads it; others keep theirs.

    Taken from the words of the command line, because a line that cannot be understood fails too.
    """
    verb = _wal_verb(given)
    if code == ExitCode.DONE or verb is None:
        return code
    if verb == "fetch":
        is_absent = isinstance(error, ObjectMissing | NotRecoverable)
        return NOT_THERE if is_absent else COULD_NOT_LOOK
    return code if code <= HIGHEST_COUNTED else NOT_ARCHIVED


def _wal_verb(given: Sequence[str]) -> str | None:
    for first, second in pairwise(given):
        if first == "wal" and second in ("fetch", "push"):
            return second
    return None
