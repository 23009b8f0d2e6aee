"""Where a replay stops: one value that can only be right."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drtool.model.wal import Lsn


@dataclass(frozen=True, slots=True)
class ToTime:
    """All commits at or before `moment`, none after it."""

    moment: datetime

    def __post_init__(self) -> None:
        if self.moment.tzinfo is None:
            raise ValueError("a recovery target time needs a time zone")


@dataclass(frozen=True, slots=True)
class ToLatest:
    """As far as the repository reaches without a gap."""


@dataclass(frozen=True, slots=True)
class ToLsn:
    """Up to and including the record that ends at `lsn`."""

    lsn: Lsn


@dataclass(frozen=True, slots=True)
class ToXid:
    """Up to and including the commit of transaction `xid`."""

    xid: int


@dataclass(frozen=True, slots=True)
class ToName:
    """Up to a restore point made with pg_create_restore_point."""

    name: str


@dataclass(frozen=True, slots=True)
class ToBackup:
    """The consistent end of one backup, no further."""

    backup_id: str


RecoveryTarget = ToTime | ToLatest | ToLsn | ToXid | ToName | ToBackup


def describe_target(target: RecoveryTarget) -> str:
    """The target in words, for messages."""
    match target:
        case ToTime(moment):
            return f"time {moment.isoformat()}"
        case ToLatest():
            return "the latest recoverable moment"
        case ToLsn(lsn):
            return f"WAL position {lsn}"
        case ToXid(xid):
            return f"transaction {xid}"
        case ToName(name):
            return f"restore point {name!r}"
        case ToBackup(backup_id):
            return f"the end of backup {backup_id}"
