"""A stopped copy into which nobody logs in, asked and changed by PostgreSQL in single-user mode.

That mode needs no role that may, enters closed databases, and runs neither event triggers nor the
settings of a role or a database (InitPostgres in postinit.c).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from drtool.sources.postgres.entrance import KnownNames
from drtool.sources.postgres.names import raw
from drtool.sources.postgres.outbound import DISABLE, Subscription
from drtool.sources.postgres.server import ServerPlan
from drtool.system.network_namespace import without_network
from drtool.system.process import run_program

_SECONDS = 300.0
# Whatever was renamed or dropped: PostgreSQL needs a database to begin with.
_USUAL_DATABASES = ("template1", "postgres", "template0")
# A line each: a line break ends a statement. Names in hexadecimal, since they may hold anything.
_NAMES = (
    f"SELECT 'role:' || encode({raw('rolname')}, 'hex')"  # noqa: S608 - a constant
    " FROM pg_authid WHERE rolsuper AND rolcanlogin ORDER BY oid\n"
    f"SELECT 'database:' || encode({raw('datname')}, 'hex')"
    " FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY oid\n"
)
_SUBSCRIPTIONS = (
    f"WITH disabled AS ({DISABLE}"  # noqa: S608 - a constant
    " RETURNING subdbid, subname, coalesce(subslotname, '') AS slot)"
    f" SELECT 'subscription:' || encode({raw('datname')}, 'hex') || '.' || encode({raw('subname')}, 'hex')"
    f" || '.' || encode({raw('slot')}, 'hex')"
    " FROM disabled JOIN pg_database d ON d.oid = subdbid ORDER BY 1\n"
)
_COMPLETE = "SELECT 'complete:' FROM pg_authid WHERE oid = 10\n"
_TOLD = re.compile(r'"(role|database|subscription|complete):([0-9a-f.]*)"')


def read_names(plan: ServerPlan) -> KnownNames | str:
    """The superusers that may log in, and the databases that take connections; or why nobody can tell.

    The data directory's server must have been shut down in
    good order; it is again when this returns. ProgramFailed if PostgreSQL cannot be run.
    """
    found = _told(plan, _NAMES)
    if isinstance(found, str):
        return found
    return KnownNames(roles=_of(found, "role"), databases=_of(found, "database"))


def disable_subscriptions_alone(plan: ServerPlan) -> tuple[Subscription, ...] | str:
    """Disable the subscriptions of all databases; which they were, or why they could not be.

    As `read_names` otherwise.
    """
    found = _told(plan, _SUBSCRIPTIONS)
    if isinstance(found, str):
        return found
    return tuple(
        Subscription(*map(_name, names.split("."))) for what, names in found if what != "complete"
    )


def _told(plan: ServerPlan, queries: str) -> list[tuple[str, str]] | str:
    """What the queries answered, in the first database that carries all of them out; or why none did."""
    enclosed = without_network(plan.run_as)
    told: list[str] = []
    for database in _USUAL_DATABASES:
        command = [*enclosed.prefix, str(plan.binaries.program("postgres")), "--single"]
        command += ["-D", str(plan.data_directory)]
        # Its own postgresql.conf refuses a start while the restore is not finished.
        own = {"search_path": "pg_catalog", "config_file": os.devnull}
        for name, value in {**plan.settings, **own}.items():
            command += ["-c", f"{name}={value}"]
        done = run_program(
            [*command, database],
            timeout_seconds=_SECONDS,
            run_as=enclosed.run_as,
            directory=plan.data_directory,
            given=queries + _COMPLETE,
        )
        found = _TOLD.findall(done.output)
        if done.code == 0 and ("complete", "") in found:
            return found
        told.append(
            " ".join(done.errors.split()) or "pg_authid does not hold the bootstrap superuser"
        )
    return told[0]


def _of(found: Iterable[tuple[str, str]], kind: str) -> tuple[str, ...]:
    return tuple(_name(name) for what, name in found if what == kind)


def _name(text: str) -> str:
    return bytes.fromhex(text).decode("utf-8", "replace")
