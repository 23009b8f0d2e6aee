"""A commit under a clock that had jumped ahead does not end a replay, nor pass for what came after it."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from datetime import UTC, datetime

import anycrc
import pytest

from drtool.model.wal import Lsn, WalSegment
from drtool.repository.backups import read_manifests
from drtool.repository.keys import NO_SECRET
from drtool.repository.layout import Lineage, SegmentPart
from drtool.repository.log import SegmentWriter, list_parts, put_part, read_log_object
from drtool.repository.repository import Repository, open_repository
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from tests.acceptance.site import SOURCE, Site
from tests.restore.rig import rows, started
from tests.servers.postgres import PostgresServer, new_server, server_directory

pytestmark = pytest.mark.postgres
SEGMENT = 1 << 20
FAR = int((datetime(2043, 5, 1, tzinfo=UTC) - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds())


@pytest.fixture(scope="module")
def jumped() -> Iterator[tuple[Site, datetime]]:
    """Four rows; the second was committed in 2043, and the moment lies between the last two."""
    server = new_server(15, segment_mb=1)
    site = Site(root=server_directory(), environ={"MAIN_DB_DSN": server.dsn()})
    try:
        server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
        site.write_policy()
        site.run("repository", "init")
        with site.receiving():
            site.run("backup", SOURCE)
            server.query("INSERT INTO ledger VALUES (1)")
            site.mark_after(datetime.now(UTC))
            position = commit_of(server, 2)
            site.mark_after(datetime.now(UTC))
            server.query("INSERT INTO ledger VALUES (3)")
            moment = datetime.now(UTC)
            site.mark_after(moment)
            server.query("INSERT INTO ledger VALUES (4)")
            site.mark_after(datetime.now(UTC))
        server.kill9()
        misdate(site, position)
        yield site, moment
    finally:
        server.close()
        shutil.rmtree(site.root, ignore_errors=True)


def commit_of(server: PostgresServer, number: int) -> tuple[Lsn, Lsn]:
    """Insert a row; the WAL that holds its commit."""
    begin = server.query("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    server.query(f"INSERT INTO ledger VALUES ({number})")
    end = server.query("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    return Lsn.parse(begin), Lsn.parse(end)


def misdate(site: Site, position: tuple[Lsn, Lsn]) -> None:
    """Write another time into the commit record, in whatever object of the log holds it."""
    repository = open_repository(LocalStore(site.repository, clock=SystemClock()), NO_SECRET)
    extent = read_manifests(repository, SOURCE)[0][-1].postgres
    lineage = Lineage(SOURCE, extent.system_id, 1)
    segment = WalSegment.holding(1, position[0], SEGMENT)
    name, base = segment.name(SEGMENT), segment.begin(SEGMENT)
    changed = 0
    if repository.store.stat(lineage.segment_key(name)) is not None:
        plain = bytearray(read_log_object(repository, lineage.segment_key(name)))
        changed += changed_commit(plain, position[0] - base, position[1] - base)
        repository.store.delete(lineage.segment_key(name))
        writer = SegmentWriter(repository, lineage, name)
        writer.write(plain)
        writer.finish()
    for part in list_parts(repository, lineage, name):
        changed += change_part(repository, lineage, part, position=position, base=base)
    assert changed, "the commit lies in one object at least"


def change_part(
    repository: Repository,
    lineage: Lineage,
    part: SegmentPart,
    *,
    position: tuple[Lsn, Lsn],
    base: Lsn,
) -> int:
    key = lineage.part_key(part.segment, part.begin, part.end)
    plain = bytearray(read_log_object(repository, key))
    begin = position[0] - base - part.begin
    end = position[1] - base - part.begin
    changed = changed_commit(plain, max(0, begin), end) if end > 0 else 0
    if changed:
        repository.store.delete(key)
        put_part(repository, lineage, part, plain=plain)
    return changed


def changed_commit(plain: bytearray, begin: int, end: int) -> int:
    """Give every commit record between two places the time FAR, and its CRC; how many there were."""
    crc = anycrc.Model("CRC32-ISCSI")
    count = 0
    for at in range(-(-begin // 8) * 8, min(end, len(plain) - 32), 8):
        length, _, _, info, manager = struct.unpack_from("<IIQBB", plain, at)
        if manager != 1 or info & 0x70 or not 34 <= length <= 500 or at + length > end:
            continue
        body = plain[at + 24 : at + length]
        if (
            crc.calc(bytes(plain[at : at + 20]), crc.calc(bytes(body)))
            != struct.unpack_from("<I", plain, at + 20)[0]
        ):
            continue
        struct.pack_into("<q", plain, at + 26, FAR * 1_000_000)
        body = plain[at + 24 : at + length]
        value = crc.calc(bytes(plain[at : at + 20]), crc.calc(bytes(body)))
        struct.pack_into("<I", plain, at + 20, value)
        count += 1
    return count


def test_a_restore_to_a_later_moment_holds_what_was_committed_before_it(
    jumped: tuple[Site, datetime],
) -> None:
    """The trial: the replay ended at the commit of 2043, "0.00 s MET, everything acknowledged is there"."""
    site, moment = jumped
    place = site.root / "copy"

    report = site.run("restore", "--to", moment.isoformat(), "--into", str(place), "--json")

    outcome = report.answer["outcomes"][0]
    [rpo] = [one for one in outcome["judgements"] if one["objective"] == "rpo"]
    assert rpo["verdict"] == "MET"
    assert any("2043-05-01" in one["fact"] for one in outcome["findings"])
    with started(15, place) as copy:
        assert rows(copy) == [1, 2, 3]
