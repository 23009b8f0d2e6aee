"""Trees on disk for tests: made, walked, read, and written again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drtool.model.finding import Finding
from drtool.sources.files.entries import Omitted, TreeEntry, TreeKind
from drtool.sources.files.placing import TreeWriter
from drtool.sources.files.reading import (
    FileBegan,
    FileBytes,
    FileEnded,
    FileHole,
    ReadItem,
    TreeFiles,
)
from drtool.sources.files.walk import WalkEnded, walk_tree


def entries_of(root: Path) -> dict[bytes, TreeEntry]:
    """All entries of a tree in which nothing is left out."""
    items = list(walk_tree(root))
    assert isinstance(items[-1], WalkEnded)
    omissions = [item for item in items if isinstance(item, Omitted)]
    assert omissions == []
    return {item.path: item for item in items if isinstance(item, TreeEntry)}


@contextmanager
def opened(root: Path) -> Iterator[TreeFiles]:
    """A reader of the tree's files."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    files = TreeFiles(descriptor)
    try:
        yield files
    finally:
        files.close()
        os.close(descriptor)


def content_of(items: list[ReadItem]) -> bytes:
    """The content that a reader gave; for items kept, not streamed, bytes must be copied before."""
    content = bytearray()
    for item in items:
        if isinstance(item, FileBegan):
            content.clear()
        elif isinstance(item, FileBytes):
            assert item.offset == len(content)
            content += item.data
        elif isinstance(item, FileHole):
            assert item.offset == len(content)
            content += bytes(item.length)
    return bytes(content)


def read_all(files: TreeFiles, path: bytes) -> tuple[bytes, ReadItem]:
    """A file's content, and the last item."""
    items: list[ReadItem] = []
    for item in files.read(path):
        if isinstance(item, FileBytes):
            item = FileBytes(item.offset, memoryview(bytes(item.data)))
        items.append(item)
    return content_of(items), items[-1]


def place(
    entries: dict[bytes, TreeEntry], source: Path, destination: Path, *, is_delta: bool = False
) -> list[Finding]:
    """Write all entries into `destination`, reading the files from `source`; return the findings."""
    writer = TreeWriter(destination, is_delta=is_delta)
    firsts: dict[tuple[int, int], bytes] = {}
    with opened(source) as files:
        for entry in entries.values():
            if entry.kind is TreeKind.DIRECTORY:
                writer.directory(entry)
            elif entry.kind is TreeKind.SYMLINK:
                writer.symlink(entry)
            elif entry.link_group in firsts:
                writer.hard_link(entry, firsts[entry.link_group])
            else:
                place_file(writer, files, entry)
                if entry.link_group is not None:
                    firsts[entry.link_group] = entry.path
    return writer.finish()


def place_file(writer: TreeWriter, files: TreeFiles, entry: TreeEntry) -> None:
    """Copy one file through reader and writer."""
    with writer.file(entry) as file:
        for item in files.read(entry.path):
            if isinstance(item, FileBytes):
                file.write(item.offset, item.data)
            elif isinstance(item, FileHole):
                file.hole(item.offset, item.length)
            else:
                assert isinstance(item, FileBegan | FileEnded)


def likeness(entries: dict[bytes, TreeEntry]) -> dict[bytes, tuple[object, ...]]:
    """What must be the same of two trees: all but inodes, devices and times of change."""
    groups: dict[tuple[int, int], list[bytes]] = {}
    for entry in entries.values():
        if entry.link_group is not None:
            groups.setdefault(entry.link_group, []).append(entry.path)
    return {
        path: (
            entry.kind, entry.mode, entry.uid, entry.gid, entry.modified_ns, entry.size_bytes,
            entry.link, entry.xattrs,
            sorted(groups[entry.link_group]) if entry.link_group is not None else [],
        )
        for path, entry in entries.items()
    }  # fmt: skip


def contents(root: Path, entries: dict[bytes, TreeEntry]) -> dict[bytes, bytes]:
    """The content of each file."""
    with opened(root) as files:
        return {
            path: read_all(files, path)[0]
            for path, entry in entries.items()
            if entry.kind is TreeKind.FILE
        }
