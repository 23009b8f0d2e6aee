"""The header of a WAL segment: whose it is and which one it is (PITFALLS 2, 15).

Source: src/include/access/xlog_internal.h (XLogPageHeaderData, XLogLongPageHeaderData).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from drtool.errors import IntegrityError
from drtool.model.wal import MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, Lsn, WalSegment

HEADER_BYTES = 40
# xlp_page_magic of each major version: a number that changes with the WAL's format.
_MAGIC = {0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
_LONG_HEADER = 0x0002
_HEADER = struct.Struct("HHIQIxxxxQII")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """What the first page of a segment says; `major` None for a version we do not know."""

    system_id: int
    timeline: int
    begin: Lsn
    segment_bytes: int
    page_bytes: int
    major: int | None


def parse_segment_header(data: bytes | memoryview, *, name: str) -> SegmentHeader:
    """Read the first bytes of a segment; IntegrityError if they do not begin one."""
    if len(data) < HEADER_BYTES:
        raise _broken(name, f"has only {len(data)} bytes")
    magic, info, timeline, begin, _, system_id, segment_bytes, page_bytes = _HEADER.unpack_from(
        data
    )
    if not 0xD000 < magic < 0xD200 or not info & _LONG_HEADER:
        raise _broken(name, "does not begin with the header of a WAL segment")
    power_of_two = segment_bytes & (segment_bytes - 1) == 0
    if not power_of_two or not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES:
        raise _broken(name, f"claims a segment size of {segment_bytes} bytes")
    if begin % segment_bytes:
        raise _broken(name, f"claims to begin at {Lsn(begin)}, inside a segment")
    return SegmentHeader(
        system_id=system_id,
        timeline=timeline,
        begin=Lsn(begin),
        segment_bytes=segment_bytes,
        page_bytes=page_bytes,
        major=_MAGIC.get(magic),
    )


def check_segment_header(
    data: bytes | memoryview, *, segment: WalSegment, segment_bytes: int, system_id: int
) -> SegmentHeader:
    """The header of `segment`, if `data` begins it and it is of the cluster `system_id`.

    IntegrityError names the segment and what is wrong. The timeline in the header may be an older
    one than in the name: a new timeline's first segment begins with a copy of its parent's pages.
    """
    name = segment.name(segment_bytes)
    header = parse_segment_header(data, name=name)
    if header.system_id != system_id:
        raise IntegrityError(
            f"WAL segment {name} is of another cluster: system identifier {header.system_id},"
            f" not {system_id}",
            hint="A clone or restored copy must not archive into the repository of the cluster it came"
            " from: set archive_mode = off there.",
        )
    if header.segment_bytes != segment_bytes:
        raise _broken(name, f"is of {header.segment_bytes} bytes, not {segment_bytes}")
    if header.begin != segment.begin(segment_bytes):
        raise _broken(name, f"holds the WAL from {header.begin}")
    if header.timeline > segment.timeline:
        raise _broken(name, f"holds WAL of timeline {header.timeline}")
    return header


def _broken(name: str, fact: str) -> IntegrityError:
    return IntegrityError(
        f"WAL segment {name} {fact}", hint="Look at where it came from; it was not archived."
    )
