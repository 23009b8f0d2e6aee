"""What earlier backups left that this one can use: known pages of known files, and stored chunks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from drtool.backup.batches import KnownPages
from drtool.backup.packing import KnownChunks
from drtool.errors import DrtoolError, IntegrityError, ObjectMissing
from drtool.model.finding import Finding, Severity
from drtool.pipeline.pages import Digests, Places, expand
from drtool.repository import layout
from drtool.repository.backups import Attempt, Manifest, open_table
from drtool.repository.chunks import ChunkReader, PackFooter
from drtool.repository.records import size_in
from drtool.repository.table import (
    RECORD_COVERS_BYTES,
    DigestReader,
    PackList,
    Table,
    TableRecord,
)
from drtool.repository.trees import entry_of, moved_sign

_LOOK = "Run `drtool verify` to see which backups suffer; the new one does not."
MOST_FOOTERS = 1000
# More than a backup that died can have had under way.
MOST_MISSING = 8
# Of one interrupted backup: 160 GB of packs.
MOST_ATTEMPT_PACKS = 5000


class PreviousBackup:
    """The pages of the previous backup, by file and place. One thread, or `pages_of` from any.

    What is damaged in it is taken for unknown, and told in `findings`: its content is read anyway,
    and stored again.
    """

    def __init__(self, manifest: Manifest, reader: ChunkReader, known: KnownChunks) -> None:
        """ObjectMissing or IntegrityError if its file table cannot be read."""
        self._manifest = manifest
        self._known = known
        self._table: Table = open_table(manifest, reader)
        self._table.index()
        self._digests = DigestReader(reader, self._table.packs)
        self._current: tuple[bytes, int] | None = None
        self._pages: KnownPages | None = None
        self._lock = threading.Lock()
        self._lost: set[int] = set()
        self.findings: list[Finding] = []

    def forget(self, pack_ids: Iterable[bytes]) -> None:
        """Take all pages in these packs for unknown: they will be stored again."""
        for pack_id in pack_ids:
            pack = self._table.packs.index_of(pack_id)
            self._lost.add(pack)
            self._known.distrust(pack)

    def close(self) -> None:
        """Let the table go."""
        self._table.close()

    @property
    def packs(self) -> PackList:
        """The pack list that the places refer to; the new backup goes on with it."""
        return self._table.packs

    def known(self, path: bytes, begin: int, length: int) -> KnownPages | None:
        """What is known of `length` bytes of a file from `begin` on, within one record."""
        start = begin - begin % RECORD_COVERS_BYTES
        if self._current != (path, start):
            self._current = (path, start)
            self._pages = self.pages_of(path, start)
        return self._pages.within(begin - start, length) if self._pages else None

    def pages_of(self, path: bytes, start: int) -> KnownPages | None:
        """What is known of the 256 MiB of a file from `start` on."""
        with self._lock:
            record = self._table.find(path, start)
            pages = self._read_pages(record) if record else None
        return KnownPages(digests=pages[0], places=pages[1], record=record) if pages else None

    def records_of(self, path: bytes) -> list[bytes] | None:
        """The records of a whole file, encoded; None if it is not known, or not whole."""
        with self._lock:
            first = self._table.find_encoded(path, 0)
            if first is None:
                return None
            if size_in(first) <= RECORD_COVERS_BYTES and not self._lost:
                return [first]
            begins = range(RECORD_COVERS_BYTES, size_in(first), RECORD_COVERS_BYTES)
            records = [first, *(self._table.find_encoded(path, begin) for begin in begins)]
            if self._lost and any(self._is_lost(path, n) for n in range(len(records))):
                return None
        whole = [record for record in records if record is not None]
        return whole if len(whole) == len(records) else None

    def has(self, path: bytes) -> bool:
        """Whether there was anything of this path."""
        return self._table.has(path)

    def count_signs(self, signs: Set[int]) -> int:
        """How many of its files of a tree bear one of these signs (`moved_sign`); looks at them all."""
        return sum(
            1
            for record in self._table
            if record.begin == 0
            and record.attributes.extra
            and moved_sign(entry_of(record.attributes)) in signs
        )

    def _is_lost(self, path: bytes, number: int) -> bool:
        record = self._table.find(path, number * RECORD_COVERS_BYTES)
        if record is None:
            return True
        packs = {int(pack) for pack in np.unique(record.extents["pack"])}
        if record.digests is not None:
            packs.add(record.digests.pack)
        return not packs.isdisjoint(self._lost)

    def _read_pages(self, record: TableRecord) -> tuple[Digests, Places] | None:
        if record.digests is None or record.digests.pack in self._lost:
            return None
        try:
            digests = self._digests.read(record)
        except (ObjectMissing, IntegrityError) as error:
            # Or the same digests, packed once more, would be found to be in that pack already.
            self.forget([self._table.packs.ids[record.digests.pack]])
            self.findings.append(_damage(self._manifest, error))
            return None
        places = expand(record.extents)
        if self._lost:
            gone = np.isin(places["pack"], list(self._lost))
            digests = np.where(gone, ~digests, digests)
        return digests, places


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is stored already, and what was found to be wrong with it.

    `previous` is None if there is none, or its table cannot be read: then all is compared by
    content alone. `resumed_packs` were left by backups that did not end.
    """

    packs: PackList
    chunks: KnownChunks
    previous: PreviousBackup | None
    resumed_packs: int
    early_findings: tuple[Finding, ...]

    def findings(self) -> tuple[Finding, ...]:
        """Those of the beginning, and those that came up while pages were compared."""
        return (*self.early_findings, *(self.previous.findings if self.previous else ()))

    def close(self) -> None:
        """Let go of what only the comparing needed."""
        if self.previous:
            self.previous.close()


