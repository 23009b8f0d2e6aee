"""What is known to have been archived of a Redis, told outside of its log: what is gone cannot tell it.

Beside the marks of a history lies a copy of each word of its log, and every few minutes how far it
was durable. Nothing is replayed from here: it only shows what is missing. FORMAT.md, section 8.1.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing
from drtool.model.strict_json import read_object
from drtool.repository import layout
from drtool.repository.layout import ReplicationHistory, StreamSegment, parse_stream_name
from drtool.repository.marks import newest_mark
from drtool.repository.names import own_name
from drtool.repository.repository import Repository
from drtool.repository.sealing import SMALLEST_SEALED_BYTES, ObjectType

_EVERYWHERE = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHistory:
    """One replication id. `words` are the names, below the log's prefix, of what was recorded;
    `reached` is the farthest offset that was durable, as marks and receivers say, and `reached_at` when.
    """

    words: tuple[str, ...] = ()
    reached: int | None = None
    reached_at: datetime | None = None


def put_known_word(repository: Repository, key: str, content: bytes) -> None:
    """Put a copy of a word of the log beside the marks, once the word itself is durable."""
    source, replication_id, name = key.removeprefix("log/").split("/", 2)
    known = ReplicationHistory(source, replication_id).known_key(name)
    with suppress(AlreadyExists):
        repository.put(ObjectType.MARK, known, content)


def put_reached(
    repository: Repository, history: ReplicationHistory, offset: int, *, at: datetime
) -> None:
    """Record that the log of a history is durable up to `offset`."""
    document = {"offset": offset, "at": at.isoformat()}
    with suppress(AlreadyExists):
        repository.put(ObjectType.MARK, history.reached_key(offset), json.dumps(document).encode())


def read_known(repository: Repository, source: str) -> dict[str, KnownHistory]:
    """What is known of each history. Read it before the log is listed: a listing begun afterwards
    shows all that it tells of.
    """
    names = repository.store.list_directories(layout.source_marks(source))
    return {
        name: _read_history(repository, ReplicationHistory(source, name))
        for name in names
        if layout.is_replication_id(name)
    }


def recorded_at(repository: Repository, history: ReplicationHistory, name: str) -> datetime | None:
    """The moment that the copy of a word bears; None if it cannot be read."""
    try:
        document = read_object(repository.get(ObjectType.MARK, history.known_key(name)))
        return document.moment("at" if document.has("at") else "since")
    except (IntegrityError, ObjectMissing, ValueError):
        return None


def _read_history(repository: Repository, history: ReplicationHistory) -> KnownHistory:
    words: list[str] = []
    reached: list[str] = []
    for found in repository.store.list(history.known):
        name = found.key.removeprefix(history.known)
        if found.size_bytes < SMALLEST_SEALED_BYTES:
            continue
        if layout.parse_reached_name(name) is not None:
            reached.append(own_name(name))
        elif not isinstance(parse_stream_name(name), StreamSegment | None):
            words.append(own_name(name))
    # Sixteen digits each. A name alone says nothing: somebody without the key may have made it.
    held = (
        name
        for name in sorted(set(reached), reverse=True)
        if repository.holds(ObjectType.MARK, history.known_key(name))
    )
    last = next(held, None)
    offset = None if last is None else layout.parse_reached_name(last)
    moment = None if last is None else recorded_at(repository, history, last)
    mark = _newest_mark(repository, history)
    if mark is not None and (offset is None or mark[0] > offset):
        offset, moment = mark
    return KnownHistory(words=tuple(dict.fromkeys(words)), reached=offset, reached_at=moment)


def _newest_mark(
    repository: Repository, history: ReplicationHistory
) -> tuple[int, datetime] | None:
    mark = newest_mark(repository, history, most_lsn=_EVERYWHERE)
    return None if mark is None else (mark.lsn, mark.moment)
