"""Objects of a Redis stream that something tells of and that are not there.

What is gone cannot tell that it was: so each history has to follow something, what links and recorded
beginnings name has to be held, and so has what is known outside of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.finding import Finding, Harm, Severity
from drtool.repository.extents import RedisExtent
from drtool.repository.layout import ReplicationHistory, parse_stream_name
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType
from drtool.repository.stream_inventory import StreamInventory, StreamLog, StreamRun
from drtool.repository.stream_known import KnownHistory, recorded_at
from drtool.repository.streambranch import StreamPath, Stretch, find_path
from drtool.repository.streampath import newest


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMissing:
    """`subject` names what is missing, or the history it is missing of; `at` is when it was archived or
    recorded, at the latest; None where nobody knows.
    """

    subject: str
    fact: str
    at: datetime | None

    def concerns(self, taken: datetime | None, until: datetime | None = None) -> bool:
        """Whether a recovery may need it that begins with a snapshot `taken` then, and goes up to `until`."""
        if self.at is None:
            return True
        return (taken is None or self.at > taken) and (until is None or self.at <= until)

    def finding(self, source: str, severity: Severity = Severity.PROBLEM) -> Finding:
        """As every screen tells it."""
        return Finding(
            severity=severity,
            subject=self.subject,
            fact=self.fact,
            fix="Bring it back from a copy of the repository, or take a new snapshot with"
            f" `drtool backup {source}`.",
            harm=Harm.DAMAGE,
        )


def find_missing(
    repository: Repository,
    inventory: StreamInventory,
    extents: Iterable[RedisExtent],
    *,
    known: Mapping[str, KnownHistory],
) -> tuple[StreamMissing, ...]:
    """All that is missing. `extents` are those of all snapshots; `known` was read before the inventory.

    Objects that the inventory leaves out as damaged are told by whoever found them so.
    """
    places = _Places(inventory, extents)
    found: list[StreamMissing] = []
    for name in sorted({*inventory.logs, *known}):
        log = inventory.logs.get(name)
        if log is not None:
            found += _between_runs(repository, inventory, log, places=places)
            found += _before_words(inventory, log, places)
        if name in known:
            history = ReplicationHistory(inventory.source, name)
            found += _known_words(repository, inventory, history, known=known[name])
            found += _known_end(inventory, history, known[name])
    return tuple(found)


class _Places:
    """The offsets of each history at which something is known to begin or to go on."""

    def __init__(self, inventory: StreamInventory, extents: Iterable[RedisExtent]) -> None:
        self._found: dict[str, set[int]] = {}
        for extent in extents:
            for shard in extent.shards:
                self._found.setdefault(shard.replication_id, set()).add(shard.offset)
        for name, log in inventory.logs.items():
            mine = self._found.setdefault(name, set())
            mine |= {one.offset for one in log.links} | {one.offset for one in log.begins}

    def of(self, name: str) -> set[int]:
        return self._found.get(name, set())


def _between_runs(
    repository: Repository, inventory: StreamInventory, log: StreamLog, *, places: _Places
) -> Iterator[StreamMissing]:
    """What lies before each run and is not held, unless its past holds it or it was recorded as a gap."""
    name = log.replication_id
    told = {one.offset for one in log.begins}
    # A word and a snapshot are places from which the log goes on, as the end of each run is.
    ends = {run.end for run in log.runs} | places.of(name)
    for run in log.runs:
        before = max((end for end in ends if end < run.begin), default=None)
        if run.begin in told or (before is None and run.begin in places.of(name)):
            continue
        if before is None:
            fact = (
                f"it is held from offset {run.begin} on and follows nothing: neither a snapshot nor a link"
                " nor a recorded beginning leads to it, so such a record is missing, or was found damaged"
            )
        elif find_path(inventory, name, begin=before).end < run.begin:
            fact = f"bytes {before} to {run.begin} of {name} are missing, and nobody recorded that as a gap"
        else:
            continue
        yield StreamMissing(
            subject=f"stream of {inventory.source}, {name}",
            fact=fact,
            at=_arrived(repository, inventory, name, run=run),
        )


def _arrived(
    repository: Repository, inventory: StreamInventory, name: str, *, run: StreamRun
) -> datetime | None:
    path = StreamPath(run.begin, (Stretch(name, run.begin, run.end),), inventory.left_out)
    try:
        last = newest(repository, inventory.source, path)
    except (IntegrityError, ObjectMissing):
        return None
    return None if last is None else last.moment


def _before_words(
    inventory: StreamInventory, log: StreamLog, places: _Places
) -> Iterator[StreamMissing]:
    """What a link or a recorded beginning says was archived before it."""
    name = log.replication_id
    told = [(one.previous, one.offset, one.at, "goes on as") for one in log.links]
    told += [(*one.previous, one.at, "was left for") for one in log.begins if one.previous]
    for previous, offset, at, how in told:
        # A link to a branch that is live again is no place of that branch by itself.
        is_return = how == "goes on as" and previous == name
        if (offset in places.of(previous) and not is_return) or _holds(inventory, previous, offset):
            continue
        if previous in inventory.logs and offset < min(places.of(previous), default=0):
            continue  # parted before anything of it was archived
        yield StreamMissing(
            subject=f"stream of {inventory.source}, {previous}",
            fact=f"it {how} {name} at offset {offset}, and the bytes before that are missing, or were"
            " found damaged",
            at=at,
        )


def _holds(inventory: StreamInventory, name: str, offset: int) -> bool:
    """Whether the byte before `offset` is held, by the history itself or by its past."""
    return offset > 0 and find_path(inventory, name, begin=offset - 1).end >= offset


def _known_words(
    repository: Repository,
    inventory: StreamInventory,
    history: ReplicationHistory,
    *,
    known: KnownHistory,
) -> Iterator[StreamMissing]:
    held = _words_of(inventory.logs.get(history.replication_id), history)
    for name in known.words:
        key = f"{history.prefix}{name}"
        if parse_stream_name(name) is None or key in held or key in inventory.damaged:
            continue
        if not repository.holds(ObjectType.MARK, history.known_key(name)):
            continue  # nobody with the key has put that copy
        yield StreamMissing(
            subject=key,
            fact="it is missing: that it was recorded is known beside the marks",
            at=recorded_at(repository, history, name),
        )


def _words_of(log: StreamLog | None, history: ReplicationHistory) -> set[str]:
    if log is None:
        return set()
    found = {history.link_key(one.offset) for one in log.links}
    found |= {history.begin_key(one.offset) for one in log.begins}
    return found | {history.late_key(one) for one in log.late}


def _known_end(
    inventory: StreamInventory, history: ReplicationHistory, known: KnownHistory
) -> Iterator[StreamMissing]:
    """A mark may lie in a recorded gap, so only what lies beyond all that is held is missed."""
    name, reached = history.replication_id, known.reached
    log = inventory.logs.get(name)
    end = max((run.end for run in log.runs), default=0) if log is not None else 0
    if reached is None or end >= reached or _holds(inventory, name, reached):
        return
    held = f"it is held up to offset {end} only" if end else "nothing of it is held"
    yield StreamMissing(
        subject=f"stream of {inventory.source}, {name}",
        fact=f"{held}, and was archived up to {reached} at least, as is known beside the marks: what"
        " lies between is missing, or was found damaged",
        at=known.reached_at,
    )
