"""What a restore of a PostgreSQL backup needs of this machine is known before anybody needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drtool.archiving.receive_settings import lease_name
from drtool.errors import ExitCode, NotRecoverable
from drtool.model.checked import Readiness
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import RestorePreview, RestoreReport
from drtool.model.request import RestoreRequest
from drtool.model.target import ToLatest
from drtool.repository.lease import Lease
from drtool.sources.postgres.binaries import find_binaries
from drtool.sources.postgres.libraries import library_directory, missing_libraries
from drtool.system.locales import is_locale_known
from drtool.wiring.restore import restore
from tests.check.rig import Stack
from tests.servers.postgres import MakePostgres, server_directory
from tests.wiring.state_rig import Past, a_past


@pytest.fixture
def received(tmp_path: Path) -> Iterator[Past]:
    past = a_past(tmp_path)
    with Lease(past.repository, lease_name("main"), clock=past.clock):
        yield past


def held(past: Past) -> None:
    past.backup(2, minutes=10)
    past.wal(range(2, 9))
    past.mark(99.99, 8.5)


def planned(past: Past) -> RestorePreview:
    """What `drtool restore --plan` shows."""
    beside = server_directory()  # the user who runs a copy must reach it
    request = RestoreRequest(
        sources=(), target=ToLatest(), into=beside / "copy", report=None, is_plan=True
    )
    try:
        found = restore(request, past.policy, past.around)
    finally:
        beside.rmdir()
    assert isinstance(found, tuple)
    return found[0]


def told(findings: tuple[Finding, ...], words: str, severity: Severity) -> bool:
    return any(words in one.fact and one.severity is severity and one.fix for one in findings)


def test_server_programs_that_are_missing_are_a_problem_before_a_restore(received: Past) -> None:
    received.more = f"    bin_dir: {received.root}\n"
    held(received)

    row, code = received.status()
    part = received.checked()

    assert told(row.findings, "cannot be restored on this machine", Severity.PROBLEM)
    assert told(part.findings, "cannot be restored on this machine", Severity.PROBLEM)
    assert code is ExitCode.NOT_RECOVERABLE
    assert part.readiness is Readiness.NOT_READY
    with pytest.raises(NotRecoverable, match="holds no PostgreSQL server"):
        planned(received)


def test_what_a_copy_will_lack_here_is_a_warning_on_every_screen(received: Past) -> None:
    received.extent = replace(
        received.extent,
        settings=(
            ("session_preload_libraries", "plpgsql"),
            ("shared_preload_libraries", 'plpgsql, "is_not_there"'),
        ),
        locales=("C", "xx_XX.UTF-8"),
        resource_managers=("a_table_format",),
    )
    held(received)

    row, code = received.status()

    for findings in (row.findings, received.checked().findings, planned(received).findings):
        assert told(findings, "lacks locales of its databases: xx_XX.UTF-8", Severity.WARNING)
        assert told(findings, "for PostgreSQL 15: is_not_there.", Severity.WARNING)
        assert told(findings, "resource managers a_table_format", Severity.WARNING)
    assert code is ExitCode.DONE
    received.more = "    restore: {preload: [plpgsql]}\n"
    assert not told(planned(received).findings, "resource managers", Severity.WARNING)


def test_a_library_to_preload_that_is_missing_is_said_by_the_plan(received: Past) -> None:
    received.more = "    restore: {preload: [is_not_there]}\n"
    held(received)

    with pytest.raises(NotRecoverable, match=r"should load are not in .*: is_not_there"):
        planned(received)
    assert received.checked().readiness is Readiness.NOT_READY


@pytest.mark.parametrize("major", [15, 16, 18])
def test_libraries_are_looked_for_where_the_server_does(major: int) -> None:
    libdir = library_directory(find_binaries(major))

    assert libdir is not None
    names = ("plpgsql", "$libdir/plpgsql.so", str(libdir / "plpgsql"), "/nowhere/plpgsql", "plpgsq")
    assert missing_libraries(names, libdir) == ("/nowhere/plpgsql", "plpgsq")
    assert missing_libraries(["plpgsql"], libdir, search_path=f"/nowhere:{libdir}") == ()
    assert missing_libraries(["plpgsql"], libdir, directory="$libdir/plugins/") == ("plpgsql",)


def test_a_locale_is_known_as_the_c_library_says() -> None:
    assert is_locale_known("C")
    assert not is_locale_known("xx_XX.UTF-8")


@pytest.mark.postgres
def test_a_recovering_server_loads_what_the_policy_names(
    make_postgres: MakePostgres, tmp_path: Path, server_root: Path
) -> None:
    """An extension that writes WAL of its own kind is replayed by its library alone."""
    server = make_postgres(15, segment_mb=1)
    sources = """\
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    checks: ["SELECT current_setting('shared_preload_libraries') = 'auto_explain'"]
    restore: {preload: [auto_explain]}
"""
    stack = Stack(root=tmp_path, sources=sources, environ={"MAIN_DB_DSN": server.dsn()})
    stack.init()
    stack.backup()
    request = RestoreRequest(
        sources=(), target=ToLatest(), into=server_root / "copy", report=None, is_plan=False
    )

    report = restore(request, stack.policy, stack.around)

    assert isinstance(report, RestoreReport)
    assert [one.passed for one in report.outcomes[0].questions] == [True]
