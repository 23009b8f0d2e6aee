"""Records of chosen kinds in the WAL that is held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from drtool.model.wal import Lsn
from drtool.repository.layout import Lineage
from drtool.repository.log import read_segment
from drtool.repository.log_inventory import LogInventory
from drtool.repository.logpath import WalSpan
from drtool.repository.repository import Repository
from drtool.repository.wal_search import WalSearch
from drtool.sources.postgres.walrecords import RecordKind, WalRecord, WalRecordScanner

# More WAL than this is not read for a question that something else can answer less well.
MOST_BYTES = 512 << 20


def read_records(
    repository: Repository,
    inventory: LogInventory,
    spans: Sequence[WalSpan],
    *,
    kinds: Iterable[RecordKind],
    search: WalSearch | None = None,
) -> Iterator[WalRecord]:
    """The records of `spans`, in order, each once; ObjectMissing or IntegrityError where WAL is not whole.

    `search` is told how far it is; Interrupted if that is asked to stop.
    """
    size = inventory.segment_bytes
    scanner = WalRecordScanner(kinds, segment_bytes=size)
    reached = Lsn(0)
    for span in spans:
        lineage = Lineage(inventory.source, inventory.system_id, span.timeline)
        for segment in span.segments(size):
            if search is not None:
                search.go_on()
            content = read_segment(repository, lineage, segment, segment_bytes=size)
            if search is not None:
                search.advance(len(content))
            for record in scanner.feed(segment.begin(size), content):
                if reached <= record.begin < span.end:
                    reached = Lsn(record.begin + 1)
                    yield record
