"""Bring a tree of files back: fetch, finish, read one file, look at all of them once more."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drtool.errors import DestinationRefused, DrtoolError
from drtool.model.outcome import Reached, RestoreOutcome
from drtool.model.target import describe_target
from drtool.repository.backups import open_table
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.repository.table import Table
from drtool.restore.phases import Phases
from drtool.restore.tree_choice import chosen_records
from drtool.restore.tree_chunks import Fetcher
from drtool.restore.tree_fetch import TreeFetch, TreeWritten
from drtool.restore.tree_look import first_answer, look_at_tree, surplus_findings
from drtool.restore.tree_place import make_tree_place
from drtool.restore.tree_plan import TreePlan, no_files
from drtool.sources.files.placing import TreeWriter
from drtool.system.beneath import open_real

WORKERS = max(2, min(4, os.cpu_count() or 2))


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
            first = first_answer(plan, table, place)
        with phases.phase("verify", "look at every file", unit="objects"):
            seen = look_at_tree(plan, table, place, phases=phases)
            stays = surplus_findings(seen.surplus, place, is_delta=plan.is_delta)
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
        questions=(first, seen.answer(written=written.files, same=written.same_files)),
        findings=(
            *plan.findings,
            *findings,
            *seen.wrong,
            *stays,
            *no_files(plan, seen.files + seen.links),
        ),
        how_to_start=_how_to_use(plan, place),
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
    root = open_real(place) if plan.is_delta else None
    try:
        with TreeFetch(fetcher, writer, delta_root=root, workers=WORKERS, phases=phases) as fetch:
            return fetch.place(chosen_records(table, plan.wanted))
    finally:
        if root is not None:
            os.close(root)


def _how_to_use(plan: TreePlan, place: Path) -> tuple[str, ...]:
    """Command lines that bring what was restored to where the source had it; none if it is there."""
    root = plan.manifest.files.root
    if os.path.realpath(place) == os.path.realpath(root):
        return ()
    ours, theirs = shlex.quote(str(place)), shlex.quote(root)
    lines = ["# use it where it is, or bring it to where the source had it:"]
    if plan.wanted is not None:
        # Some of the files: what stands beside them there must stay.
        return (*lines, f"mkdir -p {theirs}", f"cp -a {ours}/. {theirs}/")
    if os.path.lexists(root):
        # Never into what is there, and never over an earlier one that was kept.
        lines.append(f"mv -T {theirs} {shlex.quote(root.rstrip('/') + '.before')}")
    else:
        lines.append(f"mkdir -p {shlex.quote(os.path.dirname(root.rstrip('/')) or '/')}")
    return (*lines, f"mv -T {ours} {theirs}")


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
