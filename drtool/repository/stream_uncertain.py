"""Moments that a Redis cannot be returned to exactly: what was written then arrived after an outage.

A late stretch says between which moments its bytes were written. Inside it the states of a shard are
known at its beginning, at each mark that was made meanwhile, and at its end; between two of them that
differ nobody can tell what the shard held. Plans and screens take them from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise, zip_longest

from drtool.model.window import UncertainSpan
from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.layout import ReplicationHistory, StreamLateName
from drtool.repository.marks import marks_between
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory
from drtool.repository.streambranch import StreamPath, descendants, find_path
from drtool.repository.streamlate import LateStretch, late_groups, read_group
from drtool.repository.streampath import newest, read_path

# Of each history so many of the newest late stretches are looked at; each is an object or two to read.
MOST_STRETCHES = 20
# What a master sends that is no write, as RESP: PING (repl-ping-replica-period) and REPLCONF GETACK *.
_IDLE = re.compile(
    rb"(?:\*1\r\n\$4\r\nping\r\n|\*3\r\n\$8\r\nreplconf\r\n\$6\r\ngetack\r\n\$1\r\n\*\r\n)*",
    re.IGNORECASE,
)
# Four days of PING.
_MOST_IDLE_BYTES = 512 << 10
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownState:
    """A state of a shard: its stream along `path` up to `offset`, which it had at `moment`.

    `is_mark` says that a mark tells so, and not the beginning or the end of a late stretch.
    """

    path: StreamPath
    offset: int
    moment: datetime
    is_mark: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertain:
    """What a shard held at a moment is at least `earlier` and at most `later`."""

    earlier: KnownState
    later: KnownState
    reason: str

    @property
    def is_exact(self) -> bool:
        """Whether both are one state: a mark was made at that moment, or nothing was sent."""
        return self.earlier.path == self.later.path and self.earlier.offset >= self.later.offset


def known_states(
    repository: Repository,
    inventory: StreamInventory,
    shard: RedisShard,
    *,
    history: ReplicationHistory,
    late: LateStretch,
) -> list[KnownState]:
    """The states that a shard is known to have had in a late stretch of `history`, in order of time.

    None where nothing of it is held. Marks are told by their names, and none is read.
    """
    until = late.until
    way = find_path(inventory, shard.replication_id, begin=shard.offset, moment=until)
    before = find_path(inventory, shard.replication_id, begin=shard.offset, moment=late.since)
    end = way.end if late.end is None else late.end
    if until is None:
        last = newest(repository, inventory.source, way)
        if last is None:
            return []
        until = last.moment
    parted = before.shared_with(way)
    # What had arrived of an old master when the new one was joined, however far that was.
    is_left = before.last_id != history.replication_id
    is_parted = is_left and parted < before.end and late.begin <= parted
    first = KnownState(
        path=before if is_parted else way,
        offset=before.end if is_parted else max(late.begin, shard.offset),
        moment=late.since if is_parted else max(late.since, shard.taken_at),
    )
    marked = [
        KnownState(path=way, offset=mark.lsn, moment=mark.moment, is_mark=True)
        for mark in marks_between(repository, history, late.since, end=until)
        if late.begin <= mark.lsn <= end
    ]
    return [first, *marked, KnownState(path=way, offset=max(end, shard.offset), moment=until)]


def late_stretch(
    repository: Repository,
    inventory: StreamInventory,
    name: str,
    *,
    names: Sequence[StreamLateName],
) -> LateStretch:
    """A late stretch of the history `name`, from the words of one group.

    Where nobody saw its end, and the master was left, it ends where all of the successor was received.
    """
    late = read_group(repository, ReplicationHistory(inventory.source, name), names)
    links = [
        link
        for log in inventory.logs.values()
        for link in log.links
        if link.previous == name != link.replication_id and link.at > late.since
    ]
    if late.until is not None or not links:
        return late
    left = min(links, key=lambda link: link.at)
    if left.offset < late.begin:
        # It lies in what the old master had alone.
        run = inventory.logs[name].run_holding(late.begin)
        return replace(late, end=run.end if run else late.begin, until=left.at - _INSTANT)
    until: datetime | None = left.at
    for begin, others in late_groups(inventory.logs[left.replication_id].late):
        if begin == left.offset:
            until = late_stretch(repository, inventory, left.replication_id, names=others).until
    return late if until is None else replace(late, end=left.offset, until=until)


def is_known(repository: Repository, source: str, found: Uncertain) -> bool:
    """Whether the two states are one, or nothing that was sent between them is a write: a master that
    is idle sends PING all the time.
    """
    if found.is_exact:
        return True
    begin, end, path = found.earlier.offset, found.later.offset, found.later.path
    # The write that makes a mark lies before the state that it marks.
    if found.later.is_mark or found.earlier.path != path or path.end < end:
        return False
    if end - begin > _MOST_IDLE_BYTES:
        return False
    sent = b"".join(read_path(repository, source, path.between(begin, end), end=end))
    return _IDLE.fullmatch(sent) is not None


def uncertain_spans(
    repository: Repository, inventory: StreamInventory, extents: Iterable[RedisExtent]
) -> tuple[UncertainSpan, ...]:
    """The spans of time inside which a restore refuses a moment, oldest first.

    `extents` are those of the usable snapshots: each carries a restore up to the next one. Of each
    history the newest MOST_STRETCHES late stretches are looked at.
    """
    ordered = sorted(extents, key=lambda extent: extent.stopped_at)
    looks = _Looks(repository, inventory)
    found = [
        span
        for extent, following in zip_longest(ordered, ordered[1:])
        for shard in extent.shards
        for span in looks.spans(
            shard, begin=extent.stopped_at, end=following.stopped_at if following else None
        )
    ]
    return _joined(found)


class _Looks:
    """Looks into late stretches; each is read once, though it lies behind many snapshots."""

    def __init__(self, repository: Repository, inventory: StreamInventory) -> None:
        self._repository, self._inventory = repository, inventory
        self._late: dict[str, list[LateStretch]] = {}

    def spans(
        self, shard: RedisShard, *, begin: datetime, end: datetime | None
    ) -> Iterator[UncertainSpan]:
        """What is uncertain of a shard from `begin` to `end`, as a restore from its snapshot sees it."""
        for name in descendants(self._inventory, shard.replication_id, shard.offset):
            for late in self._stretches(name):
                if (late.until is None or late.until > begin) and (end is None or late.since < end):
                    yield from self._of_stretch(shard, name, late, begin=begin, end=end)

    def _stretches(self, name: str) -> list[LateStretch]:
        if name not in self._late:
            log = self._inventory.logs.get(name)
            groups = late_groups(log.late)[-MOST_STRETCHES:] if log is not None else []
            self._late[name] = [
                late_stretch(self._repository, self._inventory, name, names=one)
                for _, one in groups
            ]
        return self._late[name]

    def _of_stretch(
        self,
        shard: RedisShard,
        name: str,
        late: LateStretch,
        *,
        begin: datetime,
        end: datetime | None,
    ) -> Iterator[UncertainSpan]:
        repository, source = self._repository, self._inventory.source
        history = ReplicationHistory(source, name)
        states = known_states(repository, self._inventory, shard, history=history, late=late)
        for earlier, later in pairwise(states):
            lasts = late.until is None and later is states[-1] and end is None
            since, until = max(earlier.moment, begin), min(later.moment, end or later.moment)
            between = Uncertain(earlier=earlier, later=later, reason=late.reason)
            if (since < until or lasts) and not is_known(repository, source, between):
                yield UncertainSpan(
                    begin=since,
                    end=None if lasts else until,
                    shard=shard.name,
                    reason=late.reason,
                )


def _joined(spans: Iterable[UncertainSpan]) -> tuple[UncertainSpan, ...]:
    """Spans of one shard that touch become one: only the moment of a mark is known between them."""
    found: list[UncertainSpan] = []
    for one in sorted(spans, key=lambda span: (span.shard, span.begin)):
        last = found[-1] if found else None
        if last is not None and last.shard == one.shard and _touch(last, one):
            ends = (last.end, one.end)
            end = None if None in ends else max(filter(None, ends))
            found[-1] = replace(last, end=end)
        else:
            found.append(one)
    return tuple(sorted(found, key=lambda span: (span.begin, span.shard)))


def _touch(last: UncertainSpan, one: UncertainSpan) -> bool:
    return last.end is None or one.begin <= last.end
