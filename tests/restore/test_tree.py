"""A tree comes back as of the moment asked for: whole, in part, or where it differs, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.errors import DestinationRefused, IntegrityError, NotRecoverable, ObjectMissing
from drtool.model.finding import Severity
from drtool.model.target import RecoveryTarget, ToBackup, ToLatest, ToLsn, ToTime
from drtool.model.wal import Lsn
from drtool.repository.backups import read_manifests
from drtool.repository.repository import Repository
from drtool.restore.tree_ahead import look_ahead
from drtool.system.clock import SystemClock
from tests.backup.test_tree import same
from tests.backup.tree_taking import (
    SOURCE,
    a_rich_tree,
    bring_back,
    plan_of,
    repository_in,
    snapshot,
)
from tests.files.trees import contents, entries_of
from tests.repository.building import SECRET, new_repository, tamper
from tests.restore.printed import run_as_printed

RESCUE = Path(__file__).parents[2] / "drtool/repository/rescue.py"


def told(moment: datetime) -> str:
    """As a refusal tells it to somebody who asked in UTC."""
    return moment.isoformat().replace("+00:00", "Z")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return a_rich_tree(tmp_path / "tree")


def three_versions(repository: Repository, tree: Path) -> list[str]:
    """Three snapshots, each with another content of `page`."""
    ids = []
    for number in range(3):
        (tree / "page").write_bytes(bytes([number]) * 400_000)
        ids.append(snapshot(repository, tree).backup_id)
    return ids


def test_the_newest_snapshot_that_was_whole_by_then_is_restored(tree: Path, tmp_path: Path) -> None:
    repository = new_repository()
    ids = three_versions(repository, tree)
    manifests = {m.backup_id: m for m in read_manifests(repository, SOURCE)[0]}
    second = manifests[ids[1]].files.taken_until
    just_before = second - timedelta(microseconds=1)

    targets: list[RecoveryTarget] = [
        ToTime(just_before), ToTime(second), ToLatest(), ToBackup(ids[0])
    ]  # fmt: skip
    outcomes = [
        bring_back(repository, tmp_path / str(number), target=target)
        for number, target in enumerate(targets)
    ]

    assert [outcome.backup_id for outcome in outcomes] == [ids[0], ids[1], ids[2], ids[0]]
    assert [(tmp_path / f"{n}/page").read_bytes()[0] for n in range(4)] == [0, 1, 2, 0]
    assert [phase.name for phase in outcomes[0].phases] == [
        "provision", "fetch", "finish", "answer", "verify",
    ]  # fmt: skip
    assert all(question.passed for question in outcomes[0].questions)


class Ahead(SystemClock):
    """Years ahead."""

    def now(self) -> datetime:
        return super().now() + timedelta(days=17 * 365)


def test_the_latest_snapshot_is_the_one_that_was_taken_last(tree: Path, tmp_path: Path) -> None:
    """One under a clock at 2043 would hide all later ones for 17 years."""
    repository = new_repository()
    misdated = snapshot(repository, tree, clock=Ahead()).backup_id
    last = snapshot(repository, tree).backup_id

    assert misdated > last
    assert bring_back(repository, tmp_path / "new", target=ToLatest()).backup_id == last


def test_a_moment_that_has_not_come_is_refused_with_the_newest(tree: Path) -> None:
    """The trial: two hours ahead was restored, and judged MISSED. A misdated snapshot moves nothing."""
    repository = new_repository()
    snapshot(repository, tree, clock=Ahead())
    snapshot(repository, tree)
    newest = read_manifests(repository, SOURCE)[0][-1].files.taken_until
    now = datetime.now(UTC)

    with pytest.raises(NotRecoverable) as refused:
        plan_of(repository, target=ToTime(now + timedelta(hours=2)))
    plan = plan_of(repository, target=ToTime(now + timedelta(seconds=50)))

    assert "has not come yet" in refused.value.message
    assert told(newest) in refused.value.hint
    assert plan.manifest.files.taken_until == newest
    [note] = plan.findings
    assert f"as of {told(plan.manifest.files.taken_from)}" in note.fact
    assert note.severity is Severity.NOTE


def test_a_clock_that_is_behind_refuses_no_moment_that_has_a_snapshot(tree: Path) -> None:
    """A new machine on the worst day may have lost its time."""
    repository = new_repository()
    snapshot(repository, tree, clock=Ahead())
    [manifest] = read_manifests(repository, SOURCE)[0]

    plan = plan_of(repository, target=ToTime(manifest.files.taken_until))

    assert plan.manifest == manifest
    assert plan_of(repository).findings == ()


def test_a_moment_before_the_first_snapshot_is_refused_with_the_earliest(
    tree: Path, tmp_path: Path
) -> None:
    """PITFALLS 51."""
    repository = new_repository()
    snapshot(repository, tree)
    [manifest] = read_manifests(repository, SOURCE)[0]
    earliest = manifest.files.taken_until

    with pytest.raises(NotRecoverable) as refused:
        bring_back(repository, tmp_path / "x", target=ToTime(earliest - timedelta(seconds=1)))

    assert told(earliest) in refused.value.hint
    with pytest.raises(NotRecoverable, match="means nothing"):
        bring_back(repository, tmp_path / "x", target=ToLsn(Lsn(5)))
    assert not (tmp_path / "x").exists()


def test_patterns_choose_what_comes_back_with_the_directories_above_it(
    tree: Path, tmp_path: Path
) -> None:
    repository = new_repository()
    snapshot(repository, tree)

    bring_back(repository, tmp_path / "some", patterns=("/photos/2024/", "!*.tmp", "/none"))

    found = set(entries_of(tmp_path / "some"))
    wanted = {p for p in entries_of(tree) if p.startswith(b"photos/2024") or p in (b"", b"photos")}
    assert found == wanted | {b"none"}
    with pytest.raises(NotRecoverable, match="pattern '/not/there' matches nothing"):
        bring_back(repository, tmp_path / "none", patterns=("/not/there",))


def test_one_name_of_a_hard_linked_file_comes_back_alone(tree: Path, tmp_path: Path) -> None:
    repository = new_repository()
    snapshot(repository, tree)

    bring_back(repository, tmp_path / "one", patterns=("database again",))

    restored = tmp_path / "one/photos/database again"
    assert restored.read_bytes() == (tree / "database").read_bytes()
    assert restored.stat().st_nlink == 1


def test_a_directory_that_is_not_empty_is_refused_without_delta(tree: Path, tmp_path: Path) -> None:
    """PITFALLS 53."""
    repository = new_repository()
    snapshot(repository, tree)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("precious")

    with pytest.raises(DestinationRefused, match="is not empty: found mine"):
        bring_back(repository, tmp_path / "full")

    assert os.listdir(tmp_path / "full") == ["mine"]
    with pytest.raises(DestinationRefused, match="is not there"):
        bring_back(repository, tmp_path / "absent", is_delta=True)


def test_a_delta_writes_only_what_differs_and_leaves_the_rest_alone(
    tree: Path, tmp_path: Path
) -> None:
    """PITFALLS 88: also where size and time are the same and the content is not."""
    repository = new_repository()
    snapshot(repository, tree)
    copy = tmp_path / "copy"
    bring_back(repository, copy)
    plain, page = copy / "photos/2024/with space", copy / "page"
    before = plain.stat()
    plain.write_bytes(b"#" * before.st_size)
    os.utime(plain, ns=(before.st_atime_ns, before.st_mtime_ns))
    page.unlink()
    (copy / "photos/2024/x.tmp").chmod(0o777)
    (copy / "dangling").unlink()
    with (copy / "sparse").open("r+b") as file:
        file.seek(20 << 20)
        file.write(b"dirt in a hole")
    (copy / "my own").write_text("stays")
    untouched = (copy / "photos/2024/plain").stat().st_ctime_ns

    outcome = bring_back(repository, copy, is_delta=True)

    assert (copy / "my own").read_text() == "stays"
    assert (copy / "photos/2024/plain").stat().st_ctime_ns == untouched
    (copy / "my own").unlink()
    # The root's time of modification changed with that file.
    os.utime(copy, ns=(1, tree.stat().st_mtime_ns))
    same(tree, copy)
    # A file of several names is written anew if one of them could be outside.
    changed = sum(path.stat().st_size for path in (plain, page, copy / "database"))
    assert changed <= outcome.bytes_restored < changed + (1 << 20)


def test_a_delta_tells_what_it_would_make_change_and_replace_and_what_stays(
    tree: Path, tmp_path: Path
) -> None:
    repository = new_repository()
    snapshot(repository, tree)
    copy = tmp_path / "copy"
    bring_back(repository, copy)
    (copy / "page").write_bytes(b"other")
    (copy / "none").unlink()
    (copy / "dangling").unlink()
    (copy / "dangling").mkdir()
    (copy / "photos/2024/x.tmp").chmod(0o777)
    (copy / "photos/born later").mkdir()
    (copy / "photos/born later/a").write_text("after T")
    (copy / "pictures too").symlink_to("photos")
    before = contents(copy, entries_of(copy))

    plan = plan_of(repository, is_delta=True)
    ahead = look_ahead(plan, repository, place=copy)
    facts = {fact.name: fact.value for fact in ahead.facts}
    assert contents(copy, entries_of(copy)) == before
    part = look_ahead(
        plan_of(repository, patterns=("/page",), is_delta=True), repository, place=copy
    )
    outcome = bring_back(repository, copy, is_delta=True)

    assert facts["made"] == ("none",)
    assert facts["changed"] == ("page",)
    assert facts["replaced"] == ("dangling",)
    assert facts["attributes"] == ("photos", "photos/2024/x.tmp")
    assert facts["stays"] == ("photos/born later", "photos/born later/a", "pictures too")
    assert {fact.name: fact.value for fact in part.facts}["stays"] == ()
    [stays] = outcome.findings
    assert stays.severity is Severity.WARNING
    assert "2 files and links and 1 directory stand there" in stays.fact
    assert "photos/born later/a" in stays.fact


def test_a_delta_of_a_large_file_writes_only_its_changed_pages(tmp_path: Path) -> None:
    repository = new_repository()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(os.urandom(20_000_000))
    snapshot(repository, tree)
    with (tree / "large").open("r+b") as file:
        file.seek(12_000_000)
        file.write(b"changed")
    snapshot(repository, tree)
    copy = tmp_path / "copy"
    bring_back(
        repository, copy, target=ToBackup(read_manifests(repository, SOURCE)[0][0].backup_id)
    )

    outcome = bring_back(repository, copy, is_delta=True)

    same(tree, copy)
    assert 0 < outcome.bytes_restored <= 1 << 20


def test_a_restore_that_failed_goes_on_as_a_delta(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PITFALLS 57: no room in the middle; nobody trusts a note of how far it came."""
    repository = new_repository()
    snapshot(repository, tree)
    pwrite, written = os.pwrite, [0]

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        written[0] += len(data)
        if written[0] > 2_000_000:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DestinationRefused, match="no space left") as refused:
        bring_back(repository, tmp_path / "restored")
    monkeypatch.undo()
    assert "--delta" in refused.value.hint

    bring_back(repository, tmp_path / "restored", is_delta=True)

    same(tree, tmp_path / "restored")


