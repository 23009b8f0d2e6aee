"""The change log read back: is it whole from each backup to its end, over every timeline?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from drtool.errors import DrtoolError, IntegrityError, ObjectMissing
from drtool.model.outcome import LogGap
from drtool.model.wal import TimelineHistory, history_name
from drtool.repository import layout
from drtool.repository.backups import Manifest
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import SegmentPart, WholeSegment
from drtool.repository.log import (
    LogInventory,
    read_history,
    read_log_object,
    take_inventory,
)
from drtool.repository.logpath import find_holes
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES, damaged
from drtool.verify.depth import Choice
from drtool.verify.streams import verify_streams
from drtool.verify.tally import Tally, side_by_side

GAP = "WAL gap"


def verify_log(
    repository: Repository,
    source: str,
    manifests: Sequence[Manifest],
    *,
    choice: Choice,
    tally: Tally,
) -> None:
    """The logs of all clusters that a source has had, or of all histories of a Redis."""
    names = repository.store.list_directories(layout.source_log(source))
    streams = [name for name in names if layout.is_replication_id(name)]
    if streams:
        verify_streams(repository, source, manifests, choice=choice, tally=tally)
    manifests = [one for one in manifests if isinstance(one.extent, PostgresExtent)]
    for name in names:
        if name in streams:
            continue
        if not name.isdigit():
            tally.warn(f"log/{source}/{name}/", "is not the log of a cluster")
            continue
        mine = [m for m in manifests if m.postgres.system_id == int(name)]
        segment_bytes = mine[-1].postgres.segment_bytes if mine else None
        _read_back(
            repository,
            layout.system_log(source, int(name)),
            segment_bytes,
            choice=choice,
            tally=tally,
        )
    for system_id in sorted({manifest.postgres.system_id for manifest in manifests}):
        mine = [m for m in manifests if m.postgres.system_id == system_id]
        _verify_contiguity(repository, mine, tally)


def _read_back(
    repository: Repository,
    prefix: str,
    segment_bytes: int | None,
    *,
    choice: Choice,
    tally: Tally,
) -> None:
    reads = _reads(repository, prefix, segment_bytes, choice=choice, tally=tally)
    for key, size, error in side_by_side(reads):
        tally.looked_at(key, size)
        if error is not None:
            tally.wrong(key, error)


def _reads(
    repository: Repository,
    prefix: str,
    segment_bytes: int | None,
    *,
    choice: Choice,
    tally: Tally,
) -> Iterator[Callable[[], tuple[str, int, DrtoolError | None]]]:
    """One task for each object that is to be read; the others are only looked at."""
    for found in repository.store.list(prefix):
        if found.size_bytes < SMALLEST_SEALED_BYTES:
            tally.problem(
                found.key,
                f"has {found.size_bytes} bytes, too few for a log object: it was cut short",
                "Bring it back from a copy of the repository; it is never handed to a server.",
            )
        elif choice.takes():
            yield partial(_read_object, repository, found.key, segment_bytes)
        else:
            tally.looked_at(found.key)


def _read_object(
    repository: Repository, key: str, segment_bytes: int | None
) -> tuple[str, int, DrtoolError | None]:
    try:
        plain = read_log_object(repository, key)
        name = layout.parse_log_name(key.rpartition("/")[2])
        match name:
            case WholeSegment():
                wanted = segment_bytes
            case SegmentPart(_, begin, end):
                wanted = end - begin
            case _:
                wanted = None
        if wanted is not None and len(plain) != wanted:
            raise damaged(key, f"it holds {len(plain)} bytes, not {wanted}")
    except (IntegrityError, ObjectMissing) as error:
        return key, 0, error
    return key, len(plain), None


def _verify_contiguity(repository: Repository, manifests: Sequence[Manifest], tally: Tally) -> None:
    """Gaps after the first backup, and backups whose own stretch of WAL is not whole."""
    extent = manifests[-1].postgres
    source = manifests[-1].source
    try:
        inventory = take_inventory(
            repository,
            source,
            extent.system_id,
            segment_bytes=extent.segment_bytes,
            since=min(manifest.postgres.start_lsn for manifest in manifests),
        )
    except IntegrityError as error:
        tally.wrong(f"log of {source}", error)
        return
    gaps: set[LogGap] = set()
    for history in _paths(repository, inventory, manifests, tally=tally):
        on_path = [
            manifest
            for manifest in manifests
            if history.holds(manifest.postgres.timeline, manifest.postgres.stop_lsn)
        ]
        if on_path:
            first = min(on_path, key=lambda manifest: manifest.postgres.start_lsn).postgres
            gaps.update(
                find_holes(inventory, history, timeline=first.timeline, begin=first.start_lsn)
            )
    for gap in sorted(gaps, key=lambda gap: (gap.timeline, gap.begin)):
        _tell_gap(gap, manifests, tally)


def _paths(
    repository: Repository,
    inventory: LogInventory,
    manifests: Sequence[Manifest],
    *,
    tally: Tally,
) -> list[TimelineHistory]:
    """The path to each timeline that no other has gone on from; a history that is missing is a problem."""
    known = {*inventory.timelines, *inventory.histories}
    known.update(manifest.postgres.timeline for manifest in manifests)
    paths: list[TimelineHistory] = []
    for timeline in sorted(known, reverse=True):
        if any(timeline in path.path() for path in paths):
            continue
        try:
            paths.append(
                read_history(repository, inventory.source, inventory.system_id, timeline=timeline)
            )
        except ObjectMissing as error:
            tally.problem(
                error.key,
                f"{history_name(timeline)} is missing: timeline {timeline} cannot be recovered to",
                "Put it back from pg_wal of the server, or of a standby, with `drtool-wal push`.",
            )
        except IntegrityError as error:
            tally.wrong(f"history of timeline {timeline}", error)
    return paths


def _tell_gap(gap: LogGap, manifests: Sequence[Manifest], tally: Tally) -> None:
    """A gap that a newer backup has left behind is a fact; one that limits the newest is a problem."""
    tally.gaps.append(gap)
    source = manifests[0].source
    subject = f"{GAP} in {source}, timeline {gap.timeline}"
    fact = f"WAL from {gap.begin} to {gap.end} is missing"
    newest = max(manifests, key=lambda manifest: (manifest.ended, manifest.backup_id)).postgres
    broken = [
        manifest.backup_id
        for manifest in manifests
        if manifest.postgres.timeline == gap.timeline
        and gap.begin < manifest.postgres.stop_lsn
        and gap.end > manifest.postgres.start_lsn
    ]
    if broken:
        tally.problem(subject, f"{fact}: backup {', '.join(broken)} cannot become consistent")
    elif newest.timeline < gap.timeline or newest.start_lsn < gap.end:
        tally.problem(
            subject,
            f"{fact}: no backup reaches beyond it",
            f"Run `drtool backup {source}` now: from then on the log counts again.",
        )
    else:
        tally.warn(
            subject, f"{fact}: backups before it reach only so far; newer ones do not need it"
        )
