"""Carry a restore out: provision, fetch, replay, promote, verify, finish. It reads from top to bottom."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from drtool.errors import DestinationRefused, DrtoolError, NotRecoverable
from drtool.model.cluster import system_of
from drtool.model.finding import Finding
from drtool.model.outcome import LogSpan, Reached, RestoreOutcome
from drtool.model.target import ToLsn, describe_target
from drtool.model.verification import Verification
from drtool.repository.chunks import ChunkReader
from drtool.repository.layout import Lineage
from drtool.repository.log_events import readable_events
from drtool.repository.repository import Repository
from drtool.restore.copy_ports import CopyPorts
from drtool.restore.destination import Destination, make_destination
from drtool.restore.fetch import Fetched, fetch_files, put_control
from drtool.restore.isolated_wal import IsolatedWal
from drtool.restore.network import network_findings
from drtool.restore.outbound import LOCK_SECONDS, cut_off, cut_off_alone
from drtool.restore.phases import Phases
from drtool.restore.plan import RestorePlan
from drtool.restore.replay import (
    ReplayLimits,
    reached,
    watch_promotion,
    watch_replay,
)
from drtool.restore.ring import RESTORE_COMMAND, WalRing
from drtool.restore.settle import (
    finish_recovery,
    how_to_start,
    how_to_stop,
    prepare_recovery,
    refuse_again,
)
from drtool.restore.start_config import HandedOver
from drtool.restore.supply import PATIENCE, WalSupply
from drtool.restore.tablespaces import ReplayedTablespaces
from drtool.restore.way_in import Restart, ended_when_asked, let_in, shut_down, stopped_by_failure
from drtool.sources.postgres.binaries import ServerBinaries, reachable
from drtool.sources.postgres.control import read_control
from drtool.sources.postgres.entrance import Access, Entrance, KnownNames, NoEntrance
from drtool.sources.postgres.recovery_settings import isolated_settings, target_settings
from drtool.sources.postgres.replay_needs import replay_needs
from drtool.sources.postgres.server import RunningServer, ServerPlan, start_server
from drtool.system.process import machine_memory_bytes
from drtool.system.retry import RetryLimits


class Verifier(Protocol):
    """What looks at the copy: asks it, looks deeper while it runs, and once it has stopped."""

    def enter(
        self, server: RunningServer, known: KnownNames | None = None
    ) -> Entrance | NoEntrance:
        """Find the way in: by the names that are `known`, else by those that a copy usually has."""

    def answers(self, server: RunningServer, entrance: Entrance | NoEntrance) -> Verification:
        """A first write, and the policy's questions: at its end the copy could be used."""

    def running(
        self, server: RunningServer, entrance: Entrance | NoEntrance
    ) -> tuple[Finding, ...]:
        """Look deeper into the running copy."""

    def stopped(
        self, data_directory: Path, binaries: ServerBinaries, *, stop: threading.Event
    ) -> tuple[Finding, ...]:
        """Look at the files of the copy after a clean shutdown, with programs that its owner can execute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSite:
    """Where a restore happens: checked places, the server's programs, and limits.

    `preload` are libraries that the server loads while it recovers. `scratch` is where the private socket
    and log go; None is the temporary directory. The copy's port is one of `ports`.
    """

    destination: Destination
    binaries: ServerBinaries
    workers: int = min(8, 2 * (os.cpu_count() or 2))
    patience: RetryLimits = PATIENCE
    limits: ReplayLimits = field(default_factory=ReplayLimits)
    scratch: Path | None = None
    preload: tuple[str, ...] = ()
    ports: CopyPorts = field(default_factory=CopyPorts)


@dataclass(frozen=True, slots=True)
class _Recovered:
    reached: Reached
    verification: Verification
    found: tuple[Finding, ...]
    handed: HandedOver


def run_restore(
    plan: RestorePlan,
    site: RestoreSite,
    *,
    repository: Repository,
    verifier: Verifier,
    phases: Phases,
) -> RestoreOutcome:
    """Restore as `plan` says; the copy is left stopped, whole, and cut off from its source.

    When it fails before that, what is left cannot be started as if it were whole: either there is no
    control file, or a start stops at once because its restore_command refuses. The error says so.
    """
    destination = site.destination
    with phases.phase("provision", "destination and server"):
        make_destination(destination)
    with _what_is_left(destination):
        fetched, found = _fetch(plan, site, repository=repository, phases=phases)
        recovered = _recover(plan, site, repository=repository, verifier=verifier, phases=phases)
    verification, came_to = recovered.verification, recovered.reached
    extent = plan.manifest.postgres
    wal_bytes = max(0, (came_to.lsn or extent.start_lsn) - extent.start_lsn)
    return RestoreOutcome(
        source=plan.source,
        kind="postgres",
        backup_id=plan.manifest.backup_id,
        destination=str(destination.data),
        target=describe_target(plan.target),
        began=phases.began,
        phases=phases.done(),
        total_seconds=phases.seconds(),
        reached=came_to,
        bytes_restored=fetched.size_bytes,
        wal_bytes=wal_bytes,
        log=LogSpan(
            backup_start=extent.start_lsn,
            backup_stop=extent.stop_lsn,
            repository_end=plan.repository_end,
        ),
        server_version=site.binaries.version,
        questions=verification.questions,
        is_writable=verification.is_writable,
        findings=(
            *plan.findings,
            *fetched.findings,
            *found,
            *network_findings(destination.owner),
            *verification.findings,
            *recovered.found,
            *recovered.handed.findings,
        ),
        how_to_start=how_to_start(destination, site.binaries),
        how_to_stop=how_to_stop(destination, site.binaries),
        changed_settings=recovered.handed.changed,
    )


def _fetch(
    plan: RestorePlan, site: RestoreSite, *, repository: Repository, phases: Phases
) -> tuple[Fetched, tuple[Finding, ...]]:
    """All files, then what a recovery reads, then the control file: in this order, each durable."""
    reader = ChunkReader(repository.store, repository.ring)
    with phases.phase("fetch", "files of the backup", total=plan.fetch_bytes) as sizes:
        fetched = fetch_files(
            plan.manifest, reader, site.destination, workers=site.workers, phases=phases
        )
        sizes.size_bytes = fetched.size_bytes
        findings = prepare_recovery(plan.manifest, site.destination)
        put_control(fetched, site.destination)
    return fetched, findings


def _recover(
    plan: RestorePlan,
    site: RestoreSite,
    *,
    repository: Repository,
    verifier: Verifier,
    phases: Phases,
) -> _Recovered:
    """With programs that the destination's owner can execute: what is restored is read with his rights."""
    with reachable(site.binaries, site.destination.owner, scratch=site.scratch) as binaries:
        theirs = replace(site, binaries=binaries)
        return _recover_in(theirs, plan, repository=repository, verifier=verifier, phases=phases)


