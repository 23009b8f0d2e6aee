"""Stretches of a stream that arrived late: fetched from the server's backlog after an outage.

An index tells when bytes arrived. Of a late stretch that says nothing of when they were written: that
was at some time between `since` and `until`. The bytes are described in FORMAT.md, section 8.1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from drtool.errors import AlreadyExists
from drtool.model.strict_json import read_object
from drtool.repository.layout import ReplicationHistory, StreamLateName, parse_stream_name
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType, damaged
from drtool.repository.stream_known import put_known_word


@dataclass(frozen=True, slots=True, kw_only=True)
class LateStretch:
    """What was written after `since` and by `until` are the bytes from `begin` up to `end`.

    Everything before `begin` had been acknowledged by `since` or arrived in time. `end` and `until`
    are None while the receiver has not caught up: then all that follows may have come late.
    """

    begin: int
    since: datetime
    reason: str
    end: int | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if (self.end is None) != (self.until is None):
            raise ValueError("a late stretch has both an end and its moment, or neither")
        if self.end is not None and self.end < self.begin:
            raise ValueError(f"no late stretch: {self.begin} to {self.end}")

    @property
    def name(self) -> StreamLateName:
        return StreamLateName(self.begin, self.end)

    def may_hold(self, moment: datetime) -> bool:
        """Whether what was written by `moment` is uncertain because of it."""
        return self.since < moment and (self.until is None or moment < self.until)


def put_late(repository: Repository, history: ReplicationHistory, late: LateStretch) -> None:
    """Record a late stretch; one of the same name that is there already stays."""
    document = {
        "begin": late.begin,
        "end": late.end,
        "since": late.since.isoformat(),
        "until": late.until and late.until.isoformat(),
        "reason": late.reason,
    }
    key, content = history.late_key(late.name), json.dumps(document).encode()
    with suppress(AlreadyExists):  # a receiver that died after the put; the first word stays
        repository.put(ObjectType.LOG, key, content)
    put_known_word(repository, key, content)


def read_late(
    repository: Repository, history: ReplicationHistory, name: StreamLateName
) -> LateStretch:
    """One recorded late stretch, authenticated."""
    key = history.late_key(name)
    content = repository.get(ObjectType.LOG, key)
    try:
        document = read_object(content)
        late = LateStretch(
            begin=document.whole("begin"),
            end=document.whole_or_none("end"),
            since=document.moment("since"),
            until=document.moment("until") if document.has("until") else None,
            reason=document.text("reason"),
        )
    except ValueError as error:
        raise damaged(key, f"its content is no late stretch ({error})") from error
    if late.name != name:
        raise damaged(key, "it tells of other offsets than its name says")
    return late


def open_late(repository: Repository, history: ReplicationHistory) -> LateStretch | None:
    """The newest recorded stretch, if nobody recorded its end."""
    found = repository.store.list(history.late)
    names = [parse_stream_name(one.key.removeprefix(history.prefix)) for one in found]
    late = [name for name in names if isinstance(name, StreamLateName)]
    begin = max((name.begin for name in late), default=0)
    ends = {name.end for name in late if name.begin == begin}
    return read_late(repository, history, StreamLateName(begin, None)) if ends == {None} else None


def late_groups(names: Sequence[StreamLateName]) -> list[tuple[int, list[StreamLateName]]]:
    """Recorded stretches by where they begin; one that was never closed is part of the next."""
    closed = {one.begin for one in names if one.end is not None}
    groups: list[tuple[int, list[StreamLateName]]] = []
    is_open = False
    for begin in sorted({one.begin for one in names}):
        mine = [one for one in names if one.begin == begin]
        if is_open:
            groups[-1][1].extend(mine)
        else:
            groups.append((begin, mine))
        is_open = begin not in closed
    return groups


def read_group(
    repository: Repository, history: ReplicationHistory, names: Sequence[StreamLateName]
) -> LateStretch:
    """What the words of one group say together."""
    parts = [read_late(repository, history, name) for name in names]
    first = min(parts, key=lambda one: one.since)
    closed = [one for one in parts if one.end is not None]
    last = max(closed, key=lambda one: one.end or 0, default=first)
    return replace(first, end=last.end, until=last.until)
