"""Does a restored PostgreSQL cluster hold what it should? It is asked, written to, and its pages read.

A check that could not run is a finding of its own: not measured is not met.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import Question
from drtool.model.progress import Emit, PhaseAdvanced, silent
from drtool.model.verification import Verification
from drtool.policy.sources import Check
from drtool.sources.postgres.asking import AskLimits, asker_of
from drtool.sources.postgres.binaries import ServerBinaries, reachable
from drtool.sources.postgres.control import read_control
from drtool.sources.postgres.entrance import (
    Access,
    Entrance,
    KnownNames,
    NoEntrance,
    Server,
    find_entrance,
)
from drtool.sources.postgres.environment_errors import is_of_environment
from drtool.system.process import ProgramFailed, run_unless_stopped
from drtool.system.users import RunAs
from drtool.verify.amcheck import Amcheck
from drtool.verify.copy_findings import failed, not_measured, one_line, problem
from drtool.verify.questions import about_failed, not_asked, put

_WRITE = "SELECT pg_catalog.pg_logical_emit_message(true, 'drtool', 'restored')"
_CATALOG_SWEEP = (
    "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_attribute),"
    " (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_type),"
    " (SELECT count(pg_get_indexdef(indexrelid)) FROM pg_index)"
)
_COLLATION_VERSIONS = (
    "SELECT * FROM (SELECT 'database ' || quote_ident(datname), datcollversion,"
    " pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()"
    " UNION ALL SELECT DISTINCT 'collation ' || c.oid::regcollation::text, c.collversion,"
    " pg_collation_actual_version(c.oid) FROM pg_depend d JOIN pg_collation c"
    " ON d.refobjid = c.oid AND d.refclassid = 'pg_collation'::regclass)"
    # The source's users make collations, as many as they like.
    " AS found (name, built, here) WHERE built IS NOT NULL AND built IS DISTINCT FROM here LIMIT 100"
)
_WHO = (
    "SELECT system_identifier, pg_postmaster_start_time()::timestamptz(0)::text,"
    " current_setting('data_directory') FROM pg_control_system()"
)
_PREPARED = (
    "SELECT count(*), (array_agg(gid ORDER BY prepared))[1], min(prepared)::text"
    " FROM pg_prepared_xacts"
)
_USUAL_DATABASES = ("postgres", "template1")
_LONGEST_REASON = 2000
# A view leaves out what comes within five seconds of the line before.
_TELL_EVERY_SECONDS = 5.0
_NOBODY = "nobody can log in to the copy"
_BROKEN = (psycopg.Error, SourceUnavailable)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLimits:
    """Seconds that each question, each look at one catalog, amcheck of a database, and the page check
    may take, and that anything may wait for a lock.
    """

    lock_seconds: float = 10
    question_seconds: float = 300
    catalog_seconds: float = 300
    amcheck_seconds: float = 3600
    checksum_seconds: float = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterVerifier:
    """Looks at one restored copy: `questions` are the policy's, those that name no database to be asked
    in `database`; `role` was its bootstrap superuser when it was backed up.
    """

    questions: Sequence[Check]
    database: str
    role: str
    binaries: ServerBinaries
    owner: RunAs
    limits: CheckLimits = CheckLimits()
    emit: Emit = silent

    def enter(self, server: Server, known: KnownNames | None = None) -> Entrance | NoEntrance:
        """Find the way in: by the names that are `known`, else by those that a copy usually has."""
        usual = KnownNames(roles=(self.role,), databases=(*_USUAL_DATABASES, self.database))
        return find_entrance(
            server,
            known or usual,
            major=self.binaries.major,
            statement_seconds=self.limits.catalog_seconds,
        )

    def answers(self, server: Server, entrance: Entrance | NoEntrance) -> Verification:
        """Write once, and put the policy's questions: after this a user could work again.

        Nothing is raised: what fails is in the answer.
        """
        if isinstance(entrance, NoEntrance):
            return self._nothing_asked(entrance)
        access = self._access(server, entrance)
        findings: list[Finding] = []
        is_writable = self._write(access, findings)
        questions = self._ask(access, findings)
        return Verification(
            questions=questions, findings=tuple(findings), is_writable=is_writable
        )  # fmt: skip

    def running(self, server: Server, entrance: Entrance | NoEntrance) -> tuple[Finding, ...]:
        """Look into every open database, deeper than a user would. Nothing is raised."""
        if isinstance(entrance, NoEntrance):
            return ()
        access = self._access(server, entrance)
        findings = [*_not_open(entrance), *self._prepared(access)]
        readable: list[str] = []
        for database in entrance.open:
            found, is_readable = self._look_into(access, database)
            findings += found
            readable += [database] if is_readable else []
        # What it is told comes out of restored bytes, so it gets no rights of ours either.
        with reachable(self.binaries, self.owner) as binaries:
            amcheck = Amcheck(
                access=access,
                binaries=binaries,
                run_as=self.owner,
                catalog_seconds=self.limits.catalog_seconds,
                database_seconds=self.limits.amcheck_seconds,
            )
            return (*findings, *amcheck.findings(readable))

    def stopped(
        self, data_directory: Path, binaries: ServerBinaries, *, stop: threading.Event
    ) -> tuple[Finding, ...]:
        """Check every page's checksum with pg_checksums, which needs a server that was shut down.

        With the owner's rights: what it reads may be anything. Interrupted once `stop` is set.
        """
        subject = f"page checksums of {data_directory}"
        if not read_control(data_directory, binaries, run_as=self.owner).has_checksums:
            return (not_measured(subject, "the cluster was made without page checksums"),)
        if not binaries.has("pg_checksums"):
            return (not_measured(subject, f"{self.binaries.bin_dir} has no pg_checksums"),)
        program = str(binaries.program("pg_checksums"))
        try:
            done = run_unless_stopped(
                [program, "--check", "-D", str(data_directory)],
                timeout_seconds=self.limits.checksum_seconds,
                stop=stop,
                run_as=self.owner,
            )
        except ProgramFailed as error:
            return (not_measured(subject, error.message),)
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

    def _access(self, server: Server, entrance: Entrance) -> Access:
        return Access(
            server=server,
            entrance=entrance,
            major=self.binaries.major,
            lock_seconds=self.limits.lock_seconds,
        )

    def _nothing_asked(self, entrance: NoEntrance) -> Verification:
        wrong = [reason for reason in entrance.reasons if not is_of_environment(reason)]
        why = "; ".join(wrong or entrance.reasons)[:_LONGEST_REASON]
        subject = "connection to the copy"
        found = problem(subject, why) if wrong else not_measured(subject, why)
        return Verification(
            questions=tuple(not_asked(one, _NOBODY) for one in self.questions),
            findings=(found,),
        )

    def _write(self, access: Access, findings: list[Finding]) -> bool:
        """One transaction that writes WAL and leaves nothing behind."""
        database, seconds = access.entrance.database, self.limits.question_seconds
        try:
            with access.connect(database, statement_seconds=seconds) as session:
                session.execute(_WRITE)
        except _BROKEN as error:
            findings.append(failed("first write", "", error))
            return False
        return True

    def _ask(self, access: Access, findings: list[Finding]) -> tuple[Question, ...]:
        """Put the questions as a role that may only read, and that is gone afterwards."""
        asked: list[Question] = []
        if not self.questions:
            return ()
        try:
            findings.append(self._whom(access))
            with asker_of(access, AskLimits(seconds=self.limits.question_seconds)) as asker:
                for one in self.questions:
                    with _told_again(self.emit, self._which(one, len(asked))):
                        asked.append(put(asker, one, database=self.database))
        except _BROKEN as error:
            findings.append(not_measured("questions", one_line(error)))
            asked += [not_asked(one, one_line(error)) for one in self.questions[len(asked) :]]
        findings += about_failed(asked)
        return tuple(asked)

    def _which(self, check: Check, done: int) -> PhaseAdvanced:
        """Which question a person who watches is waiting for."""
        where = f"in database {check.database or self.database}"
        which = f"question {done + 1} of {len(self.questions)}, {where}"
        return PhaseAdvanced(phase="answer", done=done, detail=which)

    def _whom(self, access: Access) -> Finding:
        """Who answers: each session was led to this process by the kernel's word. Errors as the session's."""
        seconds = self.limits.catalog_seconds
        with access.connect(access.entrance.database, statement_seconds=seconds) as session:
            row = session.execute(_WHO).fetchone()
        assert row is not None
        return Finding(
            severity=Severity.NOTE,
            subject="questions",
            fact=f"answered by process {access.server.pid}, which this restore started at {row[1]} on"
            f" {row[2]}: cluster {row[0]}",
        )

    def _prepared(self, access: Access) -> Iterator[Finding]:
        """Prepared transactions go on in a copy, and hold their locks there too."""
        seconds = self.limits.catalog_seconds
        try:
            with access.connect(access.entrance.database, statement_seconds=seconds) as session:
                found = session.execute(_PREPARED).fetchone()
        except _BROKEN as error:
            yield failed("prepared transactions", "they cannot be read", error)
            return
        assert found is not None
        if found[0]:
            yield Finding(
                severity=Severity.WARNING,
                subject="prepared transactions",
                fact=f"{found[0]} open in the copy, holding their locks; the oldest, {found[1]!r}, was"
                f" prepared at {found[2]}",
                fix="See pg_prepared_xacts, and COMMIT PREPARED or ROLLBACK PREPARED each.",
            )

    def _look_into(self, access: Access, database: str) -> tuple[list[Finding], bool]:
        """Read the catalogs, and compare collation versions (PITFALLS 59); whether they can be read."""
        subject = f"database {database}"
        try:
            with access.connect(database, statement_seconds=self.limits.catalog_seconds) as session:
                session.execute(_CATALOG_SWEEP)
                versions = session.execute(_COLLATION_VERSIONS).fetchall()
        except _BROKEN as error:
            is_locked = isinstance(error, psycopg.errors.LockNotAvailable)
            return [failed(subject, "its catalogs cannot be read", error)], is_locked
        return [
            Finding(
                severity=Severity.PROBLEM,
                subject=f"{name} in {subject}",
                fact=f"sorts by version {actual} here, and its indexes were built with {recorded}",
                fix="REINDEX every index that uses it, or run the copy on the source's operating"
                " system.",
            )
            for name, recorded, actual in versions
        ], True


def _not_open(entrance: Entrance) -> Iterator[Finding]:
    for database in entrance.closed:
        why = "it takes no connections, as at the source"
        yield not_measured(f"database {database}", why)
    for database in entrance.invalid:
        yield Finding(
            severity=Severity.WARNING,
            subject=f"database {database}",
            fact="it is invalid: its DROP DATABASE was interrupted at the source, and nobody can enter it",
            fix="Drop it, at the source too.",
        )


def _scanned(output: str) -> str:
    fields = dict(line.partition(":")[::2] for line in output.splitlines() if ":" in line)
    blocks = fields.get("Blocks scanned", "").strip()
    return f"all pages are as their checksums say ({blocks or 'no'} blocks)"


@contextmanager
def _told_again(emit: Emit, event: PhaseAdvanced) -> Iterator[None]:
    """Emit `event`, and again every few seconds while the block lasts."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_TELL_EVERY_SECONDS):
            emit(event)

    emit(event)
    thread = threading.Thread(target=tell, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
