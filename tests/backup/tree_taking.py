"""Snapshots of trees for tests: taken into a repository in memory or in a directory, and restored."""

from __future__ import annotations

import os
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

from drtool.backup.plan import plan_snapshot
from drtool.backup.tree import run_snapshot
from drtool.backup.tree_place import TreeSource
from drtool.model.outcome import BackupOutcome, RestoreOutcome
from drtool.model.progress import Emit, silent
from drtool.model.target import RecoveryTarget, ToLatest
from drtool.repository.backups import new_backup_id, read_manifests, unfinished_attempts
from drtool.repository.extents import FilesExtent
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository, open_repository
from drtool.restore.phases import Phases
from drtool.restore.tree import run_tree_restore
from drtool.restore.tree_ahead import look_ahead
from drtool.restore.tree_place import check_tree_place
from drtool.restore.tree_plan import TreePlan, plan_tree, require_come
from drtool.sources.files.exclude import compile_rules
from drtool.stores.local import LocalStore
from drtool.system.clock import Clock, SystemClock
from tests.repository.building import SECRET, new_repository

SOURCE = "uploads"
CLOCK = SystemClock()


class LaterClock(SystemClock):
    """Ten seconds ahead, so that files made just now are old when the next snapshot looks at them."""

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=10)


LATER = LaterClock()


def snapshot(
    repository: Repository,
    root: Path,
    *,
    exclude: tuple[str, ...] = (),
    accepts_changes: bool = False,
    sentinel: bytes | None = None,
    clock: Clock = LATER,
    emit: Emit = silent,
    stop: threading.Event | None = None,
) -> BackupOutcome:
    """Take a snapshot as the command does."""
    tree = TreeSource(
        path=root,
        exclude=compile_rules(exclude),
        accepts_changes=accepts_changes,
        sentinel=sentinel,
        stop=stop or threading.Event(),
    )
    with Lease(repository, f"backup-{SOURCE}", clock=CLOCK) as lease:
        plan = plan_snapshot(
            SOURCE,
            new_backup_id(clock.now()),
            kind=FilesExtent.kind,
            manifests=read_manifests(repository, SOURCE)[0],
            attempts=list(unfinished_attempts(repository, SOURCE, most=5)),
        )
        return run_snapshot(
            plan, tree=tree, repository=repository, lease=lease, clock=clock, emit=emit
        )


def plan_of(
    repository: Repository,
    *,
    target: RecoveryTarget | None = None,
    patterns: tuple[str, ...] = (),
    is_delta: bool = False,
) -> TreePlan:
    """Plan a restore as the command does."""
    manifests, errors = read_manifests(repository, SOURCE)
    require_come(SOURCE, target or ToLatest(), manifests, now=CLOCK.now())
    return plan_tree(
        SOURCE,
        target or ToLatest(),
        manifests=manifests,
        damaged=[error.message for error in errors],
        wanted=compile_rules(patterns) if patterns else None,
        is_delta=is_delta,
    )


def bring_back(
    repository: Repository,
    place: Path,
    *,
    target: RecoveryTarget | None = None,
    patterns: tuple[str, ...] = (),
    is_delta: bool = False,
    phases: Phases | None = None,
) -> RestoreOutcome:
    """Restore as the command does."""
    plan = plan_of(repository, target=target, patterns=patterns, is_delta=is_delta)
    real = check_tree_place(
        plan, place, occupied=lambda: look_ahead(plan, repository).occupied_bytes
    )
    if patterns:
        look_ahead(plan, repository)
    phases = phases or Phases(CLOCK, silent)
    return run_tree_restore(plan, real, repository=repository, phases=phases)


def a_rich_tree(root: Path) -> Path:
    """Odd names, links of both kinds, holes, attributes, modes, empty things, large and small files."""
    below = os.fsencode(root)
    os.makedirs(below + b"/photos/2024/a b%+", exist_ok=True)
    os.makedirs(below + b"/empty")
    names = [b"plain", b"na\nme", b"\xff\xfe", b"with space", b"-dash", "żółw".encode(), b"x.tmp"]
    for number, name in enumerate(names):
        _write(below + b"/photos/2024/" + name, bytes([number]) * (number * 5000 + 1))
    _write(below + b"/none", b"")
    _write(below + b"/database", os.urandom(9_000_000))
    _write(below + b"/page", os.urandom(300_001))
    os.link(below + b"/database", below + b"/photos/database again")
    os.symlink(b"nowhere at all", below + b"/dangling")
    os.symlink(b"photos", below + b"/pictures")
    with open(below + b"/sparse", "wb") as file:
        file.seek(5 << 20)
        file.write(b"in the middle")
        file.truncate(40 << 20)
    with open(below + b"/small hole", "wb") as file:
        file.truncate(100_000)
    os.setxattr(below + b"/page", b"user.origin", b"\0\1any bytes")
    os.chmod(below + b"/page", 0o4750)
    os.chmod(below + b"/empty", 0o2711)
    os.utime(below + b"/empty", ns=(1, 1_700_000_000_123_456_789))
    return root


def _write(path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def repository_in(directory: Path) -> Repository:
    """A new repository in a directory."""
    directory.mkdir(exist_ok=True)
    return new_repository(LocalStore(directory, clock=CLOCK))


def reopened(directory: Path) -> Repository:
    """The repository that `repository_in` made, in another process."""
    return open_repository(LocalStore(directory, clock=CLOCK), SECRET)


if __name__ == "__main__":
    snapshot(reopened(Path(sys.argv[1])), Path(sys.argv[2]))
    print("done")
