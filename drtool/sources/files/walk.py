"""Walks a tree, with more threads where it is slow, by directory descriptors, following no link."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drtool.sources.files.attributes import (
    OwnerNames,
    check_paths_in,
    make_entry,
    path_in,
    read_xattrs,
)
from drtool.sources.files.beneath import open_root
from drtool.sources.files.entries import (
    Attribute,
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
from drtool.system.beneath import Beneath
from drtool.system.idleness import Idleness

THREADS = 4
_BATCH = 256
_BATCHES_WAITING = 32
_LOOK_AGAIN_SECONDS = 0.5
# What a file table records of a path; FORMAT.md, section 6.
MOST_PATH_BYTES = 65_535
EVERY_KIND = frozenset(TreeKind)
# A file whose ctime has not changed has the extended attributes that it had; one that is read is asked
# for them then.
ALL_BUT_FILES = EVERY_KIND - {TreeKind.FILE}

Batch = list[TreeEntry | Omitted]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkEnded:
    """The last item of a walk that saw everything: how many entries it gave and left out.

    An excluded directory counts as one, whatever is in it.
    """

    entries: int
    excluded: int


WalkItem = TreeEntry | Omitted | WalkEnded


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads a walk may use, and what tells it that it needs more: by default, waiting."""

    most: int = THREADS
    has_waited: Callable[[], bool] | None = None


def walk_tree(
    root: Path,
    *,
    exclude: ExcludeRules = NOTHING_EXCLUDED,
    one_file_system: bool = True,
    skip_caches: bool = False,
    xattrs_of: frozenset[TreeKind] = EVERY_KIND,
    threads: Threads = Threads(),
) -> Iterator[WalkItem]:
    """Everything below `root`, and `root` itself as path `b""`, ending with a `WalkEnded`.

    Order: any, except that a directory comes before what is in it. What cannot be listed is an
    `Omitted`, never silence; whether a file can be read is seen when it is read. A directory on
    another file system is given, but not entered, unless `one_file_system` is off. `skip_caches`
    gives a directory with a CACHEDIR.TAG, but nothing in it. Entries of a kind that is not in
    `xattrs_of` come without extended attributes, unless they are empty files: for whoever reads a
    file anyway if it changed, and its attributes with it. Raises SourceUnavailable if the root
    cannot be opened or listed.

    The thread that asks does the walking. Where a disk or a network keeps the process waiting, more
    threads join in. Where all is in memory they would only wait for each other: over 20,000 files
    one thread took 0.16 s and four took 0.34 s.

    Memory: 32 batches of 256 entries and 16,384 directories, whatever the size of the tree. A walk
    that is closed before its end lets its threads and descriptors go.
    """
    descriptor = open_root(root)
    walk = _Walk(descriptor, exclude, one_file_system=one_file_system, skip_caches=skip_caches)
    walk.xattrs_of = xattrs_of
    helpers = _FurtherThreads(walk, threads.most - 1, threads.has_waited or Idleness().has_waited)
    try:
        yield walk.begin()
        yield from walk.items(helpers)
    finally:
        walk.stop()
        helpers.join()
        walk.pending.close()
        os.close(descriptor)


def list_again(
    root: int,
    directories: Sequence[bytes],
    *,
    exclude: ExcludeRules,
    one_file_system: bool,
    xattrs_of: frozenset[TreeKind],
    descends: Callable[[TreeEntry], bool],
) -> Iterator[TreeEntry | Omitted]:
    """What is in these directories now, and below those of them for which `descends` says so.

    As `walk_tree`, in the thread that asks. Directories that are gone give an `Omitted`. `root` stays
    the caller's to close.
    """
    walk = _Walk(root, exclude, one_file_system=one_file_system, skip_caches=False)
    walk.xattrs_of = xattrs_of
    walk.descends = descends
    try:
        walk.pending.push(list(directories))
        yield from walk.items_again()
    finally:
        walk.pending.close()


