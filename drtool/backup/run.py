"""Take a base backup of a PostgreSQL cluster: read it once, store what is new, commit it last.

Threads: the caller's reads the stream and puts the records together; workers compare, pack and
seal batches; two more put full packs. Memory: (2 workers + 2) batches of 8 MiB and (workers + 2)
packs of 34 MiB, some 250 MB with two workers, whatever the size of the cluster; and about
a kilobyte for each file.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from drtool.backup.intake import Intake
from drtool.backup.plan import BackupPlan
from drtool.backup.shrunken import judge_held
from drtool.backup.storing import Counted, Storing, begin_storing
from drtool.backup.zeroed import ZeroedPages, judge_zeroed
from drtool.errors import IntegrityError
from drtool.model.outcome import BackupKind, BackupOutcome
from drtool.model.progress import Emit, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.model.wal import Lsn
from drtool.repository.backups import Manifest
from drtool.repository.extents import PostgresExtent
from drtool.repository.held import Held
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository
from drtool.repository.table import Attributes, EntryKind
from drtool.sources.postgres.basebackup import (
    Advanced,
    BackupBegan,
    BackupEnded,
    BaseBackup,
    ManifestBytes,
    MemberBegan,
    MemberBytes,
    MemberEnded,
    MemberKind,
)
from drtool.sources.postgres.facts import ServerFacts
from drtool.sources.postgres.manifest import check_manifest, most_manifest_bytes, parse_manifest
from drtool.system.clock import Clock, Stopwatch
from drtool.system.stopping import go_on

PHASE = "backup"
# A main fork and its further segments, in a database: base/5/16400, base/5/16400.1.
_RELATION_FILE = re.compile(rb"/\d+/(\d+)(\.\d+)?$")
_FIRST_NORMAL_OID = 16384

_KINDS = {
    MemberKind.FILE: EntryKind.FILE,
    MemberKind.DIRECTORY: EntryKind.DIRECTORY,
    MemberKind.SYMLINK: EntryKind.SYMLINK,
}


class WalKeeper(Protocol):
    """Sees to it that the WAL a backup needs is in the repository before the backup is committed."""

    def begin(self, start: Lsn, timeline: int) -> None:
        """The backup will need WAL from `start` on: keep it from now."""

    def finish(self, stop: Lsn) -> Lsn:
        """Return how far the log is whole and durable, which is at least `stop`; or raise."""

    def abandon(self) -> None:
        """The backup failed: stop keeping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSource:
    """The server to read: its facts, the stream, the WAL, and its clock. `stop` ends the reading."""

    facts: ServerFacts
    bootstrap_role: str
    stream: BaseBackup
    wal: WalKeeper
    server_clock: Callable[[], datetime]
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadStream:
    """What the stream told, once it was read to its end."""

    began: BackupBegan
    ended: BackupEnded
    files: int
    read_bytes: int
    relations: Held


def run_backup(
    plan: BackupPlan,
    *,
    source: BackupSource,
    repository: Repository,
    lease: Lease,
    clock: Clock,
    emit: Emit,
) -> BackupOutcome:
    """Take the backup that `plan` describes and commit it.

    SourceUnsuitable if the cluster lost most of its relations since the last backup, and that is not
    accepted. Whatever goes wrong before the manifest is put leaves no backup, and packs that the next
    run uses.
    """
    watch, began = Stopwatch(clock), clock.now()
    with begin_storing(plan, repository, began=began, emit=emit) as storing:
        try:
            seed = repository.ring.page_seed()
            zeroed = ZeroedPages(plan.previous, seed=seed)
            with Intake(
                storing.hall, storing.assembly, storing.previous, seed=seed, look=zeroed.look
            ) as intake:
                read = _read_stream(source, intake, emit)
            lost = judge_held(plan, read.relations)
            stored = storing.finish()
            emit(PhaseEnded(phase=PHASE, seconds=watch.seconds()))
            stopped_at = source.server_clock()
            wal_end = source.wal.finish(read.ended.stop_lsn)
        except BaseException:
            source.wal.abandon()
            raise
    extent = _extent(source, read, stopped_at)
    gone = judge_zeroed(zeroed, repository, plan.previous, extent=extent)
    manifest = storing.commit(
        stored,
        extent,
        counted=Counted(files=read.files, read_bytes=read.read_bytes),
        findings=(*lost, *read.ended.findings, *gone),
        lease=lease,
        clock=clock,
    )
    return _outcome(manifest, storing, wal_end=wal_end, seconds=watch.seconds())


