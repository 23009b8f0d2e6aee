"""The scanner finds the records that pg_waldump finds, in real WAL, however it is cut."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.model.wal import Lsn, segments_between
from drtool.sources.postgres.walevents import (
    CUSTOM_MANAGERS,
    PARAMETER_CHANGE,
    RESTORE_POINT,
    TABLESPACE_CREATE,
    TRANSACTION_ENDS,
    TRUNCATION,
    ParameterChange,
    RestorePoint,
    TablespaceCreated,
    TransactionEnd,
    Truncation,
    WalEvent,
    WalLevel,
    read_event,
)
from drtool.sources.postgres.walrecords import RecordKind, WalRecord, WalRecordScanner
from tests.servers.postgres import PostgresServer, new_server, server_directory

pytestmark = pytest.mark.postgres

MIB = 1 << 20
_LINE = re.compile(
    r"rmgr: (\S+) +len \(rec/tot\): +\d+/ *(\d+), tx: +(\d+), lsn: ([0-9A-F]+/[0-9A-F]+),"
    r" prev \S+, desc: (.*)"
)
# Those of rmgrlist.h that the mix below writes; each is searched for as a whole.
_MANAGERS = {"XLOG": 0, "Transaction": 1, "Storage": 2, "Tablespace": 5, "Heap2": 9, "Heap": 10}
_EVENTS = (
    PARAMETER_CHANGE, RESTORE_POINT, TABLESPACE_CREATE, *TRANSACTION_ENDS, TRUNCATION, *CUSTOM_MANAGERS,
)  # fmt: skip


class Wal:
    """What a server has written from `begin` on, and what pg_waldump says of it."""

    def __init__(self, server: PostgresServer, begin: Lsn, *, segment_bytes: int) -> None:
        self.major = server.major
        self.segment_bytes = segment_bytes
        end = Lsn.parse(server.query("SELECT pg_current_wal_insert_lsn()")[0][0])
        server.query("SELECT pg_switch_wal()")
        self.begin = Lsn(begin - begin % segment_bytes)
        segments = list(segments_between(1, self.begin, end, segment_bytes=segment_bytes))
        files = [server.data / "pg_wal" / one.name(segment_bytes) for one in segments]
        self.content = b"".join(file.read_bytes() for file in files)
        dumped = server.run(
            "pg_waldump", "-p", str(files[0].parent), "-s", str(begin), "-e", str(end),
            files[0].name, files[-1].name,
        )  # fmt: skip
        self.first, self.end = begin, end
        self.dumped = [match.groups() for match in map(_LINE.match, dumped.splitlines()) if match]

    def pieces(self, sizes: Iterator[int]) -> Iterator[tuple[Lsn, bytes]]:
        """All of it, in pieces of `sizes`."""
        at = 0
        while at < len(self.content):
            size = next(sizes)
            yield Lsn(self.begin + at), self.content[at : at + size]
            at += size


def write_mix(server: PostgresServer, spaces: list[Path], seed: int) -> Lsn:
    """Records of many kinds and lengths; the position that they begin at."""
    luck = random.Random(seed)
    begin = Lsn.parse(server.query("SELECT pg_current_wal_insert_lsn()")[0][0])
    with server.connect() as session:
        session.execute("CREATE TABLE big (n int, filling bytea)")
        session.execute("ALTER TABLE big ALTER filling SET STORAGE external")
        for number, space in enumerate(spaces):
            session.execute(f"CREATE TABLESPACE space_{number} LOCATION '{space}'".encode())
        for turn in range(12):
            session.execute(f"SELECT pg_create_restore_point('point {turn} ż')".encode())
            session.execute(
                "INSERT INTO big SELECT n, decode(repeat(md5(n::text), %s), 'hex')"
                " FROM generate_series(1, %s) n",
                (luck.randrange(1, 200), luck.randrange(1, 300)),
            )
            with session.transaction():
                for _ in range(luck.randrange(40)):
                    with session.transaction():
                        session.execute("INSERT INTO big VALUES (0, '')")
            # WAL inside a table must not be taken for WAL: its records lie as they lie in a segment.
            session.execute(
                "INSERT INTO big SELECT 1, pg_read_binary_file('pg_wal/' ||"
                " pg_walfile_name(pg_current_wal_lsn()), 0, 65536)"
            )
            session.execute(f"CREATE TABLE gone_{turn} (n int) WITH (fillfactor = 50)".encode())
            session.execute("BEGIN")
            session.execute(f"INSERT INTO gone_{turn} VALUES (1)".encode())
            session.execute(f"PREPARE TRANSACTION 'of turn {turn}'".encode())
            how = "ROLLBACK" if turn % 3 == 0 else "COMMIT"
            session.execute(f"{how} PREPARED 'of turn {turn}'".encode())
            session.execute(f"DROP TABLE gone_{turn}".encode())
            if turn % 4 == 0:
                session.execute("SELECT pg_switch_wal()")
                session.execute("CHECKPOINT")
        session.execute("CREATE TABLE shrunk AS SELECT n FROM generate_series(1, 5000) n")
        session.execute("DELETE FROM shrunk WHERE n > 500")
        session.execute("VACUUM shrunk")
    return begin


@pytest.fixture(scope="module", params=[(15, 1), (16, 16), (18, 1)], ids=["15", "16", "18"])
def wal(request: pytest.FixtureRequest) -> Iterator[Wal]:
    major, segment_mb = request.param
    spaces = [server_directory() for _ in range(2)]
    server = new_server(
        major,
        segment_mb=segment_mb,
        settings={"max_prepared_transactions": "5", "wal_keep_size": "1GB"},
    )
    try:
        begin = write_mix(server, spaces, seed=major)
        server.restart(max_connections="57", max_prepared_transactions="7", wal_level="logical")
        yield Wal(server, begin, segment_bytes=segment_mb * MIB)
    finally:
        server.close()
        for space in spaces:
            shutil.rmtree(space, ignore_errors=True)


def scan(wal: Wal, kinds: list[RecordKind], sizes: Iterator[int]) -> list[WalRecord]:
    scanner = WalRecordScanner(kinds, segment_bytes=wal.segment_bytes)
    found = []
    for begin, content in wal.pieces(sizes):
        found += scanner.feed(begin, content)
    return [record for record in found if wal.first <= record.begin < wal.end]


def dumped(wal: Wal, managers: dict[str, int]) -> list[tuple[int, int, int, str]]:
    """Manager, length, xid and position of each record that pg_waldump prints."""
    return [
        (managers[manager], int(length), int(xid), str(Lsn.parse(lsn)))
        for manager, length, xid, lsn, _ in wal.dumped
        if manager in managers
    ]


def told(records: list[WalRecord]) -> list[tuple[int, int, int, str]]:
    return [(r.manager, len(r.body) + 24, r.xid, str(r.begin)) for r in records]


def sizes_of(wal: Wal, how: str) -> Iterator[int]:
    luck = random.Random(how)
    while True:
        match how:
            case "segments":
                yield wal.segment_bytes
            case "small":
                yield luck.randrange(1, 40_000)
            case _:
                yield luck.choice([8192, 1, 7, 131_072, 5_000_000])


@pytest.mark.parametrize("how", ["segments", "small", "mixed"])
def test_every_record_that_pg_waldump_prints_is_found_and_no_other(wal: Wal, how: str) -> None:
    kinds = [RecordKind(manager=number) for number in _MANAGERS.values()]

    found = scan(wal, kinds, sizes_of(wal, how))

    expected = dumped(wal, _MANAGERS)
    assert len(expected) > 2_000
    assert max(length for _, length, _, _ in expected) > 8192
    assert told(found) == expected


def test_custom_managers_are_not_seen_where_there_are_none(wal: Wal) -> None:
    assert scan(wal, list(CUSTOM_MANAGERS), sizes_of(wal, "segments")) == []


def events_of(wal: Wal) -> list[WalEvent]:
    records = scan(wal, list(_EVENTS), sizes_of(wal, "segments"))
    events = [read_event(record, major=wal.major) for record in records]
    return [event for event in events if event is not None]


def described(wal: Wal, manager: str, operation: str) -> list[tuple[str, str, str]]:
    """Position, xid and text of the records whose description begins with `operation`."""
    return [
        (str(Lsn.parse(lsn)), xid, text.removeprefix(operation).strip())
        for name, _, xid, lsn, text in wal.dumped
        if name == manager and re.match(rf"{operation}\b(?! ?_)", text)
    ]


def test_restore_points_and_tablespaces_are_read_as_pg_waldump_reads_them(wal: Wal) -> None:
    points = [e for e in events_of(wal) if isinstance(e, RestorePoint)]
    spaces = [e for e in events_of(wal) if isinstance(e, TablespaceCreated)]

    assert [(str(p.begin), p.name) for p in points] == [
        (lsn, text) for lsn, _, text in described(wal, "XLOG", "RESTORE_POINT")
    ]
    assert [(str(s.begin), f'{s.oid} "{s.location}"') for s in spaces] == [
        (lsn, text) for lsn, _, text in described(wal, "Tablespace", "CREATE")
    ]
    assert (len(points), len(spaces)) == (12, 2)


def test_truncations_are_read_as_pg_waldump_reads_them(wal: Wal) -> None:
    cuts = [e for e in events_of(wal) if isinstance(e, Truncation)]

    assert cuts
    assert [(str(c.begin), f"base/{c.database}/{c.number} to {c.block} blocks") for c in cuts] == [
        (lsn, text.partition(" flags")[0]) for lsn, _, text in described(wal, "Storage", "TRUNCATE")
    ]


def test_a_parameter_change_is_read_as_the_server_was_started(wal: Wal) -> None:
    [change] = [e for e in events_of(wal) if isinstance(e, ParameterChange)]

    assert change.max_connections == 57
    assert change.max_prepared_transactions == 7
    assert change.max_locks_per_transaction == 64
    assert change.wal_level is WalLevel.LOGICAL
    assert not change.track_commit_timestamp


def test_ends_of_transactions_have_the_xid_that_replay_stops_at(wal: Wal) -> None:
    ends = [e for e in events_of(wal) if isinstance(e, TransactionEnd)]

    expected = []
    for name, _, xid, lsn, text in wal.dumped:
        match = re.match(r"(COMMIT|ABORT)(_PREPARED)? (?:(\d+): )?(\d{4}-\S+ \S+) ", text + " ")
        if name == "Transaction" and match:
            number = int(match[3]) if match[2] else int(xid)
            expected.append((str(Lsn.parse(lsn)), number, match[1] == "COMMIT", match[4]))
    seen = [(str(e.begin), e.xid, e.is_commit, e.moment.isoformat(" ")[:26]) for e in ends]
    assert [one[:3] for one in seen] == [one[:3] for one in expected]
    assert [one[3] for one in seen] == [one[3] for one in expected]
    assert sum(1 for name, *_, text in wal.dumped if "PREPARED " in text) >= 12


def test_what_is_fed_may_be_anything() -> None:
    luck = random.Random(4)
    scanner = WalRecordScanner(_EVENTS, segment_bytes=MIB)
    at = Lsn(MIB)
    for turn in range(200):
        content = luck.randbytes(luck.randrange(20_000)) if turn % 2 else bytes(20_000)
        assert scanner.feed(at, content) == []
        at = Lsn(at + len(content) + luck.choice([0, 0, 8]))


def test_a_record_that_was_damaged_is_not_told(wal: Wal) -> None:
    """One flipped bit in its body, and the CRC of the whole record does not fit any more."""
    [*_, last] = scan(wal, [RESTORE_POINT], sizes_of(wal, "segments"))
    content = bytearray(wal.content)
    content[last.end - wal.begin - 20] ^= 1
    scanner = WalRecordScanner([RESTORE_POINT], segment_bytes=wal.segment_bytes)

    found = scanner.feed(wal.begin, content)

    assert last.begin not in [record.begin for record in found]