class _Walk:
    """What the threads of one walk share."""

    def __init__(
        self, root: int, exclude: ExcludeRules, *, one_file_system: bool, skip_caches: bool
    ) -> None:
        self._root = root
        self._exclude = exclude
        self._one_file_system = one_file_system
        self._skip_caches = skip_caches
        self.xattrs_of = EVERY_KIND
        self.descends: Callable[[TreeEntry], bool] = lambda _entry: True
        self._device = os.fstat(root).st_dev
        self._names = OwnerNames()
        self._changed = threading.Condition()
        self._busy = 0
        self._stopping = False
        self._ready: deque[Batch] = deque()
        self._failure: BaseException | None = None
        self._excluded = 0
        self.pending = PendingDirectories()

    def begin(self) -> TreeEntry:
        """The root's own entry; its listing is due."""
        self.pending.push([b""])
        check_paths_in(self._root)
        status = os.fstat(self._root)
        xattrs = read_xattrs(self._root)
        return make_entry(b"", TreeKind.DIRECTORY, status, names=self._names, xattrs=xattrs)

    def items(self, helpers: _FurtherThreads) -> Iterator[WalkItem]:
        """What this thread and the helpers find, until nothing is left to list."""
        entries = 0
        with Beneath(self._root) as beneath:
            while (todo := self._next()) is not None:
                for batch in [todo] if isinstance(todo, list) else self._listed(todo, beneath):
                    helpers.join_in_if_slow()
                    entries += sum(isinstance(item, TreeEntry) for item in batch)
                    yield from batch
        if not entries and self._excluded:
            fact = f"all {self._excluded} entries of the tree are excluded by its patterns"
            yield Omitted(b"", Omission.ALL_EXCLUDED, fact)
        yield WalkEnded(entries=entries + 1, excluded=self._excluded)

    def items_again(self) -> Iterator[TreeEntry | Omitted]:
        """What this thread finds by itself, without the count."""
        with Beneath(self._root) as beneath:
            while (path := self._take()) is not None:
                for batch in self._listed(path, beneath):
                    yield from batch

    def stop(self) -> None:
        """Make all helpers end soon."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def help(self) -> None:
        """List directories beside the thread that asks, until there are no more."""
        try:
            with Beneath(self._root) as beneath:
                while (path := self._take()) is not None:
                    for batch in self._listed(path, beneath):
                        self._put(batch)
        except BaseException as error:  # noqa: BLE001 - raised again where the walk is consumed
            with self._changed:
                self._failure = error
            self.stop()

    def _next(self) -> Batch | bytes | None:
        """For the thread that asks: what a helper found, a directory to list, or None at the end."""
        with self._changed:
            while True:
                if self._failure is not None:
                    raise self._failure
                if self._ready:
                    self._changed.notify_all()
                    return self._ready.popleft()
                path = self.pending.pop()
                if path is not None:
                    self._busy += 1
                    return path
                if not self._busy:
                    return None
                self._changed.wait(_LOOK_AGAIN_SECONDS)

    def _take(self) -> bytes | None:
        """For a helper: a directory to list, or None at the end."""
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

    def _put(self, batch: Batch) -> None:
        with self._changed:
            while len(self._ready) >= _BATCHES_WAITING and not self._stopping:
                self._changed.wait(_LOOK_AGAIN_SECONDS)
            self._ready.append(batch)
            self._changed.notify_all()

    def _listed(self, path: bytes, beneath: Beneath) -> Iterator[Batch]:
        """What is in a directory. What lies below it is pending when its entries have been taken."""
        try:
            yield from self._list(path, beneath)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _list(self, path: bytes, beneath: Beneath) -> Iterator[Batch]:
        found: Batch = []
        excluded = 0
        below: list[bytes] = []
        try:
            directory = beneath.directory(path)
            if self._skip_caches and is_cache_directory(directory):
                self._count_excluded(1)
                return
            above = join(path, b"")
            with os.scandir(directory) as listing:
                for item in listing:
                    place = above + os.fsencode(item.name)
                    if self._exclude.lines and self._exclude.excludes(
                        place, is_directory=item.is_dir(follow_symlinks=False)
                    ):
                        excluded += 1
                        continue
                    self._look(place, item, directory, found=found, below=below)
                    if len(found) >= _BATCH:
                        # The entries first: what is below a directory must come after it.
                        yield found
                        self._push(below)
                        found, below = [], []
                    if self._stopping:
                        return
        except OSError as error:
            found.append(omitted(path, error, doing="list"))
        self._count_excluded(excluded)
        if found:
            yield found
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
        item: os.DirEntry[str],
        directory: int,
        *,
        found: list[TreeEntry | Omitted],
        below: list[bytes],
    ) -> None:
        """Add what stands at `path`, and note a directory that is to be listed."""
        if len(path) > MOST_PATH_BYTES:
            fact = f"has a path of {len(path):,} bytes, and {MOST_PATH_BYTES:,} can be recorded"
            found.append(Omitted(path, Omission.TOO_LONG, fact))
            return
        try:
            status = item.stat(follow_symlinks=False)
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
            link = b""
            if kind is TreeKind.SYMLINK:
                link = os.readlink(os.fsencode(item.name), dir_fd=directory)
            xattrs: tuple[Attribute, ...] = ()
            if kind in self.xattrs_of or not status.st_size:
                xattrs = read_xattrs(path_in(directory, os.fsencode(item.name)))
            entry = make_entry(path, kind, status, names=self._names, xattrs=xattrs, link=link)
            found.append(entry)
            if kind is TreeKind.DIRECTORY and not is_elsewhere and self.descends(entry):
                below.append(path)
        except OSError as error:
            found.append(omitted(path, error, doing="look at"))


class _FurtherThreads:
    """The further threads of a walk, which are there once the first one has been kept waiting."""

    def __init__(self, walk: _Walk, most: int, has_waited: Callable[[], bool]) -> None:
        self._walk = walk
        self._most = most
        self._has_waited = has_waited
        self._threads: list[threading.Thread] = []

    def join_in_if_slow(self) -> None:
        """Start one more if the process has waited since this was last asked."""
        if len(self._threads) < self._most and self._has_waited():
            name = f"walk-{len(self._threads)}"
            thread = threading.Thread(target=self._walk.help, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Wait until all have ended, which they do once the walk is stopped."""
        for thread in self._threads:
            thread.join()