def _extent(source: BackupSource, read: ReadStream, stopped_at: datetime) -> PostgresExtent:
    facts = source.facts
    return PostgresExtent(
        system_id=facts.system_id,
        server_version=facts.server_version_num,
        timeline=read.ended.timeline,
        start_lsn=read.began.start_lsn,
        stop_lsn=read.ended.stop_lsn,
        segment_bytes=facts.segment_bytes,
        stopped_at=stopped_at,
        bootstrap_role=source.bootstrap_role,
        has_checksums=facts.has_checksums,
        tablespaces=tuple((space.oid, space.location) for space in read.began.tablespaces),
        settings=facts.settings,
        locales=facts.locales,
        resource_managers=facts.resource_managers,
        relations=read.relations.count,
        relation_bytes=read.relations.size_bytes,
    )


def _outcome(
    manifest: Manifest, storing: Storing, *, wal_end: Lsn, seconds: float
) -> BackupOutcome:
    extent, sizes = manifest.postgres, manifest.sizes
    compared_with = storing.compared_with
    return BackupOutcome(
        source=manifest.source,
        backup_id=manifest.backup_id,
        kind=BackupKind.INCREMENTAL if compared_with else BackupKind.FULL,
        began=manifest.began,
        seconds=seconds,
        files=sizes.files,
        read_bytes=sizes.read_bytes,
        stored_bytes=sizes.stored_bytes,
        reused_bytes=max(0, sizes.read_bytes - sizes.new_bytes),
        start_lsn=extent.start_lsn,
        stop_lsn=extent.stop_lsn,
        timeline=extent.timeline,
        wal_included_to=wal_end,
        pages=storing.assembly.pages,
        pages_changed=storing.assembly.pages_changed,
        previous=compared_with,
        findings=manifest.findings,
    )


def _read_stream(source: BackupSource, intake: Intake, emit: Emit) -> ReadStream:
    """Iterate the stream once; the order of cases is how often they come."""
    began: BackupBegan | None = None
    ended: BackupEnded | None = None
    manifest, arrived = bytearray(), dict[bytes, int]()
    read_bytes = 0
    for item in source.stream:
        match item:
            case MemberBytes(data):
                read_bytes += len(data)
                intake.take(data)
            case MemberBegan():
                if item.kind is MemberKind.FILE:
                    arrived[item.path] = item.size_bytes
                intake.begin_file(_attributes(item))
            case MemberEnded():
                intake.end_file()
            case Advanced(done):
                go_on(source.stop, f"the backup of {source.facts.place}")
                emit(PhaseAdvanced(phase=PHASE, done=done))
            case BackupBegan():
                began = item
                emit(PhaseBegan(phase=PHASE, title="base backup", total=item.estimated_bytes))
                source.wal.begin(item.start_lsn, item.timeline)
            case ManifestBytes(data):
                manifest += data
                if len(manifest) > most_manifest_bytes(len(arrived)):
                    raise IntegrityError(
                        f"the backup manifest of {source.facts.place} is longer than its files can make it",
                        hint="Take the backup again; see the server's log.",
                    )
            case BackupEnded():
                ended = item
    intake.finish()
    emit(PhaseAdvanced(phase=PHASE, done=read_bytes))
    if began is None or ended is None:
        raise IntegrityError(
            f"the base backup of {source.facts.place} ended before its end",
            hint="Take the backup again; see the server's log.",
        )
    check_manifest(parse_manifest(bytes(manifest)), arrived)
    return ReadStream(
        began=began,
        ended=ended,
        files=len(arrived),
        read_bytes=read_bytes,
        relations=_relations(arrived),
    )


def _relations(arrived: Mapping[bytes, int]) -> Held:
    """The relations that users made: what initdb makes has smaller numbers (FirstNormalObjectId)."""
    found = [
        (match, size) for path, size in arrived.items() if (match := _RELATION_FILE.search(path))
    ]
    mine = [(match, size) for match, size in found if int(match[1]) >= _FIRST_NORMAL_OID]
    return Held(
        count=sum(match[2] is None for match, _ in mine),
        noun="relations",
        size_bytes=sum(size for _, size in mine),
    )


def _attributes(member: MemberBegan) -> Attributes:
    return Attributes(
        path=member.path,
        kind=_KINDS[member.kind],
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        modified_ns=member.modified_seconds * 1_000_000_000,
        size_bytes=member.size_bytes,
        link=member.link,
    )
