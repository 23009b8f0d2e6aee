"""One file that archive_command hands over: judged by its own header, then stored."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

from drtool.archiving.wal_events import PushedEvents
from drtool.errors import IntegrityError, SourceUnsuitable, UsageError
from drtool.model.cluster import describe_cluster, system_of
from drtool.model.wal import (
    MAX_SEGMENT_BYTES,
    Lsn,
    TimelineHistory,
    WalSegment,
    history_name,
)
from drtool.repository.layout import Lineage, SegmentPart
from drtool.repository.log import SegmentWriter, put_history, put_part
from drtool.repository.log_events import LogEvent, put_event
from drtool.repository.repository import Repository
from drtool.sources.postgres.walheader import read_wal_header

_NAME = re.compile(
    r"(?P<segment>[0-9A-F]{24})(?P<kind>|\.partial|\.[0-9A-F]{8}\.backup)"
    r"|(?P<timeline>[0-9A-F]{8})\.history"
)
_LONGEST_HISTORY_BYTES = 1 << 20
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Pushed:
    """What is durable now: WAL of `timeline` from `begin` up to `end`, None for a file that holds no
    WAL; and what it says that a recovery must know.
    """

    timeline: int
    begin: Lsn | None
    end: Lsn | None
    events: tuple[LogEvent, ...] = ()


def store_pushed(
    repository: Repository,
    source: str,
    *,
    system_id: int,
    name: str,
    descriptor: int,
    events: PushedEvents,
) -> Pushed:
    """Store the file `name`, open at `descriptor`; return once it is durable (PITFALLS 1, 12).

    What a recovery must know of it is durable before. `events` remembers the segments pushed before.

    The same bytes again are a success. IntegrityError for other bytes under a name that is taken,
    and for a file whose header does not fit its name; SourceUnsuitable for another cluster's WAL
    (PITFALLS 2); UsageError for a name that PostgreSQL does not archive.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"{name!r} is not the name of a file that PostgreSQL archives",
            hint="Use archive_command = 'drtool-wal push %p'.",
        )
    if match["timeline"]:
        content = _read(descriptor, name, most=_LONGEST_HISTORY_BYTES)
        timeline = int(match["timeline"], 16)
        _require_history(timeline, content)
        put_history(repository, source, system_id, timeline=timeline, content=content)
        return Pushed(timeline, None, None)
    if match["kind"].endswith(".backup"):
        # A label of somebody's base backup; nothing in it is needed to replay WAL.
        return Pushed(int(name[:8], 16), None, None)
    content = _read(descriptor, name, most=MAX_SEGMENT_BYTES)
    segment, size = _judged(match["segment"], content, system_id)
    lineage = Lineage(source, system_id, segment.timeline)
    found = events.find(repository, lineage, segment, content=content)
    for event in found:
        put_event(repository, lineage, event)
    if match["kind"]:
        # The old timeline's last segment after a promotion; what lies beyond the fork is junk.
        put_part(repository, lineage, SegmentPart(segment.name(size), 0, size), plain=content)
    else:
        writer = SegmentWriter(repository, lineage, segment.name(size))
        writer.write(content)
        writer.finish()
    return Pushed(segment.timeline, segment.begin(size), segment.end(size), tuple(found))


def _require_history(timeline: int, content: bytes) -> None:
    """IntegrityError if it is none: a path that cannot be read makes `--to latest` impossible."""
    name = history_name(timeline)
    try:
        history = TimelineHistory.parse(timeline, content.decode("utf-8", "replace"))
    except ValueError as error:
        raise _unfit_history(name, str(error)) from error
    if not history.ancestors:
        raise _unfit_history(name, "it names no timeline that it came from")


def _unfit_history(name: str, fact: str) -> IntegrityError:
    return IntegrityError(
        f"{name} is not the history of a timeline: {fact}",
        hint="Look at the file in pg_wal and at the server's disk; nothing was stored.",
    )


def _judged(name: str, content: bytes, system_id: int) -> tuple[WalSegment, int]:
    try:
        header = read_wal_header(content)
        segment = WalSegment.parse(name, header.segment_bytes)
    except (ValueError, ZeroDivisionError) as error:
        raise _unfit(name, str(error)) from error
    if header.system_id != system_of(system_id):
        raise SourceUnsuitable(
            f"{name} is of cluster {header.system_id}, and this source is cluster"
            f" {describe_cluster(system_id)}",
            hint="A clone or a restored copy must not archive here: set its archive_mode to off, or"
            " give it a source of its own.",
        )
    if len(content) != header.segment_bytes:
        raise _unfit(name, f"it holds {len(content)} bytes, not {header.segment_bytes}")
    if header.begin != segment.begin(header.segment_bytes):
        raise _unfit(name, f"it begins at {header.begin}")
    if header.timeline > segment.timeline:
        raise _unfit(name, f"it is of timeline {header.timeline}")
    return segment, header.segment_bytes


def _unfit(name: str, fact: str) -> IntegrityError:
    return IntegrityError(
        f"{name} is not the WAL segment of that name: {fact}",
        hint="Look at the file in pg_wal and at the server's disk; drtool stores it as it should be"
        " or not at all.",
    )


def _read(descriptor: int, name: str, *, most: int) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= most:
        raise _unfit(name, f"it is no file of 1 to {most} bytes")
    content = bytearray()
    while piece := os.pread(descriptor, _READ_BYTES, len(content)):
        content += piece
        if len(content) > most:
            raise _unfit(name, f"it grew beyond {most} bytes")
    return bytes(content)
