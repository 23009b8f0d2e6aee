"""The stream of files, cut into batches that workers store side by side, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from drtool.backup.assembly import Assembly
from drtool.backup.batches import Batch, Stretch, stretch_bytes
from drtool.backup.packing import PackingHall
from drtool.backup.previous import PreviousBackup
from drtool.backup.stowing import Stowed, stow
from drtool.errors import IntegrityError
from drtool.repository.table import Attributes, EntryKind

WORKERS = max(2, min(4, os.cpu_count() or 2))


class Intake:
    """Cuts the stream into batches, hands them to workers, and takes their results in order."""

    def __init__(
        self,
        hall: PackingHall,
        assembly: Assembly,
        previous: PreviousBackup | None,
        *,
        seed: int,
        look: Callable[[Stowed], None] | None = None,
    ) -> None:
        """`look` is shown every stretch, in order."""
        self._hall = hall
        self._look = look
        self._assembly = assembly
        self._previous = previous
        self._seed = seed
        self._unmade = 2 * WORKERS + 1
        self._free: list[Batch] = []
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="stow")
        self._under_way: deque[tuple[Batch, Future[list[Stowed]]]] = deque()
        self._batch = self._fresh()
        self._file: Attributes | None = None
        self._begin = self._length = self._filled = self._at = 0

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def begin_file(self, attributes: Attributes) -> None:
        """The bytes that follow belong to this file; directories, links, empty files have none."""
        if attributes.kind is not EntryKind.FILE or attributes.size_bytes == 0:
            self._assembly.add_plain(attributes)
            self._file = None
            return
        self._file = attributes
        self._begin = self._length = self._filled = 0
        self._begin_stretch(attributes)

    def take(self, data: memoryview) -> None:
        """The next bytes of the file: copied once, into the batch they will be stored from."""
        while data:
            room = self._length - self._filled
            piece = data[:room] if len(data) > room else data
            place = self._at + self._filled
            self._batch.view[place : place + len(piece)] = piece
            self._filled += len(piece)
            if self._filled == self._length:
                self._end_stretch()
            if len(data) <= room:
                return
            data = data[room:]

    def end_file(self) -> None:
        """All bytes of the file were given; IntegrityError if some are missing."""
        file, self._file = self._file, None
        if file is not None and self._begin + self._filled != file.size_bytes:
            raise IntegrityError(
                f"file {os.fsdecode(file.path)} of the base backup is shorter than it said",
                hint="Take the backup again.",
            )

    def finish(self) -> None:
        """Wait for all batches."""
        self._hand_over()
        while self._under_way:
            self._collect()

    def _begin_stretch(self, file: Attributes) -> None:
        begin = self._begin
        length = stretch_bytes(self._batch, begin=begin, size_bytes=file.size_bytes)
        if length == 0:
            self._hand_over()
            self._batch = self._fresh()
            length = stretch_bytes(self._batch, begin=begin, size_bytes=file.size_bytes)
        self._length, self._filled = length, 0
        self._at = self._batch.reserve(length)
        known = self._previous.known(file.path, begin, length) if self._previous else None
        self._batch.stretches.append(
            Stretch(
                attributes=file,
                begin=begin,
                at=self._at,
                length=length,
                known=known,
                is_last=begin + length == file.size_bytes,
            )
        )

    def _end_stretch(self) -> None:
        file = self._file
        assert file is not None
        if self._begin + self._length < file.size_bytes:
            self._begin += self._length
            self._begin_stretch(file)

    def _hand_over(self) -> None:
        batch = self._batch
        future = self._threads.submit(stow, batch, self._hall, seed=self._seed)
        self._under_way.append((batch, future))

    def _fresh(self) -> Batch:
        if self._unmade:
            self._unmade -= 1
            return Batch()
        while not self._free:
            self._collect()
        return self._free.pop()

    def _collect(self) -> None:
        batch, future = self._under_way.popleft()
        for stowed in future.result():
            self._assembly.add(stowed)
            if self._look is not None:
                self._look(stowed)
        batch.clear()
        self._free.append(batch)
