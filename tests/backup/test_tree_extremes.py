"""Trees at a limit of the system: paths longer than a call takes, times far off, links with two names."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.model.finding import Severity
from drtool.repository.records import Attributes, EntryKind, TableRecord, encode_record
from drtool.sources.files.beneath import open_root
from drtool.sources.files.glance import glance_at
from drtool.system.beneath import Beneath
from tests.backup.test_tree import paths_of, same
from tests.backup.tree_taking import SOURCE, bring_back, repository_in, snapshot
from tests.repository.building import SECRET, new_repository

RESCUE = Path(__file__).parents[2] / "drtool/repository/rescue.py"
SECOND = 1_000_000_000
# The years 1653, 1875, 1922, 2065, 2500 and 5138; a file table's own field reaches from 1677 to 2262.
TIMES = (-(10**10), -3 * 10**9, -1_500_000_000, 3 * 10**9, 16_725_225_600, 10**11)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory of a file system that holds any time of modification."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def rescued(repository: Path, backup_id: str, place: Path) -> Path:
    """What the rescue program restores, which must have nothing to complain of."""
    key = repository.parent / "key"
    key.write_bytes(SECRET.content)
    done = subprocess.run(
        [
            sys.executable, "-I", RESCUE, "restore", repository, SOURCE, backup_id, place,
            "--key-file", key,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return place


def deep_tree(root: Path, *, levels: int) -> bytes:
    """A file, a link and a second name of both below so many directories; the path of the file."""
    root.mkdir()
    (root / "beside").write_text("in the root")
    descriptor = open_root(root)
    path = b""
    for level in range(levels):
        name = b"%03d" % level + b"x" * 197
        os.mkdir(name, dir_fd=descriptor)
        above, descriptor = descriptor, os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(above)
        path = path + b"/" + name if path else name
    file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(file, b"deep down")
    os.close(file)
    os.symlink("nowhere", "link", dir_fd=descriptor)
    for one in ("file", "link"):
        os.link(
            one, f"{one} again", src_dir_fd=descriptor, dst_dir_fd=descriptor,
            follow_symlinks=False,
        )  # fmt: skip
    os.close(descriptor)
    return path + b"/file"


def status_of(root: Path, path: bytes) -> os.stat_result:
    descriptor = open_root(root)
    try:
        with Beneath(descriptor) as beneath:
            directory, _, name = path.rpartition(b"/")
            return os.stat(name, dir_fd=beneath.directory(directory), follow_symlinks=False)
    finally:
        os.close(descriptor)


def test_a_path_longer_than_a_system_call_takes_comes_back(tmp_path: Path) -> None:
    repository = repository_in(tmp_path / "repository")
    path = deep_tree(tmp_path / "tree", levels=25)

    outcome = snapshot(repository, tmp_path / "tree")
    restored = bring_back(repository, tmp_path / "back")
    again = bring_back(repository, tmp_path / "back", is_delta=True)
    part = bring_back(repository, tmp_path / "part", patterns=("link*",))
    rescued(tmp_path / "repository", outcome.backup_id, tmp_path / "rescued")

    assert len(path) > 5000
    assert outcome.findings == restored.findings == again.findings == part.findings == ()
    assert all(question.passed for question in restored.questions)
    assert status_of(tmp_path / "part", path[:-4] + b"link").st_nlink == 2
    for place in ("back", "rescued"):
        same(tmp_path / "tree", tmp_path / place)


def test_a_check_looks_into_directories_however_deep_they_are(tmp_path: Path) -> None:
    deep_tree(tmp_path / "tree", levels=25)
    root = open_root(tmp_path / "tree")

    glance = glance_at(root)

    os.close(root)
    assert (glance.files, glance.unreadable, glance.is_whole) == (3, 0, True)


def test_a_path_too_long_to_be_recorded_is_told_and_the_rest_of_the_tree_is_saved(
    tmp_path: Path,
) -> None:
    repository = new_repository()
    deep_tree(tmp_path / "tree", levels=330)

    outcome = snapshot(repository, tmp_path / "tree")

    [finding] = outcome.findings
    assert finding.severity is Severity.PROBLEM
    assert "65,535 can be recorded" in finding.fact
    assert b"beside" in paths_of(repository)
    assert max(map(len, paths_of(repository))) > 65_000


def test_a_time_of_modification_far_off_comes_back_as_it_was(
    in_memory: Path, tmp_path: Path
) -> None:
    """Of files, directories and links: `struct.error` once lost the whole tree."""
    repository = repository_in(tmp_path / "repository")
    tree = in_memory / "tree"
    for seconds in TIMES:
        far = seconds * SECOND + 5, seconds * SECOND + 123_456_789
        (tree / str(seconds)).mkdir(parents=True)
        (tree / f"{seconds}/file").write_text(str(seconds))
        (tree / f"{seconds}/link").symlink_to("file")
        for path in (f"{seconds}/file", f"{seconds}/link", str(seconds)):
            os.utime(tree / path, ns=far, follow_symlinks=False)

    snapshot(repository, tree)
    outcome = snapshot(repository, tree)
    restored = bring_back(repository, in_memory / "back")
    elsewhere = bring_back(repository, tmp_path / "back")
    rescued(tmp_path / "repository", outcome.backup_id, in_memory / "rescued")

    assert outcome.findings == restored.findings == ()
    same(tree, in_memory / "back")
    same(tree, in_memory / "rescued")
    # A file system that cannot hold them is told of, and the restore is no failure for that.
    assert all(question.passed for question in elsewhere.questions)
    if (tmp_path / f"back/{TIMES[-1]}/file").stat().st_mtime_ns != (
        tree / f"{TIMES[-1]}/file"
    ).stat().st_mtime_ns:
        [finding] = elsewhere.findings
        assert "cannot hold" in finding.fact


@pytest.mark.parametrize("is_delta", [False, True])
def test_a_symbolic_link_with_two_names_comes_back_as_one(
    tmp_path: Path, *, is_delta: bool
) -> None:
    repository = repository_in(tmp_path / "repository")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "one").symlink_to("nowhere")
    os.link(tree / "one", tree / "two", follow_symlinks=False)
    (tree / "other").symlink_to("nowhere")
    outcome = snapshot(repository, tree)
    place = tmp_path / "back"
    if is_delta:
        place.mkdir()
        (place / "two").symlink_to("nowhere")

    bring_back(repository, place, is_delta=is_delta)
    rescued(tmp_path / "repository", outcome.backup_id, tmp_path / "rescued")

    for found in (place, tmp_path / "rescued"):
        inodes = {name: (found / name).lstat().st_ino for name in ("one", "two", "other")}
        assert inodes["one"] == inodes["two"] != inodes["other"]
        assert os.readlink(found / "two") == "nowhere"


def test_the_base_backups_of_a_cluster_take_far_times_too() -> None:
    """Only a tree brings times back exactly; of a cluster's files nobody asks for them."""
    far = Attributes(
        path=b"base/1/1", kind=EntryKind.FILE, mode=0o600, uid=0, gid=0,
        modified_ns=10**11 * SECOND, size_bytes=0,
    )  # fmt: skip

    assert encode_record(TableRecord(attributes=far))
