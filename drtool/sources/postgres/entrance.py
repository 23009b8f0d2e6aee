"""The way into a restored copy: as whom, to which databases, and past what its source forbids.

A healthy copy may refuse the obvious connection: its bootstrap role was renamed or may not log in,
database postgres is closed or gone, a role or a database has settings that break what is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import psycopg

from drtool.errors import SourceUnavailable
from drtool.sources.postgres.connection import WRITING, connect
from drtool.system.relay import process_behind

_MOST_ROLES = 10
_MOST_DATABASES = 20
# What ALTER ROLE ... SET and ALTER DATABASE ... SET may say, and must not in a session that looks at a
# copy: a start-up option outranks both. `role` may lack rights, a library may be missing here, and
# with zero_damaged_pages damage would be read as nothing.
_SETTINGS = {
    **WRITING,
    "role": "none",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "local_preload_libraries": "",
    "row_security": "on",
    "standard_conforming_strings": "on",
    "jit": "off",
}
_SETTINGS_OF_SUPERUSERS = {
    "session_preload_libraries": "",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
    "lc_messages": "C",
}
FIRST_WITHOUT_EVENT_TRIGGERS = 17
_IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = session_user"
# An invalid database is what an interrupted DROP DATABASE leaves: nobody can enter it.
_DATABASES = (
    "SELECT datname, datallowconn, datconnlimit = -2, datistemplate FROM pg_database ORDER BY oid"
)


class Server(Protocol):
    """What is needed of a running copy."""

    @property
    def socket_directory(self) -> Path:
        """Where its Unix socket lies."""

    @property
    def socket(self) -> Path:
        """That socket."""

    @property
    def pid(self) -> int:
        """The process that listens there."""

    def dsn(self, *, dbname: str = "postgres", user: str = "postgres") -> str:
        """How to connect to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """A superuser that may log in, and the database it came in by; the other databases by whether they
    take connections. `closed` leaves out template0, which is closed everywhere.
    """

    role: str
    database: str
    open: tuple[str, ...]
    closed: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoEntrance:
    """No superuser got into any database; `reasons` is what PostgreSQL said, each reason once."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNames:
    """Roles and databases that a copy may have, the likeliest first."""

    roles: tuple[str, ...]
    databases: tuple[str, ...]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each role with each database; names are not without bound."""
        for role in self.roles[:_MOST_ROLES]:
            for database in self.databases[:_MOST_DATABASES]:
                yield role, database


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A running copy of version `major`, and how to get in. Nobody else works there: what a statement
    waits for longer than `lock_seconds` is held by a prepared transaction.
    """

    server: Server
    entrance: Entrance
    major: int
    lock_seconds: float

    def connect(
        self,
        database: str,
        *,
        statement_seconds: float,
        search_path: str = "pg_catalog",
        fires_triggers: bool = True,
    ) -> psycopg.Connection:
        """A superuser's session, without what the source's settings would do to it; the caller closes
        it. Errors as `connection.connect`.
        """
        return _session(
            self.server,
            self.server.dsn(dbname=database, user=self.entrance.role),
            statement_seconds=statement_seconds,
            search_path=search_path,
            settings=session_settings(self.major, fires_triggers=fires_triggers) | self.lock_limit,
        )

    @property
    def lock_limit(self) -> dict[str, str]:
        """As a setting of a session."""
        return {"lock_timeout": f"{int(self.lock_seconds * 1000)}"}


class Context(StrEnum):
    """Who may set a setting."""

    USER = "user"
    SUPERUSER = "superuser"


def session_settings(
    major: int, *, of: Context | None = None, fires_triggers: bool = True
) -> dict[str, str]:
    """Start-up settings of a superuser's session that looks at a copy of version `major`; `of` is for
    those that a context may set alone.

    No event or login trigger runs from 17 on. Before, those of tables too are off unless
    `fires_triggers`; event triggers that are ENABLE ALWAYS run all the same.
    """
    anybodys, superusers = dict(_SETTINGS), dict(_SETTINGS_OF_SUPERUSERS)
    if major >= FIRST_WITHOUT_EVENT_TRIGGERS:
        superusers["event_triggers"] = "off"
        anybodys["transaction_timeout"] = "0"
    elif not fires_triggers:
        superusers["session_replication_role"] = "replica"
    match of:
        case Context.USER:
            return anybodys
        case Context.SUPERUSER:
            return superusers
        case None:
            return anybodys | superusers


def find_entrance(
    server: Server, names: KnownNames, *, major: int, statement_seconds: float
) -> Entrance | NoEntrance:
    """Try the names in turn. Nothing is raised."""
    reasons: list[str] = []
    for role, database in names.pairs():
        try:
            found = _enter(server, role, database, major=major, seconds=statement_seconds)
        except (psycopg.Error, SourceUnavailable) as error:
            reasons.append(" ".join(str(error).split()))
            continue
        if found is not None:
            return found
        reasons.append(f'role "{role}" is not a superuser')
    return NoEntrance(tuple(dict.fromkeys(reasons)))


def _enter(
    server: Server, role: str, database: str, *, major: int, seconds: float
) -> Entrance | None:
    dsn = server.dsn(dbname=database, user=role)
    settings = session_settings(major)
    with _session(server, dsn, statement_seconds=seconds, settings=settings) as session:
        if session.execute(_IS_SUPERUSER).fetchone() != (True,):
            return None
        rows = session.execute(_DATABASES).fetchall()
    usable = [row for row in rows if not row[2]]
    return Entrance(
        role=role,
        database=database,
        open=_names(name for name, is_open, _, _ in usable if is_open),
        closed=_names(
            name
            for name, is_open, _, is_template in usable
            if not is_open and (name, is_template) != ("template0", True)
        ),
        invalid=_names(name for name, _, is_invalid, _ in rows if is_invalid),
    )


def _session(
    server: Server,
    dsn: str,
    *,
    statement_seconds: float,
    settings: dict[str, str],
    search_path: str = "pg_catalog",
) -> psycopg.Connection:
    """A session with the process that is the copy's server, as the kernel says, and with no other."""
    session = connect(
        dsn,
        purpose="verify",
        statement_seconds=statement_seconds,
        search_path=search_path,
        settings=settings,
    )
    found = process_behind(session.fileno())
    if found != server.pid:
        session.close()
        raise SourceUnavailable(
            f"process {found} answered there, and not the copy's server, process {server.pid}",
            hint="Look who else can write to the directory for temporary files, and restore again.",
        )
    return session


def _names(found: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(name) for name in found)
