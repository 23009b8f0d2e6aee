"""A snapshot's files, fetched in parallel and written; in a delta only what differs.

The caller's thread reads the file table and makes directories and links; workers take units of about
8 MiB, read their chunks pack by pack, and write whole files. A file of more than one unit is opened
and closed by the caller's thread, at most two at a time, and written by all. At most `workers + 2`
units wait or run: 8 MiB each, and up to four times that where pages of many backups share a file.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from drtool.errors import IntegrityError, NotRecoverable
from drtool.model.progress import PhaseAdvanced
from drtool.pipeline.pages import HOLE, Extents
from drtool.repository.table import EntryKind, TableRecord
from drtool.repository.trees import entry_of
from drtool.restore.phases import Phases
from drtool.restore.tree_chunks import Fetcher
from drtool.sources.files.entries import TreeEntry
from drtool.sources.files.filewriter import FileWriter
from drtool.sources.files.placing import Difference, TreeWriter
from drtool.system.beneath import Beneath

UNIT_BYTES = 8 << 20
_OPEN_LARGE = 2
PHASE = "fetch"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeWritten:
    """What was written. `same_files` were right already, in a delta."""

    files: int
    same_files: int
    size_bytes: int


@dataclass(slots=True)
class _Large:
    """A file that several units write into."""

    entry: TreeEntry
    stack: ExitStack
    writer: FileWriter
    is_patch: bool
    done: int = 0
    units: list[Future[None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A file that is written at once."""

    entry: TreeEntry
    extents: Extents


