"""Statements of ours that no event trigger of the data sees.

From 17 on event_triggers = off of the session does it. Before, session_replication_role = replica leaves
those that are ENABLE ALWAYS or ENABLE REPLICA, so they are disabled for the statement's transaction.
"""

from __future__ import annotations

import psycopg

from drtool.sources.postgres.entrance import FIRST_WITHOUT_EVENT_TRIGGERS
from drtool.sources.postgres.names import quoted

_IN_FORCE = "SELECT evtname, evtenabled::text FROM pg_event_trigger WHERE evtenabled <> 'D'"
_ENABLE = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


def execute_without_triggers(session: psycopg.Connection, statement: str, *, major: int) -> None:
    """Carry out one statement in a transaction that leaves every event trigger as it was; `session` is
    a superuser's, made with `session_settings`. Nothing of it is seen by other sessions before its end.
    """
    with session.transaction():
        rows = session.execute(_IN_FORCE).fetchall()
        found = rows if major < FIRST_WITHOUT_EVENT_TRIGGERS else []
        for name, _ in found:
            # No event trigger fires on the statements that change event triggers.
            session.execute(f"ALTER EVENT TRIGGER {quoted(name)} DISABLE".encode())
        session.execute(statement.encode())
        for name, mode in found:
            session.execute(f"ALTER EVENT TRIGGER {quoted(name)} {_ENABLE[mode]}".encode())
