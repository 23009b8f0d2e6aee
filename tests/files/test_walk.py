"""A walk sees everything once, names what it leaves out, and ends with a count."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any  # one fake

import pytest

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.finding import Severity
from drtool.sources.files.entries import Omission, Omitted, TreeEntry, TreeKind
from drtool.sources.files.exclude import compile_rules
from drtool.sources.files.pending import PendingDirectories
from drtool.sources.files.walk import Threads, WalkEnded, WalkItem, walk_tree

ONE = Threads(1)


def eager(threads: int) -> Threads:
    """So many, each started as soon as it may be, as on a slow disk."""
    return Threads(threads, has_waited=lambda: True)


def _paths(items: list[WalkItem]) -> set[bytes]:
    return {item.path for item in items if isinstance(item, TreeEntry)}


def _omitted(items: list[WalkItem]) -> dict[bytes, Omission]:
    return {item.path: item.why for item in items if isinstance(item, Omitted)}


@pytest.mark.parametrize("threads", [ONE, eager(4), Threads()])
def test_each_entry_is_given_once_and_after_its_directory(tmp_path: Path, threads: Threads) -> None:
    for directory in range(30):
        (tmp_path / f"d{directory}/sub").mkdir(parents=True)
        for file in range(20):
            (tmp_path / f"d{directory}/sub/{file}").write_text("x")

    items = list(walk_tree(tmp_path, threads=threads))

    paths = [item.path for item in items if isinstance(item, TreeEntry)]
    seen: set[bytes] = set()
    for path in paths:
        assert path == b"" or path.rpartition(b"/")[0] in seen
        seen.add(path)
    assert len(paths) == len(seen) == 1 + 30 * 22
    assert items[-1] == WalkEnded(entries=len(paths), excluded=0)


def test_a_large_directory_of_directories_is_given_before_what_is_in_them(tmp_path: Path) -> None:
    """Entries are handed on by the hundred, and directories to list too: in step."""
    for number in range(700):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/in").touch()
        (tmp_path / f"{number}.a").touch()

    for threads in (ONE, eager(4)):
        seen: set[bytes] = set()
        for item in walk_tree(tmp_path, threads=threads):
            if isinstance(item, TreeEntry):
                assert not item.path or item.path.rpartition(b"/")[0] in seen
                seen.add(item.path)
        assert len(seen) == 1 + 3 * 700


def test_a_walk_takes_more_threads_only_where_it_is_kept_waiting(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}").mkdir()
    started = threading.active_count()

    def most_threads(threads: Threads) -> int:
        walk = walk_tree(tmp_path, threads=threads)
        most = max(threading.active_count() for _ in walk)
        return most - started

    assert most_threads(Threads(4, has_waited=lambda: False)) == 0
    assert most_threads(eager(4)) >= 1


def test_extended_attributes_are_left_to_whoever_reads_the_file_if_that_is_wanted(
    tmp_path: Path,
) -> None:
    for name in ("full", "empty"):
        (tmp_path / name).write_text("x" if name == "full" else "")
        os.setxattr(tmp_path / name, "user.colour", b"red")
    (tmp_path / "inner").mkdir()
    os.setxattr(tmp_path / "inner", "user.colour", b"blue")

    walk = list(walk_tree(tmp_path, xattrs_of=frozenset({TreeKind.DIRECTORY})))

    entries = {item.path: item.xattrs for item in walk if isinstance(item, TreeEntry)}
    assert entries[b"full"] == ()
    assert entries[b"empty"] == ((b"user.colour", b"red"),)
    assert entries[b"inner"] == ((b"user.colour", b"blue"),)


def test_an_error_in_a_further_thread_is_raised_where_the_walk_is_consumed(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/x").touch()
    here = threading.current_thread()

    class Faulty:
        lines = ("x",)

        def excludes(self, _path: bytes, *, is_directory: bool) -> bool:
            if threading.current_thread() is not here:
                raise ZeroDivisionError
            return False

    def consume() -> None:
        rules: Any = Faulty()
        for _ in walk_tree(tmp_path, exclude=rules, threads=eager(2)):
            threading.Event().wait(0.001)

    with pytest.raises(ZeroDivisionError):
        consume()


def test_fifos_sockets_and_devices_are_left_out_with_a_finding(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.close()
    os.mknod(tmp_path / "device", 0o020600, os.makedev(1, 3))
    (tmp_path / "file").write_text("x")

    items = list(walk_tree(tmp_path))

    omissions = [item for item in items if isinstance(item, Omitted)]
    assert _paths(items) == {b"", b"file"}
    assert {(item.path, item.finding.fact.split(",")[0]) for item in omissions} == {
        (b"fifo", "is a FIFO"),
        (b"socket", "is a socket"),
        (b"device", "is a device"),
    }
    assert not any(item.is_incomplete for item in omissions)


def test_another_file_system_is_not_entered_unless_it_is_asked_for() -> None:
    walk = walk_tree(Path("/dev"), one_file_system=True)
    items = list(walk)
    everything = list(walk_tree(Path("/dev"), one_file_system=False))

    assert _omitted(items)[b"shm"] is Omission.OTHER_FILE_SYSTEM
    assert b"shm" in _paths(items)
    assert Omission.OTHER_FILE_SYSTEM not in _omitted(everything).values()


UNREADABLE = """
import os, sys
from pathlib import Path
from drtool.sources.files.walk import walk_tree
from drtool.sources.files.reading import TreeFiles
# Given up here and not before: the interpreter itself may lie where only root can read it.
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
root = Path(sys.argv[1])
for item in walk_tree(root):
    if hasattr(item, "finding"):
        print("walk", item.path.decode(), item.is_incomplete, item.finding.fact)
