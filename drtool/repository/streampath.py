"""The way through the log of a Redis: over failovers from one replication id to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from drtool.errors import NotRecoverable, ObjectMissing
from drtool.repository import layout
from drtool.repository.layout import ReplicationHistory, StreamSegment
from drtool.repository.repository import Repository
from drtool.repository.sealing import (
    SMALLEST_SEALED_BYTES,
    ObjectType,
    damaged,
    unseal_frames,
)
from drtool.repository.streamlog import (
    MOST_SEGMENT_BYTES,
    StreamIndex,
    StreamInventory,
    StreamMoment,
    read_stream_segment,
    take_stream_inventory,
)

# How far back is looked for the segment that holds an offset; the last window is always enough.
_WINDOWS = (64 << 10, 4 << 20, MOST_SEGMENT_BYTES)
# One header, a frame of 1 MiB plain, and what sealing adds.
_HEAD_BYTES = (1 << 20) + (4 << 10)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a path: bytes of one replication id without a hole."""

    replication_id: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class StreamPath:
    """Bytes from `begin` on without a hole, over one id after the other."""

    begin: int
    stretches: tuple[Stretch, ...]

    @property
    def end(self) -> int:
        """How far it goes; `begin` if nothing is held there."""
        return self.stretches[-1].end if self.stretches else self.begin

    @property
    def last_id(self) -> str | None:
        """The replication id at its end; None if nothing is held."""
        return self.stretches[-1].replication_id if self.stretches else None


def find_path(inventory: StreamInventory, replication_id: str, *, begin: int) -> StreamPath:
    """How the history that `replication_id` had at `begin` goes on, as far as it is held. Pure.

    Bytes that an id's own log lacks are taken from the ids whose past it shares. Of several ids that
    go on with the same past, the one counts that is held farthest.
    """
    names = [replication_id, *_descendants(inventory, replication_id, begin)]
    ways = [_walk(inventory, name, begin) for name in names]
    return max(ways, key=lambda way: way.end)  # the first of equals: the id that was asked for


def _descendants(inventory: StreamInventory, replication_id: str, begin: int) -> list[str]:
    """All ids that have the history of `replication_id` up to `begin` as their past."""
    found = [replication_id]
    for name in found:
        for log in inventory.logs.values():
            shares = any(one.previous == name and one.offset >= begin for one in log.links)
            if shares and log.replication_id not in found:
                found.append(log.replication_id)
    return found[1:]


def _walk(inventory: StreamInventory, name: str, begin: int) -> StreamPath:
    stretches: list[Stretch] = []
    reached = begin
    while (found := _held(inventory, name, reached, seen=())) is not None:
        stretches.append(found)
        reached = found.end
    return StreamPath(begin, tuple(stretches))


def _held(
    inventory: StreamInventory, name: str, offset: int, *, seen: tuple[str, ...]
) -> Stretch | None:
    """The bytes from `offset` on of the history `name`, in its own log or in that of its past."""
    log = inventory.logs.get(name)
    if log is None or name in seen:
        return None
    run = log.run_holding(offset)
    if run is not None:
        return Stretch(name, offset, run.end)
    for link in log.links:
        if offset < link.offset:
            past = _held(inventory, link.previous, offset, seen=(*seen, name))
            if past is not None:
                return Stretch(past.replication_id, offset, min(past.end, link.offset))
    return None


def read_stream(
    repository: Repository,
    source: str,
    replication_id: str,
    *,
    begin: int,
    end: int,
    inventory: StreamInventory | None = None,
) -> Iterator[memoryview]:
    """The bytes from offset `begin` up to, not including, `end`, in pieces, each authenticated.

    Follows the history over failovers. NotRecoverable, before the first piece, if a byte of it is not
    held. Memory: one segment. An `inventory` that was taken spares a second listing.
    """
    known = inventory or take_stream_inventory(repository, source)
    path = find_path(known, replication_id, begin=begin)
    if path.end < end:
        raise NotRecoverable(
            f"the stream of {source} is held from offset {begin} of {replication_id} up to"
            f" {path.end} only, not to {end}",
            hint="Choose an earlier moment: `drtool redis status` shows how far the stream goes.",
        )
    return _pieces(repository, source, path, end=end)


def read_arrivals(
    repository: Repository,
    inventory: StreamInventory,
    replication_id: str,
    *,
    begin: int,
    end: int,
) -> Iterator[tuple[datetime, memoryview]]:
    """As `read_stream`, each piece with the moment by which it had arrived."""
    path = find_path(inventory, replication_id, begin=begin)
    reached = begin
    for index, content, last in _contents(repository, inventory.source, path, end=end):
        for one in index.moments:
            if one.offset > reached and reached < last:
                until = min(one.offset, last)
                yield one.moment, content[reached - index.begin : until - index.begin]
                reached = until


def _pieces(
    repository: Repository, source: str, path: StreamPath, *, end: int
) -> Iterator[memoryview]:
    reached = path.begin
    for index, content, last in _contents(repository, source, path, end=end):
        until = min(index.end, last)
        yield content[reached - index.begin : until - index.begin]
        reached = until


def _contents(
    repository: Repository, source: str, path: StreamPath, *, end: int
) -> Iterator[tuple[StreamIndex, memoryview, int]]:
    """The segments that carry a path up to `end`, in order, and how far each counts: behind a
    failover the old history may go on with what the new one never had.
    """
    for stretch in path.stretches:
        if stretch.begin >= end:
            return
        history = ReplicationHistory(source, stretch.replication_id)
        last = min(stretch.end, end)
        reached = stretch.begin
        for segment in _segments(repository, history, begin=reached, end=last):
            index, content = read_stream_segment(repository, history, segment)
            yield index, content, last
            reached = segment.end
        if reached < last:
            raise NotRecoverable(
                f"a segment with offset {reached} of log/{source}/{stretch.replication_id}/ is gone",
                hint="Run `drtool verify` to see what else is missing.",
            )


