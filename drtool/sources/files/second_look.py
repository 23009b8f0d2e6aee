"""Looks again at directories that changed while a tree was read, until nothing is found that was missed.

A listing that goes on while files are renamed may show one under neither of its names, and one that is
renamed after it was listed cannot be opened any more. Both were there all the time (PITFALLS 107).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.sources.files.beneath import open_tree
from drtool.sources.files.entries import Omission, Omitted, TreeEntry, TreeKind, shown
from drtool.sources.files.exclude import NOTHING_EXCLUDED, ExcludeRules
from drtool.sources.files.walk import EVERY_KIND, list_again
from drtool.system.beneath import split

MOST_LOOKS = 8
# A tree that keeps changing is believed after so many looks in a row that found nothing.
_CLEAN_LOOKS = 2
# Two changes within one tick of the file system's clock leave the same ctime.
_TICK_NS = 20_000_000


class Missed(NamedTuple):
    """An entry that was not met. `is_in_place_of`: something else was met under this path, and is gone."""

    entry: TreeEntry
    is_in_place_of: bool = False


class _Directory(NamedTuple):
    identity: int
    changed_ns: int


class SecondLook:
    """Told of all that a walk gives, and of what could not be read any more; then asked.

    What it finds is files and links that stand under no name under which they were met, and new
    directories. A file that was met keeps the name under which it was met, although it may have another
    one by now. For one thread. Memory: 250 bytes a directory and 16 a file; 250 a file once a directory
    has changed while the tree was walked.
    """

    def __init__(
        self,
        root: Path,
        *,
        began_ns: int,
        exclude: ExcludeRules = NOTHING_EXCLUDED,
        one_file_system: bool = True,
        xattrs_of: frozenset[TreeKind] = EVERY_KIND,
    ) -> None:
        """Made before the walk begins, at `began_ns` since 1970; the others are the walk's arguments."""
        self._root = root
        self._began_ns = began_ns
        self._exclude = exclude
        self._one_file_system = one_file_system
        self._xattrs_of = xattrs_of
        self._device: int | None = None
        self._elsewhere: set[bytes] = set()  # mounts, which are given and not entered
        self._paths: list[bytes] = []
        self._identities = array("q")
        self._linked: set[int] = set()
        self._recent: set[int] = set()  # written since the walk began: nobody is owed these
        self._directories: dict[bytes, _Directory] = {}
        self._told: set[bytes] = set()
        # Gone where it was met: by identity, what to say if it is found nowhere else.
        self._gone: dict[int, Omitted] = {}
        self._unread: dict[bytes, Omitted] = {}
        self._instead: dict[bytes, int] = {}
        # Directories that are to be entered again wherever they stand: something below could not be read.
        self._due: set[int] = set()
        self._index: _Index | None = None
        self._moved: dict[bytes, TreeEntry] = {}
        self._moves = 0
        self._looks = 0
        self._is_replaced = False
        self._missed: list[bytes] = []

    def met(self, entry: TreeEntry) -> None:
        """An entry that the walk gave."""
        if entry.kind is TreeKind.DIRECTORY:
            if self._device is None:
                self._device = entry.device  # the root comes first
            if entry.device != self._device and self._one_file_system:
                self._elsewhere.add(entry.path)
            self._directories[entry.path] = _Directory(_place_of(entry), entry.changed_ns)
            return
        identity = _identity_of(entry)
        self._paths.append(entry.path)
        self._identities.append(identity)
        if entry.links > 1:
            self._linked.add(identity)
        if entry.modified_ns >= self._began_ns:
            self._recent.add(identity)

    def left_out(self, omitted: Omitted) -> bool:
        """Something the walk left out: whether it is to be told. What was gone is told at the end."""
        if omitted.why is not Omission.VANISHED:
            self._told.add(omitted.path)
            return True
        directory = self._directories.get(omitted.path)
        if directory is not None:
            self._gone[directory.identity] = omitted
            self._due.add(directory.identity)
            self._make_due(omitted.path)
        # What was gone before it was looked at had no more than a name.
        return False

    def unread(self, path: bytes, omitted: Omitted) -> None:
        """It was met, and then could not be read because it was gone: wanted, under any name."""
        self._make_due(path)
        if self._index is None:
            self._unread[path] = omitted
        elif (identity := self._index.at(path)) is not None:
            self._gone[identity] = omitted
            self._index.forget(path, identity)

    def read_instead(self, path: bytes, entry: TreeEntry) -> None:
        """What was read under this path is another file than was met there, which is wanted yet."""
        self._make_due(path)
        if self._index is None:
            self._instead[path] = _identity_of(entry)
        elif (identity := self._index.at(path)) is not None:
            self._index.forget(path, identity)
            self._index.add(path, _identity_of(entry))

    def looks(self) -> Iterator[Iterator[Missed | Omitted]]:
        """At most eight looks, none where nothing changed: each to be used up, and read, before the next.

        Two that find nothing are enough, if nothing that existed before is wanted yet.
        """
        self._looks = clean = 0
        with open_tree(self._root) as root:
            if self._is_another(root):
                return
            while self._looks < MOST_LOOKS and (clean < _CLEAN_LOOKS or self._is_wanting()):
                changed = self._changed(root)
                if not changed:
                    return
                self._looks += 1
                self._missed.clear()
                yield self._look(root, changed, self._index or self._begin_index())
                clean = 0 if self._missed else clean + 1

    @property
    def is_settled(self) -> bool:
        """Whether what was not met is not there: nothing was moved, or is missed or wanted yet."""
        return not (self._missed or self._moves or self._is_replaced or self._is_wanting())

    def gone(self) -> Iterator[Omitted]:
        """What could not be read, and was not found under another name."""
        if not (self._gone or self._unread):
            return
        index = self._index or self._begin_index()
        for identity, omitted in self._gone.items():
            if not index.has(identity):
                yield omitted

    def doubled(self) -> Iterator[bytes]:
        """Names to give up: what was met there was met under another name too, and has only one."""
        if self._index is None or not self._index.doubled:
            return
        with open_tree(self._root) as root:
            for identity, names in self._index.doubled.items():
                met = [name for name in names if self._index.at(name) == identity]
                there = [name for name in met if _identity_at(root, name) == identity]
                # Two stand there below a bind mount; none, if it was renamed again.
                kept = there or met[-1:]
                yield from (name for name in met if name not in kept)

    def findings(self) -> Iterator[Finding]:
        """A warning if there was no end to it, a note if directories were moved."""
        if self._is_replaced:
            yield Finding(
                severity=Severity.WARNING,
                subject=str(self._root),
                fact="was replaced by another directory while it was read: what was read is the former one",
                fix="Run it again now.",
            )
        if self._looks == MOST_LOOKS and self._missed:
            directories = sorted({split(path)[0] for path in self._missed})
            more = f" and {len(directories) - 1:,} more" if len(directories) > 1 else ""
            yield Finding(
                severity=Severity.WARNING,
                subject=f"directory {shown(directories[0])}{more}",
                fact=f"changed all the time while it was read: the last of {self._looks} looks still found"
                f" {len(self._missed):,} older files that the ones before had missed; some may be missing",
                fix="Back it up while less is renamed there, or from a snapshot of the file system.",
            )
        if self._moves:
            subject = counted(self._moves, "directory", "directories")
            yield Finding(
                severity=Severity.NOTE,
                subject=subject,
                fact="moved while the tree was read: what is in there stands under the old or the new name",
            )

    def _is_wanting(self) -> bool:
        if not (self._gone or self._unread):
            return False
        index = self._index or self._begin_index()
        return any(not index.has(one) for one in self._gone.keys() - self._recent)

    def _is_another(self, root: int) -> bool:
        """Whether another directory stands where the tree was walked: there is nothing to find in it."""
        status = os.fstat(root)
        known = self._directories.get(b"")
        place = hash((status.st_dev, status.st_ino))
        self._is_replaced = known is not None and known.identity != place
        return self._is_replaced

    def _begin_index(self) -> _Index:
        self._index = index = _Index(self._linked)
        for path, identity in zip(self._paths, self._identities, strict=True):
            if path in self._unread:
                self._gone[identity] = self._unread[path]
            else:
                index.add(path, self._instead.get(path, identity))
        return index

    def _changed(self, root: int) -> list[bytes]:
        """Directories that are not, or may not be, as they were when they were listed."""
        changed = []
        for path, known in self._directories.items():
            try:
                status = os.stat(path or b".", dir_fd=root, follow_symlinks=False)
            except OSError:
                continue  # gone, or with a path that is too long: its parent says where
            if path not in self._elsewhere and (
                status.st_ctime_ns != known.changed_ns
                or status.st_ctime_ns >= self._began_ns - _TICK_NS
                or hash((status.st_dev, status.st_ino)) != known.identity
            ):
                changed.append(path)
        return changed

    def _look(self, root: int, changed: list[bytes], index: _Index) -> Iterator[Missed | Omitted]:
        due, self._due = self._due, set()
        identities = {known.identity for known in self._directories.values()}

        def descends(entry: TreeEntry) -> bool:
            known = self._directories.get(entry.path)
            identity = _place_of(entry)
            return known is None or known.identity != identity or identity in due

        for item in list_again(
            root,
            changed,
            exclude=self._exclude,
            one_file_system=self._one_file_system,
            xattrs_of=self._xattrs_of,
            descends=descends,
        ):
            if isinstance(item, Omitted):
                if item.path not in self._told and self.left_out(item):
                    yield item
            elif item.kind is TreeKind.DIRECTORY:
                yield from self._look_at_directory(item, identities, index)
            else:
                yield from self._look_at(item, index)

    def _look_at_directory(
        self, entry: TreeEntry, identities: set[int], index: _Index
    ) -> Iterator[Missed]:
        identity = _place_of(entry)
        self._gone.pop(identity, None)
        known = self._directories.get(entry.path)
        if known is not None and known.identity == identity:
            return
        self._directories[entry.path] = _Directory(identity, entry.changed_ns)
        if known is None and identity in identities:
            # Met under another name, where its files are: this one is needed for what was missed there.
            self._moved[entry.path] = entry
            self._moves += 1
        elif known is None:
            yield from self._give(entry, index)

    def _look_at(self, entry: TreeEntry, index: _Index) -> Iterator[Missed]:
        identity = _identity_of(entry)
        there = index.at(entry.path)
        is_old = entry.modified_ns < self._began_ns
        if there == identity or (there is not None and not is_old):
            return  # met, or written since it was
        if index.has(identity) and (entry.links <= 1 or there is not None):
            return  # met under another name
        if is_old and not index.has(identity):
            self._missed.append(entry.path)
        if entry.path not in self._directories:
            yield from self._give(entry, index)

    def _give(self, entry: TreeEntry, index: _Index) -> Iterator[Missed]:
        above = split(entry.path)[0]
        while above:
            if above in self._moved:
                yield Missed(self._moved.pop(above))
            above = split(above)[0]
        there = index.at(entry.path)
        if there is not None:
            index.forget(entry.path, there)
        if entry.kind is not TreeKind.DIRECTORY:
            index.add(entry.path, _identity_of(entry))
        yield Missed(entry, is_in_place_of=there is not None)

    def _make_due(self, path: bytes) -> None:
        """The directories above a path: to be entered wherever they are met again."""
        while path:
            path = split(path)[0]
            if path in self._directories:
                self._due.add(self._directories[path].identity)


