"""Physical replication slots: the server keeps WAL until we say that it is durable."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

import psycopg

from drtool.errors import PolicyError, SourceUnavailable
from drtool.model.wal import Lsn
from drtool.sources.postgres.connection import ReplicationConnection

_NAME = re.compile(r"[a-z0-9_]{1,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """A slot as pg_replication_slots tells it; `restart_lsn` is None while it reserves nothing.

    `wal_status`: reserved, extended, unreserved (about to be lost) or lost; None with no WAL reserved.
    """

    name: str
    is_active: bool
    restart_lsn: Lsn | None
    wal_status: str | None

    @property
    def is_lost(self) -> bool:
        """Whether WAL that the slot should have kept is gone: a gap, if it was not archived."""
        return self.wal_status == "lost"

    @property
    def is_endangered(self) -> bool:
        """Whether the next checkpoint may take the slot's WAL away."""
        return self.wal_status == "unreserved"


def check_slot_name(name: str) -> str:
    """`name`, if PostgreSQL would take it; PolicyError if not."""
    if _NAME.fullmatch(name) is None:
        raise PolicyError(
            f"{name!r} is not the name of a replication slot",
            hint="Use up to 63 lower-case letters, digits and underscores.",
        )
    return name


def create_slot(connection: ReplicationConnection, name: str) -> bool:
    """Make a physical slot that reserves WAL from now on; return False if it was there already."""
    check_slot_name(name)
    present = connection.rows(f"READ_REPLICATION_SLOT {name}")
    if present and present[0][0] is not None:
        return False
    connection.rows(f"CREATE_REPLICATION_SLOT {name} PHYSICAL (RESERVE_WAL)")
    return True


def create_temporary_slot(connection: ReplicationConnection) -> bool:
    """Keep WAL from the last checkpoint on while this session lives; False if no slot is to be had."""
    name = f"drtool_{secrets.token_hex(8)}"
    try:
        connection.rows(f"CREATE_REPLICATION_SLOT {name} TEMPORARY PHYSICAL (RESERVE_WAL)")
    except SourceUnavailable:
        return False  # all max_replication_slots in use, or none allowed: it works without
    return True


def slot_position(connection: ReplicationConnection, name: str) -> Lsn | None:
    """From where the slot keeps WAL; None if it is not there, reserves nothing, or was lost."""
    row = connection.rows(f"READ_REPLICATION_SLOT {check_slot_name(name)}")
    return Lsn.parse(row[0][1]) if row and row[0][1] else None


def drop_slot(connection: ReplicationConnection, name: str) -> None:
    """Remove a slot that nobody uses."""
    connection.rows(f"DROP_REPLICATION_SLOT {check_slot_name(name)}")


def slot_state(connection: psycopg.Connection, name: str) -> SlotState | None:
    """The slot as the server sees it; None if there is none of that name."""
    try:
        row = connection.execute(
            "SELECT active, restart_lsn::text, wal_status FROM pg_replication_slots"
            " WHERE slot_name = %s",
            [name],
        ).fetchone()
    except psycopg.Error as error:
        raise SourceUnavailable(f"cannot look at slot {name}: {error}") from error
    if row is None:
        return None
    return SlotState(
        name=name,
        is_active=row[0],
        restart_lsn=Lsn.parse(row[1]) if row[1] else None,
        wal_status=row[2],
    )
