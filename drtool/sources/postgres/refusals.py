"""Why a server did not let us in, or did not do what we asked: each case with what to do about it.

libpq tells no SQLSTATE for a connection that failed, and servers speak the language of their
`lc_messages`. So the patterns below look for what no translation changes (`max_wal_senders`,
`pg_hba.conf`) before English words, and an unknown text is passed on as it is, without a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from drtool.errors import SourceUnavailable, SourceUnsuitable

OLDEST_VERSION = 150000
_IN_DSN = "Put the right one into the DSN that the policy refers to."
_INTO_FILE = (
    "Put it into ~/.pgpass of the user that runs drtool, as HOST:PORT:DATABASE:ROLE:PASSWORD, where"
    " DATABASE is * (replication asks too), with mode 0600 (libpq ignores a file that others may read)"
)


class WalRemoved(SourceUnavailable):
    """The WAL asked for is gone from the server: what was not archived yet is a gap for ever."""

    retryable = False


class WalNotYetWritten(SourceUnavailable):
    """The position asked for lies beyond the server's WAL: it lost a tail, or is another cluster."""

    retryable = False


class NotInHistory(SourceUnsuitable):
    """The server never was at that position of that timeline: its history forked before."""


class BranchLeft(SourceUnsuitable):
    """The server has other WAL than was archived of it under the same names: a copy was put back."""


class SlotLost(SourceUnavailable):
    """The server has given up our replication slot: it keeps nothing, and cannot be used again."""


class DataCorrupted(SourceUnavailable):
    """The server found damage in its own data (SQLSTATE XX001)."""

    retryable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What the server says of an error: `detail` and `source_file` None when it says nothing."""

    sqlstate: str | None
    message: str
    detail: str | None = None
    source_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One way to be refused: the text that betrays it, the error it becomes, the next step."""

    pattern: re.Pattern[str]
    error: Callable[..., SourceUnavailable]
    fact: str
    hint: str


def _refusal(pattern: str, error: type[SourceUnavailable], *, fact: str, hint: str) -> Refusal:
    return Refusal(pattern=re.compile(pattern, re.I | re.S), error=error, fact=fact, hint=hint)


_UNQUOTED = r"(?:\"[^\"]*\"|«[^»]*»|»[^«]*«|„[^“]*“|[^\"«»„])*?"
_REFUSALS = (
    _refusal(
        r"max_wal_senders \(\D*0\)",
        SourceUnsuitable,
        fact="allows no replication connections: max_wal_senders is 0",
        hint="Run ALTER SYSTEM SET wal_level = 'replica', ALTER SYSTEM SET max_wal_senders = 10 there and"
        " restart the server (max_wal_senders is 0 wherever wal_level is minimal).",
    ),
    _refusal(
        r"max_wal_senders",
        SourceUnavailable,
        fact="has no replication connection to spare: max_wal_senders are all in use",
        hint="Look at pg_stat_replication for receivers that nobody needs, or raise it with"
        " ALTER SYSTEM SET max_wal_senders and a restart.",
    ),
    _refusal(
        # Not in quotes, where a role may be called replicator.
        r"pg_hba\.conf"
        + _UNQUOTED
        + r"(replication|replikation|réplication|replica|repli|репликац)",
        SourceUnsuitable,
        fact="has no pg_hba.conf entry that lets this role open replication connections from here",
        hint="Add a line such as 'hostssl replication ROLE ADDRESS scram-sha-256' to its pg_hba.conf"
        " (the database 'all' does not cover replication) and run SELECT pg_reload_conf().",
    ),
    _refusal(
        r"pg_hba\.conf",
        SourceUnsuitable,
        fact="has no pg_hba.conf entry that lets this role in from here",
        hint="Add a line such as 'hostssl all ROLE ADDRESS scram-sha-256' to its pg_hba.conf and run"
        " SELECT pg_reload_conf().",
    ),
    _refusal(
        r"replication role|REPLICATION|start WAL sender",
        SourceUnsuitable,
        fact="does not let this role open replication connections",
        hint="Run ALTER ROLE the_role WITH REPLICATION there as a superuser.",
    ),
    _refusal(
        r"requested a cleartext password",
        SourceUnsuitable,
        fact="asks for the password in clear text over a link without TLS, and is not given it",
        hint="Add sslmode=verify-full to the DSN (ssl = on at the server), or use scram-sha-256 in its"
        " pg_hba.conf; require_auth=password in the DSN sends it all the same.",
    ),
    _refusal(
        r"no password supplied|fe_sendauth: kein Passw?ort",
        SourceUnsuitable,
        fact="asks for a password, and none was given",
        hint=f"{_INTO_FILE}, or into the DSN that the policy refers to.",
    ),
    _refusal(
        r"password retrieved from file",
        SourceUnsuitable,
        fact="refused the password",
        hint=f"It was taken from that file. {_INTO_FILE}.",
    ),
    _refusal(
        r"password authentication failed|Passw?ort",
        SourceUnsuitable,
        fact="refused the password",
        hint=_IN_DSN,
    ),
    _refusal(
        r"role \"[^\"]*\" (does not exist|is not permitted)",
        SourceUnsuitable,
        fact="has no such role that may log in",
        hint="Create it there with CREATE ROLE the_role LOGIN REPLICATION PASSWORD '...'.",
    ),
    _refusal(
        r"database \"[^\"]*\" does not exist",
        SourceUnsuitable,
        fact="has no such database",
        hint=_IN_DSN,
    ),
    _refusal(
        r"unsupported startup parameter|pgbouncer|no such database: |bouncer config",
        SourceUnsuitable,
        fact="answers as a connection pooler does, not as PostgreSQL",
        hint="Give the DSN of the server itself: replication and backups do not go through a pooler.",
    ),
    _refusal(
        r"too many clients|connection slots|too many connections",
        SourceUnavailable,
        fact="has no connection to spare",
        hint="Free some, or raise max_connections.",
    ),
    _refusal(
        r"starting up|shutting down|recovery mode|not yet accepting|not accepting connections",
        SourceUnavailable,
        fact="is starting or stopping",
        hint="Wait until it accepts connections.",
    ),
    _refusal(
        r"expected authentication request|invalid response to (SSL|GSSAPI) negotiation|unsupported"
        r" frontend protocol|unexpected (response|message)|invalid message length",
        SourceUnsuitable,
        fact="does not speak PostgreSQL's protocol",
        hint="Check host and port of the DSN: something else listens there.",
    ),
    _refusal(
        r"certificate|SSL|TLS",
        SourceUnsuitable,
        fact="cannot be reached over an encrypted connection as the DSN asks",
        hint="Check sslmode and sslrootcert of the DSN, and ssl on the server.",
    ),
)
_LSN = "[0-9A-F]{1,8}/[0-9A-F]{1,8}"
_NEW_BACKUP = "Take a new base backup; use a replication slot so that WAL waits for the receiver."
_OTHER_PAST = "Check that the DSN leads to the cluster that this repository holds, then start anew."
_ASK_FOR_REPLICATION = "Run ALTER ROLE the_role WITH REPLICATION there as a superuser."
_OWN_FILE = "Look at the owner and the mode of that file on the server."
_MAKE_SLOT = "Create it with SELECT pg_create_physical_replication_slot('NAME', true)."
# SQLSTATE, what its message holds in any language, the error, the fact, the next step.
_ANSWERS: tuple[tuple[str, str, type[SourceUnavailable], str, str], ...] = (
    ("58P01", "[0-9A-F]{24}", WalRemoved, "has removed WAL that was asked for", _NEW_BACKUP),
    # The same in mid-stream (xlog.c, CheckXLogRemoved), where errno no longer says why.
    ("XX000", "[0-9A-F]{24}", WalRemoved, "has removed WAL that was asked for", _NEW_BACKUP),
    # ERROR without a code of their own, told apart by what they quote (walsender.c, StartReplication).
    ("XX000", f"{_LSN}.*{_LSN}", WalNotYetWritten, "is not as far as was asked for", _OTHER_PAST),
    ("XX000", _LSN, NotInHistory, "has another history than was asked for", _OTHER_PAST),
    ("XX001", "", DataCorrupted, "found damage in its data", "Read the findings of this backup."),
    # EACCES of a file has the same code as a right that a role lacks.
    (
        "42501",
        r"(base|global|pg_\w+)/",
        SourceUnsuitable,
        "may not read a file of its own",
        _OWN_FILE,
    ),
    ("42501", "", SourceUnsuitable, "does not permit it", _ASK_FOR_REPLICATION),
    ("42704", "", SourceUnsuitable, "has no such replication slot", _MAKE_SLOT),
    (
        "55006",
        "",
        SourceUnavailable,
        "has that replication slot in use",
        "Stop the other receiver.",
    ),
    (
        "55000",
        "invalidated|no longer",
        SlotLost,
        "has given up that replication slot",
        _NEW_BACKUP,
    ),
)
# Classes of SQLSTATE that pass: connection, resources, operator intervention, system, not in state.
_PASSING = ("08", "53", "55", "57", "58")
# A server may say a gigabyte; what is looked for stands at the beginning.
_LONGEST_TOLD = 4000
_UNREACHABLE = "Check that the server runs and that host and port of the DSN are right."


