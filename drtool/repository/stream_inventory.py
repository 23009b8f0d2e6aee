"""What is held of the replication stream of a source, as its listing tells: runs, links, beginnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from drtool.errors import NotAuthentic
from drtool.repository import layout
from drtool.repository.heads import Heads
from drtool.repository.layout import (
    ReplicationHistory,
    StreamBeginName,
    StreamLateName,
    StreamLinkName,
    StreamSegment,
)
from drtool.repository.named_runs import NamedRun, Piece, add_piece, judged, runs_of_ours
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES
from drtool.repository.streamlog import StreamBegin, StreamLink, read_begin, read_link


@dataclass(frozen=True, slots=True)
class StreamRun:
    """Bytes of one history without a gap, from `begin` up to, not including, `end`."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLog:
    """What is there of one replication id: runs in ascending order, links and beginnings.

    `late` names the recorded stretches that arrived late, of which nothing was read yet.
    """

    replication_id: str
    runs: tuple[StreamRun, ...]
    links: tuple[StreamLink, ...]
    begins: tuple[StreamBegin, ...]
    late: tuple[StreamLateName, ...] = ()

    def run_holding(self, offset: int) -> StreamRun | None:
        """The run that holds the byte at `offset`."""
        for run in self.runs:
            if run.begin <= offset < run.end:
                return run
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInventory:
    """All that is archived of one source's stream, by replication id; of a cluster, of all shards.

    The objects in `damaged` are not counted, nor are those in `foreign`, which were looked at and are none
    of ours.
    """

    source: str
    logs: dict[str, StreamLog]
    damaged: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()

    @property
    def left_out(self) -> frozenset[str]:
        """The keys of all that does not count."""
        return self.damaged | self.foreign

    def links_from(self, replication_id: str) -> list[StreamLink]:
        """The links by which histories go on that have `replication_id` as their past."""
        return [
            link
            for log in self.logs.values()
            for link in log.links
            if link.previous == replication_id
        ]


def take_stream_inventory(
    repository: Repository, source: str, *, damaged: Iterable[str] = ()
) -> StreamInventory:
    """List what is archived of a source's stream; links and beginnings are read.

    What is known to be `damaged` does not count as there, save the word that bytes arrived late: without
    it their moments would look exact.

    Memory grows with gaps and failovers, not with segments. An object too small to be a sealed one
    does not count as there (PITFALLS 6).
    """
    prefix = layout.source_log(source)
    bad = frozenset(key for key in damaged if key.startswith(prefix))
    heads = Heads(repository)
    logs: dict[str, StreamLog] = {}
    for name in repository.store.list_directories(prefix):
        if layout.is_replication_id(name):
            log = _list_history(heads, ReplicationHistory(source, name), bad=bad)
            if log is not None:
                logs[name] = log
    return StreamInventory(source=source, logs=logs, damaged=bad, foreign=frozenset(heads.foreign))


def _list_history(
    heads: Heads, history: ReplicationHistory, *, bad: frozenset[str]
) -> StreamLog | None:
    """None where somebody has feigned the history: there are objects, and none of them is ours."""
    repository = heads.repository
    segments = _Segments(heads)
    words: list[StreamLinkName | StreamBeginName] = []
    late: dict[str, StreamLateName] = {}
    is_empty, is_told_of = True, False
    for found in repository.store.list(history.prefix):
        is_empty = False
        if found.size_bytes < SMALLEST_SEALED_BYTES:
            continue
        name = layout.parse_stream_name(found.key.removeprefix(history.prefix))
        if found.key in bad and not isinstance(name, StreamLateName):
            is_told_of = is_told_of or heads.are_ours(found.key)
            continue
        match name:
            case StreamSegment(begin, end):
                segments.add(Piece(begin, end, found.key))
            case StreamLinkName() | StreamBeginName():
                words.append(name)
            case StreamLateName():
                late[found.key] = name
    runs = runs_of_ours(
        segments.finished(),
        is_ours=heads.are_ours,
        pieces_of=partial(_pieces, repository, history, bad=bad),
    )
    links, begins = _read_words(heads, history, words)
    ours = judged(sorted(late), heads.are_ours)
    if not (runs or links or begins or ours or is_empty or is_told_of):
        return None
    return StreamLog(
        replication_id=history.replication_id,
        runs=tuple(StreamRun(run.begin, run.end) for run in runs),
        links=tuple(links),
        begins=tuple(begins),
        late=tuple(dict.fromkeys(late[key] for key in sorted(ours))),
    )


class _Segments:
    """Runs of segments as they are listed. Of two that overlap each has to be ours: a receiver repeats
    itself rarely, and a segment that reaches across others would be read in their place.
    """

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._runs: list[NamedRun] = []
        self._last: Piece | None = None
        self._is_doubted = False

    def add(self, piece: Piece) -> None:
        if self._last is not None:
            self._settle(is_overlapped=piece.begin < self._last.end)
        self._last = piece
        self._is_doubted = bool(self._runs) and piece.begin < self._runs[-1].end

    def finished(self) -> list[NamedRun]:
        if self._last is not None:
            self._settle(is_overlapped=False)
        return self._runs

    def _settle(self, *, is_overlapped: bool) -> None:
        piece = self._last
        assert piece is not None
        if not (is_overlapped or self._is_doubted) or self._heads.are_ours(piece.key):
            add_piece(self._runs, piece)


def _pieces(
    repository: Repository, history: ReplicationHistory, run: NamedRun, *, bad: frozenset[str]
) -> Iterator[Piece]:
    """What bears the name of a segment of `run`, listed again."""
    key = history.segment_key(run.begin, 0)
    for found in repository.store.list(history.prefix, after=key):
        name = layout.parse_stream_name(found.key.removeprefix(history.prefix))
        if not isinstance(name, StreamSegment) or found.key in bad:
            continue
        if name.begin > run.end:
            return
        if found.size_bytes >= SMALLEST_SEALED_BYTES:
            yield Piece(name.begin, name.end, found.key)


def _read_words(
    heads: Heads, history: ReplicationHistory, names: Iterable[StreamLinkName | StreamBeginName]
) -> tuple[list[StreamLink], list[StreamBegin]]:
    """Links and beginnings, each once, without those that nobody with the key has put."""
    repository, source, replication_id = heads.repository, history.source, history.replication_id
    links: list[StreamLink] = []
    begins: list[StreamBegin] = []
    for name in dict.fromkeys(names):
        try:
            match name:
                case StreamLinkName(offset):
                    links.append(read_link(repository, source, replication_id, offset=offset))
                case StreamBeginName(offset):
                    begins.append(read_begin(repository, source, replication_id, offset=offset))
        except NotAuthentic as error:
            heads.foreign.append(str(error.key))
    return links, begins
