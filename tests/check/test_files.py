"""`drtool check` and `drtool status` of trees, buckets and their mirrors, against real S3 servers."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest

from drtool.errors import ExitCode
from drtool.model.checked import Readiness
from drtool.model.finding import Severity
from drtool.model.request import SyncRequest
from drtool.sources.files.checks import check_content, check_place
from drtool.sources.files.glance import MOST_NAMES, Glance
from drtool.sources.files.guard import PlaceSigns
from drtool.wiring.sync import sync
from tests.check.rig import Stack, exit_code, facts, look, problems, told
from tests.servers.object_stores import SHARED_BUCKET, S3Server
from tests.servers.ports import free_port

_SOURCE = """\
  uploads:
    kind: files
    path: {root}/tree
    sentinel: .here
    schedule: {{backup: "0 */6 * * *"}}
    {mirror}
"""


def stack_of(root: Path, mirror: str | None = None) -> Stack:
    tree = root / "tree"
    tree.mkdir()
    (tree / ".here").touch()
    for number in range(30):
        (tree / f"file-{number}").write_text("what a customer sent\n")
    line = f'mirror: "{mirror}"' if mirror else ""
    stack = Stack(root=root, sources=_SOURCE.format(root=root, mirror=line))
    stack.init()
    return stack


def run_sync(stack: Stack) -> None:
    sync(SyncRequest(sources=(), is_dry_run=False), stack.policy, stack.around)


def test_a_tree_that_is_backed_up_has_no_problem(tmp_path: Path) -> None:
    stack = stack_of(tmp_path)
    stack.backup()

    report = stack.check()

    assert problems(report) == []
    assert exit_code(report) == ExitCode.DONE
    assert "31 files, 31 in the last snapshot" in look(report, "uploads", "tree").seen


def test_a_tree_that_is_not_what_it_was_is_a_problem(tmp_path: Path) -> None:
    """PITFALLS 86: found by the check, before the next backup is refused."""
    stack = stack_of(tmp_path)
    stack.backup()
    for number in range(20):
        (tmp_path / "tree" / f"file-{number}").unlink()
    shrunken = stack.check()
    shutil.rmtree(tmp_path / "tree")
    gone = stack.check()
    (tmp_path / "tree").mkdir()
    stack.rpo = "1ms"
    empty = stack.check()

    assert told(problems(shrunken), "20 of 31 files (65 %) are gone")
    assert told(problems(gone), "cannot be opened")
    assert exit_code(gone) == ExitCode.SOURCE_UNAVAILABLE
    assert told(problems(empty), "it is empty, and held 31 files in the last run")
    assert told(problems(empty), "its sentinel file .here is missing")
    assert exit_code(empty) == ExitCode.OBJECTIVE_MISSED
    [loss] = look(empty, "uploads", "recoverable until").findings
    assert "a backup is refused" in loss.fix  # and not: run it


def test_a_root_that_was_a_mount_point_and_is_none_now_is_a_problem() -> None:
    before = PlaceSigns(is_mount_point=True, device=7, file_system_id=70)
    now = PlaceSigns(is_mount_point=False, device=1, file_system_id=10)

    [finding] = check_place("uploads", now, before)

    assert finding.severity is Severity.PROBLEM
    assert "the disk is not mounted" in finding.fact


def test_a_disk_that_is_not_mounted_any_more_is_a_problem(tmp_path: Path) -> None:
    """The policy's path is a link to a real mount point, and later to a directory that is none."""
    (tmp_path / "tree").symlink_to("/dev/shm")
    sources = f'  uploads: {{kind: files, path: {tmp_path}/tree, exclude: ["*"]}}\n'
    stack = Stack(root=tmp_path, sources=sources)
    stack.init()
    stack.backup()
    mounted = stack.check()
    (tmp_path / "tree").unlink()
    (tmp_path / "tree").mkdir()

    unmounted = stack.check()

    assert "a mount point" in look(mounted, "uploads", "tree").seen
    assert not told(problems(mounted), "mount point")
    assert told(problems(unmounted), "was a mount point and is none now")


