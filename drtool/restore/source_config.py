"""The source's own configuration files inside a copy: read with what they include, edited, written.

Order of effect: postgresql.conf with its includes in place, then postgresql.auto.conf. Includes that
lead out of the copy are not read: whatever lies there is this machine's, or the source's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drtool.sources.postgres.config_file import INCLUDES, ConfigEntry, entries_of, out_of_force
from drtool.system.acting import acting_as
from drtool.system.owned_directory import OwnedDirectory
from drtool.system.users import RunAs

CONF = "postgresql.conf"
AUTO_CONF = "postgresql.auto.conf"
# Beside the originals while drtool's own are in force, from before the recovery until the hand-over.
SOURCE_ENDING = ".source"
# As PostgreSQL has it (CONF_FILE_MAX_DEPTH).
_DEEPEST = 10
_LARGEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """An entry and the file that holds it."""

    path: Path
    entry: ConfigEntry


class SourceConfig:
    """The texts of one copy. Nothing is written before `write`; not for two threads."""

    def __init__(self, data: Path, *, owner: RunAs, conf: str, auto: str) -> None:
        self._owner = owner
        self._data = Path(os.path.realpath(data))
        self._conf = self._data / CONF
        self._auto = self._data / AUTO_CONF
        self._texts = {self._conf: conf, self._auto: auto}
        self._edited = {self._conf, self._auto}

    def entries(self) -> list[PlacedEntry]:
        """All entries in force, in their order of effect; includes stand before what they bring in."""
        # As the owner, whom a link among the includes leads to nothing that he may not read.
        with acting_as(self._owner):
            return [*self._walk(self._conf, 0), *self._walk(self._auto, 0)]

    def values(self) -> dict[str, str]:
        """What is in force, by the setting's name in lower case."""
        return {
            placed.entry.name: placed.entry.value
            for placed in self.entries()
            if placed.entry.name not in INCLUDES
        }

    def leads_outside(self, placed: PlacedEntry) -> bool:
        """Whether the value, a path as seen from its file, is outside the copy."""
        return not self._target(placed).is_relative_to(self._data)

    def put_out_of_force(self, placed: Iterable[PlacedEntry]) -> None:
        """Make comments of these entries' lines."""
        lines: dict[Path, set[int]] = {}
        for one in placed:
            lines.setdefault(one.path, set()).add(one.entry.line)
        for path, numbers in lines.items():
            self._texts[path] = out_of_force(self._texts[path], numbers)
            self._edited.add(path)

    def at(self, places: Iterable[tuple[str, int]]) -> list[PlacedEntry]:
        """The entries at these lines, counted from 1, of files named as PostgreSQL names them."""
        wanted = {(Path(os.path.realpath(self._data / name)), line - 1) for name, line in places}
        return [placed for placed in self.entries() if (placed.path, placed.entry.line) in wanted]

    def replace(self, *, conf: str | None = None, auto: str | None = None) -> None:
        """Other texts for postgresql.conf or postgresql.auto.conf."""
        for path, text in ((self._conf, conf), (self._auto, auto)):
            if text is not None:
                self._texts[path] = text
                self._edited.add(path)

    @property
    def auto(self) -> str:
        """The text of postgresql.auto.conf."""
        return self._texts[self._auto]

    def write(self, *, auto: str) -> None:
        """Put every edited file in place, durably; `auto` is what postgresql.auto.conf gets, last."""
        with OwnedDirectory(self._data, self._owner) as data:
            for path in sorted(self._edited - {self._auto}):
                data.replace(
                    os.fsencode(path.relative_to(self._data)), os.fsencode(self._texts[path])
                )
            self._edited.clear()
            data.replace(AUTO_CONF, os.fsencode(auto))

    def _walk(self, path: Path, depth: int) -> Iterator[PlacedEntry]:
        text = self._read(path)
        if text is None or depth > _DEEPEST:
            return
        for entry in entries_of(text):
            placed = PlacedEntry(path, entry)
            yield placed
            if entry.name in INCLUDES and not self.leads_outside(placed):
                for included in self._included(placed):
                    yield from self._walk(included, depth + 1)

    def _included(self, placed: PlacedEntry) -> list[Path]:
        target = self._target(placed)
        if placed.entry.name != "include_dir":
            return [target]
        if not target.is_dir():
            return []
        names = sorted(n for n in os.listdir(target) if n.endswith(".conf") and n[0] != ".")
        return [Path(os.path.realpath(target / name)) for name in names]

    def _target(self, placed: PlacedEntry) -> Path:
        return Path(os.path.realpath(placed.path.parent / placed.entry.value))

    def _read(self, path: Path) -> str | None:
        if path not in self._texts:
            if not path.is_relative_to(self._data) or not path.is_file():
                return None
            with path.open("rb") as file:
                self._texts[path] = os.fsdecode(file.read(_LARGEST_BYTES))
        return self._texts[path]
