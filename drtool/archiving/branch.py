"""Whether a server's WAL is the WAL that the repository holds under the same names.

A data directory that was put back from a copy and started goes on under the same system identifier
and on the same timeline, and overwrites history without a word (PITFALLS 98). Its position tells, as
long as it is behind the log; later only its bytes do. WAL is chained, each record naming the one
before, so that the last segment which is held decides for all before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from drtool.archiving.begin import ends_on, held_ends
from drtool.archiving.histories import came_another_way, left_hint, parsed_history
from drtool.archiving.lineages import as_archived
from drtool.errors import IntegrityError, ObjectMissing, SourceUnavailable
from drtool.model.cluster import next_branch
from drtool.model.wal import Lsn, TimelineHistory, WalSegment
from drtool.repository.layout import Lineage
from drtool.repository.log import read_history, read_segment
from drtool.repository.log_inventory import take_inventory
from drtool.repository.repository import Repository
from drtool.sources.postgres.connection import ReplicationConnection, connect_replication
from drtool.sources.postgres.facts import (
    ServerFacts,
    read_facts,
    replication_facts,
    require_ready,
)
from drtool.sources.postgres.refusals import BranchLeft, WalNotYetWritten, WalRemoved
from drtool.sources.postgres.walstream import (
    TimelineEnded,
    WalBytes,
    fetch_history,
    open_wal_stream,
)

_SILENT_SECONDS = 2.0
_MOST_SILENCES = 10


def require_archived_branch(
    repository: Repository, source: str, dsn: str, *, accepts_new: bool = False
) -> ServerFacts:
    """The facts of the server at `dsn`, once its WAL is known to be that of the repository.

    BranchLeft if it is not, SourceUnsuitable for another cluster. WAL that the server has removed
    cannot be compared, and WAL stored later is not found beside it: there is a gap in between.
    """
    with connect_replication(dsn, purpose="comparing WAL") as connection:
        facts = as_archived(
            repository, source, replication_facts(connection), accepts_new=accepts_new
        )
        require_ready(facts)
        inventory = take_inventory(
            repository, source, facts.system_id, segment_bytes=facts.segment_bytes
        )
        # A receiver goes on storing: asked after the listing, the server is ahead of it.
        facts = as_archived(
            repository, source, replication_facts(connection), accepts_new=accepts_new
        )
        path = path_of(connection, facts)
        _require_same_path(repository, source, facts, path=path)
    ends = held_ends(inventory, path)
    require_same_branch(repository, source, dsn, facts=facts, ends=ends, path=path)
    return facts


def archived_branch(
    repository: Repository, source: str, dsn: str, *, accepts_new: bool
) -> ServerFacts:
    """As `require_archived_branch`; with `accepts_new` a server that left its branch begins the next."""
    try:
        return require_archived_branch(repository, source, dsn, accepts_new=accepts_new)
    except BranchLeft:
        if not accepts_new:
            raise
    facts = as_archived(repository, source, read_facts(dsn), accepts_new=True)
    return replace(facts, system_id=next_branch(facts.system_id))


def path_of(connection: ReplicationConnection, facts: ServerFacts) -> TimelineHistory:
    """The timelines that the server has come along, as itself tells."""
    if facts.timeline == 1:
        return TimelineHistory(1)
    return parsed_history(facts.timeline, fetch_history(connection, facts.timeline))


def require_same_branch(
    repository: Repository,
    source: str,
    dsn: str,
    *,
    facts: ServerFacts,
    ends: Mapping[int, Lsn],
    path: TimelineHistory,
) -> bool:
    """BranchLeft unless the server has the last segment that is held; False if nobody can tell.

    `ends` is how far each timeline of `path` is held, `facts` the server no earlier than that. What is
    held behind the point where the path left a timeline is another server's: this one never had it.
    """
    ends = ends_on(path, ends)
    timeline = next((number for number in reversed(path.path()) if number in ends), None)
    if timeline is None:
        return False
    end = ends[timeline]
    if timeline == facts.timeline and facts.flushed < end:
        if not facts.is_standby:
            raise _behind(facts, end, source)
        end = facts.flushed  # it follows, and will come that far
    if end == 0:
        return False
    segment = WalSegment.holding(timeline, Lsn(end - 1), facts.segment_bytes)
    begin = segment.begin(facts.segment_bytes)
    lineage = Lineage(source, facts.system_id, timeline)
    try:
        held = read_segment(repository, lineage, segment, segment_bytes=facts.segment_bytes)
    except (ObjectMissing, IntegrityError):
        return False  # behind a gap nothing is held; what is damaged, `drtool verify` tells
    theirs = _read_server(dsn, timeline, begin, length=end - begin)
    if theirs is None:
        return False
    if held[: end - begin] != theirs:
        name = segment.name(facts.segment_bytes)
        raise BranchLeft(
            f"{facts.place} has other WAL in segment {name} than the repository holds up to {end}",
            hint=left_hint(source),
        )
    return True


def _behind(facts: ServerFacts, end: Lsn, source: str) -> BranchLeft:
    return BranchLeft(
        f"{facts.place} is at {facts.flushed} of timeline {facts.timeline}, and the repository"
        f" holds its WAL up to {end}",
        hint=left_hint(source),
    )


def _require_same_path(
    repository: Repository, source: str, facts: ServerFacts, *, path: TimelineHistory
) -> None:
    """BranchLeft if the repository knows the server's timeline to have begun elsewhere."""
    try:
        held = read_history(repository, source, facts.system_id, timeline=facts.timeline)
    except (ObjectMissing, IntegrityError):
        return
    if held != path:
        raise came_another_way(facts, facts.timeline, source)


def _read_server(dsn: str, timeline: int, begin: Lsn, *, length: int) -> bytes | None:
    """`length` bytes of WAL as the server has them; None if it no longer has them."""
    received = bytearray()
    # A connection of its own: one whose stream was refused is of no use for another.
    with connect_replication(dsn, purpose="comparing WAL") as connection:
        try:
            stream = open_wal_stream(connection, start=begin, timeline=timeline)
            silences = 0
            while len(received) < length and silences < _MOST_SILENCES:
                item = stream.receive(_SILENT_SECONDS)
                if isinstance(item, WalBytes):
                    received += item.data
                elif isinstance(item, TimelineEnded):
                    break
                else:
                    silences += 1
        except (WalRemoved, WalNotYetWritten):
            return None
        if len(received) < length:
            raise SourceUnavailable(
                f"{connection.place} has sent {len(received)} of {length} bytes of WAL from {begin} on",
                hint="Look at the server's log and at the network between; then try again.",
            )
    return bytes(received[:length])
