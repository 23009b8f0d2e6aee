"""The replication slot of a receiver: made, made anew once it is lost, and let go at its limit.

A slot keeps WAL on the server for as long as nobody takes it: while drtool or its repository is away
it would fill the disk, and a PostgreSQL without room stops. So what it keeps is limited: beyond the
limit the slot is dropped, WAL that is still there is received all the same, and what the server
removed meanwhile is a recorded gap. `max_slot_wal_keep_size` does the same on the server, also while
no process of ours runs.
"""

from __future__ import annotations

import psycopg

from drtool.errors import SourceUnavailable
from drtool.model.measure import format_limit, format_size
from drtool.model.progress import Emit, Noted
from drtool.sources.postgres.connection import ReplicationConnection, connect
from drtool.sources.postgres.readiness import read_slot
from drtool.sources.postgres.slots import (
    create_slot,
    drop_slot,
    let_go_of_slot,
    slot_position,
)


class KeptSlot:
    """One slot by name; `is_lost` once the server has refused it.

    The receiving thread prepares it; the heartbeat's thread looks at its size.
    """

    def __init__(self, name: str, *, limit_bytes: int, emit: Emit) -> None:
        self.name = name
        self._limit_bytes = limit_bytes
        self._emit = emit
        self._before: int | None = None
        self._is_told = False
        self._is_released = False
        self.is_lost = False

    def prepare(self, connection: ReplicationConnection, *, behind_bytes: int) -> str | None:
        """The slot to stream with; None where it was let go and WAL is not caught up with yet."""
        if self._is_released and not self.is_wanted_again(behind_bytes):
            return None
        level, self._is_released = "recovery" if self._is_released else "info", False
        if create_slot(connection, self.name):
            made = f"made the replication slot {self.name}: it keeps WAL for this receiver"
            self._emit(Noted(made, level))
        elif self.is_lost or slot_position(connection, self.name) is None:
            # It was invalidated (max_slot_wal_keep_size) and can never be used again, or it
            # reserves nothing yet; a new one of the same name keeps WAL from now on.
            drop_slot(connection, self.name)
            create_slot(connection, self.name)
            told = f"the replication slot {self.name} was lost and is made anew"
            self._emit(Noted(told, "warning"))
        self.is_lost = False
        return self.name

    def is_wanted_again(self, behind_bytes: int) -> bool:
        """Whether a slot that was let go can be used again without reaching its limit soon."""
        return self._is_released and behind_bytes < self._limit_bytes // 4

    def look(self, connection: psycopg.Connection) -> None:
        """Warn at half of the limit; beyond it, let go unless less is kept than at the look before."""
        slot = read_slot(connection, self.name)
        held = 0 if slot is None else slot.retained_bytes or 0
        if held > self._limit_bytes:
            if self._before is not None and held >= self._before:
                self._release(connection, held)
            self._before = held
            return
        self._before = None
        if 2 * held > self._limit_bytes and not self._is_told:
            self._emit(
                Noted(
                    f"the replication slot {self.name} keeps {format_size(held)} of WAL on the server;"
                    f" at {format_limit(self._limit_bytes)} (slot_limit) it is let go",
                    "warning",
                )
            )
        elif 2 * held <= self._limit_bytes and self._is_told:
            less = f"the replication slot {self.name} keeps less than half of slot_limit again"
            self._emit(Noted(less, "recovery"))
        self._is_told = 2 * held > self._limit_bytes

    def _release(self, connection: psycopg.Connection, held: int) -> None:
        self._is_released = True  # before the session ends: the next one must not make it anew
        self._before = None
        if let_go_of_slot(connection, self.name):
            self._emit(Noted(_let_go_text(self.name, held, self._limit_bytes), "warning"))


def let_go_at_limit(dsn: str, name: str, *, limit_bytes: int, emit: Emit) -> None:
    """Drop the slot if it keeps more than the limit and nobody receives: before a run that cannot begin.

    A server that does not answer is left alone: there is nothing else that could be done.
    """
    try:
        with connect(dsn, purpose="slot") as connection:
            slot = read_slot(connection, name)
            held = 0 if slot is None else slot.retained_bytes or 0
            if slot is None or slot.state.is_active or held <= limit_bytes:
                return
            if let_go_of_slot(connection, name):
                emit(Noted(_let_go_text(name, held, limit_bytes), "warning"))
    except SourceUnavailable as error:
        emit(Noted(f"nobody could look at the replication slot {name}: {error.message}", "warning"))


def _let_go_text(name: str, held: int, limit_bytes: int) -> str:
    return (
        f"the replication slot {name} kept {format_size(held)} of WAL on the server, more than the"
        f" {format_limit(limit_bytes)} of slot_limit, and is dropped so that its disk does not fill;"
        " what the server removes before it is received will be a gap"
    )
