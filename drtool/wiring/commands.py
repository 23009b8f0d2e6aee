"""One function a command: takes the request and the policy, builds the parts, returns the outcome."""

from __future__ import annotations

from typing import NoReturn

from drtool.errors import UsageError
from drtool.model.outcome import (
    BackupOutcome,
    FactSheet,
    RestorePreview,
    RestoreReport,
    StatusReport,
    VerifyOutcome,
)
from drtool.model.request import (
    BackupRequest,
    DemoRequest,
    InitRequest,
    KeyAdd,
    KeyList,
    KeyRemove,
    KeyRotate,
    RepositoryInit,
    RepositoryInspect,
    RestoreRequest,
    StatusRequest,
    VerifyRequest,
    WalFetch,
    WalGaps,
    WalPush,
    WalReceive,
    WalStatus,
)
from drtool.policy.policy import Policy
from drtool.wiring.surroundings import Surroundings

RepositoryRequest = RepositoryInit | RepositoryInspect | KeyList | KeyAdd | KeyRemove | KeyRotate


def run_init(request: InitRequest, around: Surroundings) -> FactSheet:
    """Probe servers and write a starter policy."""
    _not_yet(request, around)


def run_repository(request: RepositoryRequest, policy: Policy, around: Surroundings) -> FactSheet:
    """Create, describe or rekey the repository."""
    _not_yet(request, policy, around)


def run_backup(
    request: BackupRequest, policy: Policy, around: Surroundings
) -> tuple[BackupOutcome | FactSheet, ...]:
    """Back sources up; with `is_dry_run` say what would be done."""
    _not_yet(request, policy, around)


def run_wal_receive(request: WalReceive, policy: Policy, around: Surroundings) -> FactSheet:
    """Stream WAL until `around.stop` is set; what was received, at the end."""
    _not_yet(request, policy, around)


def run_wal_push(request: WalPush, policy: Policy, around: Surroundings) -> None:
    """Return once the segment is durable in the repository."""
    _not_yet(request, policy, around)


def run_wal_fetch(request: WalFetch, policy: Policy, around: Surroundings) -> None:
    """Put the file in place; ObjectMissing if the repository surely lacks it."""
    _not_yet(request, policy, around)


def run_wal_status(request: WalStatus | WalGaps, policy: Policy, around: Surroundings) -> FactSheet:
    """What the log holds, or lacks: each gap is a finding that is a problem."""
    _not_yet(request, policy, around)


def run_restore(
    request: RestoreRequest, policy: Policy, around: Surroundings
) -> RestoreReport | tuple[RestorePreview, ...]:
    """Restore, or with `is_plan` say what would be done."""
    _not_yet(request, policy, around)


def run_verify(
    request: VerifyRequest, policy: Policy, around: Surroundings
) -> VerifyOutcome | FactSheet:
    """Read back; with `is_dry_run` say what would be read."""
    _not_yet(request, policy, around)


def run_status(request: StatusRequest, policy: Policy, around: Surroundings) -> StatusReport:
    """How things stand."""
    _not_yet(request, policy, around)


def run_demo(request: DemoRequest, around: Surroundings) -> RestoreReport:
    """The whole story on this machine."""
    _not_yet(request, around)


def _not_yet(*arguments: object) -> NoReturn:
    raise UsageError(f"{type(arguments[0]).__name__} is not wired up in this version yet")
