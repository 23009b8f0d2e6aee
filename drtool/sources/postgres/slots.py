"""Physical replication slots: the server keeps WAL until we say that it is durable."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

import psycopg

from drtool.errors import PolicyError, SourceUnavailable
from drtool.model.wal import Lsn
from drtool.sources.postgres.connection import ReplicationConnection
from drtool.sources.postgres.refusals import one_line

_NAME = re.compile(r"[a-z0-9_]{1,63}")
# In a policy, in place of a name.
NO_SLOT = "none"
_DROP_TRIES = 50


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


def slot_name(source: str, given: str | None) -> str | None:
    """The slot of a receiver: `given`, or one named after the source; None where `given` is `none`."""
    if given is not None:
        return None if given == NO_SLOT else given
    name = "drtool_" + re.sub("[^a-z0-9_]", "_", source.lower())
    if len(name) <= 63:
        return name
    return f"{name[:54]}_{hashlib.sha256(source.encode()).hexdigest()[:8]}"


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


def let_go_of_slot(connection: psycopg.Connection, name: str) -> bool:
    """Drop a slot although a receiver may use it: its session is ended first. False if it is not there.

    SourceUnavailable if it cannot be dropped; a role may end sessions of its own.
    """
    try:
        for _ in range(_DROP_TRIES):
            row = connection.execute(
                "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [name]
            ).fetchone()
            if row is None:
                return False
            if row[0] is None:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
                return True
            connection.execute("SELECT pg_terminate_backend(%s), pg_sleep(0.1)", [row[0]])
    except psycopg.Error as error:
        raise SourceUnavailable(f"cannot drop slot {name}: {one_line(str(error))}") from error
    raise SourceUnavailable(
        f"replication slot {name} is still in use after {_DROP_TRIES} tries to end its session",
        hint="Stop whoever receives (pg_stat_replication) and try again.",
    )


def drop_slot_by_name(connection: psycopg.Connection, name: str) -> None:
    """Drop a slot that nobody uses; SourceUnavailable if somebody does, or the server refuses."""
    try:
        connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
    except psycopg.Error as error:
        raise SourceUnavailable(
            f"cannot drop slot {name}: {one_line(str(error))}",
            hint="Stop whoever uses it (pg_stat_replication), and try again.",
        ) from error


def slot_state(connection: psycopg.Connection, name: str) -> SlotState | None:
    """The slot as the server sees it; None if there is none of that name."""
    try:
        row = connection.execute(
            "SELECT active, restart_lsn::text, wal_status FROM pg_replication_slots"
            " WHERE slot_name = %s",
            [name],
        ).fetchone()
    except psycopg.Error as error:
        raise SourceUnavailable(f"cannot look at slot {name}: {one_line(str(error))}") from error
    if row is None:
        return None
    return SlotState(
        name=name,
        is_active=row[0],
        restart_lsn=Lsn.parse(row[1]) if row[1] else None,
        wal_status=row[2],
    )