def _segments(
    repository: Repository, history: ReplicationHistory, *, begin: int, end: int
) -> Iterator[StreamSegment]:
    """Segments that carry the bytes from `begin` to `end` without a hole, and no more than needed.

    Of those that overlap, the one that reaches farthest is taken each time.
    """
    reached, best = begin, None
    for segment in _listed(repository, history, after=_seek(repository, history, begin)):
        if segment.begin > reached:
            if best is None or best.end < segment.begin:
                break
            yield best
            reached, best = best.end, None
            if reached >= end:
                return
        if segment.end > max(reached, best.end if best else 0):
            best = segment
    if best is not None:
        yield best


def _listed(
    repository: Repository, history: ReplicationHistory, *, after: int
) -> Iterator[StreamSegment]:
    """The segments that begin at `after` or later, in order of their beginning."""
    key = history.segment_key(after, 0)
    for found in repository.store.list(history.prefix, after=key):
        name = layout.parse_stream_name(found.key.removeprefix(history.prefix))
        if isinstance(name, StreamSegment) and found.size_bytes >= SMALLEST_SEALED_BYTES:
            yield name


def _seek(repository: Repository, history: ReplicationHistory, offset: int) -> int:
    """From where on segments are listed so that one of them holds `offset`, if any does."""
    for window in _WINDOWS:
        first = max(0, offset - window)
        for segment in _listed(repository, history, after=first):
            if segment.begin > offset:
                break
            if segment.end > offset:
                return first
    return max(0, offset - MOST_SEGMENT_BYTES)


def read_index(
    repository: Repository, history: ReplicationHistory, segment: StreamSegment
) -> StreamIndex:
    """The index of one segment, from its first frame, authenticated; the rest is not read."""
    key = history.segment_key(segment.begin, segment.end)
    found = repository.store.stat(key)
    if found is None:
        raise ObjectMissing(key)
    head = repository.store.read_range(key, 0, min(found.size_bytes, _HEAD_BYTES))
    frames = unseal_frames(repository.ring, ObjectType.LOG, key, sealed=head)
    try:
        index = StreamIndex.from_bytes(next(frames))
    except ValueError as error:
        raise damaged(key, str(error)) from error
    if (index.begin, index.end) != (segment.begin, segment.end):
        raise damaged(key, "it holds other offsets than its name says")
    return index


def offset_at(
    repository: Repository,
    inventory: StreamInventory,
    replication_id: str,
    *,
    begin: int,
    moment: datetime,
) -> int | None:
    """The last offset that had arrived by `moment`, of the history that goes on from `begin`.

    None if the first bytes behind `begin` came later: whoever has a snapshot at `begin` then needs
    nothing of the stream. If the log ends before `moment` it is the log's end: look at `newest`.
    """
    path = find_path(inventory, replication_id, begin=begin)
    for stretch in reversed(path.stretches):
        history = ReplicationHistory(inventory.source, stretch.replication_id)
        segment = _last_begun(repository, history, stretch, moment=moment)
        if segment is not None:
            index = read_index(repository, history, segment)
            reached = max(index.offset_at(moment) or 0, stretch.begin)
            reached = _advance(repository, history, stretch, reached=reached, moment=moment)
            return reached if reached > begin else None
    return None


def _advance(
    repository: Repository,
    history: ReplicationHistory,
    stretch: Stretch,
    *,
    reached: int,
    moment: datetime,
) -> int:
    """Go on where segments overlap: the one that begins last is not the one that reaches farthest."""
    while reached < stretch.end:
        before = reached
        for segment in _segments(repository, history, begin=reached, end=reached + 1):
            index = read_index(repository, history, segment)
            reached = max(reached, index.offset_at(moment) or 0)
        if reached == before:
            break
    return min(reached, stretch.end)


def newest(
    repository: Repository, inventory: StreamInventory, replication_id: str, *, begin: int
) -> StreamMoment | None:
    """The end of the history that goes on from `begin`, and when it arrived; None if none is held."""
    path = find_path(inventory, replication_id, begin=begin)
    if not path.stretches:
        return None
    last = path.stretches[-1]
    history = ReplicationHistory(inventory.source, last.replication_id)
    for segment in _segments(repository, history, begin=last.end - 1, end=last.end):
        index = read_index(repository, history, segment)
        held = [one for one in index.moments if one.offset >= last.end]
        return StreamMoment(held[0].moment, last.end)
    return None


def _last_begun(
    repository: Repository, history: ReplicationHistory, stretch: Stretch, *, moment: datetime
) -> StreamSegment | None:
    """The last segment of a stretch some of whose bytes had arrived by `moment`.

    Bisects over offsets, as there may be a hundred thousand segments: some forty listings at most.
    """
    first = next(_segments(repository, history, begin=stretch.begin, end=stretch.begin + 1), None)
    if first is None or read_index(repository, history, first).moments[0].moment > moment:
        return None
    chosen, low, high = first, first.begin + 1, stretch.end
    while low < high:
        middle = (low + high) // 2
        found = next(_listed(repository, history, after=middle), None)
        if found is None or found.begin >= high:
            high = middle
        elif read_index(repository, history, found).moments[0].moment <= moment:
            chosen, low = found, found.begin + 1
        else:
            high = middle
    return chosen
