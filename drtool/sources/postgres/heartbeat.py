"""Marks: a moment of the server's clock tied to a position in its WAL, also on an idle database."""

from __future__ import annotations

import psycopg

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.objective import Mark
from drtool.sources.postgres.refusals import one_line

_POSITION = """
    SELECT lsn - '0/0'::pg_lsn, ('x' || substr(pg_walfile_name(lsn), 1, 8))::bit(32)::int
    FROM pg_current_wal_flush_lsn() AS lsn
"""


def beat(connection: psycopg.Connection) -> Mark:
    """Commit an empty logical message on the primary and return the mark it makes.

    The order makes the mark true: the clock is read first, so that every commit acknowledged by then
    precedes ours in the WAL; ours is begun after it and flushed before the position is read. It is
    committed with `synchronous_commit = local`, which neither waits for a synchronous standby (that
    may be us) nor returns before the flush. `connection` is one of `connection.connect` (autocommit).
    The role needs no right beyond CONNECT, unless EXECUTE on pg_logical_emit_message was revoked.
    SourceUnsuitable on a standby, SourceUnavailable if the server fails; the session is then done for.
    """
    try:
        row = connection.execute("SELECT clock_timestamp(), pg_is_in_recovery()").fetchone()
        assert row is not None
        moment, is_standby = row
        if is_standby:
            raise SourceUnsuitable(
                f"server {connection.info.host}:{connection.info.port} is a standby, and marks are"
                " made on the primary",
                hint="Let the source's dsn lead to the primary, and backup_from to the standby.",
            )
        with connection.transaction():
            connection.execute("SET TRANSACTION READ WRITE")
            connection.execute("SET LOCAL synchronous_commit = local")
            connection.execute("SELECT pg_logical_emit_message(true, 'drtool', '')")
        position = connection.execute(_POSITION).fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise SourceUnsuitable(
            f"the role may not write a mark: {one_line(str(error))}",
            hint="Run GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO"
            " the_role there.",
        ) from error
    except psycopg.Error as error:
        raise SourceUnavailable(
            f"no mark could be written: {one_line(str(error))} (SQLSTATE {error.sqlstate})",
            hint="Look at the server's log.",
        ) from error
    assert position is not None
    return Mark(moment, int(position[0]), int(position[1]))
