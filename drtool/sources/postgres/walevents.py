"""What records of WAL say that a recovery must know of before it meets them.

Source: src/include/access/rmgrlist.h, catalog/pg_control.h (XLOG_...), access/xact.h, access/xlog_internal.h
(xl_parameter_change, xl_restore_point), commands/tablespace.h and catalog/storage_xlog.h of
PostgreSQL 15 to 18.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from drtool.model.wal import Lsn
from drtool.sources.postgres.walrecords import RecordKind, WalRecord

_XLOG, _XACT, _STORAGE, _TABLESPACE = 0, 1, 2, 5
_FIRST_CUSTOM_MANAGER, _LAST_CUSTOM_MANAGER = 128, 255
_MANAGER_INFO = 0xF0
_XACT_OPERATION = 0x70
_COMMITS = (0x00, 0x30)
_ABORTS = (0x20, 0x40)
_OF_PREPARED = (0x30, 0x40)

PARAMETER_CHANGE = RecordKind(manager=_XLOG, info=0x60)
RESTORE_POINT = RecordKind(manager=_XLOG, info=0x70)
TRUNCATION = RecordKind(manager=_STORAGE, info=0x20)
TABLESPACE_CREATE = RecordKind(manager=_TABLESPACE, info=0x00)
# Commits and aborts, of prepared transactions too; the bit 0x80 says that more information follows.
TRANSACTION_ENDS = tuple(
    RecordKind(manager=_XACT, info=info | more)
    for info in (*_COMMITS, *_ABORTS)
    for more in (0x00, 0x80)
)
CUSTOM_MANAGERS = tuple(
    RecordKind(manager=manager)
    for manager in range(_FIRST_CUSTOM_MANAGER, _LAST_CUSTOM_MANAGER + 1)
)

# xl_parameter_change: four capacities, locks, wal_level, wal_log_hints, track_commit_timestamp.
_PARAMETERS = struct.Struct("<iiiiii??")
_NUMBER = struct.Struct("<I")
# xl_smgr_truncate: the first block that goes, tablespace, database and number of the relation.
_TRUNCATION = struct.Struct("<IIII")
_MOMENT = struct.Struct("<q")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_RESTORE_POINT_NAME_BYTES = 64
_LONGEST_PATH_BYTES = 1024
_HAS_INFO = 0x80
# xl_xact_xinfo and the parts of a commit record that it announces, in their order.
_HAS_DATABASE, _HAS_SUBTRANSACTIONS, _HAS_LOCATORS = 1 << 0, 1 << 1, 1 << 2
_HAS_MESSAGES, _HAS_TWO_PHASE, _HAS_DROPPED_STATISTICS = 1 << 3, 1 << 4, 1 << 8


class WalLevel(IntEnum):
    """wal_level, as WAL and the control file number it."""

    MINIMAL = 0
    REPLICA = 1
    LOGICAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterChange:
    """The server was started with these settings, and writes WAL under them from `begin` on."""

    begin: Lsn
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    wal_level: WalLevel
    track_commit_timestamp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TablespaceCreated:
    """CREATE TABLESPACE: replay makes the directory `location`; empty, it is inside the data directory."""

    begin: Lsn
    oid: int
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePoint:
    """pg_create_restore_point: replay can stop at it, behind `end`."""

    begin: Lsn
    end: Lsn
    moment: datetime
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEnd:
    """A commit or an abort; `xid` is that of the prepared transaction where it ends one."""

    begin: Lsn
    end: Lsn
    xid: int
    moment: datetime
    is_commit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """Relation `number` (its relfilenode) of a database was cut: blocks from `block` on went."""

    begin: Lsn
    database: int
    number: int
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomRecord:
    """A record of an extension's resource manager: replay stops at it where nothing loads the manager."""

    begin: Lsn
    manager: int


WalEvent = (
    ParameterChange | TablespaceCreated | RestorePoint | TransactionEnd | Truncation | CustomRecord
)


