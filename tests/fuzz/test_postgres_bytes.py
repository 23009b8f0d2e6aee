"""What a PostgreSQL server sends, or whoever is on the way to it: streams, archives, WAL, files."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import anycrc
import pytest

from drtool.errors import IntegrityError
from drtool.model.wal import Lsn, TimelineHistory
from drtool.repository.records import Attributes, EntryKind, TableRecord, encode_record
from drtool.sources.postgres.basebackup import BackupEnded, BackupLimits, BaseBackup
from drtool.sources.postgres.config_file import entries_of, out_of_force
from drtool.sources.postgres.connection import ReplicationConnection, connect_replication
from drtool.sources.postgres.facts import replication_facts
from drtool.sources.postgres.log import parse_line
from drtool.sources.postgres.manifest import parse_manifest
from drtool.sources.postgres.refusals import Failure, command_failed, refused
from drtool.sources.postgres.tablespace_records import turn_inwards
from drtool.sources.postgres.tar import MemberBegan, TarReader
from drtool.sources.postgres.wal import parse_segment_header
from drtool.sources.postgres.walevents import (
    TABLESPACE_CREATE,
    TRANSACTION_ENDS,
    TablespaceCreated,
    read_event,
)
from drtool.sources.postgres.walheader import continued_bytes, read_wal_header
from drtool.sources.postgres.walrecords import WalRecord, WalRecordScanner
from drtool.sources.postgres.walstream import TimelineEnded, fetch_history, open_wal_stream
from tests.fuzz.harness import MOST_MESSAGE, LongRun, Reader, run_short
from tests.servers.postgres_answers import READY, AnsweringServer, answering, message, rows

MIB = 1 << 20


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in ((b"base/1/2", b"x" * 600), (b"PG_VERSION", b"15\n"), (b"empty", b"")):
            member = tarfile.TarInfo(name.decode())
            member.size, member.mode, member.uid = len(content), 0o600, 101
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("pg_tblspc/16384")
        link.type, link.linkname = tarfile.SYMTYPE, "/srv/space"
        tar.addfile(link)
    return buffer.getvalue()


def _header_with(place: int, field: bytes) -> bytes:
    """An archive whose first header has other bytes at `place`, and the right checksum for them."""
    content = bytearray(_tar())
    content[place : place + len(field)] = field
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


def _read_tar(content: bytes) -> None:
    reader = TarReader("base.tar")
    for begin in range(0, len(content), 700):
        for item in reader.feed(memoryview(content)[begin : begin + 700]):
            if isinstance(item, MemberBegan):
                entry = Attributes(
                    path=item.path, kind=EntryKind.FILE, mode=item.mode, uid=item.uid, gid=item.gid,
                    modified_ns=item.modified_seconds * 10**9, size_bytes=item.size_bytes,
                    link=item.link,
                )  # fmt: skip
                encode_record(TableRecord(attributes=entry))
    reader.finish()


def _manifest(**changes: object) -> bytes:
    document = {
        "PostgreSQL-Backup-Manifest-Version": 2, "System-Identifier": 7_000_000_000_000_000_000,
        "Files": [{"Path": "base/1/2", "Size": 600}, {"Encoded-Path": "ff00", "Size": 1}],
        "WAL-Ranges": [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100"}], **changes,
    }  # fmt: skip
    return json.dumps(document).encode()


def _summed(content: bytes) -> bytes:
    text = content.rstrip()[:-1] + b",\n"
    return text + b'"Manifest-Checksum": "' + hashlib.sha256(text).hexdigest().encode() + b'"}\n'


def _record(manager: int, info: int, data: bytes) -> bytes:
    body = bytes([255, len(data)]) + data
    head = struct.pack("<IIQBBxx", 24 + len(body), 700, 0x2000028, info, manager)
    crc = anycrc.Model("CRC32-ISCSI").calc(body + head)
    record = head + struct.pack("<I", crc) + body
    return record + bytes(-len(record) % 8)


def _wal() -> bytes:
    head = struct.pack("<HHIQI4xQII", 0xD110, 2, 1, 0x3000000, 0, 7 << 60, 16 * MIB, 8192)
    commit = _record(1, 0, struct.pack("<q", 800_000_000_000_000))
    space = _record(5, 0, struct.pack("<I", 16384) + b"/srv/space\0")
    return (head + commit + space + commit).ljust(2 * 8192, b"\0")


def _read_wal(content: bytes) -> None:
    scanner = WalRecordScanner([*TRANSACTION_ENDS, TABLESPACE_CREATE], segment_bytes=16 * MIB)
    at = Lsn(0x3000000)
    for begin in range(0, len(content), 5000):
        for record in scanner.feed(at, content[begin : begin + 5000]):
            _read_record(record)
        at = Lsn(at + len(content[begin : begin + 5000]))
    for major in (15, 18):
        for manager, info in ((1, 0x80), (1, 0x30), (5, 0), (0, 0x60), (0, 0x70), (2, 0x20)):
            _read_record(
                WalRecord(
                    begin=Lsn(8), end=Lsn(9), xid=1, manager=manager, info=info, crc=0, body=content
                ),
                major=major,
            )
    for read in (read_wal_header, lambda text: parse_segment_header(text, name="x")):
        try:
            read(content)
        except (ValueError, IntegrityError):
            continue
    continued_bytes(content)


def _read_record(record: WalRecord, *, major: int = 15) -> None:
    event = read_event(record, major=major)
    if isinstance(event, TablespaceCreated):
        turn_inwards(record, segment_bytes=16 * MIB, major=major)


def _read_texts(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    out_of_force(text, {entry.line for entry in entries_of(text)})
    for line in text.splitlines()[:50]:
        parse_line(line)


_HISTORY = b"1\t0/3000000\tno recovery target specified\n2\t0/5000000\tbefore 2026-01-01\n"
_TEXTS = (
    b"archive_mode = on # x\ninclude 'a''b\\n.conf'\nport=5432\nshared_preload_libraries = 'x, y'\n"
    b"2026-11-29 10:00:00.123 UTC [12] LOG:  recovery stopping after commit of transaction 733, time"
    b" 2026-11-29 10:00:00.123456+00\nLOG:  redo starts at 0/2000028\n"
    b"LOG:  selected new timeline ID: 2\nLOG:  database system is ready to accept connections\n"
)

_MESSAGE = (
    b'connection to server at "db", port 5432 failed: FATAL:  no pg_hba.conf entry for replication'
    b' connection from host "10.0.0.1", user "x", no encryption\n'
)


def _read_messages(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    for error in (
        refused("server x", text),
        command_failed("server x", Failure(sqlstate="58P01", message=text, detail=text)),
        command_failed("server x", Failure(sqlstate="42704", message=text)),
    ):
        assert len(error.message) < MOST_MESSAGE


_SPACE = b"\xff\x0f" + struct.pack("<I", 16384) + b"/srv/space\0"

READERS = [
    Reader(
        name="tar",
        read=_read_tar,
        samples=[
            _tar(),
            _header_with(136, b"\x80\0\0\0" + b"\xff" * 8),
            _header_with(108, b"\x80\0\0\0\xff\xff\xff\xff"),
        ],
    ),
    Reader(
        name="backup manifest",
        read=lambda content: parse_manifest(_summed(content)),
        samples=[_manifest(), _manifest(Files=[])],
    ),
    Reader(
        name="WAL",
        read=_read_wal,
        samples=[_wal(), _wal()[40:200], b"\xff\x0f" + struct.pack("<I", 16384) + b"/srv/space\0"],
    ),
    Reader(
        name="history",
        read=lambda content: TimelineHistory.parse(3, content.decode("utf-8", "replace")),
        samples=[_HISTORY],
        expected=(ValueError,),
    ),
    Reader(
        name="messages", read=_read_messages, samples=[_MESSAGE, b'"x' * 50_000, b"a \n" * 50_000]
    ),
    Reader(name="configuration and log", read=_read_texts, samples=[_TEXTS]),
]


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_bytes_of_a_server_are_read_or_refused(reader: Reader) -> None:
    run_short(reader)


@pytest.mark.fuzz
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_long_bytes_of_a_server_are_read_or_refused(reader: Reader, long_run: LongRun) -> None:
    long_run(reader)


def _copied(kind: bytes, *bodies: bytes) -> bytes:
    """A COPY of such messages, to its end."""
    began = message(kind, struct.pack(">bh", 0, 0))
    return began + b"".join(message(b"d", body) for body in bodies) + message(b"c", b"")


# IDENTIFY_SYSTEM, and then what SHOW is asked for.
_SHOWN = (b"16MB", b"8192", b"replica", b"on", b"off", b"100", b"8", b"10", b"0", b"64", b"")
_IDENTITY = READY.join(
    [
        rows(4, (b"7000000000000000000", b"1", b"0/3000000", None)),
        *(rows(1, (value,)) for value in _SHOWN),
        b"",
    ]
)
_DONE = message(b"C", b"SELECT\0") + READY
_BACKUP = (
    rows(2, (b"0/2000028", b"1")) + rows(3, (b"16384", b"/srv/space", b"8"), (None, None, b"24"))
    + _copied(
        b"H", b"nbase.tar\0\0", b"d" + _tar()[:1000], b"d", b"p" + struct.pack(">q", 1000),
        b"d" + _tar()[1000:], b"m", b"d" + _summed(_manifest()),
    )
    + rows(2, (b"0/2000100", b"1")) + _DONE
)  # fmt: skip
_END_OF_TIMELINE = rows(2, (b"2", b"0/3000200")) + message(b"C", b"START_STREAMING\0") + READY
_STREAM = (
    _copied(
        b"W", b"w" + struct.pack(">qqq", 0x3000000, 0x3000100, 0) + b"x" * 256,
        b"k" + struct.pack(">qq?", 0x3000100, 1, True), b"w" + struct.pack(">qqq", 0x3000100, 0, 0),
    )
    + _END_OF_TIMELINE
)  # fmt: skip
_TIMELINE = rows(2, (b"00000003.history", _HISTORY)) + READY


class _Sent:
    """Reads what a server sends, by libpq: each case is a session of its own."""

    def __init__(self, server: AnsweringServer) -> None:
        self._server = server

    def backup(self, content: bytes) -> None:
        with self._session(content) as connection:
            backup = BaseBackup(
                connection, label="x", limits=BackupLimits(start_seconds=0.5, silence_seconds=0.5)
            )
            assert any(isinstance(item, BackupEnded) for item in backup)

    def stream(self, content: bytes) -> None:
        with self._session(content) as connection:
            stream = open_wal_stream(connection, start=Lsn(0x3000000), timeline=1)
            for _ in range(1000):
                if isinstance(stream.receive(0.5), TimelineEnded):
                    return

    def history(self, content: bytes) -> None:
        with self._session(content) as connection:
            fetch_history(connection, 3)

    def identity(self, content: bytes) -> None:
        with self._session(content) as connection:
            replication_facts(connection)

    def _session(self, content: bytes) -> ReplicationConnection:
        self._server.answer = content
        return connect_replication(self._server.dsn, purpose="wal", timeout_seconds=5)


@pytest.fixture(scope="module")
def sessions() -> Iterator[dict[str, Reader]]:
    with TemporaryDirectory() as directory, answering(Path(directory)) as server:
        sent = _Sent(server)
        readers = [
            Reader(name="BASE_BACKUP", read=sent.backup, samples=[_BACKUP]),
            Reader(name="START_REPLICATION", read=sent.stream, samples=[_STREAM, _END_OF_TIMELINE]),
            Reader(name="TIMELINE_HISTORY", read=sent.history, samples=[_TIMELINE]),
            Reader(name="IDENTIFY_SYSTEM", read=sent.identity, samples=[_IDENTITY]),
        ]
        yield {reader.name: reader for reader in readers}


NAMES = ["BASE_BACKUP", "START_REPLICATION", "TIMELINE_HISTORY", "IDENTIFY_SYSTEM"]


@pytest.mark.parametrize("name", NAMES)
def test_answers_of_a_server_are_understood_or_refused(
    sessions: dict[str, Reader], name: str
) -> None:
    run_short(sessions[name])


@pytest.mark.fuzz
@pytest.mark.parametrize("name", NAMES)
def test_long_answers_of_a_server_are_understood_or_refused(
    sessions: dict[str, Reader], name: str, long_run: LongRun
) -> None:
    long_run(sessions[name])
