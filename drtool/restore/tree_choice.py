"""Which records of a table a restore wants: all, or what patterns name and the directories above it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drtool.repository.table import EntryKind, TableRecord
from drtool.sources.files.exclude import ExcludeRules


@dataclass(slots=True)
class _Directory:
    """A directory whose entries may still come."""

    record: TableRecord
    is_wanted: bool
    is_given: bool

    @property
    def path(self) -> bytes:
        return self.record.attributes.path


def chosen_records(
    records: Iterable[TableRecord], wanted: ExcludeRules | None
) -> Iterator[TableRecord]:
    """In the order of the table, except that a directory above something wanted comes just before it.

    Patterns are those of a .gitignore, and mean what to restore: whatever they match, and all below.

    The table is in order of the paths' bytes, which is not the order of a tree: `DIR!`, `DIR-old`
    and `DIR.txt` stand between `DIR` and `DIR/x`. A directory is kept until no path below it can
    come any more; those kept all begin the current path, so they are few.
    """
    if wanted is None:
        yield from records
        return
    kept: list[_Directory] = []
    current: tuple[bytes, bool] = b"", False
    for record in records:
        path = record.attributes.path
        if record.begin:
            # A later stretch of the file that came before.
            if current == (path, True):
                yield record
            continue
        while kept and not _may_hold(kept[-1].path, path):
            kept.pop()
        above = [directory for directory in kept if _is_below(path, directory.path)]
        is_directory = record.attributes.kind is EntryKind.DIRECTORY
        is_wanted = any(directory.is_wanted for directory in above) or (
            bool(path) and wanted.excludes(path, is_directory=is_directory)
        )
        current = path, is_wanted
        if is_directory:
            kept.append(_Directory(record, is_wanted, is_given=is_wanted))
        if is_wanted:
            for directory in above:
                if not directory.is_given:
                    directory.is_given = True
                    yield directory.record
            yield record


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


def _may_hold(directory: bytes, path: bytes) -> bool:
    """Whether something below `directory` can stand at `path` or behind it, in order of bytes."""
    if not directory:
        return True
    return path.startswith(directory) and path[len(directory) : len(directory) + 1] <= b"/"
