"""What a server is: all that backup, archiving and restore must know of it before they begin.

Everything that matters comes over the replication connection (IDENTIFY_SYSTEM, SHOW), so a role
with nothing but REPLICATION is enough; an SQL connection adds what only catalogs know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psycopg

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.link import Link
from drtool.model.wal import Lsn, require_segment_bytes
from drtool.sources.postgres.answers import number, understood
from drtool.sources.postgres.connection import (
    ReplicationConnection,
    connect,
    connect_replication,
    place_of,
)
from drtool.sources.postgres.refusals import one_line, refused

BLOCK_BYTES = 8192
# Settings by name, and never all: one of somebody's own may hold a password.
RECORDED_SETTINGS = (
    "default_table_access_method",
    "dynamic_library_path",
    "extension_control_path",
    "jit_provider",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "local_preload_libraries",
    "max_active_replication_origins",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "session_preload_libraries",
    "shared_preload_libraries",
    "track_commit_timestamp",
    "wal_compression",
    "wal_consistency_checking",
    "wal_level",
)
LONGEST_SETTING_BYTES = 8192
# What our role may not read is not there: no error in the server's log. Sessions change none of these.
_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s) ORDER BY name"
_LOCALES = (
    "SELECT DISTINCT locale FROM pg_database, LATERAL (VALUES (datcollate), (datctype)) AS used(locale)"
    " WHERE datallowconn ORDER BY locale"
)
_MANAGERS = "SELECT rm_name FROM pg_get_wal_resource_managers() WHERE NOT rm_builtin ORDER BY rm_id"
_UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tablespace:
    """One tablespace; `size_bytes` is None where nobody counted."""

    oid: int
    location: str
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacities:
    """Settings that a replay needs at least as large as the primary had them (PITFALLS 60)."""

    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """A server at one moment. None, or not in `settings`: our role may not know it.

    `settings` are those that a recovery may need to know; `locales` are the databases', of libc;
    `resource_managers` the names of those of extensions.
    """

    place: str
    link: Link
    system_id: int
    timeline: int
    flushed: Lsn
    server_version_num: int
    segment_bytes: int
    block_bytes: int
    wal_level: str
    has_checksums: bool
    is_standby: bool
    capacities: Capacities
    synchronous_standby_names: str
    bootstrap_role: str | None
    tablespaces: tuple[Tablespace, ...] | None
    settings: tuple[tuple[str, str], ...] = ()
    locales: tuple[str, ...] = ()
    resource_managers: tuple[str, ...] = ()

    @property
    def major(self) -> int:
        return self.server_version_num // 10000

    @property
    def max_wal_senders(self) -> int:
        return self.capacities.max_wal_senders


def read_facts(dsn: str, *, timeout_seconds: float = 10) -> ServerFacts:
    """Ask the server at `dsn`. SourceUnavailable or SourceUnsuitable if it does not let us."""
    with connect_replication(dsn, purpose="facts", timeout_seconds=timeout_seconds) as connection:
        facts = replication_facts(connection)
        return _with_catalog_facts(facts, dsn, timeout_seconds)


def require_ready(facts: ServerFacts) -> None:
    """SourceUnsuitable if a cluster with these facts cannot be backed up or its WAL not streamed."""
    if facts.block_bytes != BLOCK_BYTES:
        raise SourceUnsuitable(
            f"{facts.place} was built with blocks of {facts.block_bytes} bytes, and drtool knows"
            f" {BLOCK_BYTES} only",
            hint="Use a server with PostgreSQL's default block size.",
        )
    if facts.wal_level == "minimal":
        raise SourceUnsuitable(
            f"{facts.place} has wal_level = minimal, which nothing can be recovered from",
            hint="Run ALTER SYSTEM SET wal_level = 'replica' there and restart the server.",
        )
    if facts.max_wal_senders < 2:
        raise SourceUnsuitable(
            f"{facts.place} has max_wal_senders = {facts.max_wal_senders}, and a backup needs one"
            " beside the WAL receiver's",
            hint="Run ALTER SYSTEM SET max_wal_senders = 10 there and restart the server.",
        )


def replication_facts(
    connection: ReplicationConnection,
) -> ServerFacts:
    """The facts as a replication connection tells them."""
    with understood(connection.place):
        return _replication_facts(connection)


def _replication_facts(connection: ReplicationConnection) -> ServerFacts:
    system_id, timeline, flushed, _ = connection.rows("IDENTIFY_SYSTEM")[0]
    return ServerFacts(
        place=connection.place,
        link=connection.link,
        system_id=number(system_id),
        timeline=number(timeline),
        flushed=Lsn.parse(flushed or ""),
        server_version_num=connection.server_version,
        segment_bytes=require_segment_bytes(size_of_setting(_show(connection, "wal_segment_size"))),
        block_bytes=number(_show(connection, "block_size")),
        wal_level=_show(connection, "wal_level"),
        has_checksums=_show(connection, "data_checksums") == "on",
        is_standby=_show(connection, "in_hot_standby") == "on",
        capacities=Capacities(
            max_connections=number(_show(connection, "max_connections")),
            max_worker_processes=number(_show(connection, "max_worker_processes")),
            max_wal_senders=number(_show(connection, "max_wal_senders")),
            max_prepared_transactions=number(_show(connection, "max_prepared_transactions")),
            max_locks_per_transaction=number(_show(connection, "max_locks_per_transaction")),
        ),
        synchronous_standby_names=_show(connection, "synchronous_standby_names"),
        bootstrap_role=None,
        tablespaces=None,
    )


def read_clock(dsn: str) -> datetime:
    """The server's clock, in UTC; errors as `connection.connect`."""
    with connect(dsn, purpose="backup") as connection:
        try:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
        except psycopg.Error as error:
            raise refused(place_of(dsn), str(error)) from None
    assert row is not None
    moment = row[0]
    assert isinstance(moment, datetime)
    return moment.astimezone(UTC)


