"""A person's word which of several servers is production (`--accept-source`), kept beside its WAL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.layout import EventName, Lineage
from drtool.repository.log_events import LogEvent, put_event, readable_events
from drtool.repository.log_inventory import LogInventory
from drtool.repository.repository import Repository

_KIND = "production-"
_STAMP = "%Y%m%d%H%M%S"


@dataclass(frozen=True, slots=True)
class Production:
    """At `moment` a person said so of the server that stood at `lsn` of `timeline`."""

    moment: datetime
    timeline: int
    lsn: Lsn

    def leads_to(self, path: TimelineHistory) -> bool:
        """Whether what that server wrote from then on lies on the path."""
        return path.holds(self.timeline, Lsn(self.lsn + 1))


def put_production(repository: Repository, lineage: Lineage, lsn: Lsn, *, moment: datetime) -> None:
    """Keep the word; it counts until a later one."""
    kind = f"{_KIND}{moment.astimezone(UTC).strftime(_STAMP)}"
    put_event(repository, lineage, LogEvent(lsn=lsn, kind=kind, facts={}))


def newest_production(repository: Repository, inventory: LogInventory) -> Production | None:
    """The last word on this cluster; None if nobody has said one."""
    found = (
        one
        for timeline, log in inventory.timelines.items()
        for one in _spoken(repository, log.lineage, log.events, timeline=timeline)
    )
    return max(found, key=lambda one: (one.moment, one.timeline, one.lsn), default=None)


def _spoken(
    repository: Repository, lineage: Lineage, events: Iterable[EventName], *, timeline: int
) -> Iterator[Production]:
    names = [name for name in events if name.kind.startswith(_KIND)]
    for event in readable_events(repository, lineage, names):
        try:
            moment = datetime.strptime(event.kind.removeprefix(_KIND), _STAMP).replace(tzinfo=UTC)
        except ValueError:
            continue  # of a later drtool
        yield Production(moment, timeline, event.lsn)