def glance(files: int, *, is_whole: bool, used_inodes: int | None, unreadable: int = 0) -> Glance:
    return Glance(
        place=PlaceSigns(is_mount_point=True, device=7, file_system_id=70),
        files=files,
        is_whole=is_whole,
        unreadable=unreadable,
        used_inodes=used_inodes,
    )


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (glance(MOST_NAMES, is_whole=False, used_inodes=900_000), "are gone"),
        (glance(MOST_NAMES, is_whole=False, used_inodes=2_000_000), ""),
        (glance(MOST_NAMES, is_whole=False, used_inodes=None), ""),
        (glance(10, is_whole=True, used_inodes=2_000_000), "are gone"),
        (glance(10, is_whole=True, used_inodes=20, unreadable=3), "3 directories cannot be listed"),
    ],
)
def test_a_large_tree_is_held_against_the_inodes_in_use(seen: Glance, words: str) -> None:
    found = list(check_content("uploads", seen, known=2_000_000, max_delete_percent=25))

    assert [words in finding.fact for finding in found] == ([True] if words else [])


@pytest.mark.object_store
def test_a_mirror_is_told_by_check_and_by_status(rclone_s3: S3Server, tmp_path: Path) -> None:
    stack = stack_of(tmp_path, rclone_s3.url(SHARED_BUCKET, f"m-{uuid.uuid4().hex[:8]}"))
    stack.backup()
    never = stack.check()
    run_sync(stack)
    (tmp_path / "tree" / "new").write_text("x")
    run_sync(stack)

    report = stack.check()
    [row] = stack.status().rows

    assert told(problems(never), "there is no mirror run")
    assert problems(report) == []
    assert "2 runs, the last ended" in look(report, "uploads", "mirror").seen
    # rclone's server knows no versions, and says so with an error.
    assert told(facts(report, Severity.WARNING), "versions: nothing is deleted there")
    assert row.mirror is not None
    # The file, and the directory that it lies in.
    assert (row.mirror.runs, row.mirror.changes, row.mirror.is_whole) == (2, 2, False)


@pytest.mark.object_store
def test_a_bucket_with_versions_has_nothing_to_warn_of(seaweedfs: S3Server, tmp_path: Path) -> None:
    bucket = seaweedfs.new_bucket()
    stack = stack_of(tmp_path, seaweedfs.url(bucket, "mirror"))
    run_sync(stack)
    before = stack.check()
    seaweedfs.client().put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )

    after = stack.check()

    assert told(facts(before), "its bucket keeps no versions")
    assert not told(facts(after), "versions")


@pytest.mark.object_store
def test_a_bucket_as_a_source_is_checked_and_shown(rclone_s3: S3Server, tmp_path: Path) -> None:
    name = f"b-{uuid.uuid4().hex[:8]}"
    origin, copy = (rclone_s3.url(SHARED_BUCKET, f"{name}-{one}") for one in ("a", "b"))
    sources = f'  assets: {{kind: bucket, url: "{origin}", mirror: "{copy}"}}\n'
    stack = Stack(root=tmp_path, sources=sources)
    stack.init()
    rclone_s3.client().put_object(Bucket=SHARED_BUCKET, Key=f"{name}-a/one", Body=b"1")
    run_sync(stack)

    report = stack.check()
    [row] = stack.status().rows

    assert problems(report) == []
    assert "has objects" in look(report, "assets", "bucket").seen
    assert row.mirror is not None
    assert row.mirror.changes == 1
    assert row.rpo_now is not None


def test_a_bucket_that_is_away_fails_the_check_and_leaves_status_unknown(
    tmp_path: Path, s3_credentials: None
) -> None:
    mirror = f"s3://nowhere/m?endpoint=http://127.0.0.1:{free_port()}&region=us-east-1"
    stack = stack_of(tmp_path, mirror)
    stack.backup()

    report = stack.check()
    [row] = stack.status().rows

    assert look(report, "uploads", "mirror").readiness is Readiness.UNKNOWN
    assert look(report, "uploads", "tree").readiness is Readiness.READY
    assert exit_code(report) == ExitCode.REPOSITORY_UNAVAILABLE
    assert row.mirror is not None
    assert row.mirror.trouble
    assert row.verdict == "MET"
    assert any("nobody can tell when" in finding.fact for finding in row.findings)
