"""What a cluster holds that acts by itself or reaches other servers: subscriptions, which can be disabled,
foreign servers, extensions, libraries of a role or a database, event triggers.

Only system catalogs are read: a table of an extension may be replaced by code of its owner.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from drtool.sources.postgres.names import quoted, raw

# pg_subscription holds those of all databases. ALTER SUBSCRIPTION would need a session in each of them,
# which may be closed, and would fire event triggers before 17; it changes nothing but this column.
DISABLE = "UPDATE pg_catalog.pg_subscription SET subenabled = false WHERE subenabled"
_SUBSCRIPTIONS = (
    f"WITH disabled AS ({DISABLE}"  # noqa: S608 - a constant
    " RETURNING subdbid, subname, coalesce(subslotname, '') AS slot)"
    f" SELECT {raw('datname')}, {raw('subname')}, {raw('slot')}"
    " FROM disabled JOIN pg_database d ON d.oid = subdbid ORDER BY datname, subname"
)
_SERVERS = (
    "SELECT srvname, fdwname FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw"
    " WHERE fdwname <> 'file_fdw' ORDER BY 1"
)
_EXTENSIONS = "SELECT extname FROM pg_extension WHERE extname = ANY(%s) ORDER BY 1"
_TRIGGERS = (
    "SELECT evtname FROM pg_event_trigger t WHERE evtenabled <> 'D' AND NOT EXISTS"
    " (SELECT FROM pg_depend WHERE classid = 'pg_event_trigger'::regclass AND objid = t.oid"
    " AND deptype = 'e') ORDER BY 1"
)
_LIBRARY_SETTINGS = (
    "SELECT split_part(setting, '=', 1) AS name, substr(setting, strpos(setting, '=') + 1) AS value,"
    " coalesce(datname, ''), coalesce(rolname, '') FROM pg_db_role_setting"
    " LEFT JOIN pg_database d ON d.oid = setdatabase LEFT JOIN pg_roles r ON r.oid = setrole,"
    " unnest(setconfig) setting WHERE split_part(setting, '=', 1)"
    " IN ('session_preload_libraries', 'local_preload_libraries')"
    " AND substr(setting, strpos(setting, '=') + 1) NOT IN ('', '\"\"') ORDER BY 1, 3, 4"
)
# Their functions open connections, run programs of the operating system, or start jobs.
_REACHING = (
    "dblink", "postgres_fdw", "file_fdw", "pg_cron", "pg_net", "http", "pglogical", "bdr", "spock", "citus",
    "timescaledb", "pg_partman", "aws_s3", "aws_lambda", "aws_commons", "azure_storage", "plproxy",
    "plpython3u", "plperlu", "pltclu", "plsh", "pg_task", "pgagent", "multicorn", "oracle_fdw",
    "mysql_fdw", "tds_fdw", "mongo_fdw", "redis_fdw", "pg_amqp", "pgq", "londiste",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subscription:
    """One that was enabled, its database, and its slot on the publisher."""

    database: str
    name: str
    slot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LibrarySetting:
    """A setting that loads `libraries` into each session of a role, a database, or both; an empty name
    stands for all of them.
    """

    setting: str
    libraries: str
    database: str
    role: str

    @property
    def scope(self) -> str:
        """Whose sessions, for messages."""
        names = (
            f"role {self.role}" if self.role else "",
            f"database {self.database}" if self.database else "",
        )
        return " in ".join(filter(None, names)) or "every role"

    @property
    def reset(self) -> str:
        """The statement that takes it away."""
        where = f"DATABASE {quoted(self.database)}" if self.database else ""
        whom = f"ROLE {quoted(self.role)}" if self.role else "" if where else "ROLE ALL"
        return f"ALTER {' IN '.join(filter(None, (whom, where)))} RESET {self.setting}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """What one database holds."""

    servers: tuple[str, ...]
    extensions: tuple[str, ...]
    event_triggers: tuple[str, ...]


def disable_subscriptions(session: psycopg.Connection) -> tuple[Subscription, ...]:
    """Disable those of all databases in one transaction; which they were. psycopg.Error as usual."""
    rows = session.execute(_SUBSCRIPTIONS.encode()).fetchall()
    return tuple(
        Subscription(*(bytes(name).decode("utf-8", "replace") for name in row)) for row in rows
    )


def read_library_settings(session: psycopg.Connection) -> tuple[LibrarySetting, ...]:
    """Those of all roles and databases."""
    rows = session.execute(_LIBRARY_SETTINGS).fetchall()
    return tuple(
        LibrarySetting(setting=str(name), libraries=str(value), database=str(where), role=str(whom))
        for name, value, where, whom in rows
    )


def read_outbound(session: psycopg.Connection) -> Outbound:
    """What the session's database holds."""
    servers = session.execute(_SERVERS).fetchall()
    extensions = session.execute(_EXTENSIONS, (list(_REACHING),)).fetchall()
    triggers = session.execute(_TRIGGERS).fetchall()
    return Outbound(
        servers=tuple(f"{name} ({wrapper})" for name, wrapper in servers),
        extensions=tuple(str(name) for (name,) in extensions),
        event_triggers=tuple(str(name) for (name,) in triggers),
    )
