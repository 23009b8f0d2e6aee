"""Repositories for tests: made from the room's own parts, small, and with a key that opens quickly."""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from drtool.errors import RepositoryUnavailable
from drtool.model.wal import Lsn, WalSegment
from drtool.pipeline.pages import EXTENT
from drtool.repository import layout
from drtool.repository.backups import BackupSizes, Manifest, commit_backup
from drtool.repository.chunks import CHUNK_BYTES, PACK_BUFFER_BYTES, PackBuilder
from drtool.repository.extents import PostgresExtent
from drtool.repository.keys import KeySecret, SlotKind
from drtool.repository.layout import Lineage, SegmentPart
from drtool.repository.log import SegmentWriter, put_part
from drtool.repository.places import ChunkPlace
from drtool.repository.repository import Repository, create_repository
from drtool.repository.sealing import Compressor
from drtool.repository.table import (
    RECORD_COVERS_BYTES,
    Attributes,
    EntryKind,
    PackList,
    TableRecord,
    TableWriter,
)
from drtool.stores.capabilities import Capabilities
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import Buffer, Store

NOW = datetime(2024, 5, 1, 10, 0, tzinfo=UTC)
# A key file of 32 bytes, because a phrase costs 0.4 s of scrypt at each opening.
SECRET = KeySecret(SlotKind.KEY_FILE, bytes(range(32)).hex().encode())
CAPABILITIES = Capabilities(
    creates_atomically=True,
    replaces_if_matching=True,
    reads_after_write=True,
    ranges=True,
    lists_in_order=True,
)
SYSTEM = 7_300_000_000_000_000_001
MIB = 1 << 20


class ManualClock:
    """Time that passes only when a test says so. Waits end at once when `until` is set, or on `pass_`."""

    def __init__(self, now: datetime = NOW) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._changed = threading.Condition()

    def now(self) -> datetime:
        with self._changed:
            return self._now

    def monotonic(self) -> float:
        with self._changed:
            return self._monotonic

    def pass_(self, span: timedelta) -> None:
        with self._changed:
            self._now += span
            self._monotonic += span.total_seconds()
            self._changed.notify_all()

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        with self._changed:
            end = self._monotonic + seconds
            while self._monotonic < end:
                if until is not None and until.is_set():
                    return True
                self._changed.wait(0.01)
        return until is not None and until.is_set()


class FailingStore(MemoryStore):
    """A store whose `n`-th put, and all after it, fail: a crash, as far as the store can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.puts_left: int | None = None

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        if self.puts_left is not None:
            if self.puts_left == 0:
                raise RepositoryUnavailable("the store went away")
            self.puts_left -= 1
        super().create(key, parts)


def new_repository(store: Store | None = None, secret: KeySecret = SECRET) -> Repository:
    """An empty repository, in memory unless `store` is given."""
    return create_repository(store or MemoryStore(), secret, now=NOW, capabilities=CAPABILITIES)


def tamper(store: Store, key: str, content: bytes) -> None:
    """Put other bytes under a key, as a disk or an attacker would."""
    store.delete(key)
    store.create(key, [content])


def objects_of(store: Store, prefix: str = "") -> dict[str, bytes]:
    """All objects by key."""
    return {found.key: store.read(found.key) for found in store.list(prefix)}


class ChunkShelf:
    """Stores chunks one after the other into packs of at most `pack_chunks`; each content once."""

    def __init__(self, repository: Repository, *, pack_chunks: int = 100) -> None:
        self._repository = repository
        self._pack_chunks = pack_chunks
        self._builder = PackBuilder(repository.ring, Compressor(1), bytearray(PACK_BUFFER_BYTES))
        self._count = 0
        self._known: dict[bytes, ChunkPlace] = {}
        self.stored_bytes = 0

    def store(self, plain: bytes) -> ChunkPlace:
        """Store a chunk, unless this shelf has its content."""
        chunk_id = self._builder.chunk_id(plain)
        if chunk_id not in self._known:
            if self._count == self._pack_chunks or (self._count and self._builder.is_full):
                self.close()
            if not self._count:
                self._builder.begin(secrets.token_bytes(16))
            number = self._builder.add(plain, chunk_id)
            self._count += 1
            self._known[chunk_id] = ChunkPlace(self._builder.pack_id, number)
        return self._known[chunk_id]

    def close(self) -> None:
        """Put the pack that is open."""
        if self._count:
            parts = self._builder.finish()
            self.stored_bytes += sum(len(part) for part in parts)
            self._repository.store.create(layout.pack_key(self._builder.pack_id), parts)
            self._count = 0


# What a small base backup says of itself.
EXTENT_OF_BACKUP = PostgresExtent(
    system_id=SYSTEM,
    server_version=150008,
    timeline=1,
    start_lsn=Lsn(2 * MIB + 40),
    stop_lsn=Lsn(2 * MIB + 400),
    segment_bytes=MIB,
    stopped_at=NOW,
    bootstrap_role="postgres",
    has_checksums=True,
)


def store_tree(
    repository: Repository,
    directory: Path,
    *,
    extent: PostgresExtent = EXTENT_OF_BACKUP,
    source: str = "main",
    backup_id: str = "20240501T100000Z-000001",
    shelf: ChunkShelf | None = None,
    times: tuple[datetime, datetime] = (NOW - timedelta(minutes=1), NOW),
    fencing: int = 1,
) -> Manifest:
    """Back a directory tree up, as it lies there, by the room's primitives; commit it."""
    shelf = shelf or ChunkShelf(repository)
    packs = PackList()
    table = TableWriter(packs)
    files = size = 0
    for path in sorted(directory.rglob("*")):
        for record in _records(directory, path, packs, shelf):
            table.add(record)
            files += record.attributes.kind is EntryKind.FILE and not record.begin
            size += record.covered_bytes
    places, referred = table.finish(shelf.store)
    shelf.close()
    needed = {packs.ids[index] for index in referred} | {place.pack_id for place in places}
    manifest = Manifest(
        source=source,
        backup_id=backup_id,
        began=times[0],
        ended=times[1],
        tool="drtool 0",
        fencing=fencing,
        extent=extent,
        sizes=BackupSizes(
            files=files, read_bytes=size, new_bytes=size, stored_bytes=shelf.stored_bytes
        ),
        table=tuple(places),
        packs=tuple(sorted(needed)),
    )
    commit_backup(repository, manifest)
    return manifest


