"""Placing writes below its directory and nowhere else, and says what it could not do."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from drtool.errors import DestinationRefused, IntegrityError
from drtool.sources.files.applying import OwnersByName
from drtool.sources.files.entries import TreeEntry, TreeKind
from drtool.sources.files.filewriter import FileWriter
from drtool.sources.files.placing import Difference, TreeWriter
from tests.files.trees import contents, entries_of, likeness, opened, place, place_file


def entry(path: bytes, kind: TreeKind = TreeKind.FILE, **more: Any) -> TreeEntry:
    """An entry of root's that was last modified a second after 1970."""
    plain = TreeEntry(
        path=path, kind=kind, mode=0o644, uid=0, gid=0, owner="root", group="root",
        modified_ns=10**9, changed_ns=10**9, inode=1, device=1, links=1, size_bytes=1, link=b"x",
    )  # fmt: skip
    return plain._replace(**more)


@contextmanager
def writing(destination: Path, *, is_delta: bool = False) -> Iterator[TreeWriter]:
    writer = TreeWriter(destination, is_delta=is_delta)
    try:
        yield writer
    finally:
        writer.close()


def put(writer: TreeWriter, one: TreeEntry, data: bytes) -> None:
    with writer.file(one) as file:
        file.write(0, data)


def break_off(block: AbstractContextManager[FileWriter | None]) -> None:
    """Fail in the middle of a file."""
    with pytest.raises(ZeroDivisionError), block as file:
        _write_and_fail(file)


def _write_and_fail(file: FileWriter | None) -> None:
    assert file is not None
    file.write(50, b"half")
    raise ZeroDivisionError


