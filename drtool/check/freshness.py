"""Whether what is kept is fresh: backups against their schedule, the log against the promise. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.model.checked import MirrorStanding
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.measure import CLOCK_SKEW, format_age, format_promise, format_span
from drtool.model.objective import Objective, Verdict, judge

# A backup may take its time before it counts as overdue; never longer than the time between two.
GRACE = timedelta(hours=1)
# Clocks further apart than this make the moments of backups and marks doubtful.
TOLERATED_SKEW = timedelta(seconds=1)
_SHORTEST_STALE = timedelta(minutes=1)
# A store tells its clock to the second.
STORE_SKEW = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """What `command` makes, such as "backup": due at least every `pause`, None where nobody says."""

    source: str
    what: str
    command: str
    pause: timedelta | None


def check_age(table: Timetable, ended: datetime | None, *, now: datetime) -> Iterator[Finding]:
    """A problem if there is none, or the newest is older than its schedule allows (PITFALLS 79)."""
    subject = f"source {table.source}"
    if ended is None:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=subject,
            fact=f"there is no {table.what}: nothing can be recovered from one",
            fix=f"Run `{table.command}`.",
            harm=Harm.PROMISE,
        )
        return
    if ended - now > CLOCK_SKEW:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=subject,
            fact=f"the last {table.what} bears a time ahead of this machine's clock"
            f" ({format_age(ended, now)}), so nobody can tell how old it is",
            fix=f"Set the clock by NTP, and run `{table.command}`.",
            harm=Harm.PROMISE,
        )
        return
    if table.pause is None:
        yield Finding(
            severity=Severity.NOTE,
            subject=subject,
            fact=f"no schedule says when a {table.what} is due, so nobody can tell that one is missing",
            fix='Add `schedule: {backup: "0 2 * * *"}` to the source in the policy.',
        )
        return
    age = now - ended
    if is_overdue(age, table.pause):
        yield Finding(
            severity=Severity.PROBLEM,
            subject=subject,
            fact=f"the last {table.what} is {format_span(age)} old, and one is due every"
            f" {format_span(table.pause)}",
            fix=f"Run `{table.command}`, and look at why the scheduled one did not.",
            harm=Harm.PROMISE,
        )


def is_overdue(age: timedelta, pause: timedelta) -> bool:
    """Whether the newest of what is due every `pause` is so old that one must be missing."""
    return age > pause + min(GRACE, pause)


def check_loss(
    source: str, objective: Objective, *, rpo_now: timedelta | None, fix: str
) -> Iterator[Finding]:
    """A problem if more would be lost now than was promised, or nobody can tell."""
    verdict = judge(rpo_now, objective.rpo)
    if verdict is Verdict.MET:
        return
    promised = format_promise(objective.rpo)
    if rpo_now is None:
        fact = f"nobody can tell how much would be lost now, and promised is at most {promised}"
    else:
        fact = (
            f"{format_span(rpo_now)} of work would be lost now, and promised is at most {promised}"
        )
    yield Finding(
        severity=Severity.PROBLEM,
        subject=f"source {source}",
        fact=fact,
        fix=fix,
        harm=Harm.PROMISE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiving:
    """What is known of the receiver of `what`. `holder` has its lease, None if nobody does; `trouble`
    is what it says keeps it from its work. A mark is due `every`, None where none are made.
    """

    what: str
    holder: str | None
    trouble: str | None
    mark_age: timedelta | None = None
    every: timedelta | None = None


def check_receiver(receiving: Receiving, *, fix: str) -> Iterator[Finding]:
    """A problem if nobody receives what the policy says is received, or if who should does not get on.

    `fix` is for where nobody does.

    A receiver that runs is no receiver while it cannot reach its server or its store: its own word
    tells that, and where that does not come, the age of its newest mark.
    """
    limit = None if receiving.every is None else max(_SHORTEST_STALE, 3 * receiving.every)
    is_stale = limit is not None and receiving.mark_age is not None and receiving.mark_age > limit
    if receiving.holder is None:
        fact = "nobody receives it: every change from now on would be lost"
    elif receiving.trouble is not None:
        fact = f"its receiver, {receiving.holder}, runs and receives nothing: {receiving.trouble}"
        # Another one would be refused, since this one has the lease.
        fix = (
            "Mend that: start the server if it is down, and look at the network between. The receiver tries"
            " again and goes on by itself."
        )
    elif is_stale and receiving.mark_age is not None and receiving.every is not None:
        fact = (
            f"its receiver, {receiving.holder}, runs and does not get on: the newest mark is"
            f" {format_span(receiving.mark_age)} old, and one is due every"
            f" {format_span(receiving.every)}"
        )
        fix = "See what the receiver says: it cannot reach the server or the store, or lags behind."
    else:
        return
    yield Finding(
        severity=Severity.PROBLEM,
        subject=receiving.what,
        fact=fact,
        fix=fix,
        harm=Harm.PROMISE,
    )


def check_clock(
    subject: str, skew: timedelta, *, tolerated: timedelta = TOLERATED_SKEW
) -> Iterator[Finding]:
    """A warning if the clock of `subject` is `skew` ahead of this machine's, and that is much."""
    if abs(skew) <= tolerated:
        return
    direction = "ahead of" if skew > timedelta(0) else "behind"
    yield Finding(
        severity=Severity.WARNING,
        subject=subject,
        fact=f"its clock is {format_span(abs(skew))} {direction} this machine's: moments in marks and"
        " reports are off by that",
        fix="Run an NTP client on both; `timedatectl` tells whether one runs.",
    )


def check_mark(subject: str, age: timedelta | None, *, every: timedelta) -> Iterator[Finding]:
    """A warning if no mark came for far longer than one is made and put `every`."""
    if age is not None and age <= max(_SHORTEST_STALE, 3 * every):
        return
    fact = "there is none yet" if age is None else f"the newest is {format_span(age)} old"
    yield Finding(
        severity=Severity.WARNING,
        subject=subject,
        fact=f"{fact}, and one is due every {format_span(every)}",
        fix="See what the receiver says: our user may not write the heartbeat key, or no master answers.",
    )


def check_mirror(
    table: Timetable, standing: MirrorStanding, *, keeps_versions: bool | None, now: datetime
) -> Iterator[Finding]:
    """How old its last run is, and whether what it replaces can still be read."""
    yield from check_age(table, standing.ended, now=now)
    if keeps_versions:
        return
    known = "keeps no" if keeps_versions is False else "is not known to keep"
    yield Finding(
        severity=Severity.WARNING,
        subject=f"mirror {standing.url}",
        fact=f"its bucket {known} versions: nothing is deleted there, and what a run overwrote cannot be"
        " returned to",
        fix="Turn versioning on: aws s3api put-bucket-versioning --bucket BUCKET"
        " --versioning-configuration Status=Enabled",
    )