def learn(manifest: Manifest | None, attempts: Iterable[Attempt], reader: ChunkReader) -> Known:
    """All that the backup of `manifest` and interrupted ones have stored.

    Nothing is taken from the packs of a table that cannot be read, so that the new one is whole.
    """
    chunks, packs = KnownChunks(), PackList()
    findings: list[Finding] = []
    previous: PreviousBackup | None = None
    if manifest is not None:
        doubtful: set[bytes] = set()
        try:
            previous = PreviousBackup(manifest, reader, chunks)
            packs = previous.packs
        except (ObjectMissing, IntegrityError) as error:
            findings.append(_damage(manifest, error))
            doubtful = {place.pack_id for place in manifest.table}
        trusted = [pack_id for pack_id in manifest.packs if pack_id not in doubtful]
        lost = learn_packs(trusted, reader, packs=packs, known=chunks)
        if lost:
            findings.append(_lost_packs(manifest, lost))
        if previous:
            previous.forget(lost)
    resumed = learn_attempts(attempts, reader, packs=packs, known=chunks)
    return Known(
        packs=packs,
        chunks=chunks,
        previous=previous,
        resumed_packs=resumed,
        early_findings=tuple(findings),
    )


def learn_packs(
    pack_ids: Iterable[bytes], reader: ChunkReader, *, packs: PackList, known: KnownChunks
) -> list[bytes]:
    """Take the chunk ids of packs into `known`; return those packs that are not there or damaged.

    So content under another path is found again, and nothing is built on what was lost. Ids are
    taken from at most 1,000 packs, about 140 GB of pages; the footers of all are looked at.
    """
    lost: list[bytes] = []
    wanted = list(pack_ids)
    with ThreadPoolExecutor(MOST_MISSING, thread_name_prefix="footers") as threads:
        footers = threads.map(lambda pack_id: _footer(reader, pack_id), wanted)
        for number, (pack_id, footer) in enumerate(zip(wanted, footers, strict=True)):
            if footer is None:
                lost.append(pack_id)
            elif number < MOST_FOOTERS:
                _learn(pack_id, footer, packs=packs, known=known)
    return lost


def learn_attempts(
    attempts: Iterable[Attempt], reader: ChunkReader, *, packs: PackList, known: KnownChunks
) -> int:
    """Take in what interrupted backups stored; return the number of packs found.

    An attempt's packs have ids that follow from its seed. They are asked for eight at a time, until
    none of eight is there: fewer were under way when it died.
    """
    found = 0
    with ThreadPoolExecutor(MOST_MISSING, thread_name_prefix="footers") as threads:
        for attempt in attempts:
            for first in range(0, MOST_ATTEMPT_PACKS, MOST_MISSING):
                ids = [attempt.pack_id(number) for number in range(first, first + MOST_MISSING)]
                footers = list(threads.map(lambda pack_id: _footer(reader, pack_id), ids))
                for pack_id, footer in zip(ids, footers, strict=True):
                    if footer is not None:
                        found += 1
                        _learn(pack_id, footer, packs=packs, known=known)
                if all(footer is None for footer in footers):
                    break
    return found


def _damage(manifest: Manifest, error: DrtoolError) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        subject=f"backup {manifest.backup_id}",
        fact=f"could not be compared with in full, so more was stored again: {error.message}",
        fix=_LOOK,
    )


def _lost_packs(manifest: Manifest, lost: list[bytes]) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        subject=f"backup {manifest.backup_id}",
        fact=f"{len(lost)} of its packs are lost or damaged, the first is {layout.pack_key(lost[0])};"
        " what of their content is still in the source was stored again",
        fix=_LOOK,
    )


def _footer(reader: ChunkReader, pack_id: bytes) -> PackFooter | None:
    try:
        return reader.footer(pack_id)
    except (ObjectMissing, IntegrityError):
        # What cannot be read is not used again.
        return None


def _learn(pack_id: bytes, footer: PackFooter, *, packs: PackList, known: KnownChunks) -> None:
    pack = packs.index_of(pack_id)
    known.add_all(footer.chunk_ids(), pack)
