"""The bytes of one restored file on their way to the disk, and what a disk can refuse."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drtool.errors import DestinationRefused
from drtool.sources.files.entries import shown

_ZEROS = bytes(1 << 20)
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MAY_NOT = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def refusals(destination: Path, path: bytes) -> Iterator[None]:
    """DestinationRefused for what an operator can mend: no room, no right, something in the way."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        if error.errno in _IN_THE_WAY:
            raise DestinationRefused(
                f"{shown(path)} in {destination} is taken, or a file or link stands in its way",
                hint="Restore into a new directory, or pass --delta to change what is there.",
            ) from error
        if error.errno in _NO_ROOM:
            raise DestinationRefused(
                f"{shown(path)} could not be written to {destination}: {reason}",
                hint="Make room there, then run the same restore again with --delta.",
            ) from error
        if error.errno in _MAY_NOT:
            raise DestinationRefused(
                f"{shown(path)} could not be written to {destination}: {reason}",
                hint="Restore as a user that may write there, or into another directory.",
            ) from error
        raise


class FileWriter:
    """Takes the bytes of one file, in any order and from any thread.

    What is never written stays as it was: a hole in a new file, the old bytes in a patched one.
    """

    def __init__(self, descriptor: int, path: bytes, *, destination: Path, is_new: bool) -> None:
        self._descriptor = descriptor
        self._path = path
        self._destination = destination
        self._is_new = is_new

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`, all of it. DestinationRefused if there is no room."""
        view = memoryview(data)
        with refusals(self._destination, self._path):
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view = view[written:]
                offset += written

    def hole(self, offset: int, length: int) -> None:
        """Zeros that take no room in a new file; in a patched one they are written where needed."""
        end = 0 if self._is_new else offset + length
        while offset < end:
            zeros = memoryview(_ZEROS)[: min(len(_ZEROS), end - offset)]
            if self.read(offset, len(zeros)).strip(b"\0"):
                self.write(offset, zeros)
            offset += len(zeros)

    def read(self, offset: int, length: int) -> bytes:
        """What the file holds now: to find out whether it needs writing. Shorter at its end."""
        return os.pread(self._descriptor, length, offset)