def _recover_in(
    site: RestoreSite,
    plan: RestorePlan,
    *,
    repository: Repository,
    verifier: Verifier,
    phases: Phases,
) -> _Recovered:
    changes = list(_changed_settings(plan, repository))
    server_plan, restart = _server_plans(plan, site, changes)
    supply = WalSupply(repository, plan, clock=phases.clock, patience=site.patience)
    tablespaces = ReplayedTablespaces(site.destination)
    ring = WalRing(
        supply,
        site.destination.data,
        owner=site.destination.owner,
        clock=phases.clock,
        read=IsolatedWal(supply, tablespaces, major=site.binaries.major).read,
    )
    limits, total = site.limits, plan.wal_end - plan.manifest.postgres.start_lsn
    with ring:
        with phases.phase("replay", "WAL", total=total) as sizes:
            server = start_server(server_plan, clock=phases.clock, scratch=site.scratch)
            with stopped_by_failure(server):
                watch = watch_replay(server, ring, plan, phases=phases, limits=limits)
            sizes.size_bytes = max(0, watch.place - watch.begin)
        with phases.phase("promote", "end of recovery"), stopped_by_failure(server):
            watch_promotion(server, ring, plan, watch=watch, phases=phases, limits=limits)
            came_to = reached(watch, plan, site.destination)
        with phases.phase("answer", "first write and questions", unit="objects"):
            server, entrance = let_in(server, restart, verifier=verifier, phases=phases)
            with ended_when_asked(server, phases):
                verification = verifier.answers(server, entrance)
        with phases.phase("verify", "catalogs, tables, indexes"), ended_when_asked(server, phases):
            deeper = verifier.running(server, entrance)
            held = _cut_off(server, entrance, site)
        with phases.phase("finish", "shutdown, page checksums, configuration"):
            shut_down(server)
            if isinstance(entrance, NoEntrance):
                held = cut_off_alone(restart)
            pages = verifier.stopped(site.destination.data, site.binaries, stop=phases.stop)
            moved = tablespaces.finish(segment_bytes=supply.segment_bytes)
            role = entrance.role if isinstance(entrance, Entrance) else None
            handed = _hand_over(plan, site, role=role)
    return _Recovered(came_to, verification, (*deeper, *held, *pages, *moved), handed)


