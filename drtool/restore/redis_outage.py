"""What a person is told whose moment lies inside an outage of the receiver of a Redis. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from drtool.errors import NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import format_span
from drtool.model.request import Edge
from drtool.repository.stream_uncertain import Uncertain
from drtool.restore.redis_look import RedisCandidate, RedisFacts, ShardReach


class MomentUncertain(NotRecoverable):
    """Nobody knows what a source held at a moment; at `earlier` it is known, if its windows hold that."""

    def __init__(self, message: str, *, hint: str, earlier: datetime) -> None:
        super().__init__(message, hint=hint)
        self.earlier = earlier


def require_known(
    facts: RedisFacts, moment: datetime, chosen: RedisCandidate, *, edge: Edge | None
) -> None:
    """MomentUncertain if nobody knows how far a shard was at `moment`, unless an edge is wanted."""
    found = [(one, one.uncertain) for one in chosen.reaches if one.uncertain is not None]
    if not found or edge is not None:
        return
    one, first = found[0]
    at = facts.told
    # Before its own moment nothing can be reached from the snapshot.
    edges = [uncertain.earlier.moment for _, uncertain in found]
    earlier = max(min(edges), chosen.manifest.redis.stopped_at)
    later = max(uncertain.later.moment for _, uncertain in found)
    raise MomentUncertain(
        f"what source {facts.source} held at {at(moment)} is not known: {_told(one, first, at)}",
        hint=f"Use --to '{at(earlier)}' or --to '{at(later)}', where it is; or this moment with"
        " --uncertain earlier, which leaves those writes out, or --uncertain later, which brings them"
        " all back. A `heartbeat_key` makes marks that narrow the next such span.",
        earlier=earlier,
    )


def tell_uncertain(
    facts: RedisFacts, moment: datetime, chosen: RedisCandidate, *, edge: Edge | None
) -> list[Finding]:
    """What was restored in place of a moment that is not known."""
    found, at = [], facts.told
    for one in chosen.reaches:
        if one.uncertain is None or edge is None:
            continue
        uncertain = one.uncertain
        if edge is Edge.EARLIER:
            state = uncertain.earlier.moment
            what = f"writes of the {format_span(moment - state)} before {at(moment)} may be missing"
        else:
            state = uncertain.later.moment
            what = f"writes of the {format_span(state - moment)} after {at(moment)} may be there"
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject=one.shard.name,
                fact=f"{_told(one, uncertain, at)}. It is brought to {at(state)}: {what}",
                fix=f"Use --uncertain {Edge.LATER if edge is Edge.EARLIER else Edge.EARLIER} for the other"
                " edge.",
            )
        )
    return found


def _told(one: ShardReach, uncertain: Uncertain, at: Callable[[datetime], str]) -> str:
    earlier, later = uncertain.earlier.moment, uncertain.later.moment
    return (
        f"of {one.shard.name} {uncertain.reason} between {at(earlier)} and {at(later)}, and what"
        " was written then was fetched afterwards"
    )