BAD_PATHS = [
    b"../x", b"a/../../x", b"/etc/x", b"a//b", b"./a", b"a/.", b"..", b"a/", b"a\0b",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_would_leave_the_destination_is_refused(tmp_path: Path, path: bytes) -> None:
    destination = tmp_path / "in"
    destination.mkdir()

    with writing(destination) as writer:
        with pytest.raises(IntegrityError), writer.file(entry(path)):
            pass
        with pytest.raises(IntegrityError):
            writer.directory(entry(path, TreeKind.DIRECTORY))
        with pytest.raises(IntegrityError):
            writer.symlink(entry(path, TreeKind.SYMLINK))
        with pytest.raises(IntegrityError):
            writer.hard_link(entry(b"fine"), path)
        with pytest.raises(IntegrityError):
            writer.compare(entry(path))

    assert list(destination.iterdir()) == []


@pytest.mark.parametrize("is_delta", [False, True])
def test_a_link_in_the_way_is_never_followed(tmp_path: Path, *, is_delta: bool) -> None:
    outside, destination = tmp_path / "outside", tmp_path / "in"
    outside.mkdir()
    destination.mkdir()
    (outside / "file").write_text("precious")
    (destination / "way").symlink_to(outside)
    (destination / "name").symlink_to(outside / "file")

    with writing(destination, is_delta=is_delta) as writer:
        for path in (b"way/file", b"name"):
            if is_delta:
                with writer.file(entry(path)) as file:
                    file.write(0, b"y")
            else:
                with pytest.raises(DestinationRefused), writer.file(entry(path)):
                    pass

    assert (outside / "file").read_text() == "precious"
    assert [path.name for path in outside.iterdir()] == ["file"]
    if is_delta:
        assert (destination / "way/file").read_bytes() == b"y"
        assert not (destination / "name").is_symlink()


def test_a_link_of_the_tree_itself_is_no_way_out_of_it(tmp_path: Path) -> None:
    """A backup that was tampered with: first a link to /, then a file below it."""
    outside, destination = tmp_path / "outside", tmp_path / "in"
    outside.mkdir()
    destination.mkdir()

    with writing(destination) as writer:
        writer.symlink(entry(b"a", TreeKind.SYMLINK, link=os.fsencode(outside)))
        with pytest.raises(DestinationRefused), writer.file(entry(b"a/file")):
            pass

    assert list(outside.iterdir()) == []


def test_a_file_that_is_there_already_is_refused_in_a_fresh_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    with writing(tmp_path) as writer, pytest.raises(DestinationRefused, match="is taken"):
        put(writer, entry(b"file"), b"y")

    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("is_delta", [False, True])
def test_a_file_whose_writing_fails_leaves_nothing_new_behind(
    tmp_path: Path, *, is_delta: bool
) -> None:
    if is_delta:
        (tmp_path / "file").write_text("old")

    with writing(tmp_path, is_delta=is_delta) as writer:
        break_off(writer.file(entry(b"file")))

    assert [path.name for path in tmp_path.iterdir()] == (["file"] if is_delta else [])
    if is_delta:
        assert (tmp_path / "file").read_text() == "old"


def test_a_full_disk_is_a_refusal_that_names_the_file(tmp_path: Path) -> None:
    """PITFALLS 57: no room in the middle. A limit on the size of files stands in for a small disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with writing(tmp_path) as writer, pytest.raises(DestinationRefused, match="big could not"):
            put(writer, entry(b"big", size_bytes=4 << 20), bytes(4 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert list(tmp_path.iterdir()) == []
    with writing(tmp_path) as again:
        put(again, entry(b"big", size_bytes=2 << 20), bytes(2 << 20))
    assert (tmp_path / "big").stat().st_size == 2 << 20


def _two_trees(tmp_path: Path) -> tuple[Path, Path]:
    source, copy = tmp_path / "source", tmp_path / "copy"
    (source / "d").mkdir(parents=True)
    (source / "d/same").write_text("same")
    (source / "d/content").write_text("right")
    (source / "d/mode").write_text("mode")
    (source / "link").symlink_to("d/same")
    (source / "kind").write_text("a file")
    (source / "absent").write_text("absent")
    copy.mkdir()
    place(entries_of(source), source, copy)
    (copy / "d/content").write_text("wrong!")
    (copy / "d/mode").chmod(0o600)
    (copy / "kind").unlink()
    (copy / "kind").mkdir()
    (copy / "absent").unlink()
    return source, copy


def test_differences_are_told_apart_and_a_delta_writes_those_alone(tmp_path: Path) -> None:
    source, copy = _two_trees(tmp_path)
    untouched = (copy / "d/same").stat().st_ino
    before = entries_of(source)

    found = {}
    with opened(source) as files:
        writer = TreeWriter(copy, is_delta=True)
        for path, one in before.items():
            found[path] = writer.compare(one)
            if one.kind is TreeKind.DIRECTORY:
                writer.directory(one)
            elif found[path] is Difference.ATTRIBUTES:
                writer.set_attributes(one)
            elif found[path] is not Difference.NONE:
                place_file(writer, files, one)
        writer.finish()

    assert {path: why for path, why in found.items() if before[path].kind is TreeKind.FILE} == {
        b"d/same": Difference.NONE,
        b"d/content": Difference.CONTENT,
        b"d/mode": Difference.ATTRIBUTES,
        b"kind": Difference.OTHER_KIND,
        b"absent": Difference.ABSENT,
    }
    assert found[b"link"] is Difference.NONE
    assert likeness(entries_of(copy)) == likeness(before)
    assert contents(copy, entries_of(copy)) == contents(source, before)
    assert (copy / "d/same").stat().st_ino == untouched


def test_a_full_directory_where_a_file_belongs_is_not_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    (tmp_path / "name/precious").write_text("x")

    with (
        writing(tmp_path, is_delta=True) as writer,
        pytest.raises(DestinationRefused, match="else"),
    ):
        put(writer, entry(b"name"), b"y")

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "name",
        "name/precious",
    ]


def _patch(writer: TreeWriter, one: TreeEntry) -> None:
    with writer.patch(one) as file:
        assert file is not None
        assert file.read(0, 3) == b"aaa"
        file.write(4000, b"X" * 1000)
        file.hole(10_000, 2000)


def test_a_large_file_is_patched_in_place_and_its_holes_become_zeros(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"a" * 5000 + b"b" * 5000 + b"c" * 9000)
    inode = path.stat().st_ino

    with writing(tmp_path, is_delta=True) as writer:
        _patch(writer, entry(b"big", size_bytes=12_000))

    assert path.stat().st_ino == inode
    assert path.read_bytes() == b"a" * 4000 + b"X" * 1000 + b"b" * 5000 + bytes(2000)
    assert path.stat().st_mtime_ns == 10**9


def test_a_patch_that_breaks_off_does_not_look_untouched(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"a" * 100)
    old = entry(b"big", size_bytes=100)
    os.utime(path, ns=(10**9, 10**9))

    with writing(tmp_path, is_delta=True) as writer:
        untouched = writer.compare(old)
        with writer.patch(old):
            while_patching = writer.compare(old)
        break_off(writer.patch(old))
        broken_off = writer.compare(old)

    assert (untouched, while_patching, broken_off) == (
        Difference.NONE,
        Difference.CONTENT,
        Difference.CONTENT,
    )


def test_a_file_with_another_name_is_not_patched(tmp_path: Path) -> None:
    """The other name may lie outside the destination."""
    outside, destination = tmp_path / "outside", tmp_path / "in"
    outside.mkdir()
    destination.mkdir()
    (outside / "file").write_text("precious")
    os.link(outside / "file", destination / "file")

    with writing(destination, is_delta=True) as writer:
        with writer.patch(entry(b"file")) as file:
            assert file is None
        put(writer, entry(b"file"), b"y")

    assert (outside / "file").read_text() == "precious"
    assert (destination / "file").read_bytes() == b"y"


def test_parents_that_nobody_described_are_made_and_closed_to_others(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        with writer.file(entry(b"a/b/file")) as file:
            file.write(0, b"y")
        findings = writer.finish()

    assert findings == []
    assert (tmp_path / "a/b/file").read_bytes() == b"y"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_owners_are_found_by_name_where_the_numbers_are_other_ones(tmp_path: Path) -> None:
    writer = TreeWriter(tmp_path, owner_of=OwnersByName())
    with writer.file(entry(b"file", uid=4242, gid=4242, owner="daemon", group="no such")) as file:
        file.write(0, b"y")
    writer.finish()

    status = (tmp_path / "file").stat()
    assert (status.st_uid, status.st_gid) == (1, 4242)


AS_NOBODY = """
import os, sys
from pathlib import Path
from typing import Any
from tests.files.test_placing import entry
from drtool.sources.files.entries import TreeKind
from drtool.sources.files.filewriter import FileWriter
from drtool.sources.files.placing import TreeWriter
destination = Path(sys.argv[1])
os.chown(destination, 65534, 65534)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
writer = TreeWriter(destination, is_delta=True)
writer.directory(entry(b"", TreeKind.DIRECTORY, mode=0o755))
for round in range(2):
    writer.directory(entry(b"closed", TreeKind.DIRECTORY, mode=0o000))
    writer.directory(entry(b"closed/inner", TreeKind.DIRECTORY, mode=0o500))
    for name in (b"closed/one", b"closed/two"):
        with writer.file(entry(name, mode=0o4755, xattrs=((b"trusted.x", b"1"),))) as file:
            file.write(0, b"y")
    findings = writer.finish()
    print(*sorted(f"{finding.subject}: {finding.fact}" for finding in findings), sep="\\n")
    writer = TreeWriter(destination, is_delta=True)
"""


def test_a_user_who_is_not_root_gets_everything_but_what_only_root_may_set(tmp_path: Path) -> None:
    destination = Path("/tmp") / f"drtool-nobody-{os.getpid()}"
    destination.mkdir(mode=0o755)
    try:
        result = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(destination)], cwd=Path(__file__).parents[2],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

        assert result.stderr == ""
        lines = result.stdout.splitlines()
        assert len(lines) == 2 * 4
        assert [line.split(": ", 1)[0] for line in lines[:4]].count("closed/one and 1 more") == 2
        assert (destination / "closed").stat().st_mode & 0o7777 == 0o000
        assert (destination / "closed/inner").stat().st_mode & 0o7777 == 0o500
        # Not with the bit that would make it run as nobody where it ran as root.
        assert (destination / "closed/one").stat().st_mode & 0o7777 == 0o755
        assert (destination / "closed/two").read_bytes() == b"y"
    finally:
        subprocess.run(["rm", "-rf", str(destination)], check=True, timeout=60)
