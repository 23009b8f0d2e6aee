"""A snapshot holds the tree as it was, reads only what changed, and stops when the tree is another."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.errors import Interrupted, SourceUnsuitable
from drtool.model.finding import Severity
from drtool.model.progress import Event, PhaseBegan
from drtool.repository.backups import backup_ids, open_table, read_manifests
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.restore.phases import Phases
from drtool.sources.files import reading
from drtool.sources.files.reading import FileBytes, ReadItem, TreeFiles
from tests.backup.stores import Died, FailsAt
from tests.backup.taking import through
from tests.backup.tree_taking import CLOCK, SOURCE, a_rich_tree, bring_back, repository_in, snapshot
from tests.files.trees import contents, entries_of, likeness
from tests.repository.building import new_repository


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return a_rich_tree(tmp_path / "tree")


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts what is read of files, file by file."""
    counts: list[int] = []
    read = TreeFiles.read

    def counted(self: TreeFiles, path: bytes, *, tries: int = reading.TRIES) -> Iterator[ReadItem]:
        count = 0
        for item in read(self, path, tries=tries):
            if isinstance(item, FileBytes):
                count += len(item.data)
            yield item
        counts.append(count)

    monkeypatch.setattr(TreeFiles, "read", counted)
    return counts


def same(one: Path, other: Path) -> None:
    """Both trees are the same in all that a restore brings back."""
    first, second = entries_of(one), entries_of(other)
    assert likeness(second) == likeness(first)
    assert contents(other, second) == contents(one, first)


def paths_of(repository: Repository) -> set[bytes]:
    manifest = read_manifests(repository, SOURCE)[0][-1]
    reader = ChunkReader(repository.store, repository.ring)
    return {record.attributes.path for record in open_table(manifest, reader)}


def test_what_is_restored_is_the_tree_that_was_saved(tree: Path, tmp_path: Path) -> None:
    """PITFALLS 61, 88: odd names, empty directories, modes, links, holes, attributes."""
    repository = new_repository()

    outcome = snapshot(repository, tree)
    restored = bring_back(repository, tmp_path / "restored")

    same(tree, tmp_path / "restored")
    assert outcome.files == 13
    assert outcome.findings == restored.findings == ()
    assert os.stat(tmp_path / "restored/sparse").st_blocks < 1000
    assert os.stat(tmp_path / "restored/small hole").st_blocks == 0


def test_a_second_snapshot_of_an_unchanged_tree_reads_nothing_and_stores_nothing(
    tree: Path, tmp_path: Path, read_bytes: list[int]
) -> None:
    repository = new_repository()
    snapshot(repository, tree)
    read_bytes.clear()

    outcome = snapshot(repository, tree)
    bring_back(repository, tmp_path / "restored")

    assert (outcome.files_read, read_bytes) == (0, [])
    assert outcome.stored_bytes == 0
    same(tree, tmp_path / "restored")


def test_only_changed_files_are_read_and_only_changed_pages_stored(
    tree: Path, tmp_path: Path, read_bytes: list[int]
) -> None:
    repository = new_repository()
    snapshot(repository, tree)
    read_bytes.clear()
    with (tree / "database").open("r+b") as file:
        file.seek(5_000_000)
        file.write(os.urandom(100))
    (tree / "photos/2024/plain").write_bytes(b"other")
    (tree / "page").chmod(0o600)

    outcome = snapshot(repository, tree)
    bring_back(repository, tmp_path / "restored")

    assert sorted(read_bytes) == [5, 300_001, 9_000_000]
    assert outcome.stored_bytes < 100_000
    same(tree, tmp_path / "restored")


