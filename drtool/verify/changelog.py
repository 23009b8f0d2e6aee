"""The change log read back: is it whole from each backup to its end, over every timeline?"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial

from drtool.errors import DrtoolError, IntegrityError, NotAuthentic, ObjectMissing
from drtool.model.wal import MAX_SEGMENT_BYTES, WalSegment
from drtool.model.window import LogGap
from drtool.repository import layout
from drtool.repository.backups import Manifest
from drtool.repository.damage import known_damage
from drtool.repository.extents import PostgresExtent, RedisExtent
from drtool.repository.heads import is_ours
from drtool.repository.layout import SegmentPart, WholeSegment
from drtool.repository.log_inventory import take_inventory
from drtool.repository.names import parse_system_id
from drtool.repository.recovery_findings import gap_findings, timeline_findings
from drtool.repository.recovery_windows import find_gaps, find_reaches
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES, ObjectType, damaged, not_authentic
from drtool.repository.taken import read_exactly
from drtool.repository.timelines import find_timelines, read_newest_marks, with_known_ends
from drtool.verify.depth import Choice
from drtool.verify.doubted import cut_short, what_it_is_not
from drtool.verify.streams import verify_streams
from drtool.verify.tally import Tally, side_by_side


def verify_log(
    repository: Repository,
    source: str,
    manifests: Sequence[Manifest],
    *,
    choice: Choice,
    tally: Tally,
) -> list[str]:
    """The logs of all clusters that a source has had, or of all histories of a Redis; return the
    directories of which everything was looked at.
    """
    names = repository.store.list_directories(layout.source_log(source))
    streams = [name for name in names if layout.is_replication_id(name)]
    if streams or any(isinstance(one.extent, RedisExtent) for one in manifests):
        verify_streams(repository, source, manifests, choice=choice, tally=tally)
    manifests = [one for one in manifests if isinstance(one.extent, PostgresExtent)]
    systems = {manifest.postgres.system_id for manifest in manifests}
    systems |= {number for number in map(parse_system_id, names) if number is not None}
    for system_id in sorted(systems):
        mine = [m for m in manifests if m.postgres.system_id == system_id]
        segment_bytes = mine[-1].postgres.segment_bytes if mine else None
        prefix = layout.system_log(source, system_id)
        doubted = _read_back(repository, prefix, segment_bytes, choice=choice, tally=tally)
        if mine:
            bad = {*known_damage(repository), *tally.damaged, *doubted} - tally.read_whole
            _verify_contiguity(repository, mine, bad=bad, doubted=doubted, tally=tally)
        for key, error in doubted.items():
            if key not in tally.damaged:
                tally.not_ours(key, what_it_is_not(error))
    looked_through = [f"{layout.source_log(source)}{name}/" for name in streams]
    return [*looked_through, *(layout.system_log(source, system_id) for system_id in systems)]


def _read_back(
    repository: Repository,
    prefix: str,
    segment_bytes: int | None,
    *,
    choice: Choice,
    tally: Tally,
) -> dict[str, DrtoolError]:
    """Read the log of one cluster, and return the objects that are none of ours as far as they tell."""
    doubted: dict[str, DrtoolError] = {}
    reads = _reads(repository, prefix, segment_bytes, choice=choice, tally=tally)
    for key, size, error in side_by_side(reads):
        tally.looked_at(key, size)
        if isinstance(error, NotAuthentic):
            doubted[key] = error
        elif error is not None:
            tally.damage(key, error.message, error.hint)
        else:
            tally.read_whole.add(key)
    return doubted


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
            yield partial(cut_short, found.key, found.size_bytes)
        elif not layout.is_named_in_log(found.key.removeprefix(prefix)):
            yield partial(_strange_name, repository, found.key)
        elif choice.takes():
            yield partial(_read_object, repository, found.key, segment_bytes)
        else:
            tally.looked_at(found.key)


def _strange_name(repository: Repository, key: str) -> tuple[str, int, DrtoolError | None]:
    """One of ours under such a name is of a later drtool."""
    if is_ours(repository, key):
        return key, 0, None
    return key, 0, not_authentic(key, "its name is no such object's")


def _read_object(
    repository: Repository, key: str, segment_bytes: int | None
) -> tuple[str, int, DrtoolError | None]:
    try:
        plain = read_exactly(
            repository.store, repository.ring, ObjectType.LOG, key=key, most_bytes=MAX_SEGMENT_BYTES
        )
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
    doubted: dict[str, DrtoolError],
    tally: Tally,
) -> None:
    """Gaps after the first backup, backups whose own WAL is not whole, and timelines that are missing.

    What is not there cannot tell that it was: marks and manifests do (PITFALLS 109). Of the `doubted`
    objects those are damage that something is missing without; more of them may be found here.
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
    for key in inventory.foreign:
        doubted.setdefault(key, not_authentic(key, "nobody with the key has put it there"))
    lost = [number for number, _ in timelines.missing]
    for key, found_so in doubted.items():
        name = key.removeprefix(layout.system_log(source, extent.system_id))
        if _is_missed(name, extent, gaps=gaps, missing=lost):
            tally.damage(key, found_so.message, found_so.hint)
    tally.findings += timeline_findings(source, timelines)
    tally.findings += gap_findings(source, gaps, reaches)


def _is_missed(
    name: str, extent: PostgresExtent, *, gaps: Iterable[LogGap], missing: Container[int]
) -> bool:
    """Whether something of the log is not there that an object of this name would hold."""
    directory, _, rest = name.partition("/")
    if directory == "histories":
        return layout.parse_history_name(rest) in missing
    named, size = layout.parse_log_name(rest), extent.segment_bytes
    if not isinstance(named, WholeSegment | SegmentPart):
        return False
    try:
        segment = WalSegment.parse(named.segment, size)
    except ValueError:
        return False
    low, high = (0, size) if isinstance(named, WholeSegment) else (named.begin, named.end)
    begin = segment.begin(size)
    return any(
        gap.timeline == segment.timeline and gap.begin < begin + high and begin + low < gap.end
        for gap in gaps
    )
