"""Whether commits wait for a standby of a given name: synchronous_standby_names, read.

Source: PostgreSQL docs, synchronous_standby_names; src/backend/replication/syncrep_scanner.l.
"""

from __future__ import annotations

import re

import psycopg

from drtool.errors import SourceUnavailable
from drtool.sources.postgres.refusals import one_line

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|([^\s,()"]+)')


def standby_names(connection: psycopg.Connection) -> str:
    """The setting as it stands now; SourceUnavailable if the server fails."""
    try:
        row = connection.execute("SHOW synchronous_standby_names").fetchone()
    except psycopg.Error as error:
        raise SourceUnavailable(
            f"the server does not tell synchronous_standby_names: {one_line(str(error))}",
            hint="Look at the server's log.",
        ) from error
    return str(row[0]) if row else ""


def is_synchronous(setting: str, application_name: str) -> bool:
    """Whether `setting` names `application_name`; the server compares without regard to case.

    Keywords and numbers of the list (`ANY 2 (a, b)`) are taken for names too: nobody is called so.
    """
    names = {
        (quoted.replace('""', '"') or plain).lower() for quoted, plain in _TOKEN.findall(setting)
    }
    return "*" in names or application_name.lower() in names
