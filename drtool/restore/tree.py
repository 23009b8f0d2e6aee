"""Bring a tree of files back: fetch, finish, read one file, look at all of them once more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from drtool.errors import DestinationRefused, DrtoolError
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import Question, Reached, RestoreOutcome
from drtool.model.target import describe_target
from drtool.pipeline.pages import HOLE
from drtool.repository.backups import open_table
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.repository.table import EntryKind, Table
from drtool.repository.trees import entry_of
from drtool.restore.phases import Phases
from drtool.restore.tree_choice import chosen_records
from drtool.restore.tree_chunks import Fetcher
from drtool.restore.tree_fetch import TreeFetch, TreeWritten
from drtool.restore.tree_place import make_tree_place
from drtool.restore.tree_plan import TreePlan
from drtool.sources.files.entries import shown
from drtool.sources.files.placing import Difference, TreeWriter

WORKERS = max(2, min(4, os.cpu_count() or 2))
_MOST_NAMED = 20


def occupied_bytes(plan: TreePlan, repository: Repository) -> int:
    """What the files of the snapshot need on a disk: read from its file table."""
    table = _table(plan, ChunkReader(repository.store, repository.ring))
    return sum(
        int(record.extents["length"][record.extents["pack"] != HOLE].sum(dtype=np.int64))
        for record in table
    )


def run_tree_restore(
    plan: TreePlan, place: Path, *, repository: Repository, phases: Phases
) -> RestoreOutcome:
    """Carry the plan out in `place`, which was checked.

    Every chunk is authenticated and held against its id before it is written. Until all is there,
    directories are closed to others (0700). What a failed attempt leaves stays; the error says so.
    """
    reader = ChunkReader(repository.store, repository.ring)
    with _what_is_left(place, plan):
        with phases.phase("provision", "make the place"):
            make_tree_place(plan, place)
        table = _table(plan, reader)
        fetcher = Fetcher(reader=reader, packs=table.packs, ring=repository.ring)
        writer = TreeWriter(place, is_delta=plan.is_delta)
        try:
            total = None if plan.wanted else plan.size_bytes
            with phases.phase("fetch", "fetch files", total=total) as sizes:
                written = _fetch(plan, table, fetcher, writer=writer, place=place, phases=phases)
                sizes.size_bytes = written.size_bytes
            with phases.phase("finish", "set owners, modes and times, and sync"):
                findings = writer.finish()
        finally:
            writer.close()
        with phases.phase("answer", "read the first file"):
            first = _first_answer(plan, table, place)
        with phases.phase("verify", "look at every file", unit="objects"):
            wrong = _look_again(plan, table, place)
    return RestoreOutcome(
        source=plan.source,
        backup_id=plan.manifest.backup_id,
        destination=str(place),
        target=describe_target(plan.target),
        began=phases.began,
        total_seconds=phases.seconds(),
        phases=phases.done(),
        reached=Reached(commit_time=plan.manifest.files.taken_from, lsn=None, timeline=None),
        bytes_restored=written.size_bytes,
        wal_bytes=0,
        questions=(first, _judged(written, wrong)),
        findings=(*plan.findings, *findings, *wrong),
        how_to_start=_how_to_start(plan, place),
        kind="files",
    )


def _table(plan: TreePlan, reader: ChunkReader) -> Table:
    return open_table(plan.manifest, reader)


def _fetch(
    plan: TreePlan,
    table: Table,
    fetcher: Fetcher,
    *,
    writer: TreeWriter,
    place: Path,
    phases: Phases,
) -> TreeWritten:
    root = os.open(place, os.O_RDONLY | os.O_DIRECTORY) if plan.is_delta else None
    try:
        with TreeFetch(
            fetcher, writer, delta_root=root, workers=WORKERS, emit=phases.emit
        ) as fetch:
            return fetch.place(chosen_records(table, plan.wanted))
    finally:
        if root is not None:
            os.close(root)


def _first_answer(plan: TreePlan, table: Table, place: Path) -> Question:
    """Read the first file that has content, as an application would."""
    question = "the first file can be read"
    for record in chosen_records(table, plan.wanted):
        entry = record.attributes
        if entry.kind is EntryKind.FILE and entry.size_bytes:
            path = os.path.join(os.fsencode(place), entry.path)
            try:
                with open(path, "rb") as file:
                    found = len(file.read(1 << 20))
            except OSError as error:
                return Question(question, f"{shown(entry.path)}: {error.strerror}", passed=False)
            expected = min(entry.size_bytes, 1 << 20)
            return Question(question, shown(entry.path), passed=found == expected)
    return Question(question, "no file has content", passed=True)


def _look_again(plan: TreePlan, table: Table, place: Path) -> list[Finding]:
    """Every entry is where it belongs, with its kind, size, time and link."""
    wrong: list[Finding] = []
    writer = TreeWriter(place, is_delta=True)
    try:
        for record in chosen_records(table, plan.wanted):
            if record.begin:
                continue
            difference = writer.compare(entry_of(record.attributes))
            if difference in (Difference.NONE, Difference.ATTRIBUTES):
                # Attributes that could not be set were told of when it was tried.
                continue
            wrong.append(
                Finding(
                    severity=Severity.PROBLEM,
                    subject=shown(record.attributes.path),
                    fact=f"differs from the snapshot after the restore: {difference}",
                    fix="See whether something else writes there, and restore again with --delta.",
                )
            )
            if len(wrong) >= _MOST_NAMED:
                break
    finally:
        writer.close()
    return wrong


def _judged(written: TreeWritten, wrong: list[Finding]) -> Question:
    same = f", {written.same_files:,} of them were right already" if written.same_files else ""
    return Question(
        "every entry is in its place with the size and time it had",
        f"{written.files:,} files{same}" if not wrong else f"{len(wrong)} or more are not",
        passed=not wrong,
    )


def _how_to_start(plan: TreePlan, place: Path) -> tuple[str, ...]:
    root = plan.manifest.files.root
    if plan.is_delta or plan.wanted is not None:
        return (f"ls -la {_quoted(str(place))}",)
    return (
        f"mv {_quoted(str(place))} {_quoted(root)}   # once nothing else is there",
        f"# or point the application at {place}",
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@contextmanager
def _what_is_left(place: Path, plan: TreePlan) -> Iterator[None]:
    """Whatever fails: the error says what lies in the destination."""
    try:
        yield
    except DrtoolError as error:
        state = "is partly changed" if plan.is_delta else "is not whole"
        error.hint = (
            f"{error.hint} What lies in {place} {state}; the same restore with --delta goes on."
        ).strip()
        raise
    except OSError as error:
        raise DestinationRefused(
            f"destination {error.filename or place} cannot be written: {error.strerror}",
            hint="Make room there, then run the same restore again with --delta.",
        ) from error