class _Index:
    """Names and identities of the files that were met and could be read."""

    def __init__(self, linked: set[int]) -> None:
        """`linked` are the identities of files with several names."""
        self._at: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        # Files that were met under more than one name, and are no hard links.
        self.doubled: dict[int, list[bytes]] = {}
        self._linked = linked

    def at(self, path: bytes) -> int | None:
        """The identity of what was met under a path."""
        return self._at.get(path)

    def has(self, identity: int) -> bool:
        return identity in self._names

    def add(self, path: bytes, identity: int) -> None:
        other = self._names.setdefault(identity, path)
        if other != path and identity not in self._linked:
            self.doubled.setdefault(identity, [other]).append(path)
        self._at[path] = identity

    def forget(self, path: bytes, identity: int) -> None:
        """It was not read under this name, or is not there any more."""
        self._at.pop(path, None)
        if self._names.get(identity) == path:
            del self._names[identity]
            for name in self.doubled.get(identity, ()):
                if self._at.get(name) == identity:
                    self._names[identity] = name


def _identity_of(entry: TreeEntry) -> int:
    """The same before and after a rename, and of two files only if one took over the other's inode
    with the same size and time of modification.
    """
    return hash((entry.device, entry.inode, entry.size_bytes, entry.modified_ns))


def _place_of(entry: TreeEntry) -> int:
    """The same for a directory wherever it is moved."""
    return hash((entry.device, entry.inode))


def _identity_at(root: int, path: bytes) -> int | None:
    try:
        status = os.stat(path, dir_fd=root, follow_symlinks=False)
    except OSError:
        return None
    return hash((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
