"""Backups as the tests take them: the room's own parts, on a server of a test, in any store.

`python -m tests.backup.taking DSN DIRECTORY` takes one in a process of its own and prints figures:
for tests that kill it or measure it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from drtool.backup.plan import Accepted, BackupPlan, plan_backup
from drtool.backup.run import BackupSource, WalKeeper, run_backup
from drtool.model.outcome import BackupOutcome
from drtool.model.progress import Emit, silent
from drtool.model.wal import Lsn
from drtool.repository import layout
from drtool.repository.backups import (
    Manifest,
    backup_ids,
    new_backup_id,
    read_manifest,
    read_manifests,
    unfinished_attempts,
)
from drtool.repository.keys import KeySecret, SlotKind
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository, create_repository, open_repository
from drtool.sources.postgres.basebackup import BaseBackup
from drtool.sources.postgres.connection import connect_replication
from drtool.sources.postgres.facts import read_facts
from drtool.stores.capabilities import Capabilities
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import Store
from drtool.system.clock import SystemClock

SOURCE = "main-db"
LEASE = f"backup-{SOURCE}"
CLOCK = SystemClock()
# A key file, because a passphrase costs 0.4 s of scrypt at each opening.
SECRET = KeySecret(SlotKind.KEY_FILE, bytes(range(32)).hex().encode())
ABLE = Capabilities(
    creates_atomically=True,
    replaces_if_matching=True,
    reads_after_write=True,
    ranges=True,
    lists_in_order=True,
)


class WalElsewhere:
    """A `WalKeeper` for tests that bring the WAL themselves, or need none."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, start: Lsn, timeline: int) -> None:
        self.calls.append("begin")

    def finish(self, stop: Lsn) -> Lsn:
        self.calls.append("finish")
        return stop

    def abandon(self) -> None:
        self.calls.append("abandon")


def new_repository(store: Store | None = None) -> Repository:
    """An empty repository, in memory unless a store is given."""
    store = store or MemoryStore()
    return create_repository(store, SECRET, now=CLOCK.now(), capabilities=ABLE)


def through(store: Store, repository: Repository) -> Repository:
    """The same repository, by way of another store that leads to it."""
    return Repository(store, repository.ring, repository.root)


def plan_for(repository: Repository, system_id: int) -> BackupPlan:
    """The plan that a run would make now."""
    manifests, _ = read_manifests(repository, SOURCE)
    return plan_backup(
        SOURCE,
        _next_id(repository),
        system_id=system_id,
        manifests=manifests,
        attempts=list(unfinished_attempts(repository, SOURCE, most=5)),
    )


def _next_id(repository: Repository) -> str:
    """Backups of tests follow each other within a second; their ids must still be in order."""
    while True:
        backup_id = new_backup_id(CLOCK.now())
        last = max(backup_ids(repository, SOURCE) + attempt_ids(repository), default="")
        if backup_id > last:
            return backup_id


def attempt_ids(repository: Repository) -> list[str]:
    """The ids of all backups that were begun."""
    prefix = layout.attempts(SOURCE)
    return [found.key.removeprefix(prefix) for found in repository.store.list(prefix)]


def take_backup(
    dsn: str,
    repository: Repository,
    *,
    wal: WalKeeper | None = None,
    emit: Emit = silent,
    accepts_source: bool = False,
    stop: threading.Event | None = None,
) -> BackupOutcome:
    """One backup, by the role and server of `dsn`."""
    facts = read_facts(dsn)
    with (
        Lease(repository, LEASE, clock=CLOCK) as lease,
        BaseBackup(connect_replication(dsn, purpose="backup"), label="drtool test") as stream,
    ):
        source = BackupSource(
            facts=facts,
            bootstrap_role="postgres",
            stream=stream,
            wal=wal or WalElsewhere(),
            server_clock=CLOCK.now,
            stop=stop or threading.Event(),
        )
        plan = plan_for(repository, facts.system_id)
        return run_backup(
            replace(plan, accepted=Accepted(source=accepts_source)),
            source=source,
            repository=repository,
            lease=lease,
            clock=CLOCK,
            emit=emit,
        )


def manifest_of(repository: Repository, outcome: BackupOutcome) -> Manifest:
    """The manifest that the backup left."""
    return read_manifest(repository, SOURCE, outcome.backup_id)


def local_repository(directory: Path) -> Repository:
    """The repository in `directory`, made if there is none."""
    directory.mkdir(exist_ok=True)
    store = LocalStore(directory, clock=CLOCK)
    if store.stat(layout.ROOT) is None:
        return new_repository(store)
    return open_repository(store, SECRET)


def main(arguments: Sequence[str]) -> None:
    """Take a backup of DSN into DIRECTORY, and print what it cost as JSON."""
    dsn, directory = arguments
    repository = local_repository(Path(directory))
    began, spent = time.perf_counter(), time.process_time()
    outcome = take_backup(dsn, repository)
    figures = {
        "backup": outcome.backup_id,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - spent,
        "peak_bytes": _peak_bytes(),
        "read_bytes": outcome.read_bytes,
        "stored_bytes": outcome.stored_bytes,
        "pid": os.getpid(),
    }
    print(json.dumps(figures))


def _peak_bytes() -> int:
    """The most memory this program had; getrusage would count what its parent had when it forked."""
    [line] = [
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    ]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
