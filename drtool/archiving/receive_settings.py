"""What a receiver of WAL is told, and what it tells at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from drtool.model.wal import Lsn
from drtool.policy.sources import WalMode, WalSettings
from drtool.sources.postgres.slots import slot_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveSettings:
    """What is received, and how.

    `is_window`: only a stretch from `first` on is wanted, for a backup. Then WAL that the server has
    removed is an error; otherwise it becomes a recorded gap, and receiving goes on behind it.
    """

    source: str
    dsn: str = field(repr=False)
    wal: WalSettings = field(default_factory=WalSettings)
    accepts_new_system: bool = False
    first: Lsn | None = None
    is_window: bool = False

    @property
    def application_name(self) -> str:
        """What to write into synchronous_standby_names (in double quotes) for an RPO of zero."""
        return f"drtool-{self.source}"

    @property
    def slot(self) -> str | None:
        """The replication slot that keeps WAL for the receiver; None without one, and for push."""
        if self.is_window or (self.wal.slot is None and self.wal.mode is WalMode.PUSH):
            return None
        return slot_name(self.source, self.wal.slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a receiver has done. `durable` is None if it never got as far as a stream."""

    source: str
    timeline: int | None
    durable: Lsn | None
    received_bytes: int
    segments: int
    parts: int
    marks: int
    gaps: int


def lease_name(source: str) -> str:
    """The lease that a receiver of `source` holds."""
    return f"wal-{source}"
