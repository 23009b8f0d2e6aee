"""A ledger of acknowledged writes, kept outside the database: only it knows what was lost.

A line is forced to disk before the next write begins, so whatever the ledger holds the server
had acknowledged. Times are this machine's wall clock.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from drtool.errors import IntegrityError


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """Write `number` of a writer: begun before it was sent, acknowledged after its commit returned."""

    writer: int
    number: int
    begun: datetime
    acknowledged: datetime

    @property
    def name(self) -> tuple[int, int]:
        """What identifies the write in the database."""
        return self.writer, self.number


class Ledger:
    """An append-only file of entries. Any thread may append."""

    def __init__(self, path: Path) -> None:
        """Begin a new ledger; FileExistsError if there is one."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._entries: list[LedgerEntry] = []

    def append(self, entry: LedgerEntry) -> None:
        """Return once the entry is durable."""
        line = (
            f"{entry.writer} {entry.number}"
            f" {entry.begun.isoformat()} {entry.acknowledged.isoformat()}\n"
        )
        os.write(self._file, line.encode())
        os.fdatasync(self._file)
        with self._lock:
            self._entries.append(entry)

    def entries(self) -> list[LedgerEntry]:
        """All entries so far."""
        with self._lock:
            return list(self._entries)

    def close(self) -> None:
        os.close(self._file)


def read_ledger(path: Path) -> list[LedgerEntry]:
    """The entries of a ledger; a last line that was cut off was never acknowledged to anybody."""
    entries = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            writer, write, begun, acknowledged = line.decode().split()
            entries.append(
                LedgerEntry(
                    writer=int(writer),
                    number=int(write),
                    begun=datetime.fromisoformat(begun),
                    acknowledged=datetime.fromisoformat(acknowledged),
                )
            )
        except ValueError as error:
            raise IntegrityError(f"{path}:{number}: not a line of a ledger") from error
    return entries
