"""Does a restored PostgreSQL cluster hold what it should? It is asked, written to, and its pages read.

A check that could not run is a finding of its own: not measured is not met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import Question
from drtool.model.verification import Verification
from drtool.sources.postgres.binaries import ServerBinaries
from drtool.sources.postgres.connection import connect
from drtool.sources.postgres.control import read_control
from drtool.system.process import ProgramFailed, run_program
from drtool.system.users import RunAs

_WRITE = "SELECT pg_catalog.pg_logical_emit_message(true, 'drtool', 'restored')"
_CATALOG_SWEEP = (
    "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_attribute),"
    " (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_type),"
    " (SELECT count(pg_get_indexdef(indexrelid)) FROM pg_index)"
)
# Only databases that take connections can be looked into; template1 is one of them.
_DATABASES = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY oid"
_COLLATION_VERSIONS = (
    "SELECT 'database ' || quote_ident(datname), datcollversion,"
    " pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()"
    " UNION ALL SELECT DISTINCT 'collation ' || c.oid::regcollation::text, c.collversion,"
    " pg_collation_actual_version(c.oid) FROM pg_depend d JOIN pg_collation c"
    " ON d.refobjid = c.oid AND d.refclassid = 'pg_collation'::regclass"
)
_BROKEN = (psycopg.Error, SourceUnavailable)


class Server(Protocol):
    """What this room needs of a running copy."""

    @property
    def socket_directory(self) -> Path:
        """Where its Unix socket lies."""

    def dsn(self, *, dbname: str = "postgres", user: str = "postgres") -> str:
        """How to connect to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLimits:
    """Seconds that each question, each look at one catalog, amcheck, and the page check may take."""

    question_seconds: float = 300
    catalog_seconds: float = 300
    amcheck_seconds: float = 3600
    checksum_seconds: float = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterVerifier:
    """Looks at one restored copy: `questions` are the policy's, to be asked in `database`; `role` is
    its bootstrap superuser.
    """

    questions: Sequence[str]
    database: str
    role: str
    binaries: ServerBinaries
    owner: RunAs
    limits: CheckLimits = CheckLimits()

    def answers(self, server: Server) -> Verification:
        """Write once, and put the policy's questions: after this a user could work again.

        Nothing is raised: what fails is in the answer.
        """
        findings: list[Finding] = []
        is_writable = self._write(server, findings)
        questions = tuple(self._ask(server, question) for question in self.questions)
        return Verification(
            questions=questions, findings=tuple(findings), is_writable=is_writable
        )  # fmt: skip

    def running(self, server: Server) -> tuple[Finding, ...]:
        """Look into every database, deeper than a user would. Nothing is raised."""
        findings: list[Finding] = []
        databases = self._databases(server, findings)
        for database in databases:
            findings += self._look_into(server, database)
        without = [name for name in databases if not self._has_amcheck(server, name)]
        findings += self._amcheck(server)
        for database in without:
            self._drop_amcheck(server, database)
        return tuple(findings)

    def stopped(self, data_directory: Path) -> tuple[Finding, ...]:
        """Check every page's checksum with pg_checksums, which needs a server that was shut down."""
        subject = f"page checksums of {data_directory}"
        if not read_control(data_directory, self.binaries).has_checksums:
            return (_not_measured(subject, "the cluster was made without page checksums"),)
        if not self.binaries.has("pg_checksums"):
            return (_not_measured(subject, f"{self.binaries.bin_dir} has no pg_checksums"),)
        program = str(self.binaries.program("pg_checksums"))
        try:
            done = run_program(
                [program, "--check", "-D", str(data_directory)],
                timeout_seconds=self.limits.checksum_seconds,
            )
        except ProgramFailed as error:
            return (_not_measured(subject, error.message),)
        if done.code == 0:
            return (Finding(severity=Severity.NOTE, subject=subject, fact=_scanned(done.output)),)
        lines = [line for line in done.errors.splitlines() if line.strip()] or [done.output]
        return tuple(
            Finding(
                severity=Severity.PROBLEM,
                subject=subject,
                fact=line.removeprefix("pg_checksums: ").strip(),
                fix="Restore from an older backup, and check the source's disk: the page was damaged"
                " before it was backed up.",
            )
            for line in lines[:20]
        )

    def _write(self, server: Server, findings: list[Finding]) -> bool:
        """One transaction that writes WAL and leaves nothing behind."""
        try:
            with self._connect(server, "postgres", seconds=self.limits.question_seconds) as session:
                session.execute(_WRITE)
        except _BROKEN as error:
            findings.append(_problem("first write", _told(error)))
            return False
        return True

    def _ask(self, server: Server, question: str) -> Question:
        """Passed only if the first column of the first row is true."""
        try:
            dsn = server.dsn(dbname=self.database, user=self.role)
            with connect(
                dsn,
                purpose="verify",
                statement_seconds=self.limits.question_seconds,
                search_path='"$user", public',
            ) as session:
                row = session.execute(question.encode()).fetchone()
        except _BROKEN as error:
            return Question(question, f"error: {_told(error)}", False)
        if row is None:
            return Question(question, "no row", False)
        return Question(question, str(row[0]), row[0] is True)

    def _databases(self, server: Server, findings: list[Finding]) -> list[str]:
        try:
            with self._connect(server, "postgres", seconds=self.limits.catalog_seconds) as session:
                return [str(name) for (name,) in session.execute(_DATABASES)]
        except _BROKEN as error:
            findings.append(_problem("list of databases", _told(error)))
            return []

    def _look_into(self, server: Server, database: str) -> Iterator[Finding]:
        """Read the catalogs, and compare collation versions (PITFALLS 59)."""
        subject = f"database {database}"
        try:
            with self._connect(server, database, seconds=self.limits.catalog_seconds) as session:
                session.execute(_CATALOG_SWEEP)
                versions = session.execute(_COLLATION_VERSIONS).fetchall()
        except _BROKEN as error:
            yield _problem(subject, f"its catalogs cannot be read: {_told(error)}")
            return
        for name, recorded, actual in versions:
            if recorded is not None and recorded != actual:
                yield Finding(
                    severity=Severity.PROBLEM,
                    subject=f"{name} in {subject}",
                    fact=f"sorts by version {actual} here, and its indexes were built with {recorded}",
                    fix="REINDEX every index that uses it, or run the copy on the source's operating"
                    " system.",
                )

    def _amcheck(self, server: Server) -> list[Finding]:
        """B-tree indexes and heaps of all databases, with two connections.

        Not --heapallindexed: that reads each table once more for each of its indexes.
        """
        subject = "pg_amcheck"
        if not self.binaries.has("pg_amcheck"):
            return [_not_measured(subject, f"{self.binaries.bin_dir} has no pg_amcheck")]
        command = [
            str(self.binaries.program("pg_amcheck")),
            "--all",
            "--install-missing",
            "--jobs=2",
        ]
        try:
            # The role may read nothing of ours, but must be able to stand in its working directory.
            done = run_program(
                [*command, "--host", str(server.socket_directory), "--port", "5432"]
                + ["--username", self.role, "--no-password", "--maintenance-db", "postgres"],
                timeout_seconds=self.limits.amcheck_seconds,
            )
        except ProgramFailed as error:
            return [_not_measured(subject, error.message)]
        if done.code == 0:
            return [Finding(severity=Severity.NOTE, subject=subject, fact="found nothing wrong")]
        if 'extension "amcheck" is not available' in done.errors + done.output:
            return [_not_measured(subject, "the extension amcheck is not installed")]
        told = [line for line in (done.output + done.errors).splitlines() if line.strip()]
        return [_problem(subject, " / ".join(told[:8]) or f"it ended with exit code {done.code}")]

    def _has_amcheck(self, server: Server, database: str) -> bool:
        try:
            with self._connect(server, database, seconds=self.limits.catalog_seconds) as session:
                found = session.execute("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")
                return found.fetchone() is not None
        except _BROKEN:
            # `_look_into` has said that this database cannot be read. Then nothing is dropped in it.
            return True

    def _drop_amcheck(self, server: Server, database: str) -> None:
        """The copy is left as its source was."""
        try:
            with self._connect(server, database, seconds=self.limits.catalog_seconds) as session:
                session.execute("DROP EXTENSION IF EXISTS amcheck")
        except _BROKEN:
            # An extension too many does no harm.
            return

    def _connect(
        self, server: Server, database: str, *, seconds: float
    ) -> psycopg.Connection[tuple[object, ...]]:
        dsn = server.dsn(dbname=database, user=self.role)
        return connect(dsn, purpose="verify", statement_seconds=seconds)


def _problem(subject: str, fact: str) -> Finding:
    return Finding(severity=Severity.PROBLEM, subject=subject, fact=fact)


def _not_measured(subject: str, why: str) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        subject=subject,
        fact=f"not measured: {why}",
        fix="Not measured is not met: make it measurable, or check the copy by hand.",
    )


def _scanned(output: str) -> str:
    fields = dict(line.partition(":")[::2] for line in output.splitlines() if ":" in line)
    blocks = fields.get("Blocks scanned", "").strip()
    return f"all pages are as their checksums say ({blocks or 'no'} blocks)"


def _told(error: Exception) -> str:
    return " ".join(str(error).split())