def read_event(record: WalRecord, *, major: int) -> WalEvent | None:
    """What a record of the kinds above says; None for any other, and for one that says nothing sensible.

    `major` is the version of the server that wrote it: one part of a commit record grew in 18.
    """
    if record.manager >= _FIRST_CUSTOM_MANAGER:
        return CustomRecord(begin=record.begin, manager=record.manager)
    data = main_data(record.body)
    operation = record.info & _MANAGER_INFO
    if data is None:
        return None
    try:
        if record.manager == _XACT:
            return _transaction_end(record, data, major=major)
        if (record.manager, operation) == (_XLOG, PARAMETER_CHANGE.info):
            return _parameter_change(record, data)
        if (record.manager, operation) == (_XLOG, RESTORE_POINT.info):
            return _restore_point(record, data)
        if (record.manager, operation) == (_TABLESPACE, TABLESPACE_CREATE.info):
            return _tablespace(record, data)
        if (record.manager, operation) == (_STORAGE, TRUNCATION.info):
            return _truncation(record, data)
    except (struct.error, ValueError, OverflowError):
        return None
    return None


def main_data(body: bytes) -> bytes | None:
    """A record's own data, where the record has no blocks; None if it has some, or is cut short."""
    at = 0
    while at + 2 <= len(body):
        match body[at]:
            case 253:  # XLR_BLOCK_ID_ORIGIN
                at += 3
            case 252:  # XLR_BLOCK_ID_TOPLEVEL_XID
                at += 5
            case 255:  # XLR_BLOCK_ID_DATA_SHORT
                return body[at + 2 :] if at + 2 + body[at + 1] == len(body) else None
            case 254:  # XLR_BLOCK_ID_DATA_LONG
                length = int.from_bytes(body[at + 1 : at + 5], "little")
                return body[at + 5 :] if at + 5 + length == len(body) else None
            case _:
                return None
    return None


def _parameter_change(record: WalRecord, data: bytes) -> ParameterChange:
    connections, workers, senders, prepared, locks, level, _, track = _PARAMETERS.unpack_from(data)
    return ParameterChange(
        begin=record.begin,
        max_connections=connections,
        max_worker_processes=workers,
        max_wal_senders=senders,
        max_prepared_transactions=prepared,
        max_locks_per_transaction=locks,
        wal_level=WalLevel(level),
        track_commit_timestamp=track,
    )


def _restore_point(record: WalRecord, data: bytes) -> RestorePoint:
    name = data[_MOMENT.size :][:_RESTORE_POINT_NAME_BYTES].split(b"\0")[0]
    return RestorePoint(
        begin=record.begin,
        end=record.end,
        moment=_moment(data),
        name=name.decode(errors="surrogateescape"),
    )


def _tablespace(record: WalRecord, data: bytes) -> TablespaceCreated:
    (oid,) = _NUMBER.unpack_from(data)
    location = data[_NUMBER.size :].split(b"\0")[0]
    if len(location) > _LONGEST_PATH_BYTES:
        raise ValueError("no path of a tablespace is so long")
    return TablespaceCreated(begin=record.begin, oid=oid, location=os.fsdecode(location))


def _truncation(record: WalRecord, data: bytes) -> Truncation:
    block, _, database, number = _TRUNCATION.unpack_from(data)
    return Truncation(begin=record.begin, database=database, number=number, block=block)


def _transaction_end(record: WalRecord, data: bytes, *, major: int) -> TransactionEnd | None:
    operation = record.info & _XACT_OPERATION
    if operation not in (*_COMMITS, *_ABORTS):
        return None
    is_prepared = operation in _OF_PREPARED
    return TransactionEnd(
        begin=record.begin,
        end=record.end,
        xid=_prepared_xid(record, data, major=major) if is_prepared else record.xid,
        moment=_moment(data),
        is_commit=operation in _COMMITS,
    )


def _prepared_xid(record: WalRecord, data: bytes, *, major: int) -> int:
    """The xid of the prepared transaction that a record ends; its own xid is the ending session's."""
    if not record.info & _HAS_INFO:
        return record.xid
    at = _MOMENT.size
    (parts,) = _NUMBER.unpack_from(data, at)
    at += _NUMBER.size
    if parts & _HAS_DATABASE:
        at += 8
    items = [(_HAS_SUBTRANSACTIONS, 4), (_HAS_LOCATORS, 12)]
    items += [(_HAS_DROPPED_STATISTICS, 16 if major >= 18 else 12), (_HAS_MESSAGES, 16)]
    for part, item_bytes in items:
        if parts & part:
            (count,) = _NUMBER.unpack_from(data, at)
            at += _NUMBER.size + count * item_bytes
    if not parts & _HAS_TWO_PHASE:
        return record.xid
    (xid,) = _NUMBER.unpack_from(data, at)
    return int(xid)


def _moment(data: bytes) -> datetime:
    (microseconds,) = _MOMENT.unpack_from(data)
    return _EPOCH + timedelta(microseconds=microseconds)