files = TreeFiles(os.open(root, os.O_RDONLY))
for item in files.read(b"secret"):
    print("read", item.path.decode(), item.is_incomplete, item.finding.fact)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_what_a_user_may_not_read_makes_the_snapshot_incomplete(public: Path) -> None:
    (public / "locked").mkdir(mode=0o700)
    (public / "locked/inside").write_text("x")
    (public / "secret").write_text("x")
    (public / "secret").chmod(0o600)

    result = subprocess.run(
        [sys.executable, "-c", UNREADABLE, str(public)],
        cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert result.stdout.splitlines() == [
        "walk locked True could not list it: Permission denied",
        "read secret True could not open it: Permission denied",
    ]


def test_what_vanishes_while_the_tree_is_walked_is_a_note_and_no_gap(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}").mkdir()
        (tmp_path / f"{number:03}/x").write_text("x")
    gone = threading.Event()

    def remove() -> None:
        for number in range(300):
            (tmp_path / f"{number:03}/x").unlink()
            (tmp_path / f"{number:03}").rmdir()
        gone.set()

    walk = walk_tree(tmp_path, threads=eager(3))
    next(walk)
    thread = threading.Thread(target=remove)
    thread.start()
    items = list(walk)
    thread.join()

    assert gone.is_set()
    assert set(_omitted(items).values()) <= {Omission.VANISHED}
    assert isinstance(items[-1], WalkEnded)
    notes = [item.finding.severity for item in items if isinstance(item, Omitted)]
    assert set(notes) <= {Severity.NOTE}


def test_a_walk_that_is_given_up_lets_threads_and_descriptors_go(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).mkdir()
        for name in range(60):
            (tmp_path / str(number) / str(name)).touch()
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()

    walk = walk_tree(tmp_path, threads=eager(4))
    for _ in range(10):
        next(walk)
    walk.close()  # type: ignore[attr-defined] # a generator, and closing it is what is tested

    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_root_that_is_not_there_or_no_directory_is_an_error_and_never_an_empty_tree(
    tmp_path: Path,
) -> None:
    """PITFALLS 86: what cannot be looked at is not empty."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(SourceUnavailable, match="cannot be opened"):
        next(walk_tree(tmp_path / "missing"))
    with pytest.raises(SourceUnsuitable, match="is not a directory"):
        next(walk_tree(tmp_path / "file"))


def test_directories_beyond_the_limit_wait_in_a_file_and_all_come_back() -> None:
    pending = PendingDirectories(most=8)
    paths = [b"%d" % number for number in range(1000)]

    for begin in range(0, 1000, 50):
        pending.push(paths[begin : begin + 50])
    back = []
    while (path := pending.pop()) is not None:
        back.append(path)
        if path == b"500":
            pending.push([b"late", b"later"])
    pending.close()

    assert sorted(back) == sorted([*paths, b"late", b"later"])
    assert back[0] == b"999"


def test_excluded_entries_are_counted_and_a_tree_excluded_whole_is_a_problem(
    tmp_path: Path,
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.log").write_text("x")
    (tmp_path / "b.log").write_text("x")
    (tmp_path / "c.txt").write_text("x")

    some = list(walk_tree(tmp_path, exclude=compile_rules(["*.log"])))
    none = list(walk_tree(tmp_path, exclude=compile_rules(["logs", "*.log", "c*"])))

    assert _paths(some) == {b"", b"logs", b"c.txt"}
    assert some[-1] == WalkEnded(entries=3, excluded=2)
    assert _omitted(none) == {b"": Omission.ALL_EXCLUDED}


def test_a_directory_marked_as_a_cache_is_kept_empty_if_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (tmp_path / "cache/huge").write_text("x")
    (tmp_path / "notcache").mkdir()
    (tmp_path / "notcache/CACHEDIR.TAG").write_text("no signature")

    skipped = list(walk_tree(tmp_path, skip_caches=True))
    kept = list(walk_tree(tmp_path))

    assert _paths(skipped) == {b"", b"cache", b"notcache", b"notcache/CACHEDIR.TAG"}
    assert b"cache/huge" in _paths(kept)


def test_a_directory_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tree/inner").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("x")

    walk = walk_tree(tmp_path / "tree", threads=ONE)
    next(walk)
    (tmp_path / "tree/inner").rmdir()
    (tmp_path / "tree/inner").symlink_to(tmp_path / "outside")
    items = list(walk)

    assert b"inner/secret" not in _paths(items)
    assert [item.kind for item in items if isinstance(item, TreeEntry)] == [TreeKind.SYMLINK]
