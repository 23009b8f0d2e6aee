"""The checks of one PostgreSQL cluster: the server, its slot or archiver, its log, its backups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

from drtool.archiving.branch import require_archived_branch
from drtool.archiving.receive_settings import ReceiveSettings
from drtool.archiving.status import WalStatus
from drtool.check.freshness import check_clock
from drtool.check.links import check_link
from drtool.check.run import Seen, attempt, not_looked
from drtool.check.state import Topic
from drtool.errors import DrtoolError, NotRecoverable
from drtool.model.checked import Look
from drtool.model.cluster import describe_cluster, system_of
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_skew
from drtool.policy.sources import PostgresSource, WalMode
from drtool.repository.extents import PostgresExtent
from drtool.sources.postgres.checks import check_archiving, check_server
from drtool.sources.postgres.connection import connect, place_of
from drtool.sources.postgres.facts import ServerFacts, read_facts
from drtool.sources.postgres.links import VERIFY
from drtool.sources.postgres.obstacles import check_obstacles, read_obstacles
from drtool.sources.postgres.readiness import read_archiver, read_readings
from drtool.sources.postgres.standby import check_standing, read_standing
from drtool.system.users import choose_user
from drtool.wiring.check_destination import look_at_destination
from drtool.wiring.checking import Checking
from drtool.wiring.parts import dsn_of
from drtool.wiring.postgres_restorable import programs_for, questions_databases
from drtool.wiring.slot import look_at_slot
from drtool.wiring.state_facts import read_facts_of_state
from drtool.wiring.state_postgres import postgres_state, read_log


def look_at_postgres(checking: Checking, source: PostgresSource) -> Iterator[Look]:
    """The server and what the repository holds of it; one does not keep the other from being seen."""
    dsn, facts = "", None
    try:
        dsn = dsn_of(source.dsn, checking.around)
        facts = read_facts(dsn)
    except DrtoolError as error:
        yield not_looked("server", error)
    if facts is not None:
        yield from _look_at_server(checking, source, dsn, facts=facts)
    if source.backup_from is not None:
        standby = source.backup_from.dsn
        yield attempt("standby", lambda: _standby(dsn_of(standby, checking.around), facts))
    try:
        yield from _look_at_log(checking, source, facts, dsn=dsn)
    except DrtoolError as error:
        yield not_looked("repository", error)
    yield look_at_destination(checking, lambda place: choose_user(place, source.restore.run_as))


def _look_at_server(
    checking: Checking, source: PostgresSource, dsn: str, *, facts: ServerFacts
) -> Iterator[Look]:
    def settings() -> Seen:
        with closing(connect(dsn, purpose="check")) as connection:
            before = checking.now
            readings = read_readings(connection)
            obstacles = read_obstacles(connection)
            skew = readings.moment - (before + (checking.now - before) / 2)
        role = "a standby" if facts.is_standby else "the primary"
        asked_in = questions_databases(source, checking.around)
        findings = [
            *check_server(facts, readings),
            *check_clock(facts.place, skew),
            *check_obstacles(facts.place, obstacles, asked_in=asked_in),
            *check_link(facts.place, facts.link, fix=VERIFY),
        ]
        used, most = readings.used_senders, facts.max_wal_senders
        seen = (
            f"PostgreSQL {facts.major}, {role}, wal_level {facts.wal_level}, {used} of {most} WAL"
            f" senders in use, clock {format_skew(skew)}"
        )
        return seen, findings

    def archiving() -> Seen:
        with closing(connect(dsn, purpose="check")) as connection:
            found = read_archiver(connection)
        waiting = "unknown how many files"
        if found.ready_files is not None:
            waiting = counted(found.ready_files, "file")
        failed = counted(found.failed_count, "attempt")
        seen = f"archive_mode {found.mode}, {waiting} waiting, {failed} failed"
        return seen, check_archiving(facts.place, found)

    yield attempt("server", settings)
    if source.wal.mode is WalMode.PUSH:
        yield attempt("archiving", archiving)


def _standby(dsn: str, primary: ServerFacts | None) -> Seen:
    """The server that backups are taken from: of the same cluster, and following."""
    facts = read_facts(dsn)
    findings = list(check_link(facts.place, facts.link, fix=VERIFY))
    if primary is not None and facts.system_id != primary.system_id:
        findings.append(
            Finding(
                severity=Severity.PROBLEM,
                subject=facts.place,
                fact="it is another cluster than the one that dsn leads to: backups of it are refused",
                fix="Let backup_from lead to a standby of the source.",
            )
        )
    if not facts.is_standby:
        findings.append(
            Finding(
                severity=Severity.WARNING,
                subject=facts.place,
                fact="backup_from leads to a primary: it was promoted, or is the source itself",
                fix="Let dsn lead to the primary, and backup_from to a standby of it.",
            )
        )
    with closing(connect(dsn, purpose="check")) as connection:
        standing = read_standing(connection)
    if standing is not None:
        findings += check_standing(
            facts.place, standing, primary=primary.flushed if primary else None
        )
    return f"{place_of(dsn)}, PostgreSQL {facts.major}, timeline {facts.timeline}", findings


def _look_at_log(
    checking: Checking, source: PostgresSource, facts: ServerFacts | None, *, dsn: str
) -> Iterator[Look]:
    settings = ReceiveSettings(source=checking.name, dsn=dsn, wal=source.wal)
    look = partial(look_at_slot, settings, zone=checking.policy.timezone)
    if facts is not None and settings.slot is not None and checking.known() is None:
        yield attempt("slot", lambda: look(repository=None, log=None))
    found = read_facts_of_state(checking.name, checking.policy, checking.opened(), now=checking.now)
    log = read_log(found)
    state = postgres_state(found, source, log=log)
    yield checking.backups(state)
    if found.newest is not None:
        seen = _programs_seen(source, found.newest.postgres)
        yield Look(name="restore", seen=seen, findings=state.of(Topic.RESTORE))
    yield Look(name="receiver", seen=state.receiver or "none", findings=state.of(Topic.RECEIVER))
    foreign = _foreign(checking.name, log, facts)
    yield Look(name="log", seen=state.log_seen, findings=(*state.of(Topic.LOG), *foreign))
    if facts is not None:
        if settings.slot is not None:
            repository = checking.opened()
            yield attempt("slot", lambda: look(repository=repository, log=log))
        if state.receiver is None and log.system_id is not None:
            yield attempt("branch", lambda: _branch(checking, dsn))
    yield checking.recoverable(state)


def _programs_seen(source: PostgresSource, extent: PostgresExtent) -> str:
    major = extent.server_version // 10000
    try:
        return f"PostgreSQL {programs_for(source, extent).version} is here"
    except NotRecoverable:
        return f"a cluster of PostgreSQL {major} cannot be restored here"


def _branch(checking: Checking, dsn: str) -> Seen:
    """Whether the server's WAL is what is held of it; a receiver that runs has compared already."""
    require_archived_branch(checking.opened(), checking.name, dsn)
    return "the server has the WAL that is held of it", ()


def _foreign(name: str, log: WalStatus, facts: ServerFacts | None) -> Iterator[Finding]:
    if facts is None or log.system_id is None or system_of(log.system_id) == facts.system_id:
        return
    yield Finding(
        severity=Severity.PROBLEM,
        subject=f"WAL of {name}",
        fact=f"the server is cluster {facts.system_id}, and the repository holds"
        f" {describe_cluster(log.system_id)}",
        fix="Let the DSN lead to the right server; after pg_upgrade, run"
        f" `drtool wal receive {name} --accept-source` and `drtool backup {name}`.",
    )
