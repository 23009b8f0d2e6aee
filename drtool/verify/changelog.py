"""The change log read back: is it whole from each backup to its end, over every timeline?"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial

from drtool.errors import DrtoolError, IntegrityError, ObjectMissing
from drtool.repository import layout
from drtool.repository.backups import Manifest
from drtool.repository.damage import known_damage
from drtool.repository.extents import PostgresExtent, RedisExtent
from drtool.repository.layout import SegmentPart, WholeSegment
from drtool.repository.log import read_log_object
from drtool.repository.log_inventory import take_inventory
from drtool.repository.recovery_findings import gap_findings, timeline_findings
from drtool.repository.recovery_windows import find_gaps, find_reaches
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES, damaged
from drtool.repository.timelines import find_timelines, read_newest_marks, with_known_ends
from drtool.verify.depth import Choice
from drtool.verify.streams import verify_streams
from drtool.verify.tally import Tally, side_by_side


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
    if streams or any(isinstance(one.extent, RedisExtent) for one in manifests):
        verify_streams(repository, source, manifests, choice=choice, tally=tally)
    manifests = [one for one in manifests if isinstance(one.extent, PostgresExtent)]
    for name in names:
        if name in streams or f"{layout.source_log(source)}{name}/" == layout.topologies(source):
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
    bad = {*known_damage(repository), *tally.damaged} - tally.read_whole
    for system_id in sorted({manifest.postgres.system_id for manifest in manifests}):
        mine = [m for m in manifests if m.postgres.system_id == system_id]
        _verify_contiguity(repository, mine, bad=bad, tally=tally)


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
            tally.damage(key, error.message, error.hint)
        else:
            tally.read_whole.add(key)


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
            tally.damage(
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


def _verify_contiguity(
    repository: Repository,
    manifests: Sequence[Manifest],
    *,
    bad: Container[str],
    tally: Tally,
) -> None:
    """Gaps after the first backup, backups whose own WAL is not whole, and timelines that are missing.

    What is not there cannot tell that it was: marks and manifests do (PITFALLS 109).
    """
    extent, source = manifests[-1].postgres, manifests[-1].source
    backups = {manifest.backup_id: manifest.postgres for manifest in manifests}
    marks = read_newest_marks(repository, source, extent.system_id)
    try:
        found = take_inventory(
            repository,
            source,
            extent.system_id,
            segment_bytes=extent.segment_bytes,
            since=min(one.start_lsn for one in backups.values()),
            damaged=bad,
        )
        inventory = with_known_ends(found, marks, backups.values())
        timelines = find_timelines(repository, inventory, marks)
    except IntegrityError as error:
        tally.wrong(f"log of {source}", error)
        return
    reaches = find_reaches(repository, timelines, backups)
    gaps = find_gaps(repository, inventory, reaches)
    tally.gaps += gaps
    tally.findings += timeline_findings(source, timelines)
    tally.findings += gap_findings(source, gaps, reaches)