def test_a_change_that_leaves_size_and_mtime_is_seen(tree: Path, tmp_path: Path) -> None:
    """PITFALLS 35, 88: the same size, and the old time of modification put back."""
    repository = new_repository()
    path = tree / "photos/2024/with space"
    before = path.stat()
    snapshot(repository, tree)

    path.write_bytes(b"!" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    outcome = snapshot(repository, tree)
    bring_back(repository, tmp_path / "restored")

    assert outcome.files_read == 1
    assert (tmp_path / "restored/photos/2024/with space").read_bytes() == path.read_bytes()


def test_a_file_replaced_by_an_older_one_of_its_size_is_seen(tree: Path, tmp_path: Path) -> None:
    """FACTS: a restored old copy has an older time."""
    repository = new_repository()
    snapshot(repository, tree)
    size = (tree / "page").stat().st_size

    (tree / "new").write_bytes(bytes(size))
    os.utime(tree / "new", ns=(1, 1))
    os.replace(tree / "new", tree / "page")
    snapshot(repository, tree)
    bring_back(repository, tmp_path / "restored")

    same(tree, tmp_path / "restored")


def test_a_file_written_while_the_snapshot_ran_is_read_again(tree: Path) -> None:
    """PITFALLS 35: within one tick of the clock nothing tells two writes apart."""
    repository = new_repository()
    snapshot(repository, tree, clock=CLOCK)

    outcome = snapshot(repository, tree, clock=CLOCK)

    # All files have content but `none`, and `database` has two names.
    assert outcome.files_read == outcome.files - 2


@pytest.mark.parametrize("accepts", [False, True])
def test_an_empty_source_is_refused_unless_it_is_accepted(tree: Path, accepts: bool) -> None:
    """PITFALLS 86: an unmounted disk leaves an empty directory."""
    repository = new_repository()
    snapshot(repository, tree)
    tree.rename(tree.with_name("away"))
    tree.mkdir()

    if accepts:
        assert snapshot(repository, tree, accepts_changes=True).files == 0
        return
    with pytest.raises(SourceUnsuitable, match="it is empty, and held 13 files") as refused:
        snapshot(repository, tree)

    assert "--accept-source" in refused.value.hint
    assert len(backup_ids(repository, SOURCE)) == 1


def test_a_shrunken_source_is_refused(tree: Path) -> None:
    """PITFALLS 86."""
    repository = new_repository()
    snapshot(repository, tree)
    for path in (tree / "photos/2024").iterdir():
        if path.is_file():
            path.unlink()

    with pytest.raises(SourceUnsuitable, match="7 of 13 files"):
        snapshot(repository, tree)


def test_files_that_were_only_renamed_are_not_gone(tree: Path) -> None:
    """A directory with a new name is no reason to stop; what is really gone with it is."""
    repository = new_repository()
    snapshot(repository, tree)
    (tree / "photos/2024").rename(tree / "photos/last year")

    assert snapshot(repository, tree).files == 13

    (tree / "photos/last year").rename(tree / "photos/2024")
    for path in (tree / "photos/2024").iterdir():
        if path.is_file():
            path.unlink()
    with pytest.raises(SourceUnsuitable, match="7 of 13 files"):
        snapshot(repository, tree)


def test_a_tree_that_somebody_encrypted_is_refused(tmp_path: Path) -> None:
    repository = new_repository()
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"{number}.txt").write_bytes(b"some words of a person\n" * 500)
    snapshot(repository, tree)
    for path in tree.iterdir():
        path.write_bytes(os.urandom(11_000))

    with pytest.raises(SourceUnsuitable, match="random bytes"):
        snapshot(repository, tree)


def test_a_source_without_its_sentinel_is_refused(tree: Path) -> None:
    """PITFALLS 86: also on the very first run."""
    with pytest.raises(SourceUnsuitable, match="sentinel file here-I-am is missing"):
        snapshot(new_repository(), tree, sentinel=b"here-I-am")


def test_excluded_and_special_files_are_left_out(tree: Path) -> None:
    repository = new_repository()
    os.mkfifo(tree / "pipe")

    outcome = snapshot(repository, tree, exclude=("*.tmp", "/photos/2024/a b%+/"))

    paths = paths_of(repository)
    assert b"photos/2024/x.tmp" not in paths
    assert b"photos/2024/a b%+" not in paths
    assert b"pipe" not in paths
    assert [(f.subject, f.severity) for f in outcome.findings] == [("pipe", Severity.NOTE)]


