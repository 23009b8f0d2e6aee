"""A snapshot of a tree in which files and directories are renamed all the while has every one of them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drtool.model.finding import Severity
from drtool.repository.backups import open_table, read_manifests
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.repository.table import EntryKind
from drtool.sources.files.entries import TreeEntry
from drtool.sources.files.second_look import Missed, SecondLook
from drtool.sources.files.walk import walk_tree
from tests.backup.tree_taking import CLOCK, SOURCE, bring_back, snapshot
from tests.repository.building import new_repository

FILES = 3000
# A mail server at work: a message gets another flag, or goes from `new` to `cur`, under a new name.
STORM = """
import os, random, sys, time
root, pause = sys.argv[1], float(sys.argv[2])
names = [(d, n) for d in ("cur", "new") for n in os.listdir(os.path.join(root, d))]
print("begun", flush=True)
while True:
    i = random.randrange(len(names))
    directory, name = names[i]
    there = random.choice(("cur", "new")), name.split(":")[0] + ":2," + random.choice("ABCDEFGHIJ")
    os.rename(os.path.join(root, directory, name), os.path.join(root, *there))
    names[i] = there
    time.sleep(pause)
"""


def a_maildir(root: Path, *, files: int = FILES) -> Path:
    for name in ("cur", "new", "tmp"):
        (root / name).mkdir(parents=True)
    for number in range(files):
        path = root / random.choice(("cur", "new")) / f"{number:05d}.host:2,"
        path.write_text(f"message {number}")
        os.utime(path, ns=(1, 1_600_000_000_000_000_000 + number))
    return root


@contextmanager
def running(script: str, *arguments: object) -> Iterator[None]:
    """A process of its own that renames, from its first line on."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield
            assert process.poll() is None
        finally:
            process.kill()


def messages_in(repository: Repository, place: Path) -> list[str]:
    bring_back(repository, place)
    return sorted(path.read_text() for path in place.rglob("*") if path.is_file())


@pytest.mark.parametrize("pause", [0.02, 0.0005])
def test_every_message_of_a_maildir_is_there_once(tmp_path: Path, pause: float) -> None:
    """PITFALLS 107: at 50 renames a second and at 2,000."""
    tree = a_maildir(tmp_path / "tree")

    for number in range(2):
        # Each snapshot is the first one, so that all of them are read.
        repository = new_repository()
        with running(STORM, tree, pause):
            outcome = snapshot(repository, tree, clock=CLOCK)

        found = messages_in(repository, tmp_path / str(number))
        assert found == sorted(f"message {number}" for number in range(FILES))
        assert outcome.findings == ()


