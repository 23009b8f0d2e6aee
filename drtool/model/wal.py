"""Positions in PostgreSQL's write-ahead log, and the names of its segments.

Source: src/include/access/xlog_internal.h (XLogFileName, XLByteToSeg) and xlogdefs.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

MIN_SEGMENT_BYTES = 1 << 20
MAX_SEGMENT_BYTES = 1 << 30
MOST_LSN = (1 << 64) - 1
MOST_TIMELINE = (1 << 32) - 1
# A line of a history has less than a kilobyte, and no cluster was promoted a thousand times.
MOST_HISTORY_BYTES = 1 << 20

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_SEGMENT = re.compile(r"[0-9A-F]{24}")


class Lsn(int):
    """A byte position in the WAL, printed as PostgreSQL prints it (`16/B374D848`).

    Arithmetic gives plain integers; wrap the result where a position is meant.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `X/X`; raise ValueError for anything else."""
        match = _LSN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"not a WAL position: {text[:40]!r}")
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"


@dataclass(frozen=True, slots=True, order=True)
class WalSegment:
    """One WAL segment: a timeline, and the number of the segment from position zero."""

    timeline: int
    number: int

    @classmethod
    def holding(cls, timeline: int, lsn: Lsn, segment_bytes: int) -> WalSegment:
        """The segment in which the byte at `lsn` lies."""
        return cls(timeline, lsn // segment_bytes)

    @classmethod
    def parse(cls, name: str, segment_bytes: int) -> WalSegment:
        """Read a 24-digit file name; raise ValueError for anything else."""
        if _SEGMENT.fullmatch(name) is None:
            raise ValueError(f"not the name of a WAL segment: {name[:40]!r}")
        per_log = (1 << 32) // segment_bytes
        low = int(name[16:], 16)
        if low >= per_log:
            raise ValueError(f"{name} cannot be a segment of {segment_bytes} bytes")
        return cls(int(name[:8], 16), int(name[8:16], 16) * per_log + low)

    def name(self, segment_bytes: int) -> str:
        """The 24-digit file name."""
        high, low = divmod(self.number, (1 << 32) // segment_bytes)
        return f"{self.timeline:08X}{high:08X}{low:08X}"

    def begin(self, segment_bytes: int) -> Lsn:
        """The position of its first byte."""
        return Lsn(self.number * segment_bytes)

    def end(self, segment_bytes: int) -> Lsn:
        """The position after its last byte."""
        return Lsn((self.number + 1) * segment_bytes)


def require_segment_bytes(segment_bytes: int) -> int:
    """A size that segments may have; ValueError for any other."""
    is_power = segment_bytes & (segment_bytes - 1) == 0
    if not is_power or not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES:
        raise ValueError(f"no WAL has segments of {segment_bytes} bytes")
    return segment_bytes


def segments_between(
    timeline: int, begin: Lsn, end: Lsn, *, segment_bytes: int
) -> Iterator[WalSegment]:
    """The segments of one timeline that hold the bytes from `begin` up to, not including, `end`."""
    for number in range(begin // segment_bytes, -(-end // segment_bytes)):
        yield WalSegment(timeline, number)


def history_name(timeline: int) -> str:
    """The file name of a timeline's history."""
    return f"{timeline:08X}.history"


@dataclass(frozen=True, slots=True)
class TimelineSwitch:
    """One line of a history file: `timeline` ended at `switch_point` and its child went on there."""

    timeline: int
    switch_point: Lsn


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """A timeline and its ancestors, oldest first, as its history file tells them."""

    timeline: int
    ancestors: tuple[TimelineSwitch, ...] = ()

    @classmethod
    def parse(cls, timeline: int, text: str) -> TimelineHistory:
        """Read a history file (src/backend/access/transam/timeline.c); ValueError if it is none."""
        if len(text) > MOST_HISTORY_BYTES:
            raise ValueError(f"{history_name(timeline)} has {len(text)} characters")
        ancestors = []
        for line in text.splitlines():
            fields = line.split("#", 1)[0].split(maxsplit=2)
            if not fields:
                continue
            is_number = fields[0].isascii() and fields[0].isdigit() and len(fields[0]) <= 10
            if len(fields) < 2 or not is_number or int(fields[0]) > MOST_TIMELINE:
                raise ValueError(f"{history_name(timeline)}: not a history line: {line[:200]!r}")
            ancestors.append(TimelineSwitch(int(fields[0]), Lsn.parse(fields[1])))
        numbers = [switch.timeline for switch in ancestors] + [timeline]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"{history_name(timeline)}: timelines do not ascend")
        return cls(timeline, tuple(ancestors))

    def end_of(self, timeline: int) -> Lsn | None:
        """Where `timeline` ended on this path; None for the last one, which has not ended.

        Raise KeyError for a timeline that is not on the path.
        """
        if timeline == self.timeline:
            return None
        for switch in self.ancestors:
            if switch.timeline == timeline:
                return switch.switch_point
        raise KeyError(timeline)

    def holds(self, timeline: int, lsn: Lsn) -> bool:
        """Whether the position `lsn`, reached on `timeline`, lies on this path."""
        try:
            end = self.end_of(timeline)
        except KeyError:
            return False
        return end is None or lsn <= end

    def path(self) -> tuple[int, ...]:
        """All timelines of the path, oldest first."""
        return (*(switch.timeline for switch in self.ancestors), self.timeline)
