"""What records of the WAL say that a recovery must know before it meets them: a small object for each.

They are put while WAL is archived, before the WAL that holds the record counts as durable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.model.strict_json import read_object
from drtool.model.wal import Lsn
from drtool.repository.layout import EventName, Lineage
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType, damaged

# The server was started with these settings: with wal_level = minimal, or with any other.
MINIMAL = "minimal"
PARAMETERS = "parameters"
RESTORE_POINT = "restore-point"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """A record that begins at `lsn`. `facts` are names and values, as its kind has them."""

    lsn: Lsn
    kind: str
    facts: dict[str, str]


def put_event(repository: Repository, lineage: Lineage, event: LogEvent) -> None:
    """Put it. That it is there already is a success: the same WAL was read before."""
    key = lineage.event_key(event.lsn, event.kind)
    document = json.dumps(event.facts, sort_keys=True)
    try:
        repository.put(ObjectType.LOG, key, document.encode("ascii"))
    except AlreadyExists:
        return


def read_event(repository: Repository, lineage: Lineage, name: EventName) -> LogEvent:
    """One event. IntegrityError if its object is damaged, ObjectMissing if it has gone."""
    key = lineage.event_key(name.lsn, name.kind)
    try:
        document = read_object(repository.get(ObjectType.LOG, key))
    except ValueError as error:
        raise damaged(key, f"it holds no JSON object: {error}") from error
    facts = {name: str(value) for name, value in document.members.items()}
    return LogEvent(lsn=name.lsn, kind=name.kind, facts=facts)


def readable_events(
    repository: Repository, lineage: Lineage, names: Iterable[EventName]
) -> Iterator[LogEvent]:
    """Those whose objects can be authenticated: what somebody put there without a key says nothing.

    A verification tells of the others.
    """
    for name in names:
        try:
            yield read_event(repository, lineage, name)
        except (IntegrityError, ObjectMissing):
            continue
