"""Where the receiver of a source begins, from what the repository holds and what the server is."""

from __future__ import annotations

from drtool.archiving.begin import StartPoint, held_ends, held_from, plan_start, segment_start
from drtool.archiving.patience import Patience
from drtool.model.wal import Lsn, TimelineHistory, WalSegment
from drtool.repository.layout import Lineage
from drtool.repository.log import list_parts
from drtool.repository.log_inventory import take_inventory
from drtool.repository.production import put_production
from drtool.repository.repository import Repository
from drtool.sources.postgres.facts import ServerFacts


def ends_held(
    repository: Repository,
    source: str,
    facts: ServerFacts,
    *,
    path: TimelineHistory,
    first: Lsn | None = None,
) -> dict[int, Lsn]:
    """How far each timeline of `path` is held; with `first`, how far the server's is held from there."""
    size = facts.segment_bytes
    inventory = take_inventory(
        repository, source, facts.system_id, segment_bytes=size,
        since=segment_start(first or 0, size),
    )  # fmt: skip
    if first is None:
        return held_ends(inventory, path)
    return held_from(inventory, facts.timeline, first)


def first_start(
    repository: Repository,
    source: str,
    facts: ServerFacts,
    *,
    path: TimelineHistory,
    ends: dict[int, Lsn],
    first: Lsn,
) -> StartPoint:
    """Where the first session of a run begins: a segment that ended in parts is begun again, so that
    it becomes whole.
    """
    size = facts.segment_bytes
    start = plan_start(ends, path, first, segment_bytes=size)
    if ends.get(start.timeline) != start.durable or start.durable > start.begin:
        return start
    lineage = Lineage(source, facts.system_id, start.timeline)
    before = WalSegment.holding(start.timeline, Lsn(start.begin - 1), size)
    name = before.name(size)
    if repository.store.stat(lineage.segment_key(name)) is not None:
        return start
    if not list_parts(repository, lineage, name):
        return start
    return StartPoint(timeline=start.timeline, begin=before.begin(size), durable=start.durable)


def put_word(repository: Repository, lineage: Lineage, lsn: Lsn, *, patience: Patience) -> None:
    """A person has said of the server at `lsn` that it is production: kept once the store is there."""
    now = patience.clock.now()
    patience.put(lambda: put_production(repository, lineage, lsn, moment=now))
