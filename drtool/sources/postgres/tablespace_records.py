"""CREATE TABLESPACE in WAL, turned inwards: its replay must not follow the path of the source. Pure.

Replay of XLOG_TBLSPC_CREATE makes `pg_tblspc/OID` a link to the path in the record, wherever the copy
lies: on the source's machine that is the live directory. With an empty path PostgreSQL (15 and later:
create_tablespace_directories in commands/tablespace.c) uses `pg_tblspc/OID` as it finds it instead.
One byte and the record's CRC-32C differ then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import anycrc

from drtool.errors import IntegrityError
from drtool.model.wal import Lsn
from drtool.sources.postgres.walevents import (
    TABLESPACE_CREATE,
    TablespaceCreated,
    main_data,
    read_event,
)
from drtool.sources.postgres.walrecords import PAGE_BYTES, WalRecord

KIND = TABLESPACE_CREATE
# A record of the longest path (MAXPGPATH) fits into the pages on both sides of a segment's boundary.
_RECORD_HEADER_BYTES, _CRC_AT, _CHECKED_HEADER_BYTES = 24, 20, 20
_OID_BYTES = 4
_SHORT_PAGE_HEADER, _LONG_PAGE_HEADER = 24, 40
_CRC = anycrc.Model("CRC32-ISCSI")


@dataclass(frozen=True, slots=True)
class WalChange:
    """Bytes at a position of the WAL, as the server wrote them and as they are handed to a replay."""

    lsn: Lsn
    written: bytes
    handed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnedInwards:
    """A tablespace that WAL creates, and the changes that keep its replay inside the copy."""

    oid: int
    location: str
    changes: tuple[WalChange, ...]


def turn_inwards(record: WalRecord, *, segment_bytes: int, major: int) -> TurnedInwards | None:
    """What to change in a record of KIND; None if it leads nowhere.

    IntegrityError if it is not understood.
    """
    event, data = read_event(record, major=major), main_data(record.body)
    if not isinstance(event, TablespaceCreated) or data is None:
        raise IntegrityError(
            f"the WAL record at {record.begin} creates a tablespace in a way that drtool does not know",
            hint="Restore to a moment before it, and report this.",
        )
    if not event.location:
        return None
    at = len(record.body) - len(data) + _OID_BYTES
    first = record.body[at : at + 1]
    # CRC is linear: what one byte changes does not depend on the others, so no header is needed.
    size = len(record.body) + _CHECKED_HEADER_BYTES
    difference = bytearray(size)
    difference[at] = first[0]
    crc = record.crc ^ _CRC.calc(bytes(difference)) ^ _CRC.calc(bytes(size))
    path_at = position_within(record.begin, _RECORD_HEADER_BYTES + at, segment_bytes=segment_bytes)
    crc_at = position_within(record.begin, _CRC_AT, segment_bytes=segment_bytes)
    return TurnedInwards(
        oid=event.oid,
        location=event.location,
        changes=(
            WalChange(path_at, first, b"\0"),
            WalChange(crc_at, record.crc.to_bytes(4, "little"), crc.to_bytes(4, "little")),
        ),
    )


def position_within(begin: Lsn, count: int, *, segment_bytes: int) -> Lsn:
    """Where the byte lies that is `count` bytes after `begin`, page headers not counted."""
    at = int(begin)
    while True:
        if at % PAGE_BYTES == 0:
            at += _LONG_PAGE_HEADER if at % segment_bytes == 0 else _SHORT_PAGE_HEADER
        room = PAGE_BYTES - at % PAGE_BYTES
        if count < room:
            return Lsn(at + count)
        at, count = at + room, count - room


def changed(content: bytes, begin: Lsn, changes: Iterable[WalChange]) -> bytes:
    """WAL from `begin` on with those of the changes that lie in it; IntegrityError if it has other bytes."""
    turned = bytearray(content)
    for change in changes:
        at = change.lsn - begin
        if 0 <= at < len(turned):
            if turned[at : at + len(change.written)] != change.written:
                raise IntegrityError(
                    f"WAL at {change.lsn} is not what it was when it was looked through",
                    hint="Run `drtool verify --whole`.",
                )
            turned[at : at + len(change.handed)] = change.handed
    return bytes(turned)
