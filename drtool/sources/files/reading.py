"""Reads one file of a tree as it was at one moment, or says that it could not."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from drtool.sources.files.attributes import OwnerNames, make_entry, read_xattrs
from drtool.sources.files.entries import (
    Omission,
    Omitted,
    TreeEntry,
    TreeKind,
    omitted,
    special,
)
from drtool.system.beneath import Beneath

READ_BYTES = 1 << 20
TRIES = 3
# A file this large is read twice at most: one that is always written to would cost hours.
_LARGE_BYTES = 1 << 30
# Beyond this it would push everything else out of the page cache.
_DROP_FROM_CACHE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class FileBegan:
    """Bytes follow, from the first on. A second one means: drop what was given and begin again."""

    size_bytes: int


@dataclass(slots=True)
class FileBytes:
    """Bytes of the file from `offset` on, valid until the next item is asked for."""

    # Not frozen: one is made for every MiB and for each of many small files.
    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class FileHole:
    """Zeros that the file does not occupy."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FileEnded:
    """All has been given. `entry` is the file as it was while it was read, which may not be as walked.

    `torn` is set for a file that changed each time: the bytes given are of no one moment.
    """

    entry: TreeEntry
    torn: Omitted | None


ReadItem = FileBegan | FileBytes | FileHole | FileEnded | Omitted


class TreeFiles:
    """Reads files of one tree; for one thread, with a buffer of 1 MiB that is used again and again."""

    def __init__(self, root: int) -> None:
        """`root` is an open directory and stays the caller's to close."""
        self._beneath = Beneath(root)
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._names = OwnerNames()

    def read(self, path: bytes, *, tries: int = TRIES) -> Iterator[ReadItem]:
        """Began, bytes and holes in order, ended; or one `Omitted` at any place instead of the end.

        A file whose size, mtime or ctime is another after it was read is read again, `tries` times
        in all (twice at most from 1 GiB on); the last attempt is then given as torn.
        """
        try:
            descriptor = self._open(path)
        except OSError as error:
            yield _not_opened(path, error)
            return
        try:
            if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
                yield _no_file(path, mode)
                return
            yield from self._attempts(path, descriptor, tries)
        except OSError as error:
            yield omitted(path, error, doing="read")
        finally:
            os.close(descriptor)

    def head(self, path: bytes, length: int) -> bytes | None:
        """The first `length` bytes, at most 1 MiB, to judge a file by; None if it cannot be read now."""
        try:
            descriptor = self._open(path)
        except OSError:
            # To be told when the file is read for good.
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return os.pread(descriptor, min(length, READ_BYTES), 0)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let the open directories go."""
        self._beneath.close()

    def _open(self, path: bytes) -> int:
        # Without O_NONBLOCK a FIFO that has taken the file's place would hold us for ever.
        flags = os.O_RDONLY | os.O_NONBLOCK
        try:
            return self._opened(path, flags)
        except FileNotFoundError:
            # A directory on the way may have been moved since it was opened, and another be in its place.
            self._beneath.forget()
            return self._opened(path, flags)

    def _opened(self, path: bytes, flags: int) -> int:
        try:
            return self._beneath.open(path, flags | os.O_NOATIME)
        except PermissionError:
            # Only the owner and root may leave the time of access alone.
            return self._beneath.open(path, flags)

    def _attempts(self, path: bytes, descriptor: int, tries: int) -> Iterator[ReadItem]:
        before = os.fstat(descriptor)
        if before.st_size >= _LARGE_BYTES:
            tries = min(tries, 2)
        while True:
            tries -= 1
            yield FileBegan(before.st_size)
            yield from self._contents(descriptor, before)
            # The attributes before the second look: one that changes in between is then noticed.
            xattrs = read_xattrs(descriptor)
            after = os.fstat(descriptor)
            is_torn = _changed(before, after)
            if is_torn and tries > 0:
                before = after
                continue
            entry = make_entry(path, TreeKind.FILE, before, names=self._names, xattrs=xattrs)
            torn = None
            if is_torn:
                torn = Omitted(path, Omission.TORN, "changed each time while it was read")
            yield FileEnded(entry, torn)
            return

    def _contents(self, descriptor: int, status: os.stat_result) -> Iterator[FileBytes | FileHole]:
        size = status.st_size
        if size > READ_BYTES:
            _advise(descriptor, os.POSIX_FADV_SEQUENTIAL)
        at = 0
        is_sparse = status.st_blocks * 512 < size
        for begin, end in data_ranges(descriptor, size) if is_sparse else [(0, size)]:
            if begin > at:
                yield FileHole(at, begin - at)
            at = begin
            while at < end:
                count = os.preadv(descriptor, [self._buffer[: min(READ_BYTES, end - at)]], at)
                if not count:
                    # Cut short meanwhile: the status afterwards says so too.
                    return
                yield FileBytes(at, self._buffer[:count])
                at += count
        if at < size:
            yield FileHole(at, size - at)
        if size >= _DROP_FROM_CACHE_BYTES:
            _advise(descriptor, os.POSIX_FADV_DONTNEED)


def data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of what a file of `size` bytes holds; between them are holes. In order."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            if error.errno == errno.EINVAL:
                # A file system that knows no holes: all of it is data.
                yield at, size
                return
            raise
        if begin >= size:
            return
        yield begin, min(end, size)
        at = end


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _advise(descriptor: int, advice: int) -> None:
    # Advice is advice: some file systems take none.
    with contextlib.suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, advice)


def _not_opened(path: bytes, error: OSError) -> Omitted:
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return Omitted(path, Omission.SPECIAL, "became a socket or a device meanwhile")
    return omitted(path, error, doing="open")


def _no_file(path: bytes, mode: int) -> Omitted:
    if stat.S_ISDIR(mode):
        return Omitted(path, Omission.VANISHED, "became a directory while the tree was read")
    return special(path, mode)
