"""What was walked and read is what stands there after it was written back."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drtool.sources.files.entries import TreeKind
from tests.files.trees import contents, entries_of, likeness, place

names = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
files = st.fixed_dictionaries(
    {
        "content": st.binary(max_size=40),
        "mode": st.integers(0, 0o7777),
        "modified": st.integers(0, 2**34 * 10**9),
        "xattr": st.one_of(st.none(), st.binary(max_size=20)),
    }
)
links = st.binary(min_size=1, max_size=30).filter(lambda text: b"\0" not in text)
trees = st.recursive(
    st.dictionaries(names, st.one_of(files, links), max_size=4),
    lambda below: st.dictionaries(names, st.one_of(files, links, below), max_size=4),
    max_leaves=12,
)


def _make(where: bytes, tree: dict[bytes, object]) -> None:
    for name, what in tree.items():
        path = where + b"/" + name
        if isinstance(what, bytes):
            os.symlink(what, path)
        elif isinstance(what, dict) and "content" in what and isinstance(what["content"], bytes):
            _make_file(path, what)
        elif isinstance(what, dict):
            os.mkdir(path)
            _make(path, what)
            os.utime(path, ns=(5, 1_600_000_000_123_456_789))


def _make_file(path: bytes, what: dict[str, object]) -> None:
    content, mode, modified = what["content"], what["mode"], what["modified"]
    assert isinstance(content, bytes)
    assert isinstance(mode, int)
    assert isinstance(modified, int)
    Path(os.fsdecode(path)).write_bytes(content)
    if isinstance(what["xattr"], bytes):
        os.setxattr(path, b"user.note", what["xattr"])
    os.chmod(path, mode)
    os.utime(path, ns=(7, modified))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=trees)
def test_any_tree_is_the_same_after_it_was_written_back(tree: dict[bytes, object]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, copy = Path(scratch, "source"), Path(scratch, "copy")
        source.mkdir()
        copy.mkdir()
        _make(os.fsencode(source), tree)
        before = entries_of(source)

        findings = place(before, source, copy)

        after = entries_of(copy)
        assert findings == []
        assert likeness(after) == likeness(before)
        assert contents(copy, after) == contents(source, before)


ODD_NAMES = [
    b"new\nline", b"\xff\xfe not utf-8", b"x" * 255, b"-rf", b" ", b"a*?[b]", "é\u202e".encode(),
    b"\\", b"tab\t", b"...", "\U0001f5c3".encode(),
]  # fmt: skip


def test_names_of_any_bytes_come_back(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    copy.mkdir()
    for name in ODD_NAMES:
        where = os.fsencode(source) + b"/" + name
        os.mkdir(where)
        (Path(os.fsdecode(where)) / os.fsdecode(name)).write_bytes(name)

    before = entries_of(source)
    place(before, source, copy)

    assert contents(copy, entries_of(copy)) == {name + b"/" + name: name for name in ODD_NAMES}


def test_modes_owners_and_empty_directories_come_back(tmp_path: Path) -> None:
    """PITFALLS 61: the mode and owner of directories, and those with nothing in them."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    (source / "empty").mkdir(parents=True)
    copy.mkdir()
    (source / "empty").chmod(0o2750)
    os.chown(source / "empty", 1234, 4321)
    (source / "locked").mkdir()
    (source / "locked/inner").write_text("x")
    (source / "locked").chmod(0o500)
    (source / "program").write_text("x")
    os.chown(source / "program", 1234, 4321)
    (source / "program").chmod(0o6755)
    source.chmod(0o700)

    before = entries_of(source)
    findings = place(before, source, copy)

    assert findings == []
    assert likeness(entries_of(copy)) == likeness(before)
    assert (copy / "program").stat().st_mode & 0o7777 == 0o6755


