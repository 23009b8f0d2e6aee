"""What lies in a store: sealed and unsealed objects, their names, and what authentic ones may hold.

Bytes inside of a seal come from somebody who holds the key; they are given to the readers as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from drtool.errors import DrtoolError
from drtool.model.finding import Finding, Severity
from drtool.model.strict_json import read_object
from drtool.model.wal import Lsn
from drtool.pipeline.pages import EXTENT, HOLE
from drtool.repository import layout, names, table
from drtool.repository.backups import (
    BackupSizes,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from drtool.repository.chunks import PACK_BUFFER_BYTES, PackBuilder, parse_footer
from drtool.repository.clusterlog import read_topology, topology_key
from drtool.repository.damage import known_damage
from drtool.repository.extents import Extent, FilesExtent, PostgresExtent, RedisExtent, RedisShard
from drtool.repository.keys import Slot
from drtool.repository.layout import EventName, Lineage, ReplicationHistory, StreamLateName
from drtool.repository.lease import Lease, read_lease
from drtool.repository.log_events import read_event
from drtool.repository.marks import read_mark
from drtool.repository.places import ChunkPlace
from drtool.repository.records import DigestPlace, decode_record, encode_record
from drtool.repository.repository import Repository, RepositoryRoot
from drtool.repository.sealing import Compressor, ObjectType, seal_whole, unseal_whole
from drtool.repository.stream_known import recorded_at
from drtool.repository.streamlate import read_late
from drtool.repository.streamlog import StreamIndex, StreamMoment, read_begin, read_link
from drtool.repository.table import Attributes, EntryKind, PackList, TableRecord
from drtool.repository.trees import attributes_of, compare_signs, entry_of
from drtool.sources.files.entries import TreeEntry, TreeKind
from drtool.wiring.check_record import _parse
from tests.fuzz.harness import LongRun, Reader, run_short
from tests.repository.building import NOW, ManualClock, new_repository

KEY = "backups/main/20240501T100000.000Z-abcdef"
ID = "a" * 40
PACKS = (b"p" * 16, b"q" * 16)


def _manifest(extent: Extent) -> bytes:
    finding = Finding(severity=Severity.WARNING, subject="base/1/2", fact="is damaged", fix="See.")
    return encode_manifest(
        Manifest(
            source="main", backup_id="20240501T100000.000Z-abcdef", began=NOW, ended=NOW,
            tool="drtool 0.1.0", fencing=3, extent=extent,
            sizes=BackupSizes(files=3, read_bytes=10, new_bytes=5, stored_bytes=4),
            table=(ChunkPlace(PACKS[0], 3), ChunkPlace(PACKS[1], 0)), packs=PACKS,
            findings=(finding,),
        )
    )  # fmt: skip


_EXTENTS: tuple[Extent, ...] = (
    PostgresExtent(
        system_id=7 << 60, server_version=150004, timeline=1, start_lsn=Lsn(1 << 25),
        stop_lsn=Lsn(1 << 26), segment_bytes=1 << 24, stopped_at=NOW, bootstrap_role="postgres",
        has_checksums=True, tablespaces=((16384, "/srv/space"),), settings=(("port", "5432"),),
        locales=("C",), relations=3, relation_bytes=8192,
    ),
    FilesExtent(
        root="/srv/\udcff", host="a", taken_from=NOW, taken_until=NOW, is_complete=True, device=3,
        file_system_id=1 << 63,
    ),
    RedisExtent(
        topology="standalone", server_version="7.4.0", databases=16,
        shards=(
            RedisShard(
                name="main", rdb="main.rdb", replication_id=ID, offset=10, taken_at=NOW,
                keys=((0, 5),), slots=((0, 16383),), replicas=1,
            ),
        ),
    ),
)  # fmt: skip


def _read_manifest(content: bytes) -> None:
    manifest = decode_manifest(content, key=KEY)
    encode_manifest(manifest)
    assert manifest.ended - manifest.began < timedelta(days=1 << 24)
    if isinstance(manifest.extent, PostgresExtent):
        assert str(manifest.extent.start_lsn)
        assert manifest.extent.stopped_at.astimezone(UTC) <= datetime.max.replace(tzinfo=UTC)
    if isinstance(manifest.extent, RedisExtent):
        assert manifest.extent.keys is None or manifest.extent.keys >= 0


class Planted:
    """A repository into which each case is sealed anew, and read as its name says."""

    def __init__(self) -> None:
        self.repository: Repository = new_repository()
        self.history = ReplicationHistory("main", ID)
        self.lineage = Lineage("main", 7, 1)

    def reader(
        self,
        name: str,
        key: str,
        read: Callable[[], object],
        *,
        kind: ObjectType,
        **document: object,
    ) -> Reader:
        def plant_and_read(content: bytes) -> None:
            self.repository.store.delete(key)
            sealed = seal_whole(self.repository.ring, kind, key, plain=[content])
            self.repository.store.create(key, sealed)
            read()

        sample = json.dumps(document).encode()
        return Reader(name=name, read=plant_and_read, samples=[sample])

    def readers(self) -> list[Reader]:
        repository, history, lineage = self.repository, self.history, self.lineage
        at = NOW.isoformat()
        shard = {
            "node_id": "n",
            "replication_id": ID,
            "slots": [[0, 1]],
            "importing": [3],
            "replicas": 1,
        }
        late = StreamLateName(5, 9)
        mark = lineage.mark_key(NOW, Lsn(5))
        return [
            self.reader(
                "mark", mark, lambda: read_mark(repository, mark), kind=ObjectType.MARK,
                moment=at, lsn=5, timeline=1,
            ),
            self.reader(
                "WAL event", lineage.event_key(Lsn(5), "minimal"),
                lambda: read_event(repository, lineage, EventName(Lsn(5), "minimal")),
                kind=ObjectType.LOG, wal_level="minimal",
            ),
            self.reader(
                "stream link", history.link_key(5),
                lambda: read_link(repository, "main", ID, offset=5), kind=ObjectType.LOG,
                previous="b" * 40, offset=5, at=at, shard="", node="n", writer=["redis", "7.4"],
                renamed=["x"],
            ),
            self.reader(
                "stream begin", history.begin_key(5),
                lambda: read_begin(repository, "main", ID, offset=5), kind=ObjectType.LOG,
                offset=5, reason="x", at=at, shard="", node="", previous=[ID, 5],
            ),
            self.reader(
                "late stretch", history.late_key(late),
                lambda: read_late(repository, history, late), kind=ObjectType.LOG,
                begin=5, end=9, since=at, until=at, reason="x",
            ),
            self.reader(
                "topology", topology_key("main", NOW),
                lambda: read_topology(repository, "main", NOW), kind=ObjectType.LOG,
                since=at, at=at, shards=[shard],
            ),
            self.reader(
                "known word", history.known_key("x"),
                lambda: recorded_at(repository, history, "x"), kind=ObjectType.MARK, at=at,
            ),
            self.reader(
                "damage", layout.evidence_key("damage", f"{'a' * 32}/000000"),
                lambda: known_damage(repository), kind=ObjectType.EVIDENCE,
                object="packs/aa/x", at=at, fact="x", is_damaged=True,
            ),
        ]  # fmt: skip

    def unsealed(self) -> list[Reader]:
        store = self.repository.store
        slot_key = layout.slot_key(self.repository.ring.repository_id, "")
        [slot] = [store.read(found.key) for found in store.list(slot_key.removesuffix(".json"))]
        lease = Lease(self.repository, "x", clock=ManualClock())
        told = store.read("leases/x")
        lease.release()

        def read_planted_lease(content: bytes) -> None:
            store.delete("leases/x")
            store.create("leases/x", [content])
            read_lease(self.repository, "x")

        return [
            Reader(name="lease", read=read_planted_lease, samples=[told]),
            Reader(
                name="root", read=RepositoryRoot.from_json, samples=[self.repository.root.to_json()]
            ),
            Reader(
                name="slot",
                read=lambda content: Slot.from_json(content, key="keys/x"),
                samples=[slot],
            ),
        ]

    def sealed(self) -> Reader:
        ring = self.repository.ring
        plain = [b"x" * 100, bytes(3 << 20)]
        samples = [
            b"".join(seal_whole(ring, ObjectType.LOG, "log/x", plain=[one])) for one in plain
        ]
        return Reader(
            name="sealed object",
            read=lambda content: unseal_whole(ring, ObjectType.LOG, "log/x", sealed=content),
            samples=samples,
        )

    def pack(self) -> Reader:
        builder = PackBuilder(self.repository.ring, Compressor(1), bytearray(PACK_BUFFER_BYTES))
        builder.begin(PACKS[0])
        for chunk in (b"a" * 1000, b"b" * 10):
            builder.add(chunk, builder.chunk_id(chunk))
        whole = b"".join(bytes(part) for part in builder.finish())
        ring = self.repository.ring
        return Reader(
            name="pack footer",
            read=lambda content: parse_footer(ring, PACKS[0], content),
            samples=[whole, whole[-150:]],
        )


def _table_chunk() -> bytes:
    packs = PackList()
    for pack in PACKS:
        packs.index_of(pack)
    pending = table._PendingChunk(packs)
    extents = np.array([(8192, 0, 3, 0), (8192, 1, 0, 8192), (8192, 0xFFFFFFFF, 0, 0)], EXTENT)
    for path, own in ((b"a/b", extents), (b"c", extents[:1]), (b"d", extents[:0])):
        entry = Attributes(
            path=path, kind=EntryKind.FILE, mode=0o600, uid=1, gid=1, modified_ns=5, size_bytes=24576,
        )  # fmt: skip
        digests = DigestPlace(1, 0, 0) if len(own) == 3 else None
        pending.add(encode_record(TableRecord(attributes=entry, extents=own, digests=digests)))
    pending.add(encode_record(TableRecord(attributes=attributes_of(_ENTRY))))
    return pending.take(set())


_ENTRY = TreeEntry(
    path=b"e", kind=TreeKind.FILE, mode=0o4755, uid=1, gid=2, owner="drtool", group="g",
    modified_ns=1 << 70, changed_ns=5, inode=7, device=3, links=1, size_bytes=0, is_sparse=True, link=b"",
    xattrs=((b"user.x", b"value"),),
)  # fmt: skip


def _read_table(content: bytes) -> None:
    plain, packs = memoryview(content), PackList()
    faults = []
    try:
        for _, _, record in table._records(plain, packs, name=KEY):
            for pack in record.extents["pack"]:
                assert pack == HOLE or packs.place(int(pack), 0).pack_id
            if record.attributes.extra:
                entry_of(record.attributes)
    except DrtoolError as error:
        faults.append(error)
    for _, _, place, length in table._spans(plain, name=KEY):
        encoded = content[place : place + length]
        compare_signs(_ENTRY, encoded)
        decode_record(encoded, 0, name=KEY)
    if faults:
        raise faults[0]


def _read_names(content: bytes) -> None:
    for name in content.decode("utf-8", "replace").split("\n"):
        layout.parse_log_name(name)
        layout.parse_history_name(name)
        layout.parse_mark_name(name)
        layout.parse_stream_name(name)
        layout.parse_reached_name(name)
        names.parse_system_id(name)
        names.parse_timeline(name)
        layout.parse_version_key(b"i" * 16, name)
        names.is_day(name)
        names.is_backup_id(name)


def _names() -> bytes:
    lineage, history = Lineage("main", 7, 1), ReplicationHistory("main", ID)
    names = [
        "000000010000000000000001", "000000010000000000000001.part-00000000-00000010",
        "0000000000000010-0000000000000020", "00000002.history", "0000000000000010-minimal",
        lineage.mark_key(NOW, Lsn(5)).removeprefix(lineage.marks),
        history.late_key(StreamLateName(5, 9)).removeprefix(history.prefix),
        history.link_key(5).removeprefix(history.prefix), "20240501",
        "20240501T100000.000Z-abcdef", layout.version_key(b"i" * 16, 3),
    ]  # fmt: skip
    return "\n".join(names).encode()


def _check_record() -> bytes:
    finding = {"part": "main", "look": "x", "severity": "warning", "subject": "s", "fact": "f"}
    return json.dumps(
        {"kind": "check-record", "at": NOW.isoformat(), "findings": [finding]}
    ).encode()


def _readers() -> list[Reader]:
    planted = Planted()
    moments = (StreamMoment(NOW, 5), StreamMoment(NOW, 9))
    return [
        Reader(name="manifest", read=_read_manifest, samples=[_manifest(one) for one in _EXTENTS]),
        *planted.readers(),
        *planted.unsealed(),
        planted.sealed(),
        planted.pack(),
        Reader(name="file table", read=_read_table, samples=[_table_chunk()]),
        Reader(
            name="stream index",
            read=StreamIndex.from_bytes,
            samples=[StreamIndex(2, 9, moments).to_bytes()],
            expected=(ValueError,),
        ),
        Reader(name="names", read=_read_names, samples=[_names()]),
        Reader(
            name="check record",
            read=lambda content: _parse(read_object(content)),
            samples=[_check_record()],
            expected=(ValueError,),
        ),
    ]


READERS = _readers()


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_what_lies_in_a_store_is_read_or_refused(reader: Reader) -> None:
    run_short(reader)


@pytest.mark.fuzz
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_long_what_lies_in_a_store_is_read_or_refused(reader: Reader, long_run: LongRun) -> None:
    long_run(reader)
