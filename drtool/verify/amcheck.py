"""pg_amcheck over every open database of a running copy: B-tree indexes and heaps.

Not --heapallindexed: that reads each table once more for each of its indexes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import make_conninfo

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.sources.postgres.binaries import ServerBinaries
from drtool.sources.postgres.connection import startup_options
from drtool.sources.postgres.entrance import Access, session_settings
from drtool.sources.postgres.environment_errors import is_of_environment
from drtool.sources.postgres.event_triggers import execute_without_triggers
from drtool.sources.postgres.names import quoted
from drtool.system.process import Finished, ProgramFailed, clean_environment, run_program
from drtool.system.users import RunAs
from drtool.verify.copy_findings import failed, not_measured, problem

SUBJECT = "pg_amcheck"
# pg_amcheck calls its functions in their extension's schema, as a superuser and by the arguments' names:
# whoever may create functions there could put a better match beside them. Nobody else creates in this one.
_SCHEMA = "pg_catalog"
_INSTALLED_IN = (
    "SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace"
    " WHERE extname = 'amcheck'"
)
_INSTALL = f"CREATE EXTENSION amcheck WITH SCHEMA {_SCHEMA}"
_DROP = "DROP EXTENSION IF EXISTS amcheck"
_MOVE = "ALTER EXTENSION amcheck SET SCHEMA "
# The run as a whole has a limit.
_NO_TIMEOUT = {"statement_timeout": "0"}
_QUERY = "pg_amcheck: detail: Query was"
_MARGIN = re.compile(r"\n(?=\S)")
_MOST_SHOWN = 8
_BROKEN = (psycopg.Error, SourceUnavailable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amcheck:
    """One look at a copy. The extension is created where it is missing, and dropped there afterwards; where
    it is in another schema than pg_catalog, it is there for as long as the look takes.
    """

    access: Access
    binaries: ServerBinaries
    run_as: RunAs
    catalog_seconds: float
    database_seconds: float

    def findings(self, databases: Sequence[str]) -> Iterator[Finding]:
        """Look into `databases`; nothing is raised."""
        if not self.binaries.has("pg_amcheck"):
            yield not_measured(SUBJECT, f"{self.binaries.bin_dir} has no pg_amcheck")
            return
        ready: dict[str, str | None] = {}
        try:
            for database in databases:
                try:
                    ready[database] = self._provide(database)
                except _BROKEN as error:
                    yield _not_created(database, error)
            if ready:
                yield from self._check(list(ready))
        finally:
            for database, undo in ready.items():
                if undo is not None:
                    self._undo(database, undo)

    def _provide(self, database: str) -> str | None:
        """See to it that the extension is there, in pg_catalog; the statement that undoes it."""
        with self._connect(database) as session:
            row = session.execute(_INSTALLED_IN).fetchone()
            if row is not None and row[0] == _SCHEMA:
                return None
            do, undo = _INSTALL, _DROP
            if row is not None:
                do, undo = _MOVE + _SCHEMA, _MOVE + quoted(str(row[0]))
            execute_without_triggers(session, do, major=self.access.major)
        return undo

    def _undo(self, database: str, statement: str) -> None:
        """The copy is left as its source was."""
        try:
            with self._connect(database) as session:
                execute_without_triggers(session, statement, major=self.access.major)
        except _BROKEN:
            # An extension too many does no harm, nor does one in pg_catalog.
            return

    def _check(self, databases: Sequence[str]) -> Iterator[Finding]:
        """One run a database: for several it begins in postgres or template1, whatever its
        --maintenance-db says.
        """
        reports: list[str] = []
        untold = 0
        for database in databases:
            try:
                reports += _reports(self._run(database))
            except ProgramFailed as error:
                untold += 1
                yield not_measured(f"{SUBJECT} in database {database}", error.message)
        hindered = [report for report in reports if is_of_environment(report)]
        wrong = [report for report in reports if not is_of_environment(report)]
        if hindered:
            yield not_measured(SUBJECT, _shown(hindered))
        if wrong:
            yield problem(SUBJECT, _shown(wrong))
        if not reports and untold < len(databases):
            yield Finding(severity=Severity.NOTE, subject=SUBJECT, fact="found nothing wrong")

    def _run(self, database: str) -> Finished:
        settings = session_settings(self.access.major, fires_triggers=False)
        settings |= _NO_TIMEOUT | self.access.lock_limit
        command = [str(self.binaries.program("pg_amcheck")), "--jobs=2", "--no-password"]
        command += ["--host", str(self.access.server.socket_directory), "--port", "5432"]
        command += ["--username", self.access.entrance.role]
        # The role may read nothing of ours, but must be able to stand in its working directory.
        return run_program(
            [*command, make_conninfo(dbname=database)],
            timeout_seconds=self.database_seconds,
            environment=clean_environment(PGOPTIONS=startup_options(settings)),
            run_as=self.run_as,
        )

    def _connect(self, database: str) -> psycopg.Connection:
        return self.access.connect(
            database, statement_seconds=self.catalog_seconds, fires_triggers=False
        )


def _not_created(database: str, error: Exception) -> Finding:
    """Code of the data may forbid it, as an event trigger that always fires does: that is no damage."""
    found = failed(f"{SUBJECT} in database {database}", "", error)
    state = getattr(error, "sqlstate", None) or ""
    if (
        found.severity is Severity.PROBLEM
        and isinstance(error, psycopg.Error)
        and state[:2] != "XX"
    ):
        return not_measured(found.subject, f"the extension cannot be created: {found.fact}")
    return found


def _reports(done: Finished) -> Iterator[str]:
    """What it found wrong, or stumbled over. A report begins at the margin, what belongs to it is
    indented; what it says of itself is one report, without the query that failed.
    """
    if done.code == 0:
        return
    told = (*_MARGIN.split(done.output), done.errors.partition(_QUERY)[0])
    blocks = [block for block in told if block.strip()]
    if not blocks:
        yield f"it ended with exit code {done.code}"
    for block in blocks:
        yield " ".join(block.split())


def _shown(reports: Sequence[str]) -> str:
    more = f" / and {len(reports) - _MOST_SHOWN} more" if len(reports) > _MOST_SHOWN else ""
    return " / ".join(reports[:_MOST_SHOWN]) + more
