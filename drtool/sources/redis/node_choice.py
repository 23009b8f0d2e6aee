"""The server of a shard to join: for its stream, or for a snapshot."""

from __future__ import annotations

from dataclasses import dataclass, replace

from drtool.errors import SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.policy.sources import RedisTopology
from drtool.sources.redis.shape import RedisNode, Shape, Shard

_TAKES_WRITES = "replica-read-only is no, so it may hold keys that its master does not have"
READ_ONLY = (
    "Run CONFIG SET replica-read-only yes there. What was written to it stays until its next full"
    " resynchronization: REPLICAOF NO ONE, then REPLICAOF its master."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """The server of a shard to join, and what a person should know of that choice."""

    node: RedisNode
    findings: tuple[Finding, ...]


def join_order(shard: Shard) -> list[RedisNode]:
    """The healthy servers of `shard`, the one to join first: the best replica, and its master last."""
    healthy = [replica for replica in shard.replicas if replica.is_healthy]
    healthy.sort(key=lambda replica: (replica.offset or 0, replica.address), reverse=True)
    return [*healthy, shard.master] if shard.master.is_healthy else healthy


def choose_node(shape: Shape, shard: Shard) -> Attachment:
    """The server of `shard` to join: its best healthy replica, or its master for want of one."""
    order = join_order(shard)
    findings = [
        Finding(
            severity=Severity.WARNING,
            subject=f"replica {replica.address}",
            fact=f"it is passed over: {replica.trouble}",
            fix=READ_ONLY if replica.is_writable else "Look at INFO replication and the log there.",
        )
        for replica in shard.replicas
        if not replica.is_healthy
    ]
    if order and order[0] is not shard.master:
        return Attachment(node=order[0], findings=tuple(findings))
    if not order:
        raise SourceUnavailable(
            f"no server of {shard.name} is well: its master {shard.master.address}"
            f" {shard.master.trouble}",
            hint="Bring one of its servers back, or wait for the failover.",
        )
    findings.append(_master_finding(shape, shard))
    return Attachment(node=shard.master, findings=tuple(findings))


def choose_for_snapshot(shape: Shape, shard: Shard) -> Attachment:
    """As `choose_node`, but no replica that takes writes: its snapshot has keys that its master never had.

    What it passes on as a stream is its master's.
    """
    replicas = tuple(
        replace(one, trouble=_TAKES_WRITES) if one.is_writable and one.is_healthy else one
        for one in shard.replicas
    )
    return choose_node(shape, replace(shard, replicas=replicas))


def _master_finding(shape: Shape, shard: Shard) -> Finding:
    if shape.kind is RedisTopology.SENTINEL:
        return Finding(
            severity=Severity.WARNING,
            subject=f"master {shard.master.address}",
            fact="the backup is taken from a master that Sentinel watches, where drtool stays on as a"
            " replica that is down",
            fix="Bring a replica back; then run SENTINEL RESET of the group on each sentinel.",
        )
    return Finding(
        severity=Severity.NOTE,
        subject=f"master {shard.master.address}",
        fact="the backup is taken from a master: it has no healthy replica",
        fix="Add a replica: its fork and its memory are then not the master's.",
    )
