"""Asking a restored copy as a role that may read and do nothing else, and that is gone afterwards.

Whoever owned a table of the source decides what a question runs: a view in its place calls any function,
as whoever asks. So it is no superuser who asks, nor one who became somebody else and can turn back
(RESET ROLE is SQL too), but a role that logs in as what it is.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from drtool.errors import SourceUnavailable
from drtool.sources.postgres.connection import connect
from drtool.sources.postgres.entrance import (
    Access,
    Context,
    session_settings,
)
from drtool.system.relay import Relay, RelayLimits

# More than any answer, error or notice needs: an answer is cut by the server.
_MOST_BYTES = 1 << 20
# What a question may write to temporary files: a sort of a large table goes there.
_TEMPORARY = "16GB"
_READS = ("pg_read_all_data", "pg_read_all_settings", "pg_read_all_stats")
# BYPASSRLS is a right to read: without it a table with row security looks empty.
_ATTRIBUTES = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION INHERIT LOGIN BYPASSRLS"
_READ_ONLY = {"default_transaction_read_only": "on"}
_GRACE_SECONDS = 5.0
_BOOLEAN = 16
_ASKED = """
SELECT CASE WHEN false THEN COLUMN END, pg_catalog.left(COLUMN::text, $1)
FROM (
QUESTION
) AS answers (COLUMN) LIMIT 2"""
# A semicolon and a remark behind it, as people write them; no quote, so that none of it is a text.
_ENDING = re.compile(r""";\s*--[^'"$\n]*$""")
_LINE = re.compile(r"\nLINE (\d+): ")
_MAY_CONNECT = "SELECT has_database_privilege(%s, %s, 'CONNECT')"
_END_SESSIONS = (
    "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename = %s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLimits:
    """Of one question: until its answer, and of the answer's text."""

    seconds: float
    characters: int = 300


class NotAsked(Exception):
    """The database lets nobody in, or is not there; the text says what PostgreSQL said."""


class CutOff(Exception):
    """The answer took too long (`is_late`), or was too long, to be waited for."""

    is_late = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of an answer: its first column, as SQL writes it; None for NULL."""

    text: str | None
    is_true: bool


@dataclass(slots=True, kw_only=True)
class Asker:
    """A role in one copy, for as long as `asker_of` lasts; `admitted` are databases that let it in."""

    access: Access
    limits: AskLimits
    name: str
    admitted: dict[str, bool] = field(default_factory=dict)

    def ask(self, database: str, question: str) -> list[Answer]:
        """At most two rows of the answer, in a session and a read-only transaction of its own.

        NotAsked, CutOff; psycopg.Error is what the question itself ran into.
        """
        server, limits = self.access.server, self.limits
        relayed = RelayLimits(seconds=limits.seconds + _GRACE_SECONDS, answer_bytes=_MOST_BYTES)
        try:
            with Relay(server.socket, pid=server.pid, limits=relayed) as relay:
                return self._ask(database, question, relay)
        except OSError as error:
            raise NotAsked(f"no socket can be made: {error}") from error

    def _ask(self, database: str, question: str, relay: Relay) -> list[Answer]:
        dsn = self.access.server.dsn(dbname=database, user=self.name)
        settings = session_settings(self.access.major, of=Context.USER)
        try:
            self._admit(database)
            session = connect(
                make_conninfo(dsn, host=str(relay.directory)),
                purpose="ask",
                statement_seconds=self.limits.seconds,
                search_path="public",
                settings=settings | self.access.lock_limit | _READ_ONLY,
            )
        except (psycopg.Error, SourceUnavailable) as error:
            raise NotAsked(relay.fault or str(error)) from error
        try:
            with session:
                return self._answers(session, question)
        except psycopg.Error as error:
            error.args = tuple(_with_lines_of(question, one) for one in error.args)
            relay.close()
            if relay.fault is None:
                raise
            self._end_sessions()
            cut = CutOff(relay.fault)
            cut.is_late = relay.is_late
            raise cut from error

    def _answers(self, session: psycopg.Connection, question: str) -> list[Answer]:
        # After its first snapshot nothing makes a transaction read-write, set_config() neither.
        session.execute("BEGIN TRANSACTION READ ONLY")
        session.execute("SELECT 1")
        most = self.limits.characters
        with psycopg.RawCursor(session) as cursor:
            # The parameter makes it the extended protocol, which takes one statement alone.
            cursor.execute(_wrapped(question), [most + 1])
            rows = cursor.fetchall()
            # COMMIT would send what was notified, and keep a large object that was made (before 16).
            session.execute("ROLLBACK")
            assert cursor.description is not None
            is_boolean = cursor.description[0].type_code == _BOOLEAN
        return [Answer(_cut(text, most), is_true=is_boolean and text == "true") for _, text in rows]

    def _admit(self, database: str) -> None:
        """Where CONNECT is not everybody's it is granted, and noted to be taken back."""
        if database in self.admitted:
            return
        with _administering(self.access) as session:
            row = session.execute(_MAY_CONNECT, [self.name, database]).fetchone()
            is_admitted = row == (True,)
            if not is_admitted:
                names = (sql.Identifier(database), sql.Identifier(self.name))
                session.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(*names))
        self.admitted[database] = not is_admitted

    def _end_sessions(self) -> None:
        """A statement that catches its own time-out goes on without us."""
        with suppress(psycopg.Error, SourceUnavailable), _administering(self.access) as session:
            session.execute(_END_SESSIONS, [self.name])

    def create(self) -> None:
        """Make the role. psycopg.Error, SourceUnavailable."""
        role = sql.Identifier(self.name)
        with _administering(self.access) as session:
            session.execute(sql.SQL(f"CREATE ROLE {{}} {_ATTRIBUTES}").format(role))
            session.execute(sql.SQL(f"GRANT {', '.join(_READS)} TO {{}}").format(role))
            # What only a superuser may set outranks ALTER DATABASE and ALTER ROLE ALL so. This session
            # has it already; written out, an empty list would be a list of one empty name.
            for name in session_settings(self.access.major, of=Context.SUPERUSER):
                setting = (role, sql.Identifier(name))
                session.execute(sql.SQL("ALTER ROLE {} SET {} FROM CURRENT").format(*setting))
            limit = sql.SQL(f"ALTER ROLE {{}} SET temp_file_limit = '{_TEMPORARY}'")
            session.execute(limit.format(role))

    def remove(self) -> None:
        """Leave nothing of it in the copy. psycopg.Error, SourceUnavailable."""
        self._end_sessions()
        role = sql.Identifier(self.name)
        with _administering(self.access) as session:
            for database, is_granted in self.admitted.items():
                if is_granted:
                    names = (sql.Identifier(database), role)
                    session.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(*names))
            session.execute(sql.SQL("DROP ROLE {}").format(role))


