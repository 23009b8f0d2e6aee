"""The header of a WAL segment: whose WAL it is, and where it belongs.

Source: src/include/access/xlog_internal.h, XLogLongPageHeaderData; the server's own byte order, which
is little on every platform that PostgreSQL is built for today.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from drtool.model.wal import Lsn

# magic, info, timeline, page address, remaining length, padding, system id, segment and block size
_LONG_HEADER = struct.Struct("<HHIQI4xQII")
HEADER_BYTES = _LONG_HEADER.size
_LONG = 0x0002
# XLOG_PAGE_MAGIC of PostgreSQL 15 (0xD110); later versions count on.
_OLDEST_MAGIC = 0xD110
_NEWEST_MAGIC = 0xD1FF


@dataclass(frozen=True, slots=True, kw_only=True)
class WalHeader:
    """What the first page of a segment says."""

    timeline: int
    begin: Lsn
    system_id: int
    segment_bytes: int


def read_wal_header(content: bytes | memoryview) -> WalHeader:
    """The header at the start of `content`; ValueError if there is none.

    The timeline is that of the segment's first page, which a switch in mid-segment leaves the old one.
    """
    if len(content) < HEADER_BYTES:
        raise ValueError(f"{len(content)} bytes hold no WAL header")
    magic, flags, timeline, begin, _, system_id, segment_bytes, _ = _LONG_HEADER.unpack_from(
        content
    )
    if not _OLDEST_MAGIC <= magic <= _NEWEST_MAGIC or not flags & _LONG:
        raise ValueError(f"no WAL segment of PostgreSQL 15 or later begins so (magic {magic:04X})")
    return WalHeader(
        timeline=timeline, begin=Lsn(begin), system_id=system_id, segment_bytes=segment_bytes
    )


def continued_bytes(content: bytes | memoryview) -> int:
    """How many bytes of a record that began before it the page at the start of `content` goes on with."""
    if len(content) < HEADER_BYTES:
        return 0
    return int(_LONG_HEADER.unpack_from(content)[4])
