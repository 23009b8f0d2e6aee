"""Marks: wall-clock moments tied to log positions, by which targets are chosen and judged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.model.objective import Mark
from drtool.model.strict_json import read_object
from drtool.repository.layout import Lineage, ReplicationHistory, parse_mark_name
from drtool.repository.names import is_day
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES, ObjectType, damaged

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
        document = read_object(repository.get(ObjectType.MARK, key))
        return Mark(document.moment("moment"), document.whole("lsn"), document.whole("timeline"))
    except ValueError as error:
        raise damaged(key, f"its content is no mark ({error})") from error


def first_mark_after(repository: Repository, lineage: Marked, moment: datetime) -> Mark | None:
    """The earliest mark of a timeline that lies after `moment`; None if there is none."""
    after = lineage.mark_key(moment, 0)
    listed = _named(repository, lineage, lineage.marks, after=after)
    return _first_of_ours(repository, (key for named, _, key in listed if named > moment))


def last_mark_until(repository: Repository, lineage: Marked, moment: datetime) -> Mark | None:
    """The mark of a timeline with the latest moment not after `moment`; None if there is none."""
    last_day = f"{moment.astimezone(UTC):%Y%m%d}"
    for day in _days_backwards(repository, lineage):
        if day > last_day:
            continue
        listed = list(_named(repository, lineage, f"{lineage.marks}{day}/"))
        keys = (key for named, _, key in reversed(listed) if named <= moment)
        mark = _first_of_ours(repository, keys)
        if mark is not None:
            return mark
    return None


def first_mark(repository: Repository, lineage: Marked) -> Mark | None:
    """The mark of a timeline with the earliest moment; None if there is none."""
    keys = (key for _, _, key in _named(repository, lineage, lineage.marks))
    return _first_of_ours(repository, keys)


def newest_mark(repository: Repository, lineage: Marked, *, most_lsn: int) -> Mark | None:
    """The mark with the greatest position not above `most_lsn`; None if there is none.

    By position and not by time: a server whose clock ran ahead for a while must not make us
    believe in a moment that later WAL has overtaken. Looks at the two newest days with a mark;
    days that lie more than one day ahead of the store's clock are not believed at all.
    """
    chosen: Mark | None = None
    tomorrow = f"{repository.store.now() + timedelta(days=1):%Y%m%d}"
    for day in _days_backwards(repository, lineage):
        if day > tomorrow:
            continue
        listed = _positions(repository, lineage, day)
        reached = sorted((item for item in listed if item[0] <= most_lsn), reverse=True)
        best = _first_of_ours(repository, (key for _, key in reached))
        if best is None:
            continue
        if chosen is not None:
            return max(chosen, best, key=lambda mark: mark.lsn)
        chosen = best
    return chosen


def first_mark_at(repository: Repository, lineage: Marked, *, least_lsn: int) -> Mark | None:
    """The mark with the smallest position not below `least_lsn`; looks at the names of all marks."""
    named = [
        one
        for day in _days_backwards(repository, lineage)
        for one in _positions(repository, lineage, day)
    ]
    found = sorted(one for one in named if one[0] >= least_lsn)
    return _first_of_ours(repository, (key for _, key in found))


def _first_of_ours(repository: Repository, keys: Iterable[str]) -> Mark | None:
    """The first of some marks that a holder of the key has put: a name alone proves nothing.

    One of ours that is damaged is passed over as well: its neighbours tell nearly the same.
    """
    for key in keys:
        try:
            return read_mark(repository, key)
        except (ObjectMissing, IntegrityError):
            continue
    return None


def _days_backwards(repository: Repository, lineage: Marked) -> list[str]:
    """The days that have marks, the latest first."""
    return [
        name for name in reversed(repository.store.list_directories(lineage.marks)) if is_day(name)
    ]


def _positions(repository: Repository, lineage: Marked, day: str) -> Iterator[tuple[int, str]]:
    for _, position, key in _named(repository, lineage, f"{lineage.marks}{day}/"):
        yield position, key


def _named(
    repository: Repository, lineage: Marked, prefix: str, *, after: str | None = None
) -> Iterator[tuple[datetime, int, str]]:
    """Moment, position and key of what bears the name of a mark, in order of time."""
    for found in repository.store.list(prefix, after=after):
        named = parse_mark_name(found.key.removeprefix(lineage.marks))
        if named is not None and found.size_bytes >= SMALLEST_SEALED_BYTES:
            yield named[0], int(named[1]), found.key


def marks_between(
    repository: Repository, lineage: Marked, begin: datetime, *, end: datetime
) -> Iterator[Mark]:
    """The marks of a timeline from `begin` to `end`, in order of time, as their names say: none is read."""
    timeline = lineage.timeline if isinstance(lineage, Lineage) else 0
    after = lineage.mark_key(begin.astimezone(UTC) - timedelta(microseconds=1), 0)
    for moment, position, _ in _named(repository, lineage, lineage.marks, after=after):
        if moment < begin:
            continue
        if moment > end:
            return
        yield Mark(moment, position, timeline)
