"""What a server says of how it is set up and how its WAL leaves it, asked in SQL; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from drtool.errors import SourceUnavailable
from drtool.model.wal import Lsn
from drtool.sources.postgres.refusals import one_line
from drtool.sources.postgres.slots import SlotState, slot_state

_SETTINGS = (
    "fsync", "full_page_writes", "data_checksums", "wal_level", "max_slot_wal_keep_size",
    "archive_mode", "archive_command", "archive_library",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """`moment` is the server's clock; `used_senders` connections replicate now, ours not counted."""

    settings: Mapping[str, str]
    may_replicate: bool
    used_senders: int
    moment: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """A slot, how much WAL it holds back, and how much more the server will keep for it (None: any).

    `server_at` is the end of the server's WAL, `moment` its clock.
    """

    state: SlotState
    retained_bytes: int | None
    safe_bytes: int | None
    server_at: Lsn
    moment: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiverFacts:
    """`ready_files` wait to be archived, the oldest for `oldest_ready`; None: our role may not see it."""

    mode: str
    command: str
    library: str
    failed_count: int
    last_failed_wal: str | None
    last_failed: datetime | None
    last_archived: datetime | None
    ready_files: int | None
    oldest_ready: timedelta | None

    @property
    def is_failing(self) -> bool:
        """Whether nothing was archived since the last failure."""
        if self.last_failed is None:
            return False
        return self.last_archived is None or self.last_archived < self.last_failed


def read_readings(connection: psycopg.Connection) -> Readings:
    """SourceUnavailable if the server does not tell."""
    try:
        settings = _settings(connection)
        row = connection.execute(
            "SELECT rolreplication OR rolsuper, (SELECT count(*) FROM pg_stat_replication),"
            # A role may SET ROLE at its login; replication connections do not.
            " clock_timestamp() FROM pg_roles WHERE rolname = session_user"
        ).fetchone()
    except psycopg.Error as error:
        raise _silent(error) from error
    assert row is not None
    return Readings(settings=settings, may_replicate=row[0], used_senders=row[1], moment=row[2])


def read_slot(connection: psycopg.Connection, name: str) -> SlotFacts | None:
    """The slot as it stands now; None if there is none of that name."""
    state = slot_state(connection, name)
    if state is None:
        return None
    try:
        row = connection.execute(
            "SELECT pg_wal_lsn_diff(server_at, restart_lsn)::bigint, safe_wal_size, server_at::text,"
            " clock_timestamp() FROM pg_replication_slots, (SELECT CASE WHEN pg_is_in_recovery() THEN"
            " coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn()"
            " END AS server_at) AS here WHERE slot_name = %s",
            [name],
        ).fetchone()
    except psycopg.Error as error:
        raise _silent(error) from error
    if row is None:
        return None  # it went meanwhile
    return SlotFacts(
        state=state,
        retained_bytes=row[0],
        safe_bytes=row[1],
        server_at=Lsn.parse(row[2]),
        moment=row[3],
    )


def read_data_directory(connection: psycopg.Connection) -> str | None:
    """Where the server's data lie; None where our role may not know. Leaves no error in its log."""
    try:
        row = connection.execute(
            "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
        ).fetchone()
    except psycopg.Error as error:
        raise _silent(error) from error
    return str(row[0]) if row and row[0] else None


def read_archiver(connection: psycopg.Connection) -> ArchiverFacts:
    """pg_stat_archiver, its settings, and what waits in archive_status, where our role may look."""
    try:
        settings = _settings(connection)
        row = connection.execute(
            "SELECT failed_count, last_failed_wal, last_failed_time, last_archived_time"
            " FROM pg_stat_archiver"
        ).fetchone()
        ready = _ready(connection)
    except psycopg.Error as error:
        raise _silent(error) from error
    assert row is not None
    return ArchiverFacts(
        mode=settings.get("archive_mode", "off"),
        command=settings.get("archive_command", ""),
        library=settings.get("archive_library", ""),
        failed_count=row[0],
        last_failed_wal=row[1],
        last_failed=row[2],
        last_archived=row[3],
        ready_files=None if ready is None else ready[0],
        oldest_ready=None if ready is None else ready[1],
    )


def _settings(connection: psycopg.Connection) -> dict[str, str]:
    # archive_command is shown to everyone by current_setting; what this version lacks is left out.
    rows = connection.execute(
        "SELECT name, current_setting(name, true) FROM unnest(%s::text[]) AS name",
        [list(_SETTINGS)],
    )
    return {name: value for name, value in rows if value is not None}


def _ready(connection: psycopg.Connection) -> tuple[int, timedelta | None] | None:
    # Asked first: an attempt that is refused would stand in the server's log at each check.
    allowed = connection.execute(
        "SELECT has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE')"
    ).fetchone()
    if allowed is None or not allowed[0]:
        return None
    row = connection.execute(
        "SELECT count(*), clock_timestamp() - min(modification)"
        " FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _silent(error: psycopg.Error) -> SourceUnavailable:
    return SourceUnavailable(
        f"the server does not tell how it is set up: {one_line(str(error))}",
        hint="Look at the server's log.",
    )
