"""How a PostgreSQL cluster stands: backups, log and receiver together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from drtool.archiving.status import WalStatus, wal_status
from drtool.check.freshness import Receiving, check_loss, check_receiver
from drtool.check.state import SourceState, Topic, by_topic
from drtool.model.finding import Finding, Harm, Severity
from drtool.model.measure import counted
from drtool.policy.sources import PostgresSource, WalMode
from drtool.wiring.postgres_restorable import check_restorable
from drtool.wiring.state_facts import StateFacts, backup_findings, state_of


def postgres_state(facts: StateFacts, source: PostgresSource, *, log: WalStatus) -> SourceState:
    """What `status`, `check`, `wal status` and `wal gaps` show of it."""
    fix = f"See `drtool wal status {facts.name}`: who receives, and how far the log reaches."
    loss = check_loss(facts.name, facts.objective, rpo_now=log.rpo_now, fix=fix)
    return replace(
        state_of(facts, source.kind),
        windows=log.windows,
        proven_until=log.mark.moment if log.mark else None,
        told_until=log.told_until,
        rpo_now=log.rpo_now,
        receiver=log.receiver,
        log_seen=_log_seen(log),
        gaps=log.gaps,
        found=by_topic(
            backup_findings(facts),
            (Topic.RECEIVER, check_receiver(_receiving(facts, source, log), fix=_receive(facts))),
            (Topic.LOG, log.findings),
            (Topic.LOG, _mark_findings(facts, log)),
            (Topic.RESTORE, _restore_findings(facts, source)),
            (Topic.LOSS, loss),
        ),
    )


def read_log(facts: StateFacts) -> WalStatus:
    """The log, seen from the usable backups."""
    return wal_status(
        facts.repository,
        facts.name,
        {one.backup_id: one.postgres for one in facts.usable},
        now=facts.now,
        damaged=facts.damaged,
        zone=facts.policy.timezone,
    )


def _restore_findings(facts: StateFacts, source: PostgresSource) -> Iterator[Finding]:
    if facts.newest is not None:
        extent = facts.newest.postgres
        yield from check_restorable(facts.name, source, extent, severity=Severity.PROBLEM)


def _receive(facts: StateFacts) -> str:
    return f"Run `drtool wal receive {facts.name}`, under systemd or in a container."


def _receiving(facts: StateFacts, source: PostgresSource, log: WalStatus) -> Receiving:
    """What is pushed comes by the segment, however long that takes to fill: no mark is due then."""
    is_streamed = source.wal.mode is WalMode.STREAM
    return Receiving(
        what=f"WAL of {facts.name}",
        holder=log.receiver,
        trouble=log.lease.trouble if log.lease else None,
        mark_age=log.rpo_now,
        every=source.wal.heartbeat + source.wal.flush if is_streamed else None,
    )


def _mark_findings(facts: StateFacts, log: WalStatus) -> Iterator[Finding]:
    if log.mark is None and facts.usable:
        yield Finding(
            severity=Severity.WARNING,
            subject=f"WAL of {facts.name}",
            fact="no mark tells up to which moment it can be recovered",
            fix=f"Let `drtool wal receive {facts.name}` run: it makes a mark every few seconds.",
            harm=Harm.PROMISE,
        )


def _log_seen(log: WalStatus) -> str:
    if log.end is None:
        return "none"
    gaps = counted(len(log.gaps), "gap")
    return f"whole up to {log.end.lsn} on timeline {log.end.timeline}, {gaps}"
