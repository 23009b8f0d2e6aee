"""The header of a segment betrays a segment of another cluster, size or place."""

from __future__ import annotations

import pytest

from drtool.errors import IntegrityError
from drtool.model.wal import Lsn, WalSegment
from drtool.sources.postgres.facts import read_facts
from drtool.sources.postgres.wal import check_segment_header, parse_segment_header
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.postgres

MIB = 1 << 20


def test_a_segment_of_another_cluster_or_place_is_refused(
    postgres15: PostgresServer, postgres18: PostgresServer
) -> None:
    """PITFALLS 2: a clone's segments are refused by their header before anything is stored."""
    facts = read_facts(postgres15.dsn())
    stranger = read_facts(postgres18.dsn())
    segment = WalSegment.holding(1, facts.flushed, 16 * MIB)
    data = (postgres15.data / "pg_wal" / segment.name(16 * MIB)).read_bytes()[:8192]

    header = check_segment_header(
        data, segment=segment, segment_bytes=16 * MIB, system_id=facts.system_id
    )

    assert (header.major, header.timeline, header.page_bytes) == (15, 1, 8192)
    with pytest.raises(IntegrityError, match=f"another cluster.*{facts.system_id}"):
        check_segment_header(
            data, segment=segment, segment_bytes=16 * MIB, system_id=stranger.system_id
        )
    with pytest.raises(IntegrityError, match="holds the WAL from"):
        check_segment_header(
            data,
            segment=WalSegment(1, segment.number + 1),
            segment_bytes=16 * MIB,
            system_id=facts.system_id,
        )
    with pytest.raises(IntegrityError, match="not 1048576"):
        check_segment_header(
            data,
            segment=WalSegment.holding(1, Lsn(header.begin), MIB),
            segment_bytes=MIB,
            system_id=facts.system_id,
        )


@pytest.mark.parametrize("data", [b"", b"\0" * 39, bytes(8192), b"\x10\xd1" + bytes(100)])
def test_what_is_no_segment_is_refused(data: bytes) -> None:
    """PITFALLS 6, 12: empty, short and zeroed files are never taken for WAL."""
    with pytest.raises(IntegrityError, match="000000010000000000000001"):
        parse_segment_header(data, name="000000010000000000000001")