def test_a_directory_that_is_moved_while_it_is_read_is_there_whole(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("a", "b", "c"):
        (tree / name).mkdir(parents=True)
    (tree / "a/moving/inner").mkdir(parents=True)
    for number in range(300):
        (tree / "a/moving" / str(number)).write_text(f"outer {number}")
        (tree / "a/moving/inner" / str(number)).write_text(f"inner {number}")
    mover = """
import os, random, sys, time
root, at = sys.argv[1], "a"
print("begun", flush=True)
while True:
    to = random.choice("abc")
    if to != at:
        os.rename(f"{root}/{at}/moving", f"{root}/{to}/moving")
        at = to
    time.sleep(0.003)
"""
    with running(mover, tree):
        repository = new_repository()
        snapshot(repository, tree, clock=CLOCK)

    found = messages_in(repository, tmp_path / "back")
    expected = {f"{kind} {number}" for kind in ("outer", "inner") for number in range(300)}
    assert set(found) == expected


def looked(tree: Path, *, ahead_seconds: float = 0) -> SecondLook:
    """After a walk that began so much later than now."""
    again = SecondLook(tree, began_ns=time.time_ns() + int(ahead_seconds * 1e9))
    for item in walk_tree(tree):
        if isinstance(item, TreeEntry):
            again.met(item)
    return again


def test_a_quiet_tree_is_looked_at_once(tmp_path: Path) -> None:
    again = looked(a_maildir(tmp_path / "tree", files=10), ahead_seconds=10)

    assert list(again.looks()) == []
    assert list(again.findings()) == []


def test_a_tree_that_never_comes_to_rest_is_told_with_numbers(tmp_path: Path) -> None:
    tree = a_maildir(tmp_path / "tree", files=10)
    again = looked(tree)

    found = []
    for number, look in enumerate(again.looks()):
        found += [missed.entry.path for missed in look if isinstance(missed, Missed)]
        # Moved in from elsewhere: an old file that no look before has seen.
        path = tmp_path / f"late {number}"
        path.write_text("old")
        os.utime(path, ns=(1, 1_600_000_000_000_000_000))
        path.rename(tree / "cur" / path.name)

    [finding] = again.findings()
    assert found == [b"cur/late %d" % number for number in range(7)]
    assert finding.severity is Severity.WARNING
    assert finding.subject == "directory cur"
    assert "the last of 8 looks still found 1 older" in finding.fact


def test_what_is_written_meanwhile_is_no_unrest(tmp_path: Path) -> None:
    tree = a_maildir(tmp_path / "tree", files=10)
    again = looked(tree)

    looks = 0
    for number, look in enumerate(again.looks()):
        list(look)
        looks += 1
        (tree / "new" / f"delivered {number}").write_text("new")

    assert looks == 2
    assert list(again.findings()) == []


def test_a_renamed_large_file_and_its_other_names_keep_their_content(tmp_path: Path) -> None:
    """The table is told of a rename after the file was read: records, pages and hard links go along."""
    tree = tmp_path / "tree"
    tree.mkdir()
    content = os.urandom(3_000_000)
    (tree / "before").write_bytes(content)
    os.link(tree / "before", tree / "another name")
    os.utime(tree / "before", ns=(1, 1_600_000_000_000_000_000))
    mover = """
import os, sys, time
root = sys.argv[1]
print("begun", flush=True)
number, at = 0, f"{root}/before"
while True:
    number += 1
    os.rename(at, f"{root}/{number}")
    at = f"{root}/{number}"
    time.sleep(0.002)
"""
    with running(mover, tree):
        repository = new_repository()
        snapshot(repository, tree, clock=CLOCK)

    [manifest] = read_manifests(repository, SOURCE)[0]
    table = open_table(manifest, ChunkReader(repository.store, repository.ring))
    files = {r.attributes.path for r in table if r.attributes.kind is EntryKind.FILE}
    bring_back(repository, tmp_path / "back")
    assert len(files) >= 2
    assert all((tmp_path / "back" / os.fsdecode(path)).read_bytes() == content for path in files)


class AfterWalk(threading.Event):
    """Asked before each item that the walk gives: does something when the last one, its end, has come."""

    def __init__(self, items: int, do: Callable[[], object]) -> None:
        super().__init__()
        self._left = items
        self._do = do

    def is_set(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self._do()
        return super().is_set()


def test_a_log_that_is_rotated_before_it_is_read_is_there_beside_the_new_one(
    tmp_path: Path,
) -> None:
    """Under the name that was met stands another file by then: the one that was met is looked for."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "app.log").write_text("old")
    os.utime(tree / "app.log", ns=(1, 1_600_000_000_000_000_000))

    def rotate() -> None:
        (tree / "app.log").rename(tree / "app.log.1")
        (tree / "app.log").write_text("new")

    repository = new_repository()
    snapshot(repository, tree, clock=CLOCK, stop=AfterWalk(3, rotate))

    bring_back(repository, tmp_path / "back")
    found = {path.name: path.read_text() for path in (tmp_path / "back").iterdir()}
    assert found == {"app.log": "new", "app.log.1": "old"}


def test_what_is_mounted_in_a_tree_is_not_looked_into_again(tmp_path: Path) -> None:
    tree = a_maildir(tmp_path / "tree", files=3)
    again = SecondLook(tree, began_ns=time.time_ns())
    for item in walk_tree(tree):
        if isinstance(item, TreeEntry):
            # As if all below the root were mounts.
            again.met(item if item.path else item._replace(device=item.device + 1))
    late = tree / "cur/late"
    late.write_text("late")
    os.utime(late, ns=(1, 1_600_000_000_000_000_000))

    assert [missed for look in again.looks() for missed in look] == []


@pytest.mark.parametrize("day", ["daily.0", "daily.1"])
def test_a_name_of_a_hard_linked_file_that_is_replaced_is_no_name_of_it(
    tmp_path: Path, day: str
) -> None:
    """As rsnapshot does: the new file comes by a rename, with a time of modification of its own."""
    tree = tmp_path / "tree"
    for name in ("daily.0", "daily.1"):
        (tree / name).mkdir(parents=True)
    (tree / "daily.0/f").write_text("old")
    os.link(tree / "daily.0/f", tree / "daily.1/f")

    def replace() -> None:
        new = tmp_path / "new"
        new.write_text("new")
        os.utime(new, ns=(1, 1_600_000_000_000_000_000))
        new.rename(tree / day / "f")

    for number, items in enumerate((6, 8)):
        # After the walk, before anything is read; and while the look after it goes on.
        repository = new_repository()
        snapshot(repository, tree, clock=CLOCK, stop=AfterWalk(items, replace))

        bring_back(repository, tmp_path / str(number))
        other = "daily.1" if day == "daily.0" else "daily.0"
        assert (tmp_path / str(number) / other / "f").read_text() == "old"
        assert (tmp_path / str(number) / day / "f").read_text() == "new"


def test_a_root_that_is_replaced_meanwhile_is_told_and_never_mixed(tmp_path: Path) -> None:
    tree = tmp_path / "site"
    tree.mkdir()
    (tree / "page").write_text("former")
    (tmp_path / "site.new").mkdir()
    (tmp_path / "site.new/page").write_text("later one")
    (tmp_path / "site.new/only here").write_text("later")

    def replace() -> None:
        tree.rename(tmp_path / "site.was")
        (tmp_path / "site.new").rename(tree)

    repository = new_repository()
    outcome = snapshot(repository, tree, clock=CLOCK, stop=AfterWalk(3, replace))

    bring_back(repository, tmp_path / "back")
    found = {path.name: path.read_text() for path in (tmp_path / "back").iterdir()}
    [finding] = outcome.findings
    assert found == {"page": "former"}
    assert "was replaced by another directory" in finding.fact
