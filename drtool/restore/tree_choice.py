"""Which records of a table a restore wants: all, or what patterns name and the directories above it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drtool.repository.table import EntryKind, TableRecord
from drtool.sources.files.exclude import ExcludeRules


def chosen_records(
    records: Iterable[TableRecord], wanted: ExcludeRules | None
) -> Iterator[TableRecord]:
    """In the order of the table. A directory above something wanted comes before it.

    Patterns are those of a .gitignore, and mean what to restore: whatever they match, and all below.
    """
    if wanted is None:
        yield from records
        return
    above: list[TableRecord] = []
    inside: bytes | None = None
    current: tuple[bytes, bool] = b"", False
    for record in records:
        path = record.attributes.path
        if record.begin:
            # A later stretch of the file that came before.
            if current == (path, True):
                yield record
            continue
        while above and not _is_below(path, above[-1].attributes.path):
            above.pop()
        if inside is not None and not _is_below(path, inside):
            inside = None
        is_directory = record.attributes.kind is EntryKind.DIRECTORY
        is_wanted = inside is not None or (
            bool(path) and wanted.excludes(path, is_directory=is_directory)
        )
        current = path, is_wanted
        if is_wanted:
            yield from above
            above.clear()
            yield record
            if is_directory and inside is None:
                inside = path
        elif is_directory:
            above.append(record)


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")
