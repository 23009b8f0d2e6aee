"""What `drtool wal receive` would do: looked at without changing anything, for --dry-run."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.archiving.begin import StartPoint
from drtool.archiving.branch import path_of, require_same_branch
from drtool.archiving.lineages import as_archived
from drtool.archiving.receive_settings import ReceiveSettings, lease_name
from drtool.archiving.start import ends_held, first_start
from drtool.model.wal import Lsn
from drtool.repository.lease import lease_holder
from drtool.repository.repository import Repository
from drtool.sources.postgres.connection import connect_replication
from drtool.sources.postgres.facts import replication_facts, require_ready
from drtool.sources.postgres.slots import slot_position
from drtool.sources.postgres.synchronous import is_synchronous


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
    source = settings.source
    with connect_replication(settings.dsn, purpose="wal preview") as connection:
        facts = as_archived(
            repository, source, replication_facts(connection),
            accepts_new=settings.accepts_new_system,
        )  # fmt: skip
        require_ready(facts)
        path = path_of(connection, facts)
        ends = ends_held(repository, source, facts, path=path)
        require_same_branch(repository, source, settings.dsn, facts=facts, ends=ends, path=path)
        reserved = slot_position(connection, settings.slot) if settings.slot else None
    first = reserved or facts.flushed
    return ReceivePlan(
        source=source,
        place=facts.place,
        system_id=facts.system_id,
        segment_bytes=facts.segment_bytes,
        start=first_start(repository, source, facts, path=path, ends=ends, first=first),
        server_flushed=facts.flushed,
        slot=settings.slot,
        slot_position=reserved,
        is_synchronous=is_synchronous(facts.synchronous_standby_names, settings.application_name),
        held_by=lease_holder(repository, lease_name(source)),
    )