class TreeFetch:
    """Places records in the order of the table. One thread calls; use as a context manager."""

    def __init__(
        self,
        fetcher: Fetcher,
        writer: TreeWriter,
        *,
        delta_root: int | None,
        workers: int,
        phases: Phases,
    ) -> None:
        """`delta_root`: the open destination, if what is in it is to be compared."""
        self._fetcher = fetcher
        self._writer = writer
        self._delta_root = delta_root
        self._phases = phases
        self._most = workers + 2
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="fetch")
        self._local = threading.local()
        self._running: deque[Future[None]] = deque()
        self._unit: list[_Whole] = []
        self._unit_bytes = 0
        self._large: deque[_Large] = deque()
        self._groups: dict[tuple[int, int], tuple[bytes, int, bytes]] = {}
        self._linked = b""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.files = self.same_files = self.size_bytes = 0

    def __enter__(self) -> TreeFetch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for large in self._large:
            # Only there after a failure: the file is removed again.
            large.stack.__exit__(IntegrityError, IntegrityError("broken off"), None)

    def place(self, records: Iterable[TableRecord]) -> TreeWritten:
        """All of them. NotRecoverable if there are none; the first failure of a worker is raised.

        Interrupted if somebody asked to stop.
        """
        is_empty = True
        for record in records:
            is_empty = False
            self._phases.go_on()
            self._place(record)
        if is_empty:
            raise NotRecoverable(
                "nothing in the snapshot matches",
                hint="Patterns are as in a .gitignore; paths count from the tree's root.",
            )
        self._submit_unit()
        while self._large:
            self._close_large()
        while self._running:
            self._running.popleft().result()
            self._phases.go_on()
        return TreeWritten(files=self.files, same_files=self.same_files, size_bytes=self.size_bytes)

    def _place(self, record: TableRecord) -> None:
        attributes = record.attributes
        if record.begin:
            self._go_on(record)
            return
        entry = entry_of(attributes)
        match attributes.kind:
            case EntryKind.DIRECTORY:
                self._writer.directory(entry)
            case EntryKind.SYMLINK:
                self._place_symlink(entry, record)
            case EntryKind.FILE:
                self._place_file(entry, record)

    def _place_symlink(self, entry: TreeEntry, record: TableRecord) -> None:
        if self._is_linked(entry, record):
            return
        if self._delta_root is None or self._writer.compare(entry) is not Difference.NONE:
            self._writer.symlink(entry)

    def _place_file(self, entry: TreeEntry, record: TableRecord) -> None:
        self.files += 1
        if self._is_linked(entry, record):
            return
        if record.covered_bytes == entry.size_bytes and entry.size_bytes <= UNIT_BYTES:
            self._unit.append(_Whole(entry, record.extents))
            self._unit_bytes += entry.size_bytes
            if self._unit_bytes >= UNIT_BYTES or len(self._unit) >= 1000:
                self._submit_unit()
            return
        while len(self._large) >= _OPEN_LARGE:
            self._close_large()
        self._large.append(self._open_large(entry))
        self._go_on(record)

    def _is_linked(self, entry: TreeEntry, record: TableRecord) -> bool:
        """Make it another name of a file that is the same in all: numbers of devices may come again."""
        group = entry.link_group
        if group is None:
            return False
        mine = entry.path, entry.changed_ns, entry.link or record.extents.tobytes()
        first = self._groups.setdefault(group, mine)
        if first is mine or first[1:] != mine[1:]:
            return False
        self._writer.hard_link(entry, first[0])
        self._linked = entry.path
        return True

    def _open_large(self, entry: TreeEntry) -> _Large:
        stack = ExitStack()
        writer = None
        if self._delta_root is not None:
            writer = stack.enter_context(self._writer.patch(entry))
        if writer is not None:
            return _Large(entry, stack, writer, is_patch=True)
        stack.close()
        return _Large(entry, stack, stack.enter_context(self._writer.file(entry)), is_patch=False)

    def _go_on(self, record: TableRecord) -> None:
        """The next stretch of the file that was opened last, unit by unit."""
        path = record.attributes.path
        if path == self._linked:
            return
        large = self._large[-1] if self._large else None
        if large is None or large.entry.path != path or large.done != record.begin:
            raise _hole_in(path)
        ends = np.cumsum(record.extents["length"].astype(np.int64))
        first, done = 0, 0
        while first < len(ends):
            last = min(int(np.searchsorted(ends, done + UNIT_BYTES)) + 1, len(ends))
            task = partial(self._write_part, large, record.begin + done, record.extents[first:last])
            large.units.append(self._submit(task))
            first, done = last, int(ends[last - 1])
        large.done = record.begin + done

    def _close_large(self) -> None:
        large = self._large[0]
        for unit in large.units:
            unit.result()
            self._phases.go_on()
        if large.done != large.entry.size_bytes:
            raise _hole_in(large.entry.path)
        self._large.popleft()
        large.stack.close()

    def _submit_unit(self) -> None:
        if self._unit:
            self._submit(partial(self._write_whole, self._unit))
        self._unit, self._unit_bytes = [], 0

    def _submit(self, task: partial[None]) -> Future[None]:
        while len(self._running) >= self._most:
            self._running.popleft().result()
        future = self._threads.submit(task)
        self._running.append(future)
        return future

    def _write_whole(self, unit: list[_Whole]) -> None:
        if self._delta_root is not None:
            unit = [one for one in unit if not self._stands_already(one)]
        if not unit or self._stop.is_set():
            return
        chunks = self._fetcher.fetch([one.extents for one in unit])
        size_bytes = 0
        for one in unit:
            if self._stop.is_set():
                return
            with self._writer.file(one.entry) as file:
                end = self._fetcher.write(file, 0, one.extents, chunks=chunks)
                if end != one.entry.size_bytes:
                    raise _hole_in(one.entry.path)
            size_bytes += _stored_bytes(one.extents)
        self._count(size_bytes)

    def _write_part(self, large: _Large, begin: int, extents: Extents) -> None:
        if self._stop.is_set():
            return
        if not large.is_patch:
            chunks = self._fetcher.fetch([extents])
            self._fetcher.write(large.writer, begin, extents, chunks=chunks)
            self._count(_stored_bytes(extents))
            return
        other = self._fetcher.differing(large.writer.read, begin, extents)
        chunks = self._fetcher.fetch([other[["length", "pack", "chunk", "offset"]]])
        for row in range(len(other)):
            one = other[row : row + 1]
            self._fetcher.write(large.writer, int(one["place"][0]), one, chunks=chunks)
        self._count(_stored_bytes(other))

    def _stands_already(self, one: _Whole) -> bool:
        """Whether the content is there; if so its attributes are put right."""
        difference = self._writer.compare(one.entry)
        if difference in (Difference.ABSENT, Difference.OTHER_KIND):
            return False
        descriptor = self._open(one.entry.path)
        if descriptor is None:
            return False
        try:
            if os.fstat(descriptor).st_size != one.entry.size_bytes:
                return False
            read = partial(_read_at, descriptor)
            if len(self._fetcher.differing(read, 0, one.extents)):
                return False
        finally:
            os.close(descriptor)
        if difference is not Difference.NONE and not self._writer.set_attributes(one.entry):
            return False
        with self._lock:
            self.same_files += 1
        return True

    def _open(self, path: bytes) -> int | None:
        """The file that stands in the destination, to look at; None if it cannot be opened."""
        assert self._delta_root is not None
        beneath: Beneath | None = getattr(self._local, "beneath", None)
        if beneath is None:
            beneath = self._local.beneath = Beneath(self._delta_root)
        try:
            return beneath.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            # Whatever the reason: it is written anew.
            return None

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self.size_bytes += size_bytes
            done = self.size_bytes
        self._phases.emit(PhaseAdvanced(phase=PHASE, done=done))


def _stored_bytes(extents: Extents) -> int:
    """Without holes: those are not fetched."""
    return int(extents["length"][extents["pack"] != HOLE].sum(dtype=np.int64))


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    return os.pread(descriptor, length, offset)


def _hole_in(path: bytes) -> IntegrityError:
    return IntegrityError(
        f"the backup's file table does not tell all bytes of {os.fsdecode(path)}",
        hint="Run `drtool verify`, and restore from another backup.",
    )
