"""Files of a snapshot read in order, and streams of Redis 6.2 with moments in place of spans."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from drtool.errors import IntegrityError
from drtool.pipeline.pages import HOLE, Extents
from drtool.repository.backups import Manifest, open_table
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.repository.streambranch import StreamPath
from drtool.repository.streampath import read_arrivals
from drtool.repository.table import PackList, TableRecord

_EXTENTS_A_UNIT = 32
_UNITS_AHEAD = 4
_THREADS = 2


class SnapshotFiles:
    """The files of one snapshot. Holds its table: some 16 KB for each 256 MiB."""

    def __init__(self, manifest: Manifest, repository: Repository) -> None:
        self._reader = ChunkReader(repository.store, repository.ring)
        self._backup_id = manifest.backup_id
        table = open_table(manifest, self._reader)
        self._packs: PackList = table.packs
        self._records: dict[str, list[TableRecord]] = {}
        for record in table:
            path = record.attributes.path.decode()
            self._records.setdefault(path, []).append(record)

    def parts(self, path: str) -> Iterator[memoryview]:
        """The content of one file, each piece checked; IntegrityError if some of it is not there.

        Two threads read ahead: five units of 8 MiB at most.
        """
        records = self._records.get(path)
        size = sum(record.covered_bytes for record in records or ())
        if records is None or size != records[0].attributes.size_bytes:
            raise IntegrityError(
                f"backup {self._backup_id} does not hold all of its file {path}",
                hint="Run `drtool verify`, and restore from another backup.",
            )
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch") as threads:
            running: deque[Future[list[memoryview]]] = deque()
            try:
                for unit in _units(records):
                    running.append(threads.submit(self._read, unit))
                    if len(running) > _UNITS_AHEAD:
                        yield from running.popleft().result()
                while running:
                    yield from running.popleft().result()
            finally:
                threads.shutdown(cancel_futures=True)

    def head(self, path: str) -> list[memoryview]:
        """The beginning of a file: 8 MiB, or all of it."""
        return self._read(next(_units(self._records[path])))

    def content(self, path: str) -> bytes:
        """The whole of a small file."""
        return b"".join(self.parts(path))

    def _read(self, unit: Extents) -> list[memoryview]:
        wanted: dict[int, set[int]] = {}
        for extent in unit:
            if int(extent["pack"]) != HOLE:
                wanted.setdefault(int(extent["pack"]), set()).add(int(extent["chunk"]))
        chunks = {
            (pack, number): plain
            for pack, numbers in wanted.items()
            for number, plain in self._reader.read(self._packs.ids[pack], sorted(numbers))
        }
        found: list[memoryview] = []
        for extent in unit:
            begin, length = int(extent["offset"]), int(extent["length"])
            if int(extent["pack"]) == HOLE:
                found.append(memoryview(bytes(length)))
                continue
            plain = chunks[int(extent["pack"]), int(extent["chunk"])]
            if begin + length > len(plain):
                raise IntegrityError(
                    f"a chunk of backup {self._backup_id} is shorter than its file table says",
                    hint="Run `drtool verify`, and restore from another backup.",
                )
            found.append(plain[begin : begin + length])
        return found


def _units(records: list[TableRecord]) -> Iterator[Extents]:
    for record in sorted(records, key=lambda record: record.begin):
        for first in range(0, len(record.extents), _EXTENTS_A_UNIT):
            yield record.extents[first : first + _EXTENTS_A_UNIT]


def arrivals_ms(
    repository: Repository, source: str, path: StreamPath, *, end: int
) -> Iterator[tuple[int, memoryview]]:
    """The stream in pieces, each with the moment by which it had arrived, in milliseconds."""
    for moment, piece in read_arrivals(repository, source, path, end=end):
        yield round(moment.timestamp() * 1000), piece
