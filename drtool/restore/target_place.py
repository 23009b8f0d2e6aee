"""Where in the WAL a transaction ended or a restore point was made: it decides which backup comes before.

Events tell of restore points. Everything else is found by reading the WAL, from the newest backup's end on,
then from the end of the one before, and so forth: what is asked for is mostly young.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.target import ToName, ToXid
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage
from drtool.repository.log_events import RESTORE_POINT, readable_events
from drtool.repository.log_inventory import LogInventory
from drtool.repository.logpath import WalSpan, events_between, walk
from drtool.repository.repository import Repository
from drtool.repository.wal_records import read_records
from drtool.repository.wal_search import WalSearch
from drtool.sources.postgres import walevents
from drtool.sources.postgres.walevents import RestorePoint, TransactionEnd, read_event

# So much WAL is read in search of one record: some minutes, and less than a replay in vain would take.
MOST_SEARCHED_BYTES = 4 << 30
# XLOG_RESTORE_POINT with all that may lie in between: page headers.
_LONGEST_RESTORE_POINT_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlace:
    """The record that is sought lies from `begin` to `end` at most; None if it was not found.

    `searched_from`: behind this position, up to the end of the WAL, it is only where `begin` says; None
    where the WAL was not searched. `others` are older places of restore points with the same name.
    `is_rollback`: the transaction ended there, and was not committed.
    """

    begin: Lsn | None
    end: Lsn | None = None
    searched_from: Lsn | None = None
    others: tuple[Lsn, ...] = ()
    is_rollback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WalOfPath:
    """The WAL of one path, and the backups on it, from the oldest to the newest."""

    repository: Repository
    inventory: LogInventory
    history: TimelineHistory
    backups: Sequence[PostgresExtent]


def find_place(
    wal: WalOfPath,
    target: ToXid | ToName,
    *,
    search: WalSearch,
    most_bytes: int = MOST_SEARCHED_BYTES,
) -> TargetPlace:
    """The newest place of `target` behind the end of a backup.

    WAL that cannot be read, and WAL beyond `most_bytes`, ends the search: what lies before is not known.
    """
    if isinstance(target, ToName):
        named = _restore_points(wal, target.name)
        if named:
            end = Lsn(named[-1] + _LONGEST_RESTORE_POINT_BYTES)
            return TargetPlace(begin=named[-1], end=end, others=tuple(named[:-1]))
    whole = _stretch(wal, wal.backups[0], end=None) if wal.backups else ()
    with search.through(min(_size(whole), most_bytes)):
        return _searched(wal, target, search=search, most_bytes=most_bytes)


def _searched(
    wal: WalOfPath, target: ToXid | ToName, *, search: WalSearch, most_bytes: int
) -> TargetPlace:
    searched: Lsn | None = None
    for extent in reversed(wal.backups):
        spans = _stretch(wal, extent, end=searched)
        most_bytes -= _size(spans)
        if most_bytes < 0:
            break
        try:
            found = [
                event
                for event in _ends(wal, extent, spans, target=target, search=search)
                if extent.stop_lsn <= event.begin and (searched is None or event.begin < searched)
            ]
        except (ObjectMissing, IntegrityError):
            break  # the replay reads it again, and tells what is wrong with it
        searched = extent.stop_lsn
        if found:
            last = found[-1]
            return TargetPlace(
                begin=last.begin,
                end=last.end,
                searched_from=searched,
                others=tuple(event.begin for event in found[:-1]),
                is_rollback=isinstance(last, TransactionEnd) and not last.is_commit,
            )
    return TargetPlace(begin=None, searched_from=searched)


def _stretch(wal: WalOfPath, extent: PostgresExtent, *, end: Lsn | None) -> Sequence[WalSpan]:
    """What a replay from this backup reads behind the backup's end, up to `end`."""
    chain = walk(wal.inventory, wal.history, timeline=extent.timeline, begin=extent.stop_lsn)
    return chain.up_to(chain.end if end is None else end, wal.inventory.segment_bytes)


def _size(spans: Sequence[WalSpan]) -> int:
    return sum(span.end - span.begin for span in spans)


def _restore_points(wal: WalOfPath, name: str) -> list[Lsn]:
    """Where those of this name are, as far as events tell, in the order of the path."""
    if not wal.backups:
        return []
    first = wal.backups[0]
    found = []
    for placed in events_between(
        wal.inventory, wal.history, timeline=first.timeline, begin=first.start_lsn
    ):
        if placed.name.kind != RESTORE_POINT:
            continue
        lineage = Lineage(wal.inventory.source, wal.inventory.system_id, placed.timeline)
        for event in readable_events(wal.repository, lineage, [placed.name]):
            if event.facts.get("name") == name:
                found.append(event.lsn)
    return found


def _ends(
    wal: WalOfPath,
    extent: PostgresExtent,
    spans: Sequence[WalSpan],
    *,
    target: ToXid | ToName,
    search: WalSearch,
) -> Iterator[TransactionEnd | RestorePoint]:
    """The records in `spans` at which PostgreSQL would stop for `target`."""
    kinds = walevents.TRANSACTION_ENDS if isinstance(target, ToXid) else (walevents.RESTORE_POINT,)
    major = extent.server_version // 10000
    for record in read_records(wal.repository, wal.inventory, spans, kinds=kinds, search=search):
        match read_event(record, major=major), target:
            case TransactionEnd(xid=found) as end, ToXid(wanted) if found == wanted:
                yield end
            case RestorePoint(name=found) as point, ToName(wanted) if found == wanted:
                yield point
