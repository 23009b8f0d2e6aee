"""Before a copy is handed over: its subscriptions are disabled, and what else could act or reach other
servers once it is started is told. Nothing is raised: a copy is not refused for what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import psycopg

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.restore.way_in import Restart
from drtool.sources.postgres.binaries import reachable
from drtool.sources.postgres.entrance import Access
from drtool.sources.postgres.names import quoted
from drtool.sources.postgres.outbound import (
    Outbound,
    Subscription,
    disable_subscriptions,
    read_library_settings,
    read_outbound,
)
from drtool.sources.postgres.single_user import disable_subscriptions_alone
from drtool.system.process import ProgramFailed

LOCK_SECONDS = 10.0
_STATEMENT_SECONDS = 60.0
_MOST_SHOWN = 20
_BROKEN = (psycopg.Error, SourceUnavailable)


@dataclass(slots=True)
class _Held:
    """What all databases hold, each thing with its database; `unread` are those that told nothing."""

    servers: list[str] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def add(self, database: str, found: Outbound) -> None:
        """Note what one database holds."""
        where = f"of database {database}"
        self.servers += [f"{name} {where}" for name in found.servers]
        self.extensions += [f"{name} {where}" for name in found.extensions]
        self.triggers += [f"{name} {where}" for name in found.event_triggers]


def cut_off(access: Access) -> tuple[Finding, ...]:
    """Disable the running copy's subscriptions, and tell what else it holds."""
    return (*_subscriptions(access), *_library_settings(access), *_held(access))


def cut_off_alone(restart: Restart) -> tuple[Finding, ...]:
    """Of a stopped copy that nobody can log in to, the subscriptions alone can be disabled."""
    plan = restart.plan
    try:
        with reachable(plan.binaries, plan.run_as, scratch=restart.scratch) as binaries:
            disabled = disable_subscriptions_alone(replace(plan, binaries=binaries))
    except ProgramFailed as error:
        disabled = error.message
    told = _not_disabled(disabled) if isinstance(disabled, str) else _disabled(disabled)
    return (*told, *_unread(["every database"]))


def _subscriptions(access: Access) -> Iterator[Finding]:
    try:
        with access.connect(
            access.entrance.database, statement_seconds=_STATEMENT_SECONDS
        ) as session:
            disabled = disable_subscriptions(session)
    except _BROKEN as error:
        yield from _not_disabled(_one_line(error))
        return
    yield from _disabled(disabled)


def _disabled(found: Sequence[Subscription]) -> Iterator[Finding]:
    if not found:
        return
    shown = [
        f"{one.name} of database {one.database}" + (f" (slot {one.slot})" if one.slot else "")
        for one in found
    ]
    yield _warning(
        "subscriptions",
        f"{len(found)} disabled, so that the copy does not take the source's rows from its publisher:"
        f" {_shown(shown)}",
        "Where the copy takes the source's place, and the source runs no more: take"
        " max_logical_replication_workers out of postgresql.auto.conf, restart, and"
        f" {_shown([f'ALTER SUBSCRIPTION {quoted(one.name)} ENABLE' for one in found], by='; ')} in"
        " its database. The publisher does not send again what the source had confirmed after this"
        " moment: compare the tables, or copy them anew.",
    )


def _not_disabled(why: str) -> Iterator[Finding]:
    yield _warning(
        "subscriptions",
        f"they could not be disabled: {why}",
        "The copy's max_logical_replication_workers = 0 keeps their workers from starting. Before you"
        " change it, ALTER SUBSCRIPTION ... DISABLE each that pg_subscription shows.",
    )


def _library_settings(access: Access) -> Iterator[Finding]:
    try:
        with access.connect(
            access.entrance.database, statement_seconds=_STATEMENT_SECONDS
        ) as session:
            found = read_library_settings(session)
    except _BROKEN as error:
        yield _warning(
            "library settings of roles and databases", f"not read: {_one_line(error)}", ""
        )
        return
    for name in sorted({one.setting for one in found}):
        of_it = [one for one in found if one.setting == name]
        scopes = _shown([f"{one.scope} loads {one.libraries}" for one in of_it])
        yield _warning(
            name,
            f"set for a role or a database, which outranks the copy's configuration: {scopes}",
            "A library that is missing here refuses their sessions, and others act in them. To be rid"
            f" of it: {_shown([one.reset for one in of_it], by='; ')}.",
        )


def _held(access: Access) -> Iterator[Finding]:
    held = _Held()
    for database in access.entrance.open:
        try:
            with access.connect(database, statement_seconds=_STATEMENT_SECONDS) as session:
                held.add(database, read_outbound(session))
        except _BROKEN:
            held.unread.append(f"database {database}")
    held.unread += [f"database {name}" for name in access.entrance.closed]
    if held.servers:
        yield _warning(
            "foreign servers",
            f"the copy holds {len(held.servers)}, and whoever queries their tables reaches the servers"
            f" that the source reaches: {_shown(held.servers)}",
            "Before anybody works in the copy, drop them, or ALTER SERVER ... OPTIONS (SET host ...).",
        )
    if held.extensions:
        yield _warning(
            "extensions that reach out",
            f"the copy holds {len(held.extensions)} whose functions connect to other servers, run"
            f" programs or start jobs: {_shown(held.extensions)}",
            "Look at what calls them before anybody works in the copy.",
        )
    if held.triggers:
        yield Finding(
            severity=Severity.NOTE,
            subject="event triggers",
            fact=f"{len(held.triggers)} in force, which fire on DDL or at a login in the copy too; none"
            f" was fired by the restore: {_shown(held.triggers)}",
        )
    yield from _unread(held.unread)


def _unread(places: Sequence[str]) -> Iterator[Finding]:
    if places:
        yield Finding(
            severity=Severity.NOTE,
            subject="foreign servers and event triggers",
            fact=f"not looked for in {_shown(places)}",
        )


def _warning(subject: str, fact: str, fix: str) -> Finding:
    return Finding(severity=Severity.WARNING, subject=subject, fact=fact, fix=fix)


def _shown(things: Sequence[str], *, by: str = ", ") -> str:
    more = f"{by}and {len(things) - _MOST_SHOWN} more" if len(things) > _MOST_SHOWN else ""
    return by.join(things[:_MOST_SHOWN]) + more


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
