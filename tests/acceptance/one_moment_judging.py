"""What three stores hold after a restore, against each other and against what was written when. Pure,
but for `read_back`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from drtool.drill.ledger import LedgerEntry
from drtool.drill.loss import is_prefix, violations
from drtool.model.outcome import RestoreOutcome
from tests.acceptance.one_moment_stack import MAJOR, WRITER, Story, content_of
from tests.restore.redis_rig import started as started_redis
from tests.restore.rig import started as started_postgres


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """`rows` name their files, `keys` the numbers of their rows."""

    files: Mapping[str, bytes]
    rows: Mapping[int, str]
    keys: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What the report says: the moment that was asked for; every file written before `files` is there;
    every key written before `keys` is.
    """

    moment: datetime
    files: datetime
    keys: datetime


def read_back(outcomes: Mapping[str, RestoreOutcome]) -> Held:
    """Start the copies as a user would, and read all they hold."""
    tree = Path(outcomes["uploads"].destination)
    with started_postgres(MAJOR, Path(outcomes["main-db"].destination)) as server:
        rows = {int(row[0]): str(row[1]) for row in server.query("SELECT number, file FROM papers")}
    keys: dict[int, int] = {}
    with started_redis(outcomes["cache"]) as [client]:
        for name in client.scan_iter(match="paper:*", count=1000):
            value = client.get(name)
            assert isinstance(value, bytes)
            keys[int(name.split(b":")[1])] = int(value)
    return Held(
        files={path.name: path.read_bytes() for path in tree.glob("paper-*")},
        rows=rows,
        keys=keys,
    )


def faults(held: Held, story: Story, stated: Stated) -> Iterator[str]:
    """Whatever is not as it should be; nothing if all is well."""
    yield from dangling(held, story, stated)
    yield from misplaced(held, story, stated)


def dangling(held: Held, story: Story, stated: Stated) -> Iterator[str]:
    """References to what is not there, but for files that the report says may be missing."""
    puts = {entry.number: entry for entry in story.files}
    for key, row in held.keys.items():
        if row not in held.rows:
            yield f"key {key} refers to row {row}, which is not there"
    for number, name in held.rows.items():
        if name not in held.files and puts[number].acknowledged < stated.files:
            yield f"row {number} refers to file {name}, which is not there"


def misplaced(held: Held, story: Story, stated: Stated) -> Iterator[str]:
    """Where a store is not as it was: rows at the moment; files and keys between the report's word
    and the moment, and without a hole.
    """
    rows, keys = written(held.rows.keys()), written(held.keys.keys())
    yield from (f"row: {fault}" for fault in violations(story.rows, rows, stated.moment))
    yield from (f"key: {fault}" for fault in _outside(story.keys, keys, stated.keys, stated.moment))
    if not is_prefix(story.keys, keys):
        yield "the keys have a hole"
    files = {(WRITER, int(name.partition("-")[2])) for name in held.files}
    yield from (
        f"file: {fault}" for fault in _outside(story.files, files, stated.files, stated.moment)
    )
    for name, content in held.files.items():
        if content != content_of(int(name.partition("-")[2])):
            yield f"file {name} has another content"


def written(numbers: AbstractSet[int]) -> set[tuple[int, int]]:
    return {(WRITER, number) for number in numbers}


def _outside(
    entries: list[LedgerEntry], found: AbstractSet[tuple[int, int]], low: datetime, high: datetime
) -> Iterator[str]:
    """Writes acknowledged before `low` that are missing, and any begun after `high`."""
    for entry in entries:
        if entry.acknowledged < low and entry.name not in found:
            yield f"{entry.number}, acknowledged at {entry.acknowledged}, is missing"
        if entry.begun > high and entry.name in found:
            yield f"{entry.number}, begun at {entry.begun}, should not be there"