# A POSIX ACL as the kernel wants it: version 2, then (tag, permissions, id) each.
# user::rwx, user:1234:r--, group::r-x, mask::r-x, other::---
ACL = bytes.fromhex(
    "02000000 0100 0700 ffffffff 0200 0400 d2040000 0400 0500 ffffffff"
    " 1000 0500 ffffffff 2000 0000 ffffffff"
)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def test_attributes_acls_and_capabilities_come_back(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    (source / "shared").mkdir(parents=True)
    copy.mkdir()
    os.setxattr(source / "shared", "system.posix_acl_default", ACL)
    (source / "shared/inherits").write_text("x")
    (source / "plain").write_text("x")
    os.setxattr(source / "plain", "system.posix_acl_access", ACL)
    os.setxattr(source / "plain", "user.note", b"\0\xff")
    os.setxattr(source / "plain", "security.capability", CAPABILITY)
    os.setxattr(source / "plain", "trusted.mark", b"1")

    before = entries_of(source)
    findings = place(before, source, copy)

    after = entries_of(copy)
    assert findings == []
    assert likeness(after) == likeness(before)
    assert dict(after[b"plain"].xattrs).keys() == {
        b"security.capability", b"system.posix_acl_access", b"trusted.mark", b"user.note",
    }  # fmt: skip
    assert after[b"plain"].acls == ((b"system.posix_acl_access", ACL),)


def test_names_of_one_file_are_names_of_one_file_again(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    (source / "a").mkdir(parents=True)
    copy.mkdir()
    (source / "a/one").write_text("shared")
    os.link(source / "a/one", source / "two")
    os.link(source / "a/one", source / "a/three")

    place(entries_of(source), source, copy)

    inodes = {(copy / name).stat().st_ino for name in ("a/one", "two", "a/three")}
    assert len(inodes) == 1
    assert (copy / "two").stat().st_nlink == 3


def test_links_lead_where_they_led_and_nobody_follows_them(tmp_path: Path) -> None:
    source, copy, outside = tmp_path / "source", tmp_path / "copy", tmp_path / "outside"
    for directory in (source, copy, outside):
        directory.mkdir()
    (outside / "secret").write_text("not part of the tree")
    (source / "out").symlink_to(outside)
    (source / "nowhere").symlink_to("/no/such/place")
    (source / "itself").symlink_to("itself")

    before = entries_of(source)
    place(before, source, copy)

    assert set(before) == {b"", b"out", b"nowhere", b"itself"}
    assert os.readlink(copy / "out") == str(outside)
    assert os.readlink(copy / "itself") == "itself"


def test_a_file_of_a_gibibyte_that_is_mostly_hole_takes_little_room_again(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    copy.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(300 << 20)
        file.write(b"in the middle")
        file.seek((1 << 30) - 1)
        file.write(b"!")

    before = entries_of(source)
    place(before, source, copy)

    status = (copy / "sparse").stat()
    assert before[b"sparse"].is_sparse
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20
    with (copy / "sparse").open("rb") as file:
        file.seek(300 << 20)
        assert file.read(14) == b"in the middle\0"
        file.seek((1 << 30) - 2)
        assert file.read() == b"\0!"


@pytest.fixture
def deep_path() -> Iterator[Path]:
    """A directory for trees that are too deep for shutil, and so for pytest, to remove."""
    scratch = tempfile.mkdtemp()
    yield Path(scratch)
    subprocess.run(["rm", "-rf", scratch], check=True, timeout=60)


def test_a_thousand_directories_in_each_other_are_walked_and_made(deep_path: Path) -> None:
    levels = 1000
    source, copy = deep_path / "source", deep_path / "copy"
    source.mkdir()
    copy.mkdir()
    here = os.open(source, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(b"directory", dir_fd=here)
        below = os.open(b"directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open(b"deepest", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)

    before = entries_of(source)
    place(before, source, copy)

    deepest = b"/".join([b"directory"] * levels + [b"deepest"])
    assert len(deepest) > 4096, "a path that any one call would take proves nothing"
    assert before[deepest].kind is TreeKind.FILE
    assert likeness(entries_of(copy)) == likeness(before)