def size_of_setting(text: str) -> int:
    """`16MB` -> 16777216, as SHOW prints sizes."""
    match = re.fullmatch(r"([0-9]{1,15})(B|kB|MB|GB)", text)
    if match is None:
        raise SourceUnsuitable(f"{text[:40]!r} is not a size as PostgreSQL prints it")
    return int(match[1]) * _UNITS[match[2]]


def _show(connection: ReplicationConnection, name: str) -> str:
    value = connection.rows(f"SHOW {name}")[0][0]
    if value is None:
        raise ValueError(f"{name} is null")
    return value


def _with_catalog_facts(facts: ServerFacts, dsn: str, timeout_seconds: float) -> ServerFacts:
    """With the bootstrap superuser's name, tablespaces, settings and locales; without any of them where
    no SQL connection is to be had.
    """
    try:
        with connect(dsn, purpose="facts", timeout_seconds=timeout_seconds) as connection:
            role = connection.execute("SELECT rolname FROM pg_roles WHERE oid = 10").fetchone()
            rows = connection.execute(
                "SELECT oid::bigint, pg_tablespace_location(oid) FROM pg_tablespace"
                " WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid"
            ).fetchall()
            settings = connection.execute(_SETTINGS, (list(RECORDED_SETTINGS),)).fetchall()
            locales = connection.execute(_LOCALES).fetchall()
            managers = connection.execute(_MANAGERS).fetchall()
    except SourceUnavailable:
        return facts
    except psycopg.Error as error:
        place = place_of(dsn)
        raise SourceUnavailable(
            f"{place} broke off: {error.sqlstate}: {one_line(str(error))}"
        ) from error
    return replace(
        facts,
        bootstrap_role=role[0] if role else None,
        tablespaces=tuple(Tablespace(oid=oid, location=location) for oid, location in rows),
        settings=tuple(
            (name, value) for name, value in settings if len(value) <= LONGEST_SETTING_BYTES
        ),
        locales=tuple(name for (name,) in locales),
        resource_managers=tuple(name for (name,) in managers),
    )
