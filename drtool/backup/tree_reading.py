"""What one worker does with files of a tree: read each as of one moment, and store what is new."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drtool.backup.batches import Batch
from drtool.backup.packing import Packer
from drtool.backup.tree_findings import Omissions
from drtool.backup.tree_large import LargeFile, PageStores
from drtool.pipeline.pages import EXTENT, HOLE, REGION_BYTES
from drtool.repository.table import TableRecord
from drtool.repository.trees import attributes_of
from drtool.sources.files.entries import Omission, Omitted, TreeEntry
from drtool.sources.files.guard import entropy_bits, looks_random
from drtool.sources.files.reading import FileBegan, FileBytes, FileEnded, FileHole, TreeFiles
from drtool.system.stopping import go_on

# Enough to tell random bytes from others, and quick enough to be done for every file.
_PROBE_BYTES = 4096
# Of 512 random bytes, 221 are different ones, give or take 5.
_DISTINCT_BYTES, _DISTINCT = 512, 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to read. `looked_random` is None for one that the previous snapshot does not have."""

    entry: TreeEntry
    looked_random: bool | None


class TreeReader:
    """Reads and stores; any number of threads. What was read and what was met is counted.

    Once `stop` is set, Interrupted.
    """

    def __init__(
        self, root: int, stores: PageStores, omissions: Omissions, *, stop: threading.Event
    ) -> None:
        self._root = root
        self._stop = stop
        self._stores = stores
        self._omissions = omissions
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: list[TreeFiles] = []
        self.files = 0
        self.size_bytes = 0
        self.changed = self.changed_random_before = self.turned_random = 0
        self.new = self.new_random = self.random_after = 0
        self.omitted: set[bytes] = set()
        self.unreadable = 0
        self._vanished: list[tuple[TreeEntry, Omitted]] = []
        self._others: list[TreeEntry] = []

    def close(self) -> None:
        """Let the directories go; no thread reads any more."""
        for files in self._opened:
            files.close()

    def read_small(self, wanted: Sequence[Wanted]) -> None:
        """Read files that are stored whole, all with one packer."""
        with self._stores.hall.packer() as packer:
            for one in wanted:
                self._read(one, packer)

    def read_large(self, wanted: Wanted) -> None:
        """Read a file that is compared page by page."""
        self._read(wanted, None)

    def _read(self, wanted: Wanted, packer: Packer | None) -> None:
        path = wanted.entry.path
        reading = _Reading(wanted, self)
        for item in self._files().read(path):
            go_on(self._stop, "the snapshot")
            match item:
                case FileBytes():
                    reading.take(item.data, packer)
                case FileBegan(size):
                    reading.begin(size)
                case FileHole(_, length):
                    reading.hole(length)
                case FileEnded():
                    self._ended(wanted, reading, item)
                case Omitted():
                    reading.drop()
                    self._leave_out(wanted.entry, item)

    def _leave_out(self, entry: TreeEntry, omitted: Omitted) -> None:
        is_gone = omitted.why is Omission.VANISHED
        if not is_gone:
            self._omissions.add(omitted)
        with self._lock:
            self.omitted.add(entry.path)
            if is_gone:
                self._vanished.append((entry, omitted))
            else:
                self.unreadable += 1

    def take_vanished(self) -> list[tuple[TreeEntry, Omitted]]:
        """Those that were no longer there under their names, once; they are not told as left out."""
        with self._lock:
            vanished, self._vanished = self._vanished, []
        return vanished

    def take_others(self) -> list[TreeEntry]:
        """Those that were read under the name of a file that had gone from there, once."""
        with self._lock:
            others, self._others = self._others, []
        return others

    def _ended(self, wanted: Wanted, reading: _Reading, ended: FileEnded) -> None:
        entry = ended.entry
        if ended.torn is not None:
            self._omissions.add(ended.torn)
        if entry.size_bytes != reading.given:
            # A file that was cut or grew while it was read is stored as far as it was read.
            entry = entry._replace(size_bytes=reading.given)
        reading.finish(entry)
        with self._lock:
            # It may have been gone at an earlier look.
            self.omitted.discard(wanted.entry.path)
            if entry.inode != wanted.entry.inode or entry.device != wanted.entry.device:
                self._others.append(ended.entry)
            self.files += 1
            self.size_bytes += entry.size_bytes
            if wanted.looked_random is None:
                self.new += 1
                self.new_random += reading.is_random
            else:
                self.changed += 1
                self.random_after += reading.is_random
                self.changed_random_before += wanted.looked_random
                self.turned_random += reading.is_random and not wanted.looked_random

    def _files(self) -> TreeFiles:
        files: TreeFiles | None = getattr(self._local, "files", None)
        if files is None:
            files = self._local.files = TreeFiles(self._root)
            with self._lock:
                self._opened.append(files)
        return files

    @property
    def random(self) -> int:
        """Of the files read, those that look random."""
        return self.new_random + self.random_after

    @property
    def stores(self) -> PageStores:
        return self._stores

    def batch(self) -> Batch:
        """This thread's own, 8 MiB, made when it first reads a large file."""
        batch: Batch | None = getattr(self._local, "batch", None)
        if batch is None:
            batch = self._local.batch = Batch()
        return batch


class _Reading:
    """One file on its way: whole chunks if it is small, pages if it is large."""

    def __init__(self, wanted: Wanted, reader: TreeReader) -> None:
        self._wanted = wanted
        self._reader = reader
        self._large: LargeFile | None = None
        self._extents: list[tuple[int, int, int, int]] = []
        self.given = 0
        self.is_random = False

    def begin(self, size_bytes: int) -> None:
        """From the first byte on, perhaps not for the first time."""
        self.drop()
        if size_bytes > REGION_BYTES:
            walked = attributes_of(self._wanted.entry)
            self._large = LargeFile(walked, self._reader.batch(), self._reader.stores)

    def take(self, data: memoryview, packer: Packer | None) -> None:
        if not self.given:
            self.is_random = _is_random(data)
        self.given += len(data)
        if self._large is not None:
            self._large.take(data)
        elif packer is not None:
            self._extents.append((len(data), *packer.store(data), 0))
        else:
            with self._reader.stores.hall.packer() as other:
                self._extents.append((len(data), *other.store(data), 0))

    def hole(self, length: int) -> None:
        self.given += length
        if self._large is not None:
            self._large.hole(length)
        else:
            self._extents.append((length, HOLE, 0, 0))

    def drop(self) -> None:
        """Forget what was given: the file is begun again, or is no more."""
        if self._large is not None:
            self._reader.stores.table.withdraw(self._wanted.entry.path)
        self._large, self._extents, self.given = None, [], 0

    def finish(self, entry: TreeEntry) -> None:
        attributes = attributes_of(entry, looked_random=self.is_random)
        if self._large is not None:
            self._large.finish(attributes)
            return
        extents = np.array(self._extents, EXTENT)
        self._reader.stores.table.add(TableRecord(attributes=attributes, extents=extents))


def _is_random(data: memoryview) -> bool:
    """Whether a file's first bytes look random; most files are told from such by few of them."""
    if len(data) < _DISTINCT_BYTES or len(set(data[:_DISTINCT_BYTES])) < _DISTINCT:
        return False
    probe = data[:_PROBE_BYTES]
    return looks_random(entropy_bits(probe), len(probe))
