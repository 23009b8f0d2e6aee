"""Where a replay to a moment has to stop, found by position: commits bear the time of a clock that may jump.

PostgreSQL stops at the first commit whose time lies after the moment. One commit under a clock that ran
ahead then ends the replay years too early. Marks tell between which two positions the moment lies, and
the commits between those are read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.errors import IntegrityError, ObjectMissing
from drtool.model.measure import CLOCK_SKEW
from drtool.model.objective import Mark
from drtool.model.wal import Lsn
from drtool.repository.log_inventory import LogInventory
from drtool.repository.logpath import WalSpan
from drtool.repository.repository import Repository
from drtool.repository.wal_records import MOST_BYTES, read_records
from drtool.repository.wal_search import WalSearch
from drtool.sources.postgres.walevents import TRANSACTION_ENDS, TransactionEnd, read_event
from drtool.sources.postgres.walrecords import WalRecord

# Sessions take the time of a commit a moment before they write it: so near, order and time may differ.
_CONCURRENT = timedelta(seconds=1)
# A mark's position is read after its moment, and what was committed between the two may lie before the
# position: so long may that take. WAL is read from a mark that is older by so much.
SLOWEST_MARK = timedelta(seconds=10)
# So much lies between a record and the one behind it at most: the header of a segment's first page.
LONGEST_HEADER = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPosition:
    """The replay stops before the record that begins at `lsn`. `misdated` are the times of commits that
    lie before it although they bear a later time than the moment.
    """

    lsn: Lsn
    misdated: tuple[datetime, ...] = ()


def choose_stop(
    ends: Sequence[TransactionEnd], moment: datetime, *, covering: Mark
) -> StopPosition | None:
    """Before the first end of a transaction that came after `moment`; None if none did. Pure.

    `ends` are in the order of the WAL, up to the mark `covering`. One that bears a later time does not
    count as later where a clock must have jumped: one behind it is of before `moment`, or its time lies
    beyond what the mark allows.
    """
    last = max(
        (place for place, end in enumerate(ends) if end.moment <= moment - _CONCURRENT), default=-1
    )
    misdated: list[datetime] = []
    for place, end in enumerate(ends):
        if end.moment <= moment:
            continue
        if place < last or end.moment > covering.moment + CLOCK_SKEW:
            misdated.append(end.moment)
            continue
        return StopPosition(lsn=end.begin, misdated=tuple(misdated))
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """`moment` lies behind position `after` and before the mark `covering`; `major` wrote the WAL."""

    moment: datetime
    after: Lsn
    covering: Mark
    major: int


def find_stop(
    repository: Repository,
    inventory: LogInventory,
    spans: Sequence[WalSpan],
    *,
    sought: Sought,
    search: WalSearch,
) -> StopPosition | None:
    """Read the WAL of `spans`, which holds what is sought; None where nobody can tell from it.

    Where there is more than MOST_BYTES between two marks, PostgreSQL goes by the time of commits.
    """
    size = sum(span.end - span.begin for span in spans)
    if size > MOST_BYTES:
        return None
    try:
        with search.through(size):
            records = read_records(
                repository, inventory, spans, kinds=TRANSACTION_ENDS, search=search
            )
            ends = [
                end
                for end in _transaction_ends(records, major=sought.major)
                if sought.after <= end.begin < sought.covering.lsn
            ]
    except (ObjectMissing, IntegrityError):
        return None  # the replay reads it again, and tells what is wrong with it
    return choose_stop(ends, sought.moment, covering=sought.covering)


def _transaction_ends(records: Iterable[WalRecord], *, major: int) -> Iterator[TransactionEnd]:
    for record in records:
        event = read_event(record, major=major)
        if isinstance(event, TransactionEnd):
            yield event
