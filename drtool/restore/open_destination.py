"""The places of one restore, each opened once, so that what is written follows nobody's links."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from drtool.restore.destination import Destination
from drtool.system.durable import sync_file_systems
from drtool.system.owned_directory import OwnedDirectory


@dataclass(frozen=True, slots=True)
class PlacedPath:
    """A path below one of the open places; `b""` is the place itself."""

    root: OwnedDirectory
    path: bytes

    @property
    def above(self) -> PlacedPath:
        """The directory that it lies in."""
        return PlacedPath(self.root, self.path.rpartition(b"/")[0])

    def open(self, flags: int) -> int:
        """A descriptor of the file there, the caller's to close."""
        return self.root.open(self.path, flags)


class OpenDestination:
    """The data directory and the directories of tablespaces. Use as a context manager; any thread."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._stack = ExitStack()
        self._roots: dict[Path, OwnedDirectory] = {}
        self.links = {b"pg_tblspc/%d" % place.oid for place in destination.tablespaces}

    def __enter__(self) -> OpenDestination:
        """DestinationRefused if one of them is not its owner's any more, OSError if a link leads there."""
        places = [self._destination.data, *(one.path for one in self._destination.tablespaces)]
        with ExitStack() as opened:
            for place in places:
                directory = OwnedDirectory(place, self._destination.owner)
                self._roots[place] = opened.enter_context(directory)
            self._stack = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def place_of(self, path: bytes) -> PlacedPath:
        """Where the entry `path` of a file table goes; IntegrityError for one that leads outside."""
        root, below = self._destination.place_of(path)
        return PlacedPath(self._roots[root], below)

    def sync(self) -> None:
        """Make everything durable that was written on their file systems; OSError if it is not."""
        sync_file_systems(root.descriptor for root in self._roots.values())
