"""Archives are read right however the messages cut them, and anything else than a tar is refused."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from drtool.errors import IntegrityError
from drtool.sources.postgres.tar import MemberBegan, MemberBytes, MemberKind, TarReader

CONTENTS = {b"a": b"", b"b": b"x", b"c": bytes(range(256)) * 2, b"d": b"y" * 8192, b"e": b"z" * 513}


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        directory = tarfile.TarInfo("base/")
        directory.type = tarfile.DIRTYPE
        directory.mode = 0o700
        tar.addfile(directory)
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(name.decode())
            member.size = len(content)
            member.mode, member.uid, member.gid, member.mtime = 0o600, 101, 104, 1714550400
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("pg_tblspc/16384")
        link.type = tarfile.SYMTYPE
        link.linkname = "/srv/odd name"
        tar.addfile(link)
    return buffer.getvalue().rstrip(b"\0").ljust(1, b"\0")


def _whole() -> bytes:
    data = _archive()
    return data + bytes(-len(data) % 512) + bytes(1024)


def _read(data: bytes, cuts: list[int]) -> tuple[list[MemberBegan], dict[bytes, bytes]]:
    reader = TarReader("test.tar")
    members: list[MemberBegan] = []
    contents: dict[bytes, bytes] = {}
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        for item in reader.feed(memoryview(data)[begin:end]):
            if isinstance(item, MemberBegan):
                members.append(item)
                contents[item.path] = b""
            elif isinstance(item, MemberBytes):
                assert len(item.data)
                contents[members[-1].path] += item.data
    reader.finish()
    return members, contents


def test_members_come_out_whole_wherever_the_messages_are_cut() -> None:
    data = _whole()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    ways = [[], list(range(1, len(data))), list(range(512, len(data), 512))]
    ways += [sorted(chance.sample(range(1, len(data)), 20)) for _ in range(200)]

    for cuts in ways:
        members, contents = _read(data, cuts)

        assert {name: contents[name] for name in CONTENTS} == CONTENTS
        assert [member.kind for member in members][:2] == [MemberKind.DIRECTORY, MemberKind.FILE]
        assert members[0].path == b"base"
        assert members[-1].link == b"/srv/odd name"
        assert (members[1].mode, members[1].uid, members[1].modified_seconds) == (
            0o600,
            101,
            1714550400,
        )


def test_each_member_ends_exactly_once_and_before_the_next_begins() -> None:
    kinds = [type(item).__name__ for item in TarReader("t").feed(memoryview(_whole()))]

    began = kinds.count("MemberBegan")
    assert began == kinds.count("MemberEnded") == len(CONTENTS) + 2
    depth = 0
    for kind in kinds:
        depth += {"MemberBegan": 1, "MemberEnded": -1}.get(kind, 0)
        assert depth in (0, 1)


def test_sizes_above_8_gib_are_read_from_base_256() -> None:
    member = tarfile.TarInfo("large")
    member.size = 9 << 30
    header = member.tobuf(tarfile.GNU_FORMAT)

    (began,) = list(TarReader("test.tar").feed(memoryview(header)))

    assert isinstance(began, MemberBegan)
    assert began.size_bytes == 9 << 30


@pytest.mark.parametrize("length", [100, 512, 700, 1536])
def test_an_archive_that_breaks_off_is_refused(length: int) -> None:
    reader = TarReader("test.tar")
    list(reader.feed(memoryview(_whole()[:length])))

    with pytest.raises(IntegrityError, match=r"test\.tar"):
        reader.finish()


def test_a_flipped_bit_in_a_header_is_refused() -> None:
    data = bytearray(_whole())
    data[3] ^= 1

    with pytest.raises(IntegrityError, match="wrong checksum"):
        list(TarReader("test.tar").feed(memoryview(data)))


@pytest.mark.parametrize("path", ["../outside", "base/../../outside", "/absolute"])
def test_a_member_that_would_leave_the_data_directory_is_refused(path: str) -> None:
    member = tarfile.TarInfo(path)

    with pytest.raises(IntegrityError, match="path"):
        list(TarReader("test.tar").feed(memoryview(member.tobuf(tarfile.USTAR_FORMAT))))


def _with(place: int, field: bytes) -> bytes:
    """The archive with other bytes in its second header, and the checksum that goes with them."""
    data = bytearray(_whole())
    header = data[512:1024]
    header[place : place + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[512:1024] = header
    return bytes(data)


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (108, b"\x80\0\0\x01\0\0\0\0"),
        (116, b"\xff" * 8),
        (100, b"0010000\0"),
        (124, b"\xff" * 12),
        (136, b"\x80\0\0\x01" + bytes(8)),
        (0, b"a//b\0"),
        (0, b"a/./b\0"),
        (0, b"a/../b\0"),
        (0, b"\0"),
    ],
    ids=["uid", "gid", "mode", "size", "time", "empty", "dot", "dots", "none"],
)
def test_a_header_with_what_no_file_has_is_refused(place: int, field: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"archive test\.tar of the base backup"):
        _read(_with(place, field), [])


def test_owners_of_32_bits_and_times_before_1970_are_read_as_the_server_sends_them() -> None:
    owner, moment = (
        b"\x80\0\0\0\xff\xff\xff\xfe",
        b"\x80\0\0\0" + (-5).to_bytes(8, "big", signed=True),
    )

    assert _read(_with(108, owner), [])[0][1].uid == (1 << 32) - 2
    assert _read(_with(136, moment), [])[0][1].modified_seconds == -5
