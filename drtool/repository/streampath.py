"""The bytes and the moments of a path through the log of a Redis."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from drtool.errors import IntegrityError, NotRecoverable, ObjectMissing
from drtool.repository import layout
from drtool.repository.layout import ReplicationHistory, StreamSegment
from drtool.repository.repository import Repository
from drtool.repository.sealing import (
    SMALLEST_SEALED_BYTES,
    ObjectType,
    damaged,
    unseal_frames,
)
from drtool.repository.streambranch import StreamPath, Stretch
from drtool.repository.streamlog import (
    MOST_SEGMENT_BYTES,
    StreamIndex,
    StreamMoment,
    read_stream_segment,
)
from drtool.repository.taken import find_ours

# How far back is looked for the segment that holds an offset; the last window is always enough.
_WINDOWS = (64 << 10, 4 << 20, MOST_SEGMENT_BYTES)
# One header, a frame of 1 MiB plain, and what sealing adds.
_HEAD_BYTES = (1 << 20) + (4 << 10)


def read_path(
    repository: Repository, source: str, path: StreamPath, *, end: int
) -> Iterator[memoryview]:
    """The bytes of a path up to, not including, offset `end`, in pieces, each authenticated.

    NotRecoverable, before the first piece, if a byte of it is not held. Memory: one segment.
    """
    if path.end < end:
        raise NotRecoverable(
            f"the stream of {source} is held from offset {path.begin} up to {path.end} only, not to"
            f" {end}",
            hint="Choose an earlier moment: `drtool redis status` shows how far the stream goes.",
        )
    return _pieces(repository, source, path, end=end)


def read_arrivals(
    repository: Repository, source: str, path: StreamPath, *, end: int
) -> Iterator[tuple[datetime, memoryview]]:
    """As `read_path`, each piece with the moment by which it had arrived."""
    reached = path.begin
    for index, content, last in _contents(repository, source, path, end=end):
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
        for segment in _segments(repository, history, begin=reached, end=last, bad=path.damaged):
            index, content = read_stream_segment(repository, history, segment)
            yield index, content, last
            reached = segment.end
        if reached < last:
            raise NotRecoverable(
                f"a segment with offset {reached} of log/{source}/{stretch.replication_id}/ is gone",
                hint="Run `drtool verify` to see what else is missing.",
            )


def _segments(
    repository: Repository,
    history: ReplicationHistory,
    *,
    begin: int,
    end: int,
    bad: frozenset[str],
) -> Iterator[StreamSegment]:
    """Segments that carry the bytes from `begin` to `end` without a gap, and no more than needed.

    Of those that overlap, the one that reaches farthest is taken each time.
    """
    reached, best = begin, None
    for segment in _listed(repository, history, after=_seek(repository, history, begin), bad=bad):
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
    repository: Repository, history: ReplicationHistory, *, after: int, bad: frozenset[str]
) -> Iterator[StreamSegment]:
    """The segments that begin at `after` or later, in order of their beginning."""
    key = history.segment_key(after, 0)
    for found in repository.store.list(history.prefix, after=key):
        name = layout.parse_stream_name(found.key.removeprefix(history.prefix))
        is_whole = found.size_bytes >= SMALLEST_SEALED_BYTES and found.key not in bad
        if isinstance(name, StreamSegment) and is_whole:
            yield name


def _seek(repository: Repository, history: ReplicationHistory, offset: int) -> int:
    """From where on segments are listed so that one of them holds `offset`, if any does."""
    for window in _WINDOWS:
        first = max(0, offset - window)
        for segment in _listed(repository, history, after=first, bad=frozenset()):
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
    try:
        plain = _first_frame(repository, key)
    except (ObjectMissing, IntegrityError):
        # Somebody else may have taken its name.
        name = find_ours(repository.store, repository.ring, ObjectType.LOG, key=key)
        if name is None or name == key:
            raise
        plain = _first_frame(repository, name)
    try:
        index = StreamIndex.from_bytes(plain)
    except ValueError as error:
        raise damaged(key, str(error)) from error
    if (index.begin, index.end) != (segment.begin, segment.end):
        raise damaged(key, "it holds other offsets than its name says")
    return index


def _first_frame(repository: Repository, key: str) -> memoryview:
    found = repository.store.stat(key)
    if found is None:
        raise ObjectMissing(key)
    head = repository.store.read_range(key, 0, min(found.size_bytes, _HEAD_BYTES))
    return next(unseal_frames(repository.ring, ObjectType.LOG, key, sealed=head))


def offset_at(
    repository: Repository, source: str, path: StreamPath, *, moment: datetime
) -> int | None:
    """The last offset of a path that had arrived by `moment`.

    None if its first bytes came later: whoever has a snapshot at its beginning then needs nothing of
    the stream. If the log ends before `moment` it is the log's end: look at `newest`.
    """
    for stretch in reversed(path.stretches):
        history = ReplicationHistory(source, stretch.replication_id)
        segment = _last_begun(repository, history, stretch, moment=moment, bad=path.damaged)
        if segment is not None:
            index = read_index(repository, history, segment)
            reached = max(index.offset_at(moment) or 0, stretch.begin)
            reached = _advance(
                repository, history, stretch, reached=reached, moment=moment, bad=path.damaged
            )
            return reached if reached > path.begin else None
    return None


def _advance(
    repository: Repository,
    history: ReplicationHistory,
    stretch: Stretch,
    *,
    reached: int,
    moment: datetime,
    bad: frozenset[str],
) -> int:
    """Go on where segments overlap: the one that begins last is not the one that reaches farthest."""
    while reached < stretch.end:
        before = reached
        for segment in _segments(repository, history, begin=reached, end=reached + 1, bad=bad):
            index = read_index(repository, history, segment)
            reached = max(reached, index.offset_at(moment) or 0)
        if reached == before:
            break
    return min(reached, stretch.end)


def newest(repository: Repository, source: str, path: StreamPath) -> StreamMoment | None:
    """The end of a path, and when it arrived; None if nothing is held."""
    if not path.stretches:
        return None
    last = path.stretches[-1]
    history = ReplicationHistory(source, last.replication_id)
    for segment in _segments(
        repository, history, begin=last.end - 1, end=last.end, bad=path.damaged
    ):
        index = read_index(repository, history, segment)
        held = [one for one in index.moments if one.offset >= last.end]
        return StreamMoment(held[0].moment, last.end)
    return None


def _last_begun(
    repository: Repository,
    history: ReplicationHistory,
    stretch: Stretch,
    *,
    moment: datetime,
    bad: frozenset[str],
) -> StreamSegment | None:
    """The last segment of a stretch some of whose bytes had arrived by `moment`.

    Bisects over offsets, as there may be a hundred thousand segments: some forty listings at most.
    """
    begin = stretch.begin
    segments = _segments(repository, history, begin=begin, end=begin + 1, bad=bad)
    first = next(segments, None)
    if first is None or read_index(repository, history, first).moments[0].moment > moment:
        return None
    chosen, low, high = first, first.begin + 1, stretch.end
    while low < high:
        middle = (low + high) // 2
        found = next(_listed(repository, history, after=middle, bad=bad), None)
        if found is None or found.begin >= high:
            high = middle
        elif read_index(repository, history, found).moments[0].moment <= moment:
            chosen, low = found, found.begin + 1
        else:
            high = middle
    return chosen
