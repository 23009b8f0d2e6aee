"""The backup's files, fetched in parallel and written in place; what makes them startable comes last.

The caller's thread reads the file table and makes files and directories; workers take units of
about 8 MiB, read their chunks pack by pack, and write them where they belong. At most
`workers + 2` units wait or run: some 30 MiB a worker in the worst case. When all is written the
file systems are synced, and only then `put_control` puts `global/pg_control` in place.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drtool.errors import DestinationRefused, IntegrityError
from drtool.model.finding import Finding, Severity
from drtool.model.progress import PhaseAdvanced
from drtool.pipeline.pages import Extents
from drtool.repository.backups import Manifest, open_table
from drtool.repository.chunks import ChunkReader
from drtool.repository.table import Attributes, EntryKind, PackList, TableRecord
from drtool.restore.destination import Destination
from drtool.restore.open_destination import OpenDestination, PlacedPath
from drtool.restore.phases import Phases

UNIT_BYTES = 8 << 20
CONTROL = b"global/pg_control"
_CONTROL_MOST_BYTES = 64 << 10
_PHASE = "fetch"

# Of another life of the cluster: we write our own, or PostgreSQL does.
_LEFT_OUT = frozenset(
    {b"recovery.signal", b"standby.signal", b"postmaster.pid", b"postmaster.opts"}
)
_EMPTY_DIRECTORIES = (
    "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_logical/mappings", "pg_logical/snapshots",
    "pg_multixact", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat",
    "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase", "pg_wal", "pg_wal/archive_status",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one file: `extents` hold its bytes from `begin` on."""

    path: PlacedPath
    begin: int
    extents: Extents


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was written. `control` is the content of pg_control, which is not in place yet."""

    files: int
    size_bytes: int
    control: bytes
    control_mode: int
    findings: tuple[Finding, ...]


def fetch_files(
    manifest: Manifest,
    reader: ChunkReader,
    destination: Destination,
    *,
    workers: int,
    phases: Phases,
) -> Fetched:
    """Write every file of the backup but pg_control, durably.

    The first failure stops the rest and is raised; what was written stays, and cannot be started:
    there is no control file.
    """
    table = open_table(manifest, reader)
    with (
        _told(destination.data),
        OpenDestination(destination) as places,
        _Writers(reader, table.packs, workers=workers, phases=phases) as writers,
    ):
        layout = _Layout(places)
        for unit in _units(layout.pieces(table)):
            writers.submit(unit)
        writers.finish()
        layout.finish()
        places.sync()
    if layout.control is None:
        raise IntegrityError(
            f"backup {manifest.backup_id} has no {CONTROL.decode()} in its file table",
            hint="Run `drtool verify`, and restore from another backup.",
        )
    control = _content_of(layout.control, reader, table.packs)
    return Fetched(
        files=layout.files + 1,
        size_bytes=writers.written_bytes + len(control),
        control=control,
        control_mode=stat.S_IMODE(layout.control.attributes.mode) or 0o600,
        findings=tuple(layout.findings),
    )


def put_control(fetched: Fetched, destination: Destination) -> None:
    """From now on a server can be started here: everything else must be in place and durable."""
    with destination.open() as data:
        data.replace(CONTROL, fetched.control, mode=fetched.control_mode)


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """A file system's refusal as an error of ours; stores raise theirs already translated."""
    try:
        yield
    except OSError as error:
        raise DestinationRefused(
            f"destination {error.filename or place} cannot be written: {error.strerror}",
            hint="Make room there, or restore --into a directory on another file system.",
        ) from error


class _Layout:
    """Makes directories and empty files in the order of the table, and hands out what goes in."""

    def __init__(self, places: OpenDestination) -> None:
        self._places = places
        self._made: set[PlacedPath] = set()
        self._links = places.links
        self._open: tuple[Attributes, int] | None = None
        self.control: TableRecord | None = None
        self.files = 0
        self.findings: list[Finding] = []

    def pieces(self, records: Iterable[TableRecord]) -> Iterator[Piece]:
        for record in records:
            entry = record.attributes
            path = self._places.place_of(entry.path)
            if entry.path in _LEFT_OUT or entry.path in self._links:
                continue
            if entry.path == CONTROL:
                self.control = record
            elif entry.kind is EntryKind.DIRECTORY:
                self._directory(path, entry.mode)
            elif entry.kind is EntryKind.SYMLINK:
                self._pass_over(entry)
            else:
                self._file(path, record)
                if len(record.extents):
                    yield Piece(path, record.begin, record.extents)
        self._expect_whole()

    def finish(self) -> None:
        """Directories that are empty in every cluster, and may be missing in a backup (PITFALLS 61)."""
        for name in _EMPTY_DIRECTORIES:
            self._directory(self._places.place_of(name.encode()), 0o700)

    def _directory(self, path: PlacedPath, mode: int) -> None:
        is_new = path not in self._made and path.path != b""
        if is_new:
            self._directory(path.above, 0o700)
            self._made.add(path)
        if is_new or mode != 0o700:
            path.root.make_directory(path.path, (stat.S_IMODE(mode) & 0o750) | 0o700)

    def _file(self, path: PlacedPath, record: TableRecord) -> None:
        entry = record.attributes
        if record.begin == 0:
            self._expect_whole()
            self._directory(path.above, 0o700)
            mode = (stat.S_IMODE(entry.mode) & 0o740) | 0o600
            descriptor = path.root.new(path.path, mode)
            try:
                os.ftruncate(descriptor, entry.size_bytes)
            finally:
                os.close(descriptor)
            self.files += 1
            self._open = entry, 0
        opened = self._open
        if opened is None or opened[0].path != entry.path or opened[1] != record.begin:
            raise _hole_in(entry, record.begin)
        self._open = entry, record.begin + record.covered_bytes

    def _expect_whole(self) -> None:
        if self._open is not None and self._open[1] != self._open[0].size_bytes:
            raise _hole_in(*self._open)
        self._open = None

    def _pass_over(self, entry: Attributes) -> None:
        self.findings.append(
            Finding(
                severity=Severity.WARNING,
                subject=os.fsdecode(entry.path),
                fact=f"was a symbolic link to {os.fsdecode(entry.link)} and was not made again",
                fix="Make it by hand if the copy needs it.",
            )
        )


