"""The base backup of one PostgreSQL cluster, with the WAL it needs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Self

from drtool.archiving.branch import require_archived_branch
from drtool.archiving.catching_up import CatchingUp
from drtool.archiving.receive_settings import ReceiveSettings
from drtool.archiving.window import WalFetch, WalWindow, wait_for_wal
from drtool.backup.plan import Accepted, BackupPlan, plan_backup
from drtool.backup.run import BackupSource, run_backup
from drtool.errors import LeaseHeld, SourceUnavailable, SourceUnsuitable
from drtool.model.finding import Severity
from drtool.model.objective import Mark
from drtool.model.origin import Origin
from drtool.model.outcome import BackupOutcome, Fact, FactSheet
from drtool.model.progress import Noted
from drtool.model.request import BackupRequest
from drtool.model.wal import Lsn
from drtool.policy.sources import PostgresSource, WalMode
from drtool.repository.backups import read_manifest
from drtool.repository.layout import Lineage
from drtool.repository.marks import put_mark
from drtool.repository.production import put_production
from drtool.repository.repository import Repository
from drtool.sources.postgres.basebackup import BaseBackup
from drtool.sources.postgres.connection import connect, connect_replication
from drtool.sources.postgres.facts import ServerFacts, read_clock, read_facts, require_ready
from drtool.sources.postgres.heartbeat import beat
from drtool.wiring.earlier import facts_of_store, lease_of_backup, look_back
from drtool.wiring.parts import dsn_of
from drtool.wiring.postgres_restorable import check_restorable
from drtool.wiring.surroundings import Surroundings

WAL_SECONDS = 600.0
# A receiver that does well brings WAL within its flush interval; so much more is for a busy store.
RECEIVER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresBackup:
    """The base backup of one cluster."""

    name: str
    source: PostgresSource
    request: BackupRequest
    repository: Repository
    around: Surroundings
    level: int
    origin: Origin

    @property
    def _accepted(self) -> Accepted:
        return Accepted(source=self.request.accepts_source, gone_percent=self.source.max_delete)

    @property
    def _settings(self) -> ReceiveSettings:
        dsn = dsn_of(self.source.dsn, self.around)
        return ReceiveSettings(source=self.name, dsn=dsn, wal=self.source.wal)

    @property
    def _dsn(self) -> str:
        """Of the server that the base backup is taken from."""
        standby = self.source.backup_from
        return dsn_of(standby.dsn if standby else self.source.dsn, self.around)

    def preview(self) -> FactSheet:
        """What a backup would begin with."""
        facts = self._facts()
        plan = self._plan(facts)
        before = plan.previous.backup_id if plan.previous else "none: everything is stored"
        return FactSheet(
            kind="backup-plan",
            title=f"Would back up {self.name}; nothing was done",
            facts=(
                Fact(name="server", value=facts.place, label="from"),
                Fact(name="version", value=facts.major, label="PostgreSQL"),
                Fact(name="compared_with", value=before, label="compared with"),
                *facts_of_store(self.repository, unfinished=len(plan.attempts)),
            ),
        )

    def run(self) -> BackupOutcome:
        """Take it; LeaseHeld if another backup of this source runs."""
        around = self.around
        facts = self._facts()
        with ExitStack() as stack:
            lease = stack.enter_context(lease_of_backup(self.repository, self.name, around))
            plan = self._plan(facts)
            keeper = stack.enter_context(
                KeptWal(self.repository, self._settings, facts, around=around)
            )
            keeper.go_on(self._caught_up(facts))
            connection = stack.enter_context(connect_replication(self._dsn, purpose="backup"))
            label = f"drtool {self.name} {plan.backup_id}"
            stream = stack.enter_context(BaseBackup(connection, label=label))
            source = BackupSource(
                facts=facts,
                bootstrap_role=facts.bootstrap_role or "postgres",
                stream=stream,
                wal=keeper,
                server_clock=lambda: read_clock(self._dsn),
                stop=around.stop,
            )
            outcome = run_backup(
                plan,
                source=source,
                repository=self.repository,
                lease=lease,
                clock=around.clock,
                emit=around.emit,
            )
        extent = read_manifest(self.repository, self.name, outcome.backup_id).postgres
        if self.request.accepts_source:
            lineage = Lineage(self.name, extent.system_id, extent.timeline)
            moment = around.clock.now()
            put_production(self.repository, lineage, extent.stop_lsn, moment=moment)
        here = check_restorable(self.name, self.source, extent, severity=Severity.WARNING)
        return replace(outcome, findings=(*outcome.findings, *here))

    def _caught_up(self, facts: ServerFacts) -> WalFetch | None:
        if self._settings.wal.mode is not WalMode.STREAM:
            return None
        around = self.around
        return CatchingUp(
            self.repository,
            self._settings,
            facts,
            clock=around.clock,
            emit=around.emit,
            stop=around.stop,
        ).run()

    def _facts(self) -> ServerFacts:
        facts = read_facts(self._dsn)
        require_ready(facts)
        # The backup ends with SQL: that it is refused must not be learned after hours of reading.
        read_clock(self._dsn)
        if self._dsn != self._settings.dsn:
            primary = read_facts(self._settings.dsn)
            if primary.system_id != facts.system_id:
                raise SourceUnsuitable(
                    f"{facts.place} is no standby of {primary.place}: their system identifiers differ",
                    hint="Let `backup_from.dsn` lead to a standby of the source.",
                )
            self._warn_of_no_mark()
            accepts = self.request.accepts_source
            require_archived_branch(
                self.repository, self.name, self._settings.dsn, accepts_new=accepts
            )
        # Now, and not only when its WAL is stored: that is after hours of a large backup.
        archived = require_archived_branch(
            self.repository, self.name, self._dsn, accepts_new=self.request.accepts_source
        )
        return replace(facts, system_id=archived.system_id, flushed=archived.flushed)

    def _warn_of_no_mark(self) -> None:
        """The mark at the end is made on the primary, by SQL."""
        try:
            read_clock(self._settings.dsn)
        except SourceUnavailable as error:
            self.around.emit(Noted(f"no mark can be made: {error.message}", "warning"))

    def _plan(self, facts: ServerFacts) -> BackupPlan:
        earlier = look_back(self.repository, self.name, self.around)
        plan = plan_backup(
            self.name,
            earlier.next_id,
            system_id=facts.system_id,
            manifests=earlier.manifests,
            attempts=earlier.attempts,
            level=self.level,
        )
        return replace(plan, accepted=self._accepted, origin=self.origin)


class KeptWal:
    """The WAL of a backup: fetched beside it, or waited for while a receiver brings it.

    At the end of its block nothing is fetched any more, whatever happened in it.
    """

    def __init__(
        self,
        repository: Repository,
        settings: ReceiveSettings,
        facts: ServerFacts,
        *,
        around: Surroundings,
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._facts = facts
        self._around = around
        self._open = ExitStack()
        self._fetch: WalFetch | None = None
        self._start = Lsn(0)
        self._timeline = 0

    def go_on(self, fetch: WalFetch | None) -> None:
        """WAL is fetched already, from the end of the log on."""
        if fetch is not None:
            self._fetch = fetch
            self._open.push(fetch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def begin(self, start: Lsn, timeline: int) -> None:
        """Fetch from now on, unless a receiver holds the lease."""
        self._start, self._timeline = start, timeline
        if self._fetch is not None:
            return
        try:
            self._fetch = self._fetching(is_beside=False)
        except LeaseHeld:
            return

    def finish(self, stop: Lsn) -> Lsn:
        """Wait until the log is whole from the backup's start to its stop."""
        window = WalWindow(
            lineage=Lineage(self._settings.source, self._facts.system_id, self._timeline),
            begin=self._start,
            end=stop,
            segment_bytes=self._facts.segment_bytes,
        )
        if self._fetch is None and not self._is_brought(window):
            # Whoever holds the lease is dead, stuck, or began behind our start: it will never come.
            text = "the receiver does not bring the WAL of this backup: it is fetched beside it"
            self._around.emit(Noted(text, "warning"))
            self._fetch = self._fetching(is_beside=True)
        if self._fetch is not None:
            self._finish_fetching(self._fetch, stop)
        # Looked up once more in the store's own listing: this is what the manifest vouches for.
        self._wait(window, WAL_SECONDS)
        return stop

    def _finish_fetching(self, fetch: WalFetch, stop: Lsn) -> None:
        mark = self._mark()
        try:
            fetch.wait_until(
                max(stop, Lsn(mark.lsn)) if mark else stop,
                timeline=self._timeline,
                timeout_seconds=WAL_SECONDS,
                stop=self._around.stop,
            )
        finally:
            self.abandon()
        if mark is not None:
            lineage = Lineage(self._settings.source, self._facts.system_id, mark.timeline)
            put_mark(self._repository, lineage, mark)

    def _mark(self) -> Mark | None:
        """One mark at the end of a backup that no receiver accompanies: else no moment could be told."""
        try:
            with connect(self._settings.dsn, purpose="mark") as connection:
                mark = beat(connection)
        except SourceUnavailable as error:
            self._around.emit(Noted(f"no mark is made: {error.message}", "warning"))
            return None
        return mark if mark.timeline == self._timeline else None

    def _is_brought(self, window: WalWindow) -> bool:
        """Whether the receiver that holds the lease makes the window durable in time."""
        try:
            self._wait(window, 2 * self._settings.wal.flush.total_seconds() + RECEIVER_SECONDS)
        except SourceUnavailable:
            return False
        return True

    def _wait(self, window: WalWindow, seconds: float) -> None:
        wait_for_wal(
            self._repository,
            window,
            clock=self._around.clock,
            timeout_seconds=seconds,
            stop=self._around.stop,
        )

    def _fetching(self, *, is_beside: bool) -> WalFetch:
        return self._open.enter_context(
            WalFetch(
                self._repository,
                self._settings,
                begin=self._start,
                clock=self._around.clock,
                emit=lambda _event: None,
                is_beside=is_beside,
            )
        )

    def abandon(self) -> None:
        """Let the fetching end; what it stored stays."""
        self._fetch = None
        self._open.close()
