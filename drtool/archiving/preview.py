"""What `drtool wal receive` would do: looked at without changing anything, for --dry-run."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.archiving.begin import StartPoint, held_ends, plan_start
from drtool.archiving.histories import parsed_history
from drtool.archiving.lineages import require_known_system
from drtool.archiving.receive import ReceiveSettings, lease_name
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.lease import lease_holder
from drtool.repository.log import take_inventory
from drtool.repository.repository import Repository
from drtool.sources.postgres.connection import connect_replication
from drtool.sources.postgres.facts import ServerFacts, replication_facts, require_ready
from drtool.sources.postgres.slots import slot_position
from drtool.sources.postgres.synchronous import is_synchronous
from drtool.sources.postgres.walstream import fetch_history


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivePlan:
    """Where a receiver would begin. `slot_position` is None without a slot, or if it is still to be made.

    `held_by` is who receives already. `is_synchronous`: commits would wait for this receiver.
    """

    source: str
    place: str
    system_id: int
    segment_bytes: int
    start: StartPoint
    server_flushed: Lsn
    slot: str | None
    slot_position: Lsn | None
    is_synchronous: bool
    held_by: str | None


def preview_receive(repository: Repository, settings: ReceiveSettings) -> ReceivePlan:
    """Look at server and repository as `receive_wal` would; the same errors, and nothing is changed."""
    with connect_replication(settings.dsn, purpose="wal preview") as connection:
        facts = replication_facts(connection)
        require_ready(facts)
        require_known_system(
            repository, settings.source, facts, accepts_new=settings.accepts_new_system
        )
        path = TimelineHistory(1)
        if facts.timeline > 1:
            path = parsed_history(facts.timeline, fetch_history(connection, facts.timeline))
        slot = settings.wal.slot
        reserved = slot_position(connection, slot) if slot else None
    return ReceivePlan(
        source=settings.source,
        place=facts.place,
        system_id=facts.system_id,
        segment_bytes=facts.segment_bytes,
        start=_start(repository, settings, facts, path=path, first=reserved or facts.flushed),
        server_flushed=facts.flushed,
        slot=slot,
        slot_position=reserved,
        is_synchronous=is_synchronous(facts.synchronous_standby_names, settings.application_name),
        held_by=lease_holder(repository, lease_name(settings.source)),
    )


def _start(
    repository: Repository,
    settings: ReceiveSettings,
    facts: ServerFacts,
    *,
    path: TimelineHistory,
    first: Lsn,
) -> StartPoint:
    inventory = take_inventory(
        repository, settings.source, facts.system_id, segment_bytes=facts.segment_bytes
    )
    ends = held_ends(inventory, path)
    return plan_start(ends, path, first, segment_bytes=facts.segment_bytes)
