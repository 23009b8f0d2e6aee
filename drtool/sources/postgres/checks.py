"""Whether a PostgreSQL server is set up so that it can be protected, and its WAL waits for us. Pure rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_size, format_span
from drtool.sources.postgres.facts import ServerFacts
from drtool.sources.postgres.readiness import ArchiverFacts, Readings, SlotFacts
from drtool.sources.postgres.slot_forecast import SlotForecast

NEWEST_MAJOR = 18
# A backup needs a sender beside the WAL receiver's; a second receiver comes while one restarts.
_NEEDED_SENDERS = 2
# archive_command is called again within a minute after it failed.
WAITS_AT_MOST = timedelta(minutes=5)


def check_server(facts: ServerFacts, readings: Readings) -> Iterator[Finding]:
    """What keeps the server from being backed up, or its own data from being whole after a crash."""
    place = facts.place
    if facts.major > NEWEST_MAJOR:
        yield _finding(
            Severity.WARNING,
            place,
            fact=f"PostgreSQL {facts.major} is newer than what drtool was tried with ({NEWEST_MAJOR})",
            fix="Look for a newer drtool; rehearse a restore before you rely on this one.",
        )
    if facts.wal_level == "minimal":
        yield _finding(
            Severity.PROBLEM,
            place,
            fact="wal_level is minimal, which nothing can be recovered from",
            fix="Run ALTER SYSTEM SET wal_level = 'replica' there and restart the server.",
        )
    if not readings.may_replicate:
        yield _finding(
            Severity.PROBLEM,
            place,
            fact="the role may not open replication connections",
            fix="Run ALTER ROLE the_role WITH REPLICATION there as a superuser.",
        )
    yield from _settings(place, readings)
    yield from _senders(facts, readings)


def _settings(place: str, readings: Readings) -> Iterator[Finding]:
    off = [name for name in ("fsync", "full_page_writes") if readings.settings.get(name) == "off"]
    for name in off:
        yield _finding(
            Severity.PROBLEM,
            place,
            fact=f"{name} is off: a power cut may leave a server whose data are damaged for good",
            fix=f"Run ALTER SYSTEM SET {name} = on there and SELECT pg_reload_conf().",
        )
    if readings.settings.get("data_checksums") == "off":
        yield _finding(
            Severity.WARNING,
            place,
            fact="data checksums are off: damage on its disk is copied into backups unnoticed",
            fix="Stop it, run pg_checksums --enable, and start it again.",
        )


def _senders(facts: ServerFacts, readings: Readings) -> Iterator[Finding]:
    free = facts.max_wal_senders - readings.used_senders
    wanted = _NEEDED_SENDERS if facts.max_wal_senders < _NEEDED_SENDERS else 1
    if free >= wanted:
        return
    yield _finding(
        Severity.PROBLEM,
        facts.place,
        fact=f"{readings.used_senders} of max_wal_senders = {facts.max_wal_senders} are in use: a backup"
        " finds none to connect by",
        fix="Run ALTER SYSTEM SET max_wal_senders = 10 there and restart it, or end receivers that nobody"
        " needs (pg_stat_replication).",
    )


def check_slot(
    place: str, name: str, slot: SlotFacts | None, *, forecast: SlotForecast | None = None
) -> Iterator[Finding]:
    """Whether the slot of the policy keeps the WAL that is not archived yet."""
    subject = f"slot {name} at {place}"
    if slot is None:
        yield _finding(
            Severity.WARNING,
            subject,
            fact="it is not there: WAL that the repository lacks may be removed at any checkpoint",
            fix="Start `drtool wal receive`, which makes it; `slot: none` in the policy goes without.",
        )
        return
    if slot.state.is_lost:
        yield _finding(
            Severity.PROBLEM,
            subject,
            fact="it is lost: the server removed WAL that was to be archived",
            fix="Start `drtool wal receive`: it makes the slot anew, records the gap and takes a backup;"
            " raise max_slot_wal_keep_size.",
        )
        return
    if slot.state.is_endangered:
        yield _finding(
            Severity.PROBLEM,
            subject,
            fact="the next checkpoint may remove WAL that it should keep (wal_status is unreserved)",
            fix="See that the receiver runs and the repository takes what it puts, now; raise"
            " max_slot_wal_keep_size.",
        )
    if forecast is not None:
        yield from _near_its_end(subject, slot, forecast)
    yield from _retained(subject, slot)


def _near_its_end(subject: str, slot: SlotFacts, forecast: SlotForecast) -> Iterator[Finding]:
    """A slot that nobody empties grows until something ends it: told while there is time."""
    if slot.state.is_active and forecast.left_bytes >= forecast.kept_bytes:
        return
    why = "the receiver is behind" if slot.state.is_active else "nobody receives"
    yield _finding(
        Severity.PROBLEM if forecast.is_near else Severity.WARNING,
        subject,
        fact=f"it keeps {format_size(forecast.kept_bytes)} of WAL ({why}):"
        f" {forecast.describe(slot.moment)}, and then the slot is given up",
        fix="See that `drtool wal receive` runs and the repository takes what it puts; `drtool wal slot"
        " drop` lets the server remove what it keeps.",
    )


def _retained(subject: str, slot: SlotFacts) -> Iterator[Finding]:
    held = slot.retained_bytes or 0
    if slot.safe_bytes is not None:
        if slot.safe_bytes < held:
            yield _finding(
                Severity.WARNING,
                subject,
                fact=f"{format_size(held)} of WAL wait for it, and after"
                f" {format_size(max(0, slot.safe_bytes))} more it is lost (max_slot_wal_keep_size)",
                fix="See why the receiver is behind, or raise max_slot_wal_keep_size.",
            )
        return
    if slot.state.restart_lsn is not None:
        yield _finding(
            Severity.NOTE,
            subject,
            fact="max_slot_wal_keep_size is unlimited: slot_limit holds only while a process of drtool runs,"
            " and without one WAL fills the server's disk",
            fix="Set max_slot_wal_keep_size to what the disk can spare; a lost slot is a recorded gap.",
        )


def check_archiving(place: str, archiver: ArchiverFacts) -> Iterator[Finding]:
    """Whether archive_command hands over what is finished (PITFALLS 8: the count alone does not tell)."""
    subject = f"archiving at {place}"
    if archiver.mode == "off":
        yield _finding(
            Severity.PROBLEM,
            subject,
            fact="archive_mode is off, and the policy says that the server pushes its WAL",
            fix="Run ALTER SYSTEM SET archive_mode = on there and restart it.",
        )
        return
    if not archiver.command and not archiver.library:
        yield _finding(
            Severity.PROBLEM,
            subject,
            fact="archive_command is empty: finished WAL waits for ever",
            fix="ALTER SYSTEM SET archive_command = 'drtool-wal push %p'; SELECT pg_reload_conf().",
        )
    elif "drtool" not in archiver.command:
        yield _finding(
            Severity.WARNING,
            subject,
            fact="archive_command does not name drtool: it may hand WAL to something else",
            fix="Let it run drtool-wal push %p, also where a script stands between.",
        )
    if archiver.is_failing:
        yield _finding(
            Severity.PROBLEM,
            subject,
            fact=f"its last attempt failed, with {archiver.last_failed_wal}; {archiver.failed_count}"
            " failed so far",
            fix="Look at the server's log for what archive_command said.",
        )
    yield from _waiting(subject, archiver)


def _waiting(subject: str, archiver: ArchiverFacts) -> Iterator[Finding]:
    if archiver.ready_files is None:
        yield _finding(
            Severity.WARNING,
            subject,
            fact="our role may not see how many files wait to be archived",
            fix="Run GRANT pg_monitor TO the_role there.",
        )
    elif archiver.oldest_ready is not None and archiver.oldest_ready > WAITS_AT_MOST:
        yield _finding(
            Severity.PROBLEM,
            subject,
            fact=f"{counted(archiver.ready_files or 0, 'file waits', 'files wait')} to be archived,"
            f" the oldest for {format_span(archiver.oldest_ready)}",
            fix="Look at the server's log for what archive_command said, and at `drtool wal status`.",
        )


def _finding(severity: Severity, subject: str, *, fact: str, fix: str) -> Finding:
    return Finding(severity=severity, subject=subject, fact=fact, fix=fix)
