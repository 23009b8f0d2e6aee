"""Looks ahead: what a restore of a tree would write, change and leave, read from its file table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drtool.errors import NotRecoverable
from drtool.model.outcome import Fact
from drtool.pipeline.pages import HOLE
from drtool.repository.backups import open_table
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.repository.table import EntryKind, Table
from drtool.repository.trees import entry_of
from drtool.restore.tree_patterns import AskedPaths
from drtool.restore.tree_plan import TreePlan
from drtool.restore.tree_surplus import MOST_NAMED, SnapshotPaths, Surplus
from drtool.sources.files.entries import shown
from drtool.sources.files.placing import Difference, TreeWriter


@dataclass(slots=True)
class _Named:
    """A count, and the first of what was counted."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: bytes) -> None:
        self.count += 1
        if len(self.first) < MOST_NAMED:
            self.first.append(shown(path))

    def fact(self, name: str, label: str) -> Fact:
        more = self.count - len(self.first)
        names = (*self.first, f"and {more:,} more") if more else tuple(self.first)
        shown_names = f"{self.count:,}" + (f": {', '.join(names)}" if names else "")
        return Fact(name=name, value=names, label=label, shown=shown_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeAhead:
    """What a restore would bring: its files, their bytes, and the bytes that they take on a disk."""

    files: int
    links: int
    size_bytes: int
    occupied_bytes: int
    facts: tuple[Fact, ...] = ()


def look_ahead(plan: TreePlan, repository: Repository, *, place: Path | None = None) -> TreeAhead:
    """Read the file table. With `place`, compare what stands there by kind, size, time and attributes.

    NotRecoverable, naming it, for a pattern of the plan that matches nothing in the snapshot.
    """
    table = open_table(plan.manifest, ChunkReader(repository.store, repository.ring))
    asked = AskedPaths(plan.wanted) if plan.wanted else None
    writer = TreeWriter(place, is_delta=True) if place is not None else None
    try:
        scan = _Scan(table, asked, writer)
        scan.run()
    finally:
        if writer is not None:
            writer.close()
    if asked is not None:
        _require_matches(plan, asked, scan.matched)
    facts: tuple[Fact, ...] = ()
    if place is not None:
        facts = scan.changes.facts(scan.paths.surplus_in(place, asked, go_on=lambda: None))
    return TreeAhead(
        files=scan.files,
        links=scan.links,
        size_bytes=scan.size_bytes,
        occupied_bytes=scan.occupied_bytes,
        facts=facts,
    )


class _Scan:
    """One pass over the table."""

    def __init__(self, table: Table, asked: AskedPaths | None, writer: TreeWriter | None) -> None:
        self._table = table
        self._asked = asked
        self._writer = writer
        self.paths = SnapshotPaths()
        self.changes = _Changes()
        self.files = self.links = self.size_bytes = self.occupied_bytes = self.matched = 0

    def run(self) -> None:
        is_wanted = False
        for record in self._table:
            entry = record.attributes
            if not record.begin:
                is_directory = entry.kind is EntryKind.DIRECTORY
                asked = self._asked
                is_wanted = asked is None or asked.wants(entry.path, is_directory=is_directory)
                if is_wanted and entry.path:
                    self.matched += 1
                    self.files += entry.kind is EntryKind.FILE
                    self.links += entry.kind is EntryKind.SYMLINK
                    self.size_bytes += entry.size_bytes
                    self.paths.add(entry.path)
                    if self._writer is not None:
                        self.changes.add(entry.path, self._writer.compare(entry_of(entry)))
            if is_wanted and len(record.extents):
                stored = record.extents["length"][record.extents["pack"] != HOLE]
                self.occupied_bytes += int(stored.sum(dtype=np.int64))


class _Changes:
    """What a delta would do, by what differs."""

    def __init__(self) -> None:
        self._by = {difference: _Named() for difference in Difference}

    def add(self, path: bytes, difference: Difference) -> None:
        self._by[difference].add(path)

    def facts(self, surplus: Surplus) -> tuple[Fact, ...]:
        return (
            self._by[Difference.ABSENT].fact("made", "would be made"),
            self._by[Difference.CONTENT].fact("changed", "would change"),
            self._by[Difference.OTHER_KIND].fact("replaced", "would go, replaced"),
            self._by[Difference.ATTRIBUTES].fact("attributes", "mode, owner or time"),
            Fact(
                name="same",
                value=self._by[Difference.NONE].count,
                label="same size and time",
                shown=f"{self._by[Difference.NONE].count:,}; files are compared by content too",
            ),
            Fact(
                name="stays",
                value=surplus.names,
                label="not in the snapshot, stays",
                shown=f"{surplus.count:,}"
                + (f": {', '.join(surplus.names)}" if surplus.count else ""),
            ),
        )


def _require_matches(plan: TreePlan, asked: AskedPaths, matched: int) -> None:
    unmatched = asked.unmatched
    if matched and not unmatched:
        return
    root = plan.manifest.files.root
    what = f"pattern {unmatched[0]!r} matches nothing" if unmatched else "nothing matches"
    hint = f"Patterns are as in a .gitignore; paths count from the tree's root, {root}."
    first = unmatched[0] if unmatched else ""
    inner = first.removeprefix(root.rstrip("/"))
    if inner != first and inner.startswith("/"):
        hint = f"Paths count from the tree's root: write --path {inner!r}."
    raise NotRecoverable(f"{what} in snapshot {plan.manifest.backup_id}", hint=hint)