def test_what_cannot_be_read_makes_the_snapshot_incomplete_and_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PITFALLS 62: a snapshot that lacks something says so. Root reads everything, so a disk error it is."""
    repository = new_repository()
    pread = os.preadv

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/page"):
            raise OSError(5, "Input/output error")
        return pread(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    outcome = snapshot(repository, tree)
    monkeypatch.undo()

    [finding] = outcome.findings
    assert (finding.subject, finding.severity) == ("page", Severity.PROBLEM)
    assert not read_manifests(repository, SOURCE)[0][-1].files.is_complete
    assert b"page" not in paths_of(repository)
    assert snapshot(repository, tree).files_read == 1


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PITFALLS 89: it grows, and what is stored is of one moment."""
    repository = new_repository()
    path = tree / "database"
    pread = os.preadv
    done: list[int] = []

    def growing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if not done and offset > 1 << 20 and os.fstat(descriptor).st_ino == path.stat().st_ino:
            done.append(1)
            with path.open("r+b") as file:
                file.write(b"changed")
                file.truncate(400_000)
        return pread(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", growing)
    outcome = snapshot(repository, tree)
    monkeypatch.undo()
    bring_back(repository, tmp_path / "restored")

    assert outcome.findings == ()
    same(tree, tmp_path / "restored")


def test_a_crash_at_any_put_leaves_the_whole_snapshot_or_none(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drtool.repository.chunks.PACK_BYTES", 1 << 20)
    repository = new_repository()
    puts = 0
    for number in range(1, 60):
        store = FailsAt(repository.store, number, Died())
        try:
            snapshot(through(store, repository), tree)
        except Died:
            assert backup_ids(repository, SOURCE) == []
            repository.store.delete(f"leases/backup-{SOURCE}")
            puts = number
            continue
        break

    assert puts >= 3
    bring_back(repository, tmp_path / "restored")
    same(tree, tmp_path / "restored")


def test_a_snapshot_killed_at_any_moment_is_not_listed_and_the_next_one_is_whole(
    tree: Path, tmp_path: Path
) -> None:
    """PITFALLS 32: kill -9 of a real process."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(200):
        (tree / f"more {number}").write_bytes(os.urandom(200_000))
    repository = repository_in(tmp_path / "repository")
    command = [
        sys.executable,
        "-m",
        "tests.backup.tree_taking",
        str(tmp_path / "repository"),
        str(tree),
    ]
    for _ in range(4):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        _wait_for_packs(repository, process, chance.randrange(3))
        process.kill()
        process.wait()
        manifests, errors = read_manifests(repository, SOURCE)
        assert errors == []
        assert len(manifests) == len(backup_ids(repository, SOURCE))
        repository.store.delete(f"leases/backup-{SOURCE}")

    snapshot(repository, tree)
    bring_back(repository, tmp_path / "restored")

    same(tree, tmp_path / "restored")


def _wait_for_packs(repository: Repository, process: subprocess.Popen[bytes], more: int) -> None:
    """Until so many new objects are there, or the process has ended by itself."""
    deadline = time.monotonic() + 60
    wanted = len(list(repository.store.list(""))) + 2 + more
    while process.poll() is None and len(list(repository.store.list(""))) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_snapshot_that_is_asked_to_stop_ends_by_itself_and_is_not_listed(tree: Path) -> None:
    repository, stop = new_repository(), threading.Event()

    def ask_once_it_runs(event: Event) -> None:
        if isinstance(event, PhaseBegan):
            stop.set()

    with pytest.raises(Interrupted):
        snapshot(repository, tree, emit=ask_once_it_runs, stop=stop)

    assert backup_ids(repository, SOURCE) == []


@pytest.mark.parametrize("phase", ["fetch", "verify"])
def test_a_restore_that_is_asked_to_stop_ends_by_itself_and_says_what_it_left(
    tree: Path, tmp_path: Path, phase: str
) -> None:
    repository, stop = new_repository(), threading.Event()
    snapshot(repository, tree)
    place = tmp_path / "back"

    def ask_once_it_is_there(event: Event) -> None:
        if isinstance(event, PhaseBegan) and event.phase == phase:
            stop.set()

    with pytest.raises(Interrupted) as interrupted:
        bring_back(repository, place, phases=Phases(CLOCK, ask_once_it_is_there, stop))

    assert "is not whole" in interrupted.value.hint
    assert any(path.is_file() for path in place.rglob("*")) == (phase == "verify")


def test_a_hard_link_whose_first_name_cannot_be_read_is_saved_by_another(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = new_repository()
    read = TreeFiles.read
    refused: list[bytes] = []

    def refusing(self: TreeFiles, path: bytes, *, tries: int = 3) -> Iterator[ReadItem]:
        if b"database" in path and not refused:
            refused.append(path)
            path = b"gone meanwhile"
        yield from read(self, path, tries=tries)

    monkeypatch.setattr(TreeFiles, "read", refusing)
    snapshot(repository, tree)

    [first] = refused
    [other] = {b"database", b"photos/database again"} - {first}
    assert first not in paths_of(repository)
    assert other in paths_of(repository)
