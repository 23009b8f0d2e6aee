"""WAL that the server no longer has: found out exactly, and recorded as a gap (PITFALLS 21)."""

from __future__ import annotations

import json

from drtool.archiving.begin import StartPoint, segment_start
from drtool.errors import AlreadyExists
from drtool.model.wal import Lsn
from drtool.repository.layout import Lineage
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType
from drtool.sources.postgres.connection import connect_replication
from drtool.sources.postgres.refusals import WalRemoved
from drtool.sources.postgres.walstream import WalBytes, open_wal_stream
from drtool.system.clock import Clock

_FIRST_BYTE_SECONDS = 5.0


def first_available(dsn: str, lost: StartPoint, *, end: Lsn, segment_bytes: int) -> Lsn | None:
    """The first segment start in (`lost.begin`, `end`) that the server can still stream; None if none.

    The server removes the oldest first, so halving finds it: about log2 of the number of segments
    short connections.
    """
    low, high = lost.begin // segment_bytes, -(-end // segment_bytes)
    while high - low > 1:
        middle = (low + high) // 2
        if _is_available(dsn, lost.timeline, Lsn(middle * segment_bytes)):
            high = middle
        else:
            low = middle
    found = Lsn(high * segment_bytes)
    return found if found < end else None


def first_resumable(
    dsn: str, lost: StartPoint, *, segment_bytes: int, fork: Lsn | None, flushed: Lsn
) -> Lsn:
    """Where receiving goes on behind removed WAL: at a segment, or at the fork where all up to it is gone."""
    end = flushed if fork is None else fork
    found = first_available(dsn, lost, end=end, segment_bytes=segment_bytes)
    resume = found if found is not None else end
    return segment_start(resume, segment_bytes) if fork is None else resume


def _is_available(dsn: str, timeline: int, start: Lsn) -> bool:
    with connect_replication(dsn, purpose="looking for WAL") as connection:
        try:
            stream = open_wal_stream(connection, start=start, timeline=timeline)
            for _ in range(3):
                if isinstance(stream.receive(_FIRST_BYTE_SECONDS), WalBytes):
                    return True
        except WalRemoved:
            return False
    return True  # it is at its end there, and has nothing to send


def record_gap(
    repository: Repository, lineage: Lineage, begin: Lsn, *, end: Lsn, reason: str, clock: Clock
) -> None:
    """Leave word of WAL that is lost for good: a sealed log object that holds JSON."""
    document = {
        "timeline": lineage.timeline,
        "begin": str(begin),
        "end": str(end),
        "reason": reason,
        "recorded": clock.now().isoformat(),
    }
    try:
        repository.put(ObjectType.LOG, lineage.gap_key(begin, end), json.dumps(document).encode())
    except AlreadyExists:
        return  # an earlier run has said so, and died before it went on