def _hole_in(entry: Attributes, place: int) -> IntegrityError:
    return IntegrityError(
        f"the backup's file table does not tell the bytes of {os.fsdecode(entry.path)} at {place}",
        hint="Run `drtool verify`, and restore from another backup.",
    )


def _units(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Neighbouring pieces of about 8 MiB together; larger ones are cut between extents."""
    unit: list[Piece] = []
    size = 0
    for piece in pieces:
        for part, part_bytes in _cut(piece):
            unit.append(part)
            size += part_bytes
            if size >= UNIT_BYTES:
                yield unit
                unit, size = [], 0
    if unit:
        yield unit


def _cut(piece: Piece) -> Iterator[tuple[Piece, int]]:
    ends = np.cumsum(piece.extents["length"].astype(np.int64))
    first, done = 0, 0
    while first < len(ends):
        last = int(np.searchsorted(ends, done + UNIT_BYTES)) + 1
        end = int(ends[min(last, len(ends)) - 1])
        yield Piece(piece.path, piece.begin + done, piece.extents[first:last]), end - done
        first, done = last, end


@dataclass(frozen=True, slots=True)
class _Work:
    """A unit with its stretches side by side: for each extent, which file, and where in it."""

    files: list[PlacedPath]
    file_of: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    extents: Extents


def _side_by_side(unit: Sequence[Piece]) -> _Work:
    places, owners = [], []
    for number, piece in enumerate(unit):
        lengths = piece.extents["length"].astype(np.int64)
        places.append(np.cumsum(lengths) - lengths + piece.begin)
        owners.append(np.full(len(lengths), number, np.int64))
    return _Work(
        [piece.path for piece in unit],
        np.concatenate(owners),
        np.concatenate(places),
        np.concatenate([piece.extents for piece in unit]),
    )


@dataclass(slots=True)
class _Writers:
    """Worker threads that write units. One thread submits; the first failure is raised there."""

    reader: ChunkReader
    packs: PackList
    workers: int = field(kw_only=True)
    phases: Phases = field(kw_only=True)
    written_bytes: int = 0
    _pool: ThreadPoolExecutor | None = None
    _running: deque[Future[None]] = field(default_factory=deque)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> _Writers:
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="fetch")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, unit: list[Piece]) -> None:
        """Hand over a unit; waits while `workers + 2` are under way."""
        assert self._pool is not None
        while len(self._running) >= self.workers + 2:
            self._running.popleft().result()
        self.phases.go_on()
        self._running.append(self._pool.submit(self._write, unit))

    def finish(self) -> None:
        """Wait for all units."""
        while self._running:
            self._running.popleft().result()
            self.phases.go_on()

    def _write(self, unit: list[Piece]) -> None:
        work = _side_by_side(unit)
        descriptors: dict[int, int] = {}
        try:
            for pack in np.unique(work.extents["pack"]):
                if self._stop.is_set():
                    return
                self._write_from(int(pack), work, descriptors)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        with self._lock:
            self.written_bytes += int(work.extents["length"].sum(dtype=np.int64))
            done = self.written_bytes
        self.phases.emit(PhaseAdvanced(phase=_PHASE, done=done))

    def _write_from(self, pack: int, work: _Work, descriptors: dict[int, int]) -> None:
        mine = np.nonzero(work.extents["pack"] == pack)[0]
        mine = mine[np.argsort(work.extents["chunk"][mine], kind="stable")]
        numbers, firsts = np.unique(work.extents["chunk"][mine], return_index=True)
        ends = [*firsts[1:].tolist(), len(mine)]
        where = dict(zip(numbers.tolist(), zip(firsts.tolist(), ends, strict=True), strict=True))
        for number, plain in self.reader.read(self.packs.ids[pack], numbers.tolist()):
            first, end = where[number]
            for row in mine[first:end].tolist():
                extent = work.extents[row]
                begin, length = int(extent["offset"]), int(extent["length"])
                if begin + length > len(plain):
                    raise IntegrityError(
                        f"chunk {number} of pack {self.packs.ids[pack].hex()} is shorter than the"
                        " file table says",
                        hint="Run `drtool verify`, and restore from another backup.",
                    )
                owner = int(work.file_of[row])
                if owner not in descriptors:
                    descriptors[owner] = work.files[owner].open(os.O_WRONLY)
                _write_all(descriptors[owner], plain[begin : begin + length], int(work.place[row]))


def _write_all(descriptor: int, view: memoryview, place: int) -> None:
    while len(view):
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written


def _content_of(record: TableRecord, reader: ChunkReader, packs: PackList) -> bytes:
    """The bytes of a small file, from memory to memory."""
    if record.attributes.size_bytes > _CONTROL_MOST_BYTES or record.begin:
        raise _hole_in(record.attributes, 0)
    content = bytearray()
    for extent in record.extents:
        plain = reader.read_one(packs.place(int(extent["pack"]), int(extent["chunk"])))
        begin = int(extent["offset"])
        content += plain[begin : begin + int(extent["length"])]
    if len(content) != record.attributes.size_bytes:
        raise _hole_in(record.attributes, len(content))
    return bytes(content)
