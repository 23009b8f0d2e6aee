"""What every backup does around the reading: learn what is stored, store what is new, commit last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from drtool import __version__
from drtool.backup.assembly import Assembly
from drtool.backup.intake import WORKERS
from drtool.backup.packing import PackingHall
from drtool.backup.plan import BackupPlan
from drtool.backup.previous import Known, PreviousBackup, learn
from drtool.model.finding import Finding
from drtool.model.measure import counted
from drtool.model.progress import Emit, Noted
from drtool.repository.backups import BackupSizes, Manifest, begin_attempt, commit_backup
from drtool.repository.chunks import ChunkReader
from drtool.repository.confirmation import confirm_packs
from drtool.repository.extents import Extent
from drtool.repository.lease import Lease
from drtool.repository.places import ChunkPlace
from drtool.repository.repository import Repository
from drtool.repository.table import TableWriter
from drtool.system.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What of a source was met."""

    files: int
    read_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """All is durable, and no manifest says so yet: the table's chunks, and every pack it needs."""

    table: tuple[ChunkPlace, ...]
    packs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """A backup on its way into the repository. Made by `begin_storing`."""

    plan: BackupPlan
    repository: Repository
    known: Known
    hall: PackingHall
    assembly: Assembly
    began: datetime

    @property
    def previous(self) -> PreviousBackup | None:
        return self.known.previous

    @property
    def compared_with(self) -> str | None:
        """The backup whose pages were compared; None if there is none that can be read."""
        return self.plan.previous.backup_id if self.plan.previous and self.previous else None

    def finish(self) -> Stored:
        """Store the table and what is still open; return once all of it is durable."""
        places, referred = self.assembly.finish()
        self.hall.finish()
        ids = self.known.packs.ids
        needed = {ids[index] for index in referred} | {place.pack_id for place in places}
        return Stored(table=tuple(places), packs=tuple(sorted(needed)))

    def commit(
        self,
        stored: Stored,
        extent: Extent,
        *,
        counted: Counted,
        findings: tuple[Finding, ...],
        lease: Lease,
        clock: Clock,
    ) -> Manifest:
        """Put the manifest, if the lease is still ours: from then on the backup exists.

        NotKept, and no backup, if the store does not have every pack that it needs.
        """
        manifest = Manifest(
            source=self.plan.source,
            backup_id=self.plan.backup_id,
            began=self.began,
            ended=clock.now(),
            tool=f"drtool {__version__}",
            fencing=lease.fencing,
            extent=extent,
            sizes=BackupSizes(
                files=counted.files,
                read_bytes=counted.read_bytes,
                new_bytes=self.hall.new_bytes,
                stored_bytes=self.hall.stored_bytes,
            ),
            table=stored.table,
            packs=stored.packs,
            findings=(*findings, *self.known.findings()),
            origin=self.plan.origin,
        )
        confirm_packs(self.repository.store, stored.packs, sizes=self.hall.sizes)
        lease.check()
        commit_backup(self.repository, manifest)
        return manifest


@contextmanager
def begin_storing(
    plan: BackupPlan, repository: Repository, *, began: datetime, emit: Emit, packers: int = WORKERS
) -> Iterator[Storing]:
    """Learn what earlier backups left, and open packs for `packers` threads at once.

    A block that fails leaves no backup, and packs that the next run uses.
    """
    known = learn(plan.previous, plan.attempts, ChunkReader(repository.store, repository.ring))
    try:
        _tell(known, emit)
        attempt = begin_attempt(repository, plan.source, plan.backup_id)
        hall = PackingHall(
            repository, attempt, known.packs, known=known.chunks, packers=packers, level=plan.level
        )
        try:
            yield Storing(
                plan=plan,
                repository=repository,
                known=known,
                hall=hall,
                assembly=Assembly(hall, TableWriter(known.packs)),
                began=began,
            )
        except BaseException:
            hall.abandon()
            raise
    finally:
        known.close()


def _tell(known: Known, emit: Emit) -> None:
    if known.resumed_packs:
        text = f"using {counted(known.resumed_packs, 'pack')} again that an interrupted backup had stored"
        emit(Noted(text))
    for finding in known.early_findings:
        emit(Noted(f"{finding.subject}: {finding.fact}", "warning"))
