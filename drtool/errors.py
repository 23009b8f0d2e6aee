"""What is expected to go wrong: each error names the thing, the fact, and what to do next.

Whatever else escapes from drtool is a bug and shows a traceback. The exit codes are those of
DESIGN.md section 9; `tests/test_documentation.py` holds the README's table against this module.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of every `drtool` command."""

    DONE = 0
    BUG = 1
    USAGE = 2
    OBJECTIVE_MISSED = 3
    NOT_RECOVERABLE = 4
    SOURCE_UNAVAILABLE = 5
    REPOSITORY_UNAVAILABLE = 6
    INTEGRITY = 7
    DESTINATION_REFUSED = 8
    LEASE_HELD = 9
    INTERRUPTED = 130


class DrtoolError(Exception):
    """Something expected went wrong.

    `message` names the thing and the fact, lower case, without a full stop. `hint` is a sentence
    that says what to do next, with the command. `retryable` says that the same call may succeed
    later without anyone changing anything. Neither may hold a secret.
    """

    exit_code = ExitCode.BUG
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DrtoolError):
    """The command line asks for something that makes no sense."""

    exit_code = ExitCode.USAGE


class PolicyError(DrtoolError):
    """The policy file, or a secret it refers to, cannot be used as it stands."""

    exit_code = ExitCode.USAGE


class ObjectiveMissed(DrtoolError):
    """A promise of the policy is missed, or nobody can tell that it is met."""

    exit_code = ExitCode.OBJECTIVE_MISSED


class NotRecoverable(DrtoolError):
    """What was asked for cannot be recovered: no backup, a gap, a moment outside the window."""

    exit_code = ExitCode.NOT_RECOVERABLE


class SourceUnavailable(DrtoolError):
    """A source cannot be reached, or refuses what a backup needs from it."""

    exit_code = ExitCode.SOURCE_UNAVAILABLE
    retryable = True


class SourceUnsuitable(SourceUnavailable):
    """A source answers, but is set up so that it cannot be protected: waiting will not help."""

    retryable = False


class RepositoryUnavailable(DrtoolError):
    """The repository's store could not be asked. This never means that something is not there."""

    exit_code = ExitCode.REPOSITORY_UNAVAILABLE
    retryable = True


class RepositoryNotInitialised(DrtoolError):
    """The store answers, but holds no repository, or one of another format version."""

    exit_code = ExitCode.REPOSITORY_UNAVAILABLE


class AccessDenied(RepositoryUnavailable):
    """The store refused the credentials, or they lack a right. Trying again will not help."""

    retryable = False


class PlaceMissing(RepositoryUnavailable):
    """The bucket, container or directory itself does not exist (or its disk is not mounted)."""

    retryable = False


class NotSupported(RepositoryUnavailable):
    """The store answered that it cannot do what was asked of it, and never will."""

    retryable = False


class ConditionsRefused(NotSupported):
    """The store takes no conditional put. That says nothing of a plain one."""


class NotKept(RepositoryUnavailable):
    """The store acknowledged an object and does not have it, or has other bytes in its place."""


class StoreFull(RepositoryUnavailable):
    """The store has no room for another byte, or is read-only."""

    retryable = False


class ObjectMissing(DrtoolError):
    """The store answered, and the object is not there."""

    exit_code = ExitCode.INTEGRITY

    def __init__(self, key: str, *, hint: str = "") -> None:
        super().__init__(f"object {key} is not in the repository", hint=hint)
        self.key = key


class AlreadyExists(DrtoolError):
    """A put-if-absent found an object under the key. Nothing was written."""

    exit_code = ExitCode.INTEGRITY

    def __init__(self, key: str) -> None:
        super().__init__(
            f"object {key} exists already, and nothing in a repository is overwritten",
            hint="Run `drtool verify` to see what stands there.",
        )
        self.key = key


class IntegrityError(DrtoolError):
    """Bytes that were read back are not the bytes that were written.

    `key` is the object that they were read from, None where it is not one.
    """

    exit_code = ExitCode.INTEGRITY
    key: str | None = None


class NotAuthentic(IntegrityError):
    """Nobody who holds the repository's key put an object of that name: its head does not open.

    Somebody added it, or the head of an object of ours was damaged: the object alone does not tell.
    """


class WrongKey(IntegrityError):
    """The repository key given does not open this repository."""


class DestinationRefused(DrtoolError):
    """A restore will not write there."""

    exit_code = ExitCode.DESTINATION_REFUSED


class LeaseHeld(DrtoolError):
    """Another run does the same work right now."""

    exit_code = ExitCode.LEASE_HELD
    retryable = True


class Interrupted(DrtoolError):
    """Somebody asked the run to stop, and it stopped cleanly."""

    exit_code = ExitCode.INTERRUPTED
