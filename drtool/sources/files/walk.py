"""Walks a tree with several threads, by directory descriptors, following no symbolic link."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drtool.sources.files.attributes import (
    OwnerNames,
    check_paths_in,
    make_entry,
    path_in,
    read_xattrs,
)
from drtool.sources.files.beneath import Beneath, open_root
from drtool.sources.files.entries import (
    Omission,
    Omitted,
    TreeEntry,
    TreeKind,
    join,
    kind_of,
    omitted,
    special,
)
from drtool.sources.files.exclude import NOTHING_EXCLUDED, ExcludeRules, is_cache_directory
from drtool.sources.files.pending import PendingDirectories

THREADS = 4
_BATCH = 256
_BATCHES_WAITING = 32
_LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkEnded:
    """The last item of a walk that saw everything: how many entries it gave and left out.

    An excluded directory counts as one, whatever is in it.
    """

    entries: int
    excluded: int


WalkItem = TreeEntry | Omitted | WalkEnded


def walk_tree(
    root: Path,
    *,
    exclude: ExcludeRules = NOTHING_EXCLUDED,
    threads: int = THREADS,
    one_file_system: bool = True,
    skip_caches: bool = False,
    file_xattrs: bool = True,
) -> Iterator[WalkItem]:
    """Everything below `root`, and `root` itself as path `b""`, ending with a `WalkEnded`.

    Order: any, except that a directory comes before what is in it. What cannot be listed is an
    `Omitted`, never silence; whether a file can be read is seen when it is read. A directory on
    another file system is given, but not entered, unless `one_file_system` is off. `skip_caches`
    gives a directory with a CACHEDIR.TAG, but nothing in it. Without `file_xattrs` those of files are
    left out, for who reads them with the file: they change no content, but they do change its ctime.
    Raises SourceUnavailable if the root cannot be opened or listed.

    Memory: 32 batches of 256 entries and 16,384 directories, whatever the size of the tree. A walk
    that is closed before its end lets its threads and descriptors go.
    """
    descriptor = open_root(root)
    walk = _Walk(
        descriptor,
        exclude,
        one_file_system=one_file_system,
        skip_caches=skip_caches,
        file_xattrs=file_xattrs,
    )
    workers = [
        threading.Thread(target=walk.work, name=f"walk-{number}", daemon=True)
        for number in range(max(1, threads))
    ]
    try:
        yield walk.begin()
        for worker in workers:
            worker.start()
        yield from walk.items(workers)
    finally:
        walk.stop()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
        walk.pending.close()
        os.close(descriptor)


class _Walk:
    """What the threads of one walk share."""

    def __init__(
        self,
        root: int,
        exclude: ExcludeRules,
        *,
        one_file_system: bool,
        skip_caches: bool,
        file_xattrs: bool,
    ) -> None:
        self._root = root
        self._exclude = exclude
        self._one_file_system = one_file_system
        self._skip_caches = skip_caches
        self._file_xattrs = file_xattrs
        self._device = os.fstat(root).st_dev
        self._names = OwnerNames()
        self._changed = threading.Condition()
        self._busy = 0
        self._stopping = False
        self._ready: queue.Queue[list[TreeEntry | Omitted] | BaseException] = queue.Queue(
            _BATCHES_WAITING
        )
        self._excluded = 0
        self.pending = PendingDirectories()

    def begin(self) -> TreeEntry:
        """The root's own entry; its listing is due."""
        self.pending.push([b""])
        check_paths_in(self._root)
        status = os.fstat(self._root)
        xattrs = read_xattrs(self._root)
        return make_entry(b"", TreeKind.DIRECTORY, status, names=self._names, xattrs=xattrs)

    def items(self, workers: list[threading.Thread]) -> Iterator[WalkItem]:
        """What the workers find, until all have ended."""
        entries = 0
        while True:
            ended = not any(worker.is_alive() for worker in workers)
            try:
                batch = self._ready.get(timeout=0 if ended else _LOOK_AGAIN_SECONDS)
            except queue.Empty:
                if ended:
                    break
                continue
            if isinstance(batch, BaseException):
                raise batch
            if not batch:
                continue
            entries += sum(isinstance(item, TreeEntry) for item in batch)
            yield from batch
        if not entries and self._excluded:
            fact = f"all {self._excluded} entries of the tree are excluded by its patterns"
            yield Omitted(b"", Omission.ALL_EXCLUDED, fact)
        yield WalkEnded(entries=entries + 1, excluded=self._excluded)

    def stop(self) -> None:
        """Make all workers end soon."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def work(self) -> None:
        """List directories until there are no more."""
        try:
            with Beneath(self._root) as beneath:
                while (path := self._take()) is not None:
                    try:
                        self._list(path, beneath)
                    finally:
                        self._give_back()
        except BaseException as error:  # noqa: BLE001 - raised again where the walk is consumed
            self._put(error)
            self.stop()
        finally:
            # Wakes the consumer, which may be waiting for the last worker to end.
            self._put([])

    def _take(self) -> bytes | None:
        with self._changed:
            while not self._stopping:
                path = self.pending.pop()
                if path is not None:
                    self._busy += 1
                    return path
                if not self._busy:
                    return None
                self._changed.wait(_LOOK_AGAIN_SECONDS)
        return None

    def _give_back(self) -> None:
        with self._changed:
            self._busy -= 1
            if not self._busy:
                self._changed.notify_all()

    def _put(self, batch: list[TreeEntry | Omitted] | BaseException) -> None:
        while not self._stopping:
            try:
                self._ready.put(batch, timeout=_LOOK_AGAIN_SECONDS)
            except queue.Full:
                continue
            return

    def _list(self, path: bytes, beneath: Beneath) -> None:
        found: list[TreeEntry | Omitted] = []
        excluded = 0
        below: list[bytes] = []
        try:
            directory = beneath.directory(path)
            if self._skip_caches and is_cache_directory(directory):
                self._count_excluded(1)
                return
            with os.scandir(directory) as listing:
                for item in listing:
                    name = os.fsencode(item.name)
                    place = join(path, name)
                    is_directory = item.is_dir(follow_symlinks=False)
                    if self._exclude.lines and self._exclude.excludes(
                        place, is_directory=is_directory
                    ):
                        excluded += 1
                        continue
                    self._look(place, name, directory, found=found, below=below)
                    if len(found) >= _BATCH:
                        self._put(found)
                        found = []
                    if len(below) >= _BATCH:
                        self._push(below)
                        below = []
                    if self._stopping:
                        return
        except OSError as error:
            found.append(omitted(path, error, doing="list"))
        self._count_excluded(excluded)
        # The entries first: what is below a directory must come after it.
        if found:
            self._put(found)
        self._push(below)

    def _push(self, below: list[bytes]) -> None:
        if below:
            with self._changed:
                self.pending.push(below)
                self._changed.notify_all()

    def _count_excluded(self, count: int) -> None:
        with self._changed:
            self._excluded += count

    def _look(
        self,
        path: bytes,
        name: bytes,
        directory: int,
        *,
        found: list[TreeEntry | Omitted],
        below: list[bytes],
    ) -> None:
        """Add what stands at `path`, and note a directory that is to be listed."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            kind = kind_of(status.st_mode)
            if kind is None:
                found.append(special(path, status.st_mode))
                return
            is_elsewhere = status.st_dev != self._device and self._one_file_system
            if is_elsewhere:
                fact = "is on another file system: what is in it is not saved"
                found.append(Omitted(path, Omission.OTHER_FILE_SYSTEM, fact))
                if kind is not TreeKind.DIRECTORY:
                    return
            link = os.readlink(name, dir_fd=directory) if kind is TreeKind.SYMLINK else b""
            has_no_part = kind is TreeKind.FILE and not self._file_xattrs
            xattrs = () if has_no_part else read_xattrs(path_in(directory, name))
            found.append(
                make_entry(path, kind, status, names=self._names, xattrs=xattrs, link=link)
            )
            if kind is TreeKind.DIRECTORY and not is_elsewhere:
                below.append(path)
        except OSError as error:
            found.append(omitted(path, error, doing="look at"))
