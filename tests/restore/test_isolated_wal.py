"""A CREATE TABLESPACE in WAL is turned inwards wherever its record lies, over segments and pages too."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import anycrc
import pytest

from drtool.errors import DestinationRefused
from drtool.model.target import ToLatest
from drtool.model.wal import WalSegment
from drtool.repository.layout import Lineage
from drtool.repository.log import SegmentWriter
from drtool.repository.repository import Repository
from drtool.restore.destination import Destination
from drtool.restore.isolated_wal import IsolatedWal
from drtool.restore.look import look
from drtool.restore.plan import plan_restore
from drtool.restore.supply import WalSupply
from drtool.restore.tablespaces import LinkLeadsOutside, ReplayedTablespaces
from drtool.system.clock import SystemClock
from drtool.system.users import current_user
from tests.repository.building import (
    EXTENT_OF_BACKUP,
    MIB,
    SYSTEM,
    a_tree,
    new_repository,
    store_tree,
)

PAGE = 8192
FIRST = 2
OID = 16_500
LIVE = b"/srv/live/of the source"
_CRC = anycrc.Model("CRC32-ISCSI")


def record(manager: int, data: bytes, previous: int) -> bytes:
    """XLogRecord with main data only (xlogrecord.h)."""
    body = b"\xff" + bytes([len(data)]) + data if len(data) < 256 else b""
    body = body or b"\xfe" + struct.pack("<I", len(data)) + data
    head = struct.pack(
        "<IIQBBxx", 24 + len(body), 0, previous, 0x20 if manager == 0 else 0, manager
    )
    return head + struct.pack("<I", _CRC.calc(head, _CRC.calc(body))) + body


def laid_out(records: list[bytes], timeline: int = 1) -> tuple[bytes, bytes]:
    """Two segments with the records one after the other, each 8-byte aligned, in pages with headers."""
    payload, begins = b"", []
    for one in records:
        begins.append(len(payload))
        payload += one + bytes(-len(one) % 8)
    out, at, page = b"", 0, FIRST * MIB
    while page < (FIRST + 2) * MIB:
        is_long = page % MIB == 0
        size = PAGE - (40 if is_long else 24)
        inside = at and (at not in begins)
        ends = [b + len(r) for b, r in zip(begins, records, strict=True) if b < at < b + len(r)]
        remaining = ends[0] - at if inside and ends else 0
        info = (1 if remaining else 0) | (2 if is_long else 0)
        out += struct.pack("<HHIQIxxxx", 0xD110, info, timeline, page, remaining)
        out += struct.pack("<QII", SYSTEM, MIB, PAGE) if is_long else b""
        out += payload[at : at + size].ljust(size, b"\0")
        at, page = at + size, page + PAGE
    return out[:MIB], out[MIB:]


def wal_with_creation(left_bytes: int) -> tuple[bytes, bytes]:
    """The record begins so many bytes before the end of the first segment."""
    room = MIB - 40 - (MIB // PAGE - 1) * 24
    filler = room - left_bytes - 24 - 5
    begin = FIRST * MIB + 40
    first = record(0, bytes(filler), 0)
    data = struct.pack("<I", OID) + LIVE + b"\0"
    last = MIB - left_bytes + FIRST * MIB
    return laid_out([first, record(5, data, begin), record(0, bytes(300), last)])


def stored(repository: Repository, segments: tuple[bytes, bytes], place: Path) -> Repository:
    store_tree(repository, a_tree(place, {}), extent=EXTENT_OF_BACKUP)
    for number, content in enumerate(segments):
        name = WalSegment(1, FIRST + number).name(MIB)
        writer = SegmentWriter(repository, Lineage("main", SYSTEM, 1), name)
        writer.write(content)
        writer.finish()
    return repository


@pytest.fixture
def isolated(tmp_path: Path) -> Callable[[tuple[bytes, bytes]], IsolatedWal]:
    def make(segments: tuple[bytes, bytes]) -> IsolatedWal:
        repository = stored(new_repository(), segments, tmp_path / "tree")
        (tmp_path / "copy" / "pg_tblspc").mkdir(parents=True)
        plan = plan_restore(look(repository, "main", ToLatest()), ToLatest())
        supply = WalSupply(repository, plan, clock=SystemClock())
        destination = Destination(tmp_path / "copy", (), current_user())
        return IsolatedWal(supply, ReplayedTablespaces(destination), major=15)

    return make


def read_records(first: bytes, second: bytes) -> bytes:
    """The records' bytes alone."""
    both = first + second
    pages = [both[at : at + PAGE] for at in range(0, len(both), PAGE)]
    return b"".join(
        page[40 if number % (MIB // PAGE) == 0 else 24 :] for number, page in enumerate(pages)
    )


@pytest.mark.parametrize("left_bytes", [8, 16, 24, 32, 40, 56, 64, 2000, 8200])
@pytest.mark.parametrize("is_second_first", [False, True])
def test_the_record_leads_nowhere_and_its_checksum_is_right(
    isolated: Callable[[tuple[bytes, bytes]], IsolatedWal],
    tmp_path: Path,
    left_bytes: int,
    is_second_first: bool,
) -> None:
    segments = wal_with_creation(left_bytes)
    wal = isolated(segments)
    names = [WalSegment(1, FIRST + number).name(MIB) for number in (0, 1)]

    order = reversed(names) if is_second_first else names
    got = {name: wal.read(name) for name in order}
    first, second = (got[name] or b"" for name in names)

    written, handed = read_records(*segments), read_records(first, second)
    at = written.index(struct.pack("<I", OID) + LIVE) - 26
    (length,) = struct.unpack_from("<I", handed, at)
    (crc,) = struct.unpack_from("<I", handed, at + 20)
    turned = handed[at : at + length]
    assert turned[26:30] == struct.pack("<I", OID)
    assert turned[30:31] == b"\0"
    assert turned[31:] == LIVE[1:] + b"\0"
    assert crc == _CRC.calc(turned[:20], _CRC.calc(turned[24:]))
    assert handed[:at] + handed[at + length :] == written[:at] + written[at + length :]
    link = tmp_path / "copy" / "pg_tblspc" / str(OID)
    assert link.readlink() == tmp_path / "copy-tablespaces" / str(OID)


def test_no_segment_is_handed_over_while_a_link_leads_outside(
    isolated: Callable[[tuple[bytes, bytes]], IsolatedWal], tmp_path: Path
) -> None:
    wal = isolated(wal_with_creation(2000))
    live = tmp_path / "live"
    live.mkdir()
    (tmp_path / "copy" / "pg_tblspc" / "16999").symlink_to(live)

    with pytest.raises(LinkLeadsOutside, match="16999"):
        wal.read(WalSegment(1, FIRST).name(MIB))


def test_a_place_that_is_not_empty_is_refused_before_the_record_is_handed_over(
    isolated: Callable[[tuple[bytes, bytes]], IsolatedWal], tmp_path: Path
) -> None:
    wal = isolated(wal_with_creation(2000))
    (tmp_path / "copy-tablespaces" / str(OID)).mkdir(parents=True)
    (tmp_path / "copy-tablespaces" / str(OID) / "mine").touch()

    with pytest.raises(DestinationRefused, match="not empty"):
        wal.read(WalSegment(1, FIRST).name(MIB))
