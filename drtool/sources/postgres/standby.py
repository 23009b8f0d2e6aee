"""How a standby that backups are taken from follows its primary, and rules on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import format_size, format_span
from drtool.model.wal import Lsn
from drtool.sources.postgres.refusals import one_line

# A backup of a standby that is so far behind begins so much earlier: its restore replays that much more.
LAGS_AT_MOST = timedelta(minutes=5)
_LAGS_AT_MOST_BYTES = 1 << 30
_STANDING = (
    "SELECT pg_get_wal_replay_pause_state(), pg_last_wal_replay_lsn()::text,"
    " (SELECT count(*) FROM pg_stat_wal_receiver WHERE status IS DISTINCT FROM 'stopping'),"
    " clock_timestamp() - pg_last_xact_replay_timestamp()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """`age` is that of the newest commit that was replayed, also where nothing is written; None: none was."""

    pause: str
    replayed: Lsn
    is_receiving: bool
    age: timedelta | None


def read_standing(connection: psycopg.Connection) -> Standing | None:
    """None if the server is no standby any more; SourceUnavailable if it does not tell."""
    try:
        is_standby = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        if is_standby != (True,):
            return None
        row = connection.execute(_STANDING).fetchone()
    except psycopg.Error as error:
        raise SourceUnavailable(
            f"the standby does not tell how it follows: {one_line(str(error))}",
            hint="Look at the server's log.",
        ) from error
    assert row is not None
    return Standing(
        pause=row[0], replayed=Lsn.parse(row[1] or "0/0"), is_receiving=row[2] > 0, age=row[3]
    )


def check_standing(place: str, standing: Standing, *, primary: Lsn | None) -> Iterator[Finding]:
    """What makes a backup of it older than it should be. `primary` is where the primary was before."""
    behind = 0 if primary is None else max(0, primary - standing.replayed)
    age = standing.age if behind else None
    if standing.pause != "not paused":
        yield _finding(
            place,
            f"its replay is {standing.pause}: backups of it are all of one moment, and each restore replays"
            " everything since",
            "Run SELECT pg_wal_replay_resume() there.",
        )
    elif behind > _LAGS_AT_MOST_BYTES or (age is not None and age > LAGS_AT_MOST):
        since = "" if age is None else f", its newest commit {format_span(age)} old"
        yield _finding(
            place,
            f"it is {format_size(behind)} of WAL behind its primary{since}: a restore of a backup of it"
            " replays so much more",
            "See what holds it up: its disk, long queries (max_standby_streaming_delay), or"
            " recovery_min_apply_delay.",
        )
    if behind and not standing.is_receiving:
        yield _finding(
            place,
            "it receives no WAL from its primary",
            "See primary_conninfo there, the server's log, and pg_stat_replication on the primary.",
        )


def _finding(place: str, fact: str, fix: str) -> Finding:
    return Finding(severity=Severity.WARNING, subject=place, fact=fact, fix=fix)
