"""A file is read as it was at one moment, or it is said that it was not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drtool.sources.files.entries import Omission, Omitted
from drtool.sources.files.reading import (
    READ_BYTES,
    FileBegan,
    FileBytes,
    FileEnded,
    FileHole,
    data_ranges,
)
from tests.files.trees import opened, read_all


@pytest.mark.parametrize("size", [0, 1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 3 * READ_BYTES])
def test_a_file_comes_out_whole(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)

    with opened(tmp_path) as files:
        given, end = read_all(files, b"file")

    assert given == content
    assert isinstance(end, FileEnded)
    assert end.torn is None
    assert (end.entry.size_bytes, end.entry.path) == (size, b"file")


def test_holes_are_told_and_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"x" * 4096)
        file.truncate(16 << 20)

    with opened(tmp_path) as files:
        kinds = [type(item) for item in files.read(b"sparse")]

    assert kinds == [FileBegan, FileHole, FileBytes, FileHole, FileEnded]


def test_data_ranges_are_in_order_and_end_with_the_size(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb+") as file:
        for at in (1 << 20, 5 << 20):
            file.seek(at)
            file.write(b"x")
        file.truncate(6 << 20)
        ranges = list(data_ranges(file.fileno(), 6 << 20))
        cut = list(data_ranges(file.fileno(), (1 << 20) + 1))

    assert [begin for begin, _ in ranges] == [1 << 20, 5 << 20]
    assert cut == [(1 << 20, (1 << 20) + 1)]


def test_a_file_that_changed_while_it_was_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * (2 * READ_BYTES))

    items = []
    with opened(tmp_path) as files:
        for number, item in enumerate(files.read(b"file")):
            if isinstance(item, FileBytes):
                item = FileBytes(item.offset, memoryview(bytes(item.data)))
            items.append(item)
            if number == 1:
                path.write_bytes(b"b" * READ_BYTES)

    began = [number for number, item in enumerate(items) if isinstance(item, FileBegan)]
    end = items[-1]
    assert len(began) == 2
    assert isinstance(end, FileEnded)
    assert end.torn is None
    assert end.entry.size_bytes == READ_BYTES
    last = [bytes(item.data) for item in items[began[-1] :] if isinstance(item, FileBytes)]
    assert b"".join(last) == b"b" * READ_BYTES


def test_a_file_that_never_holds_still_is_given_as_torn_after_three_times(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"line\n")

    items = []
    with opened(tmp_path) as files:
        for item in files.read(b"log"):
            items.append(item)
            if isinstance(item, FileBytes):
                with path.open("ab") as file:
                    file.write(b"line\n")

    end = items[-1]
    assert sum(isinstance(item, FileBegan) for item in items) == 3
    assert isinstance(end, FileEnded)
    assert end.torn is not None
    assert end.torn.finding.fact == "changed each time while it was read"
    assert not end.torn.is_incomplete


def test_a_change_that_leaves_size_and_mtime_alone_is_noticed_by_ctime(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 10)
    os.utime(path, ns=(1, 1))

    items = []
    with opened(tmp_path) as files:
        for item in files.read(b"file"):
            items.append(item)
            if len(items) == 2:
                path.write_bytes(b"b" * 10)
                os.utime(path, ns=(1, 1))

    assert sum(isinstance(item, FileBegan) for item in items) == 2


def test_a_file_that_vanished_or_became_something_else_is_told_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "directory").mkdir()
    (tmp_path / "way").symlink_to("/etc")

    told = {}
    with opened(tmp_path) as files:
        for name in (b"missing", b"fifo", b"link", b"directory", b"way/hostname"):
            (item,) = list(files.read(name))
            assert isinstance(item, Omitted)
            told[name] = item.why

    assert told == {
        b"missing": Omission.VANISHED,
        b"fifo": Omission.SPECIAL,
        b"link": Omission.VANISHED,
        b"directory": Omission.VANISHED,
        b"way/hostname": Omission.VANISHED,
    }


def test_reading_leaves_the_time_of_access_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.utime(tmp_path / "file", ns=(1, 2))

    with opened(tmp_path) as files:
        read_all(files, b"file")

    assert (tmp_path / "file").stat().st_atime_ns == 1
