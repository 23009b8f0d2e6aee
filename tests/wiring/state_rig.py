"""An invented past of one PostgreSQL cluster in a repository on disk, and every screen that shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from drtool.cli.verdicts import code_of
from drtool.config.policy_file import parse_policy
from drtool.errors import ExitCode
from drtool.model.checked import CheckedPart
from drtool.model.objective import Mark
from drtool.model.outcome import FactSheet, RestorePreview, StatusRow, VerifyOutcome
from drtool.model.progress import silent
from drtool.model.request import CheckRequest, StatusRequest, WalGaps, WalStatus
from drtool.model.target import RecoveryTarget
from drtool.model.wal import Lsn
from drtool.policy.policy import Policy
from drtool.policy.secrets import Redactor
from drtool.repository.extents import PostgresExtent
from drtool.repository.keys import NO_SECRET
from drtool.repository.layout import Lineage
from drtool.repository.log import put_history
from drtool.repository.marks import put_mark
from drtool.repository.repository import Repository
from drtool.restore.look import look
from drtool.restore.plan import plan_restore, preview
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from drtool.verify.depth import Depth, Quick
from drtool.verify.repository import verify_repository
from drtool.wiring.check import check
from drtool.wiring.status import status
from drtool.wiring.surroundings import Surroundings
from drtool.wiring.wal import gaps as wal_gaps
from drtool.wiring.wal import status as wal_status
from tests.repository.building import (
    EXTENT_OF_BACKUP,
    MIB,
    SYSTEM,
    ManualClock,
    a_tree,
    new_repository,
    put_segments,
    store_tree,
)
from tests.servers.ports import free_port

SOURCE = "main"
_POLICY = """\
version: 1
stack: shop
timezone: Europe/Warsaw
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: none}}
sources:
  main:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    wal: {{mode: stream, flush: 1s, heartbeat: 1s}}
    schedule: {{backup: "0 2 * * *"}}
"""


class StillClock(ManualClock):
    """Stands still, and lets nobody wait for it: leases are renewed by nobody."""

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        return SystemClock().wait(min(seconds, 0.01) if until is None else seconds, until)


@dataclass(kw_only=True)
class Past:
    """Segments are of 1 MiB, and segment n begins at n MiB; minutes count from `began`."""

    root: Path
    repository: Repository
    clock: StillClock
    began: datetime
    count: int = 0
    tree: Path = field(default_factory=Path)
    extent: PostgresExtent = EXTENT_OF_BACKUP
    more: str = ""  # of the source's policy

    def at(self, minutes: float) -> datetime:
        return self.began + timedelta(minutes=minutes)

    def backup(
        self, segment: int, *, minutes: float, timeline: int = 1, ahead: timedelta = timedelta(0)
    ) -> str:
        """A backup that needs WAL of one segment; its packs are its own. All clocks ran `ahead` then."""
        self.count += 1
        ended = self.at(minutes) + ahead
        backup_id = f"{ended:%Y%m%dT%H%M%S}.000Z-00000{self.count}"
        (self.tree / "own").write_text(backup_id * 100)
        extent = replace(
            self.extent,
            start_lsn=Lsn(segment * MIB + 40),
            stop_lsn=Lsn(segment * MIB + 400),
            stopped_at=ended,
            timeline=timeline,
        )
        store_tree(
            self.repository, self.tree, extent=extent, backup_id=backup_id,
            times=(ended - timedelta(minutes=1), ended), fencing=self.count,
        )  # fmt: skip
        return backup_id

    def wal(self, numbers: Iterable[int], *, timeline: int = 1) -> None:
        put_segments(self.repository, numbers, timeline=timeline)

    def mark(self, minutes: float, segment: float, *, timeline: int = 1) -> None:
        mark = Mark(self.at(minutes), int(segment * MIB), timeline)
        put_mark(self.repository, Lineage(SOURCE, SYSTEM, timeline), mark)

    def history(self, timeline: int, *lines: str) -> None:
        content = "".join(f"{line}\tno reason\n" for line in lines).encode()
        put_history(self.repository, SOURCE, SYSTEM, timeline=timeline, content=content)

    @property
    def text(self) -> str:
        return _POLICY.format(root=self.root) + self.more

    @property
    def policy(self) -> Policy:
        return parse_policy(self.text, "the test's policy")

    @property
    def around(self) -> Surroundings:
        dsn = f"host=127.0.0.1 port={free_port()} user=drtool dbname=postgres"
        return Surroundings(
            environ={"MAIN_DB_DSN": dsn},
            redactor=Redactor(),
            emit=silent,
            clock=self.clock,
            stop=threading.Event(),
        )

    def status(self) -> tuple[StatusRow, ExitCode]:
        report = status(StatusRequest(()), self.policy, self.around)
        return report.rows[0], code_of(report)

    def checked(self) -> CheckedPart:
        """All looks but that at the server, which is away."""
        report = check(CheckRequest(()), self.policy, self.around)
        [part] = [one for one in report.parts if one.name == SOURCE]
        return replace(part, looks=tuple(one for one in part.looks if one.name != "server"))

    def wal_status(self) -> FactSheet:
        return wal_status(WalStatus(()), self.policy, self.around)

    def wal_gaps(self) -> FactSheet:
        return wal_gaps(WalGaps(()), self.policy, self.around)

    def verify(self, depth: Depth = Quick()) -> VerifyOutcome:  # noqa: B008 - frozen
        return verify_repository(
            self.repository, depth=depth, sources=[SOURCE], emit=silent, clock=self.clock, seed=1
        )

    def plan(self, target: RecoveryTarget, *, timeline: int | None = None) -> RestorePreview:
        facts = look(self.repository, SOURCE, target, timeline=timeline)
        return preview(plan_restore(facts, target), destination="/nowhere")


def a_past(root: Path) -> Past:
    """An empty repository; now is 100 minutes after the past began."""
    clock = StillClock()
    (root / "repository").mkdir()
    store = LocalStore(root / "repository", clock=clock)
    repository = new_repository(store, NO_SECRET)
    began = clock.now() - timedelta(minutes=100)
    tree = a_tree(root / "tree", {})
    return Past(root=root, repository=repository, clock=clock, began=began, tree=tree)
