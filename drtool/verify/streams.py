"""The archived streams of Redis read back: is each whole from the newest snapshot to its end?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial

from drtool.errors import DrtoolError, IntegrityError, NotAuthentic, ObjectMissing
from drtool.model.finding import Harm
from drtool.repository import layout
from drtool.repository.backups import Manifest
from drtool.repository.clusterlog import read_topology, topology_key, topology_moments
from drtool.repository.damage import known_damage
from drtool.repository.extents import RedisExtent
from drtool.repository.heads import is_ours
from drtool.repository.layout import (
    ReplicationHistory,
    StreamBeginName,
    StreamLateName,
    StreamLinkName,
    StreamName,
    StreamSegment,
)
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES, not_authentic
from drtool.repository.stream_inventory import StreamInventory, take_stream_inventory
from drtool.repository.stream_known import read_known
from drtool.repository.stream_missing import find_missing
from drtool.repository.streamlate import read_late
from drtool.repository.streamlog import read_begin, read_link, read_stream_segment
from drtool.verify.depth import Choice
from drtool.verify.doubted import cut_short, what_it_is_not
from drtool.verify.tally import Tally, side_by_side

GAP = "gap in the stream"


def verify_streams(
    repository: Repository,
    source: str,
    manifests: Sequence[Manifest],
    *,
    choice: Choice,
    tally: Tally,
) -> None:
    """All histories of a source: each object that is chosen, and the way from its snapshots."""
    told = read_known(repository, source)
    doubted: dict[str, DrtoolError] = {}
    for name in repository.store.list_directories(layout.source_log(source)):
        if layout.is_replication_id(name):
            history = ReplicationHistory(source, name)
            for key, size, error in side_by_side(_reads(repository, history, choice, tally=tally)):
                tally.looked_at(key, size)
                if isinstance(error, NotAuthentic):
                    doubted[key] = error
                elif error is not None:
                    tally.damage(key, error.message, error.hint)
                else:
                    tally.read_whole.add(key)
    _verify_topologies(repository, source, choice=choice, tally=tally)
    known = known_damage(repository)
    for key in sorted(set(known) - set(tally.damaged) - tally.read_whole):
        if key.startswith(layout.source_log(source)):
            tally.problem(
                key, f"it was found damaged, and nobody has read it since: {known[key].fact}"
            )
    # A damaged segment was told as that; it still shows how far the log before it has to reach.
    bad = {key for key in {*known, *tally.damaged} - tally.read_whole if not _is_segment(key)}
    bad |= {key for key in doubted if _is_segment(key)}
    try:
        inventory = take_stream_inventory(repository, source, damaged=bad)
    except IntegrityError as error:
        tally.wrong(f"stream of {source}", error)
        return
    snapshots = [one for one in manifests if isinstance(one.extent, RedisExtent)]
    _tell_gaps(inventory, snapshots, tally)
    extents = [one.redis for one in snapshots]
    missed = find_missing(repository, inventory, extents, known=told)
    for key in inventory.foreign:
        doubted.setdefault(key, not_authentic(key, "nobody with the key has put it there"))
    _tell_doubted(source, doubted, missed={one.subject for one in missed}, tally=tally)
    for missing in missed:
        if missing.subject not in tally.damaged:
            tally.findings.append(missing.finding(source))


def _tell_doubted(
    source: str, doubted: dict[str, DrtoolError], *, missed: set[str], tally: Tally
) -> None:
    """Objects that are none of ours as far as they tell: damage where something is missing without them."""
    for key, error in doubted.items():
        history = key.removeprefix(layout.source_log(source)).partition("/")[0]
        if key in missed or (_is_segment(key) and f"stream of {source}, {history}" in missed):
            tally.damage(key, error.message, error.hint)
        else:
            tally.not_ours(key, what_it_is_not(error))


def _is_segment(key: str) -> bool:
    return isinstance(layout.parse_stream_name(key.rpartition("/")[2]), StreamSegment)


def _verify_topologies(
    repository: Repository, source: str, *, choice: Choice, tally: Tally
) -> None:
    """The records of who held which hash slots, without which moved keys come back on a wrong master."""
    tasks = (
        partial(_read_topology, repository, source, moment)
        for moment in topology_moments(repository, source)
        if choice.takes()
    )
    for key, error in side_by_side(tasks):
        tally.looked_at(key)
        if error is not None:
            tally.damage(key, error.message, error.hint)
        else:
            tally.read_whole.add(key)
    for found in repository.store.list(layout.topologies(source)):
        if not is_ours(repository, found.key):
            tally.not_ours(
                found.key,
                "is no record of a cluster's topology (if it was one of ours, the restore of hash slots that"
                " moved lacks it)",
            )


def _read_topology(
    repository: Repository, source: str, moment: datetime
) -> tuple[str, DrtoolError | None]:
    try:
        read_topology(repository, source, moment)
    except (IntegrityError, ObjectMissing) as error:
        return topology_key(source, moment), error
    return topology_key(source, moment), None


def _reads(
    repository: Repository, history: ReplicationHistory, choice: Choice, *, tally: Tally
) -> Iterator[Callable[[], tuple[str, int, DrtoolError | None]]]:
    """One task for each object that is to be read; the others are only looked at."""
    for found in repository.store.list(history.prefix):
        name = layout.parse_stream_name(found.key.removeprefix(history.prefix))
        if name is None:
            tally.not_ours(found.key, "is no part of a stream")
        elif found.size_bytes < SMALLEST_SEALED_BYTES:
            yield partial(cut_short, found.key, found.size_bytes)
        elif choice.takes():
            yield partial(_read, repository, history, name, key=found.key)
        else:
            tally.looked_at(found.key)


def _read(
    repository: Repository,
    history: ReplicationHistory,
    name: StreamName,
    *,
    key: str,
) -> tuple[str, int, DrtoolError | None]:
    source, replication_id = history.source, history.replication_id
    if not is_ours(repository, key):
        return key, 0, not_authentic(key, "it does not open")
    try:
        match name:
            case StreamSegment(begin, end):
                read_stream_segment(repository, history, name)
                return key, end - begin, None
            case StreamLinkName(offset):
                read_link(repository, source, replication_id, offset=offset)
            case StreamBeginName(offset):
                read_begin(repository, source, replication_id, offset=offset)
            case StreamLateName():
                read_late(repository, history, name)
    except (IntegrityError, ObjectMissing) as error:
        return key, 0, error
    return key, 0, None


def _tell_gaps(inventory: StreamInventory, snapshots: Sequence[Manifest], tally: Tally) -> None:
    """A gap that a newer snapshot has left behind is a fact; one after the newest is a problem."""
    newest = snapshots[-1] if snapshots else None
    for log in inventory.logs.values():
        for begin in log.begins:
            if begin.previous is None:
                continue
            name, offset = begin.previous
            subject = f"{GAP} of {inventory.source}, {begin.shard}"
            fact = f"after offset {offset} of {name} the log begins anew: {begin.reason}"
            if newest is None or newest.redis.stopped_at < begin.at:
                tally.problem(
                    subject,
                    f"{fact}; no snapshot is newer",
                    f"Run `drtool backup {inventory.source}` now: from then on the stream counts.",
                    harm=Harm.UNREACHABLE,
                )
            else:
                tally.note(subject, f"{fact}; snapshots before it reach only so far")
