"""Marks: wall-clock moments tied to log positions, by which targets are chosen and judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from drtool.errors import AlreadyExists
from drtool.model.objective import Mark
from drtool.repository.layout import Lineage, ReplicationHistory, parse_mark_name
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType, damaged

# What marks are made on: a timeline of PostgreSQL, or a replication id of Redis.
Marked = Lineage | ReplicationHistory


def put_mark(repository: Repository, lineage: Marked, mark: Mark) -> None:
    """Put a mark once the log up to its position is durable; the same mark there is a success.

    A receiver that died and reads the log again comes to the same marks again.
    """
    key = lineage.mark_key(mark.moment, mark.lsn)
    document = {"moment": mark.moment.isoformat(), "lsn": mark.lsn, "timeline": mark.timeline}
    try:
        repository.put(ObjectType.MARK, key, json.dumps(document).encode())
    except AlreadyExists:
        if read_mark(repository, key) != mark:
            raise


def read_mark(repository: Repository, key: str) -> Mark:
    """One mark, authenticated."""
    try:
        document = json.loads(repository.get(ObjectType.MARK, key))
        moment = datetime.fromisoformat(document["moment"])
        return Mark(moment, int(document["lsn"]), int(document["timeline"]))
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(key, f"its content is no mark ({error!r})") from error


def first_mark_after(repository: Repository, lineage: Marked, moment: datetime) -> Mark | None:
    """The earliest mark of a timeline that lies after `moment`; None if there is none."""
    after = lineage.mark_key(moment, 0)
    for found in repository.store.list(lineage.marks, after=after):
        named = parse_mark_name(found.key.removeprefix(lineage.marks))
        if named is not None and named[0] > moment:
            return read_mark(repository, found.key)
    return None


def last_mark_until(repository: Repository, lineage: Marked, moment: datetime) -> Mark | None:
    """The mark of a timeline with the latest moment not after `moment`; None if there is none."""
    last_day = f"{moment.astimezone(UTC):%Y%m%d}"
    for day in reversed(repository.store.list_directories(lineage.marks)):
        if day > last_day:
            continue
        keys = [found.key for found in repository.store.list(f"{lineage.marks}{day}/")]
        for key in reversed(keys):
            named = parse_mark_name(key.removeprefix(lineage.marks))
            if named is not None and named[0] <= moment:
                return read_mark(repository, key)
    return None


def first_mark(repository: Repository, lineage: Marked) -> Mark | None:
    """The mark of a timeline with the earliest moment; None if there is none."""
    for found in repository.store.list(lineage.marks):
        if parse_mark_name(found.key.removeprefix(lineage.marks)) is not None:
            return read_mark(repository, found.key)
    return None


def newest_mark(repository: Repository, lineage: Marked, *, most_lsn: int) -> Mark | None:
    """The mark with the greatest position not above `most_lsn`; None if there is none.

    By position and not by time: a server whose clock ran ahead for a while must not make us
    believe in a moment that later WAL has overtaken. Looks at the two newest days with a mark;
    days that lie more than one day ahead of the store's clock are not believed at all.
    """
    chosen: tuple[int, str] | None = None
    tomorrow = f"{repository.store.now() + timedelta(days=1):%Y%m%d}"
    for day in reversed(repository.store.list_directories(lineage.marks)):
        if day > tomorrow:
            continue
        named = _positions(repository, lineage, day)
        best = max((item for item in named if item[0] <= most_lsn), default=None)
        if best is not None:
            if chosen is not None:
                return read_mark(repository, max(chosen, best)[1])
            chosen = best
    return read_mark(repository, chosen[1]) if chosen else None


def first_mark_at(repository: Repository, lineage: Marked, *, least_lsn: int) -> Mark | None:
    """The mark with the smallest position not below `least_lsn`; looks at the names of all marks."""
    days = repository.store.list_directories(lineage.marks)
    named = (one for day in days for one in _positions(repository, lineage, day))
    found = min((one for one in named if one[0] >= least_lsn), default=None)
    return read_mark(repository, found[1]) if found else None


def _positions(repository: Repository, lineage: Marked, day: str) -> Iterator[tuple[int, str]]:
    for found in repository.store.list(f"{lineage.marks}{day}/"):
        named = parse_mark_name(found.key.removeprefix(lineage.marks))
        if named is not None:
            yield int(named[1]), found.key


def marks_between(
    repository: Repository, lineage: Marked, begin: datetime, *, end: datetime
) -> Iterator[Mark]:
    """The marks of a timeline from `begin` to `end`, in order of time, as their names say: none is read."""
    timeline = lineage.timeline if isinstance(lineage, Lineage) else 0
    after = lineage.mark_key(begin.astimezone(UTC) - timedelta(microseconds=1), 0)
    for found in repository.store.list(lineage.marks, after=after):
        named = parse_mark_name(found.key.removeprefix(lineage.marks))
        if named is None or named[0] < begin:
            continue
        if named[0] > end:
            return
        yield Mark(named[0], int(named[1]), timeline)