def _records(
    directory: Path, path: Path, packs: PackList, shelf: ChunkShelf
) -> Iterator[TableRecord]:
    found = path.lstat()
    kinds = {stat.S_IFDIR: EntryKind.DIRECTORY, stat.S_IFLNK: EntryKind.SYMLINK}
    attributes = Attributes(
        path=os.fsencode(path.relative_to(directory)),
        kind=kinds.get(stat.S_IFMT(found.st_mode), EntryKind.FILE),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        modified_ns=found.st_mtime_ns,
        size_bytes=found.st_size if path.is_file() else 0,
        link=os.fsencode(os.readlink(path)) if path.is_symlink() else b"",
    )
    if attributes.kind is not EntryKind.FILE or not attributes.size_bytes:
        yield TableRecord(attributes=attributes)
        return
    with path.open("rb") as file:
        for begin in range(0, attributes.size_bytes, RECORD_COVERS_BYTES):
            rows: list[tuple[int, int, int, int]] = []
            while len(rows) < RECORD_COVERS_BYTES // CHUNK_BYTES:
                plain = file.read(CHUNK_BYTES)
                if not plain:
                    break
                place = shelf.store(plain)
                rows.append((len(plain), packs.index_of(place.pack_id), place.number, 0))
            yield TableRecord(
                attributes=attributes, begin=begin, extents=np.array(rows, dtype=EXTENT)
            )


def a_tree(directory: Path, files: dict[str, bytes]) -> Path:
    """Write small files below `directory`, and what makes it look like a data directory."""
    for name, content in {"global/pg_control": b"control", "PG_VERSION": b"15\n", **files}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def wal_bytes(number: int, segment_bytes: int = MIB) -> bytes:
    """The bytes of an invented segment: different for each, and easily packed."""
    return (f"segment {number:08X} ".encode() * (segment_bytes // 17 + 1))[:segment_bytes]


def put_segments(
    repository: Repository,
    numbers: Iterable[int],
    *,
    source: str = "main",
    timeline: int = 1,
    segment_bytes: int = MIB,
) -> None:
    """Put whole invented segments of the cluster SYSTEM."""
    lineage = Lineage(source, SYSTEM, timeline)
    for number in numbers:
        name = WalSegment(timeline, number).name(segment_bytes)
        writer = SegmentWriter(repository, lineage, name)
        writer.write(wal_bytes(number, segment_bytes))
        writer.finish()


def put_tail(
    repository: Repository,
    number: int,
    cuts: Sequence[tuple[int, int]],
    *,
    source: str = "main",
    timeline: int = 1,
    segment_bytes: int = MIB,
) -> None:
    """Put parts of an invented segment."""
    lineage = Lineage(source, SYSTEM, timeline)
    name = WalSegment(timeline, number).name(segment_bytes)
    plain = wal_bytes(number, segment_bytes)
    for begin, end in cuts:
        put_part(repository, lineage, SegmentPart(name, begin, end), plain=plain[begin:end])
