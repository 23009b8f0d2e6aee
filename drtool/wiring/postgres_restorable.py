"""Whether a PostgreSQL backup can be restored on this machine, found out before anybody needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Harm, Severity
from drtool.policy.secrets import resolve
from drtool.policy.sources import PostgresSource
from drtool.repository.extents import PostgresExtent
from drtool.sources.postgres.binaries import ServerBinaries, find_binaries
from drtool.sources.postgres.connection import database_of
from drtool.sources.postgres.libraries import (
    PRELOADS,
    library_directory,
    library_names,
    missing_libraries,
)
from drtool.system.locales import is_locale_known
from drtool.wiring.surroundings import Surroundings

_FALLBACK_DATABASE = "postgres"
_DEFAULT_SEARCH = "$libdir"


def programs_for(source: PostgresSource, extent: PostgresExtent) -> ServerBinaries:
    """The server that a backup is restored with; NotRecoverable says what this machine lacks for it."""
    binaries = find_binaries(extent.server_version // 10000, bin_dir=source.bin_dir)
    libdir = library_directory(binaries)
    if libdir is None:
        return binaries
    missing = missing_libraries(source.restore.preload, libdir)
    if missing:
        raise NotRecoverable(
            f"the libraries that a restored server should load are not in {libdir}: {', '.join(missing)}",
            hint="Install them, or correct `restore: {preload: ...}` of the source.",
        )
    return binaries


def check_restorable(
    name: str, source: PostgresSource, extent: PostgresExtent, *, severity: Severity
) -> Iterator[Finding]:
    """What keeps this machine from restoring a backup, or from giving back all of it."""
    subject = f"source {name}"
    try:
        binaries = programs_for(source, extent)
    except NotRecoverable as error:
        yield Finding(
            severity=severity,
            subject=subject,
            fact=f"it cannot be restored on this machine: {error.message}",
            fix=error.hint,
            harm=Harm.UNREACHABLE if severity is Severity.PROBLEM else None,
        )
    else:
        yield from check_surroundings(subject, source, extent, binaries=binaries)


def check_surroundings(
    subject: str, source: PostgresSource, extent: PostgresExtent, *, binaries: ServerBinaries
) -> Iterator[Finding]:
    """What a copy will lack on this machine beside its server's programs."""
    unknown = [name for name in extent.locales if not is_locale_known(name)]
    if unknown:
        yield _warning(
            subject,
            f"this machine lacks locales of its databases: {', '.join(unknown)}. They are restored, and"
            " nobody can connect to them here",
            "Install them (locale-gen, or the package locales-all) before a restore.",
        )
    yield from _libraries(subject, dict(extent.settings), binaries)
    if extent.resource_managers and not source.restore.preload:
        yield _warning(
            subject,
            "extensions write WAL of their own kind there (resource managers"
            f" {', '.join(extent.resource_managers)}), which is replayed by their libraries only",
            "Name the libraries: `restore: {preload: [...]}` of the source.",
        )


def _libraries(
    subject: str, settings: Mapping[str, str], binaries: ServerBinaries
) -> Iterator[Finding]:
    named = {one: library_names(settings.get(one, "")) for one in PRELOADS}
    if not any(named.values()):
        return
    libdir = library_directory(binaries)
    if libdir is None:
        yield _warning(
            subject,
            f"nobody can tell whether the libraries that it loads are here: no library directory"
            f" belongs to {binaries.bin_dir}",
            "See to it that they are: " + ", ".join(sorted({n for v in named.values() for n in v})),
        )
        return
    search = settings.get("dynamic_library_path") or _DEFAULT_SEARCH
    for setting, names in named.items():
        missing = missing_libraries(names, libdir, search_path=search, directory=PRELOADS[setting])
        if missing:
            yield _warning(
                subject,
                f"its {setting} names what is not installed here for PostgreSQL {binaries.major}:"
                f" {', '.join(missing)}. A copy is handed over without",
                f"Install them into {libdir} before a restore.",
            )


def _warning(subject: str, fact: str, fix: str) -> Finding:
    return Finding(severity=Severity.WARNING, subject=subject, fact=fact, fix=fix)


def questions_databases(source: PostgresSource, around: Surroundings) -> tuple[str, ...]:
    """All databases that questions are asked in, each once."""
    named = (one.database for one in source.checks)
    asked = (one or questions_database(source, around) for one in named)
    return tuple(dict.fromkeys(asked))


def questions_database(source: PostgresSource, around: Surroundings) -> str:
    """The database for questions that name none: the policy's, else the DSN's, if that is to be had today."""
    if source.checks_database is not None:
        return source.checks_database
    if source.dsn.place == "env" and source.dsn.name not in around.environ:
        return _FALLBACK_DATABASE
    dsn = around.redactor.learn(resolve(source.dsn, around.environ)).reveal()
    return database_of(dsn) or _FALLBACK_DATABASE