def _cut_off(
    server: RunningServer, entrance: Entrance | NoEntrance, site: RestoreSite
) -> tuple[Finding, ...]:
    if isinstance(entrance, NoEntrance):
        return ()
    major = site.binaries.major
    return cut_off(Access(server=server, entrance=entrance, major=major, lock_seconds=LOCK_SECONDS))


def _hand_over(plan: RestorePlan, site: RestoreSite, *, role: str | None) -> HandedOver:
    return finish_recovery(
        plan.manifest,
        site.destination,
        site.binaries,
        memory_bytes=machine_memory_bytes(),
        role=role or plan.manifest.postgres.bootstrap_role,
        ports=site.ports,
    )


def _changed_settings(plan: RestorePlan, repository: Repository) -> Iterator[Mapping[str, str]]:
    """Settings that the source was started with later, within the WAL that is replayed."""
    for change in plan.changes:
        lineage = Lineage(plan.source, plan.system_id, change.timeline)
        for event in readable_events(repository, lineage, [change.name]):
            yield event.facts


def _server_plans(
    plan: RestorePlan, site: RestoreSite, changes: Sequence[Mapping[str, str]]
) -> tuple[ServerPlan, Restart]:
    """How the copy is started to recover, and once more after that, should it be needed."""
    destination, extent = site.destination, plan.manifest.postgres
    control = read_control(destination.data, site.binaries, run_as=destination.owner)
    if control.system_id != system_of(extent.system_id):
        raise NotRecoverable(
            f"backup {plan.manifest.backup_id} holds a control file of cluster {control.system_id},"
            f" and its manifest says {extent.system_id}",
            hint="Restore from another --backup: `drtool repository info` names them.",
        )
    needs = replay_needs(
        control, dict(extent.settings), data_directory=destination.data, changes=changes
    )
    target = ToLsn(plan.stop.lsn) if plan.stop is not None else plan.target
    isolated = isolated_settings(
        control,
        needs,
        major=site.binaries.major,
        memory_bytes=machine_memory_bytes(),
        preload=site.preload,
    )
    again = ServerPlan(
        data_directory=destination.data,
        binaries=site.binaries,
        run_as=destination.owner,
        settings=isolated,
    )
    recovery = target_settings(target, timeline=plan.timeline, restore_command=RESTORE_COMMAND)
    seconds = site.limits.promote_seconds
    return replace(again, settings={**isolated, **recovery}), Restart(
        plan=again, ready_seconds=seconds, scratch=site.scratch
    )


@contextmanager
def _what_is_left(destination: Destination) -> Iterator[None]:
    """Whatever fails: what lies in the destination refuses to be started, and the error says so."""
    try:
        with _refusing(destination):
            yield
    except DrtoolError as error:
        places = [destination.data, *(place.path for place in destination.tablespaces)]
        named = ", ".join(map(str, places))
        error.hint = (
            f"{error.hint} What this attempt wrote lies in {named}; it is not whole, refuses to be"
            " started, and may be removed."
        ).strip()
        raise


@contextmanager
def _refusing(destination: Destination) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        refuse_again(destination)
        raise DestinationRefused(
            f"destination {error.filename or destination.data} cannot be written: {error.strerror}",
            hint="Make room there, or restore --into a directory on another file system.",
        ) from error
    except BaseException:
        refuse_again(destination)
        raise
