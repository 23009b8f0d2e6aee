"""What a source has that a restored copy of it will have too, and that hinders whoever asks the copy."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import format_span
from drtool.sources.postgres.refusals import one_line

# A transaction manager that works commits within seconds what it prepared.
PREPARED_AT_MOST = timedelta(hours=1)
_LONGEST_LIST = 5
_PREPARED = (
    "SELECT count(*), (array_agg(gid ORDER BY prepared))[1], clock_timestamp() - min(prepared)"
    " FROM pg_prepared_xacts"
)
_DATABASES = "SELECT datname, datallowconn, datconnlimit = -2 FROM pg_database ORDER BY oid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacles:
    """`oldest` is the name of the oldest of `prepared` transactions, `age` how long it is open."""

    prepared: int
    oldest: str | None
    age: timedelta | None
    databases: tuple[str, ...]
    closed: tuple[str, ...]
    invalid: tuple[str, ...]


def read_obstacles(connection: psycopg.Connection) -> Obstacles:
    """SourceUnavailable if the server does not tell."""
    try:
        prepared = connection.execute(_PREPARED).fetchone()
        rows = connection.execute(_DATABASES).fetchall()
    except psycopg.Error as error:
        raise SourceUnavailable(
            f"the server does not tell what a copy of it would have: {one_line(str(error))}",
            hint="Look at the server's log.",
        ) from error
    assert prepared is not None
    return Obstacles(
        prepared=prepared[0],
        oldest=prepared[1],
        age=prepared[2],
        databases=tuple(name for name, _, _ in rows),
        closed=tuple(name for name, is_open, is_invalid in rows if not (is_open or is_invalid)),
        invalid=tuple(name for name, _, is_invalid in rows if is_invalid),
    )


def check_obstacles(
    place: str, found: Obstacles, *, asked_in: Collection[str]
) -> Iterator[Finding]:
    """`asked_in` are the databases that the policy's questions will be asked in."""
    if found.age is not None and found.age > PREPARED_AT_MOST:
        count = f"{found.prepared} prepared transactions are" if found.prepared > 1 else "1 is"
        yield _finding(
            place,
            f"prepared transactions hold locks, here and in every copy: {count} open, the oldest"
            f" ({found.oldest!r}) for {format_span(found.age)}",
            "See pg_prepared_xacts there, and COMMIT PREPARED or ROLLBACK PREPARED each.",
        )
    yield from _askable(place, found, asked_in)
    if found.invalid:
        names = ", ".join(found.invalid[:_LONGEST_LIST])
        yield _finding(
            place,
            f"invalid databases, left by a DROP DATABASE that was interrupted: {names}",
            "Drop them; nobody can enter them, in a copy neither.",
        )


def _askable(place: str, found: Obstacles, asked_in: Collection[str]) -> Iterator[Finding]:
    for database in asked_in:
        if database not in found.databases:
            fact = "and there is none"
        elif database in (*found.closed, *found.invalid):
            fact = "which takes no connections: a restore cannot ask them"
        else:
            continue
        yield _finding(
            place,
            f"the policy's questions are to be asked in database {database}, {fact}",
            "Name another one as checks_database of the source, or as database of the check.",
        )


def _finding(place: str, fact: str, fix: str) -> Finding:
    return Finding(severity=Severity.WARNING, subject=place, fact=fact, fix=fix)
