"""WAL as it is handed to a replay: what would create a tablespace elsewhere creates it in the copy."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass

from drtool.errors import RepositoryUnavailable
from drtool.model.wal import Lsn, WalSegment
from drtool.restore.supply import WalSupply
from drtool.restore.tablespaces import ReplayedTablespaces
from drtool.sources.postgres.tablespace_records import KIND, WalChange, changed, turn_inwards
from drtool.sources.postgres.walrecords import PAGE_BYTES, WalRecord, WalRecordScanner

# Of so many segments the first and the last page are remembered; neighbours are read close together.
_MOST_EDGES = 64
_NEIGHBOUR_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Edges:
    head: bytes
    tail: bytes


class IsolatedWal:
    """Reads what `supply` has. Any thread may use it; `major` is the version that wrote the WAL.

    A record that goes over the end of a segment is found with a page of the segment on the other side.
    """

    def __init__(self, supply: WalSupply, tablespaces: ReplayedTablespaces, *, major: int) -> None:
        self._supply = supply
        self._tablespaces = tablespaces
        self._major = major
        self._segments = {supply.name(segment): segment for segment in supply.planned}
        self._timelines: dict[int, list[int]] = {}
        for segment in supply.planned:
            self._timelines.setdefault(segment.number, []).append(segment.timeline)
        self._edges: OrderedDict[str, Future[_Edges]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        """As `WalSupply.read`; LinkLeadsOutside or DestinationRefused if it must not be handed over."""
        segment = self._segments.get(name)
        if segment is None:
            return self._supply.read(name)
        edges = self._claim(name)
        try:
            content = self._supply.read(name)
            assert content is not None, "a planned segment is there, or an error is raised"
        except BaseException as error:
            _settle(edges, error)
            raise
        _settle(edges, _Edges(content[:PAGE_BYTES], content[-PAGE_BYTES:]))
        size = self._supply.segment_bytes
        changes: list[WalChange] = []
        for record in self._creations(segment, content):
            found = turn_inwards(record, segment_bytes=size, major=self._major)
            if found is not None:
                self._tablespaces.make(found)
                changes += found.changes
        self._tablespaces.require_inside()
        return changed(content, segment.begin(size), changes) if changes else content

    def _creations(self, segment: WalSegment, content: bytes) -> list[WalRecord]:
        """The records that are at least in part in this segment."""
        size = self._supply.segment_bytes
        begin, end = segment.begin(size), segment.end(size)
        scanner = WalRecordScanner([KIND], segment_bytes=size)
        before, after = self._neighbour(segment, -1), self._neighbour(segment, 1)
        found: list[WalRecord] = []
        if before is not None:
            found += scanner.feed(Lsn(begin - PAGE_BYTES), self._edges_of(before).tail)
        found += scanner.feed(begin, content)
        if after is not None and scanner.may_go_on:
            found += scanner.feed(end, self._edges_of(after).head)
        return found

    def _neighbour(self, segment: WalSegment, step: int) -> str | None:
        """The planned segment before or after, on the timeline that the replay reads it from."""
        timelines = self._timelines.get(segment.number + step, [])
        if step < 0:
            timeline = max((one for one in timelines if one <= segment.timeline), default=None)
        else:
            timeline = min((one for one in timelines if one >= segment.timeline), default=None)
        if timeline is None:
            return None
        return self._supply.name(WalSegment(timeline, segment.number + step))

    def _claim(self, name: str) -> Future[_Edges]:
        with self._lock:
            edges = self._edges.get(name)
            if edges is None or (edges.done() and edges.exception() is not None):
                edges = self._edges[name] = Future()
            self._edges.move_to_end(name)
            while len(self._edges) > _MOST_EDGES:
                self._edges.popitem(last=False)
            return edges

    def _edges_of(self, name: str) -> _Edges:
        """Of a neighbour: as whoever reads it tells, or read for this alone."""
        with self._lock:
            edges = self._edges.get(name)
        if edges is not None:
            try:
                return edges.result(_NEIGHBOUR_SECONDS)
            except TimeoutError as error:
                raise RepositoryUnavailable(
                    f"WAL segment {name} was not read within {_NEIGHBOUR_SECONDS:g} s",
                    hint="Look at the store and the network, and run the restore again.",
                ) from error
        content = self._supply.read(name)
        assert content is not None, "a planned segment is there, or an error is raised"
        return _Edges(content[:PAGE_BYTES], content[-PAGE_BYTES:])


def _settle(edges: Future[_Edges], told: _Edges | BaseException) -> None:
    if edges.done():
        return  # read a second time, because PostgreSQL asked again
    if isinstance(told, BaseException):
        edges.set_exception(told)
    else:
        edges.set_result(told)
