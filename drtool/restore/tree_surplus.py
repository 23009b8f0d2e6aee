"""What stands in a destination and is not in the snapshot: a delta keeps it, and has to say so."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from drtool.restore.tree_patterns import AskedPaths
from drtool.sources.files.entries import TreeEntry, TreeKind, shown
from drtool.sources.files.walk import walk_tree

MOST_NAMED = 20
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Surplus:
    """How many files and links, and how many directories; `first` of them by name."""

    files: int
    directories: int
    first: tuple[bytes, ...]

    @property
    def count(self) -> int:
        return self.files + self.directories

    @property
    def names(self) -> tuple[str, ...]:
        """Those named, and how many more there are."""
        names = tuple(shown(path) for path in self.first)
        more = self.count - len(names)
        return (*names, f"and {more:,} more") if more else names


class SnapshotPaths:
    """The paths of a snapshot, to tell others from them. Memory: 8 bytes a path, 16 while it is asked."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._last = b""

    def add(self, path: bytes) -> None:
        """This path, and the directories above it."""
        self._hashes.append(hash(path))
        above = path.rpartition(b"/")[0]
        if above == self._last:
            return
        self._last = above
        while above:
            self._hashes.append(hash(above))
            above = above.rpartition(b"/")[0]

    def surplus_in(
        self, place: Path, asked: AskedPaths | None, *, go_on: Callable[[], None]
    ) -> Surplus:
        """What a walk of `place` finds besides; with `asked`, only of what the patterns ask for.

        `go_on` raises Interrupted where somebody asked to stop.
        """
        known = np.unique(np.frombuffer(self._hashes, np.int64)) if self._hashes else None
        counts = {TreeKind.FILE: 0, TreeKind.SYMLINK: 0, TreeKind.DIRECTORY: 0}
        first: list[bytes] = []
        for batch in _batches(place):
            go_on()
            hashes = np.fromiter((hash(entry.path) for entry in batch), np.int64, len(batch))
            is_known = np.zeros(len(batch), bool) if known is None else np.isin(hashes, known)
            for index in np.flatnonzero(~is_known).tolist():
                entry = batch[index]
                is_directory = entry.kind is TreeKind.DIRECTORY
                if asked is not None and not asked.wants(entry.path, is_directory=is_directory):
                    continue
                counts[entry.kind] += 1
                if len(first) < MOST_NAMED:
                    first.append(entry.path)
        return Surplus(
            files=counts[TreeKind.FILE] + counts[TreeKind.SYMLINK],
            directories=counts[TreeKind.DIRECTORY],
            first=tuple(sorted(first)),
        )


def _batches(place: Path) -> Iterator[list[TreeEntry]]:
    walk = walk_tree(place, xattrs_of=frozenset())
    entries = (item for item in walk if isinstance(item, TreeEntry) and item.path)
    while batch := list(islice(entries, _AT_ONCE)):
        yield batch