def test_a_damaged_or_missing_pack_is_named_and_nothing_of_it_is_written(
    tree: Path, tmp_path: Path
) -> None:
    """PITFALLS 39: never a restore that looks whole."""
    repository = new_repository()
    snapshot(repository, tree)
    key = max(repository.store.list("packs/"), key=lambda found: found.size_bytes).key
    content = bytearray(repository.store.read(key))
    content[len(content) // 2] ^= 1
    tamper(repository.store, key, bytes(content))

    with pytest.raises(IntegrityError, match=key):
        bring_back(repository, tmp_path / "damaged")

    repository.store.delete(key)
    with pytest.raises((ObjectMissing, IntegrityError), match=key):
        bring_back(repository, tmp_path / "missing")


def test_the_rescue_program_restores_a_tree_without_drtool(tree: Path, tmp_path: Path) -> None:
    repository = repository_in(tmp_path / "repository")
    snapshot(repository, tree)
    outcome = snapshot(repository, tree)
    (tmp_path / "key").write_bytes(SECRET.content)

    done = subprocess.run(
        [
            sys.executable, "-I", RESCUE, "restore", tmp_path / "repository", SOURCE,
            outcome.backup_id, tmp_path / "restored", "--key-file", tmp_path / "key",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    same(tree, tmp_path / "restored")


NEIGHBOURS = ("DIR", "DIR-old", "DIR!", "DIR.txt", "DIR+1/DIR", "DIR0", "D", "DI", "other/DIR")


def a_tree_of_neighbours(root: Path) -> Path:
    """Directories whose names begin alike: in order of bytes they stand between DIR and DIR/x."""
    for name in NEIGHBOURS:
        (root / name / "sub").mkdir(parents=True)
        (root / name / "file").write_text(f"in {name}")
        (root / name / "sub/file").write_text(f"below {name}")
    return root


@pytest.mark.parametrize("pattern", ["DIR", "/DIR", "/DIR/", "/DIR/**", "DIR-old", "D*/sub", "sub"])
def test_a_directory_comes_back_whole_whatever_its_siblings_are_called(
    pattern: str, tmp_path: Path
) -> None:
    repository = new_repository()
    tree = a_tree_of_neighbours(tmp_path / "tree")
    snapshot(repository, tree)

    outcome = bring_back(repository, tmp_path / "some", patterns=(pattern,))

    # What git says of the same pattern in the same tree.
    subprocess.run(["git", "init", "-q", tree], check=True)
    (tree / ".git/info/exclude").write_text(pattern + "\n")
    every = [path for path in entries_of(tree) if not path.startswith(b".git")]
    files = {path for path in every if path and (tree / os.fsdecode(path)).is_file()}
    told = subprocess.run(
        ["git", "-C", tree, "check-ignore", "--stdin", "-z"],
        input=b"\0".join(sorted(files)), capture_output=True, check=True,
    ).stdout.split(b"\0")[:-1]  # fmt: skip
    found = {path for path, one in entries_of(tmp_path / "some").items() if one.size_bytes}
    assert found == set(told) != set()
    assert f"{len(found)} files" in outcome.questions[-1].answer


def test_the_printed_lines_bring_the_tree_to_where_the_source_had_it(
    tree: Path, tmp_path: Path
) -> None:
    repository = new_repository()
    snapshot(repository, tree)
    before = contents(tree, entries_of(tree))
    (tree / "page").write_bytes(b"lost")
    outcome = bring_back(repository, tmp_path / "it's the copy")

    run_as_printed("\n".join(outcome.how_to_start))

    assert contents(tree, entries_of(tree)) == before
    assert (tmp_path / "tree.before/page").read_bytes() == b"lost"
    assert not (tmp_path / "it's the copy").exists()
    assert outcome.how_to_stop == ()