def refused(place: str, text: str) -> SourceUnavailable:
    """The error for a connection to `place` that failed with libpq's or the server's `text`."""
    text = text[:_LONGEST_TOLD]
    told = one_line(text)
    for refusal in _REFUSALS:
        if refusal.pattern.search(text):
            return refusal.error(f"{place} {refusal.fact} ({told})", hint=refusal.hint)
    return SourceUnavailable(f"{place} cannot be reached: {told}", hint=_UNREACHABLE)


def too_old(place: str, version_num: int) -> SourceUnsuitable:
    """The error for a server of a version that drtool does not protect."""
    return SourceUnsuitable(
        f"{place} is PostgreSQL {version_num // 10000}, and drtool needs 15 or newer",
        hint="Upgrade the server with pg_upgrade, or back this cluster up with another tool.",
    )


def command_failed(place: str, failure: Failure) -> SourceUnavailable:
    """The error for a replication command that the server answered with `failure`."""
    message = failure.message[:_LONGEST_TOLD]
    told = f"{one_line(message)} (SQLSTATE {failure.sqlstate or 'unknown'})"
    if failure.detail:
        told = f"{told}: {one_line(failure.detail[:_LONGEST_TOLD])}"
    for sqlstate, pattern, error, fact, hint in _ANSWERS:
        if failure.sqlstate == sqlstate and re.search(pattern, message):
            return error(f"{place} {fact}: {told}", hint=hint)
    if failure.sqlstate is None or failure.sqlstate[:2] in _PASSING:
        return SourceUnavailable(
            f"{place} broke off: {told}", hint="Try again; see the server's log."
        )
    return SourceUnsuitable(f"{place} refused: {told}", hint="See the server's log.")


def one_line(text: str) -> str:
    """A server's message without line breaks and libpq's preambles."""
    # A line of libpq that ends without a full stop is a sentence all the same.
    sentences = re.sub(r"(?<=[\w)\"'])[ \t]*\n\s*(?=\S)", ". ", text)
    flat = " ".join(sentences.split())
    flat = re.sub(r"^(connection failed: |connection is bad: )+", "", flat)
    return re.sub(r"^connection to server [^:]* failed: ", "", flat)
