"""Looks at a restored tree as an application would: what should be there by the table, and what is.

It shares nothing with what chose and wrote the files: the patterns are read by `tree_patterns`, and
every entry is looked for on the disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.model.outcome import Question
from drtool.repository.table import EntryKind, Table
from drtool.repository.trees import entry_of
from drtool.restore.phases import Phases
from drtool.restore.tree_patterns import AskedPaths
from drtool.restore.tree_plan import TreePlan
from drtool.restore.tree_surplus import MOST_NAMED, SnapshotPaths, Surplus
from drtool.sources.files.entries import shown
from drtool.sources.files.placing import Difference, TreeWriter
from drtool.system.beneath import Beneath, open_real

_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSeen:
    """`files`, and `others` (directories and `links`), that belong there; what is `wrong` with them."""

    files: int
    links: int
    others: int
    wrong: tuple[Finding, ...]
    surplus: Surplus

    def answer(self, *, written: int, same: int) -> Question:
        """The judgement. `written` files were placed, `same` of which were right before."""
        files = counted(self.files, "file")
        others = "directory or link" if self.others == 1 else "directories and links"
        told = f"{files}, {self.others:,} {others}"
        if same:
            told += f"; {same:,} of the files were right already"
        if self.wrong:
            told = f"{len(self.wrong)} or more are not"
        elif written != self.files:
            told = f"{counted(written, 'file')} restored, of {self.files:,} asked for"
        return Question(
            "every entry is in its place with the size and time it had",
            told,
            passed=not self.wrong and written == self.files,
        )


def look_at_tree(plan: TreePlan, table: Table, place: Path, *, phases: Phases) -> TreeSeen:
    """Every entry that was asked for: is it where it belongs, with its kind, size, time and link?

    Interrupted if somebody asked to stop.
    """
    asked = AskedPaths(plan.wanted) if plan.wanted else None
    paths = SnapshotPaths()
    counts = {EntryKind.FILE: 0, EntryKind.DIRECTORY: 0, EntryKind.SYMLINK: 0}
    wrong: list[Finding] = []
    writer = TreeWriter(place, is_delta=True)
    try:
        for record in table:
            phases.go_on()
            entry = record.attributes
            if record.begin or not entry.path:
                continue
            is_directory = entry.kind is EntryKind.DIRECTORY
            if asked is not None and not asked.wants(entry.path, is_directory=is_directory):
                continue
            paths.add(entry.path)
            counts[entry.kind] += 1
            difference = writer.compare(entry_of(entry))
            # Attributes that could not be set were told of when it was tried.
            if difference not in (Difference.NONE, Difference.ATTRIBUTES):
                wrong.append(_differs(entry.path, difference))
            if len(wrong) >= MOST_NAMED:
                break
    finally:
        writer.close()
    is_all_known = len(wrong) < MOST_NAMED
    nothing = Surplus(files=0, directories=0, first=())
    return TreeSeen(
        files=counts[EntryKind.FILE],
        links=counts[EntryKind.SYMLINK],
        others=counts[EntryKind.DIRECTORY] + counts[EntryKind.SYMLINK],
        wrong=tuple(wrong),
        surplus=paths.surplus_in(place, asked if plan.is_delta else None, go_on=phases.go_on)
        if is_all_known
        else nothing,
    )


def first_answer(plan: TreePlan, table: Table, place: Path) -> Question:
    """Read the first file that has content, as an application would."""
    question = "the first file can be read"
    asked = AskedPaths(plan.wanted) if plan.wanted else None
    for record in table:
        entry = record.attributes
        if entry.kind is not EntryKind.FILE or not entry.size_bytes or record.begin:
            continue
        if asked is not None and not asked.wants(entry.path, is_directory=False):
            continue
        try:
            found = _read_head(place, entry.path)
        except OSError as error:
            return Question(question, f"{shown(entry.path)}: {error.strerror}", passed=False)
        expected = min(entry.size_bytes, _HEAD_BYTES)
        return Question(question, shown(entry.path), passed=found == expected)
    return Question(question, "no file has content", passed=True)


def surplus_findings(surplus: Surplus, place: Path, *, is_delta: bool) -> list[Finding]:
    """A warning that the tree is more than it was at that moment."""
    if not surplus.count:
        return []
    told = f"{counted(surplus.files, 'file or link', 'files and links')} and"
    told += f" {counted(surplus.directories, 'directory', 'directories')}"
    return [
        Finding(
            severity=Severity.WARNING,
            subject=str(place),
            fact=f"{told} stand there that the snapshot does not have, and stay:"
            f" {', '.join(surplus.names)}",
            fix="Remove what should not be there by hand, or restore --into a new directory."
            if is_delta
            else "See what else writes to that directory.",
        )
    ]


def _differs(path: bytes, difference: Difference) -> Finding:
    return Finding(
        severity=Severity.PROBLEM,
        subject=shown(path),
        fact=f"differs from the snapshot after the restore: {difference}",
        fix="See whether something else writes there, and restore again with --delta.",
    )


def _read_head(place: Path, path: bytes) -> int:
    """How many bytes its head has, of a MiB; by descriptors, since a path may be longer than a call takes."""
    root = open_real(place)
    try:
        with Beneath(root) as beneath:
            descriptor = beneath.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return len(os.pread(descriptor, _HEAD_BYTES, 0))
        finally:
            os.close(descriptor)
    finally:
        os.close(root)