@contextmanager
def asker_of(access: Access, limits: AskLimits) -> Iterator[Asker]:
    """A role to ask with. SourceUnavailable if it cannot be made, and, at the end, not be removed."""
    asker = Asker(access=access, limits=limits, name=f"drtool_asks_{secrets.token_hex(8)}")
    with _told("the role that asks cannot be made"):
        asker.create()
    try:
        yield asker
    finally:
        with _told(f"role {asker.name} cannot be removed from the copy"):
            asker.remove()


@contextmanager
def _administering(access: Access) -> Iterator[psycopg.Connection]:
    """A superuser's transaction."""
    database, seconds = access.entrance.database, access.lock_seconds
    with access.connect(database, statement_seconds=seconds) as session, session.transaction():
        yield session


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, SourceUnavailable) as error:
        raise SourceUnavailable(f"{what}: {' '.join(str(error).split())}") from error


def _with_lines_of(question: str, told: object) -> object:
    """An error's text with the line numbers of the question, and not of what it was wrapped in."""
    if not isinstance(told, str):
        return told
    begin, end = _ASKED[: _ASKED.index("QUESTION")].count("\n"), question.count("\n") + 1

    def own(match: re.Match[str]) -> str:
        line = int(match[1]) - begin
        return f"\nLINE {line}: " if 1 <= line <= end else "\nbehind its end: "

    return _LINE.sub(own, told, count=1)


def _wrapped(question: str) -> bytes:
    """In parentheses nothing but a query stands; the server takes two rows of it, and cuts the answer.

    The first column is always NULL: its type is the answer's, or that of which it is a domain.
    """
    column = f"answer_{secrets.token_hex(8)}"
    asked = _ENDING.sub("", question.rstrip()).rstrip("; \n")
    # The text is the policy's own; what it may be is for the server to decide.
    return _ASKED.replace("COLUMN", column).replace("QUESTION", asked).encode()


def _cut(text: str | None, characters: int) -> str | None:
    return text if text is None or len(text) <= characters else text[:characters] + "…"
