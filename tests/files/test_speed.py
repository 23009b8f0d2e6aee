"""How fast 20,000 small files are walked, read, judged and placed. Printed, not asserted."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drtool.sources.files.entries import TreeEntry, TreeKind
from drtool.sources.files.guard import entropy_bits
from drtool.sources.files.walk import Threads, WalkItem, walk_tree
from tests.files.trees import opened, place, read_all

FILES = 20_000


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:40s} {wall:7.2f} s wall {cpu:7.2f} s CPU {FILES / wall:9.0f} files/s")


@pytest.mark.bench
def test_twenty_thousand_small_files(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    copy.mkdir()
    for directory in range(200):
        (source / f"{directory:03}").mkdir(parents=True)
        for name in range(FILES // 200):
            (source / f"{directory:03}/{name}").write_bytes(os.urandom(4096 + 600 * name))

    items: list[WalkItem] = []
    for threads in (1, 2, 4):
        with timed(f"walk, {threads} threads"):
            items = list(walk_tree(source, threads=Threads(threads, lambda: True)))
    entries = {item.path: item for item in items if isinstance(item, TreeEntry)}
    files = [entry for entry in entries.values() if entry.kind is TreeKind.FILE]
    assert len(files) == FILES
    with timed("read"), opened(source) as reader:
        size = sum(len(read_all(reader, entry.path)[0]) for entry in files)
    print(f"{size / 1e6:.0f} MB")
    with timed("entropy of heads"), opened(source) as reader:
        for entry in files:
            entropy_bits(reader.head(entry.path, 65536) or b"")

    with timed("read and place, one thread"):
        place(entries, source, copy)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
