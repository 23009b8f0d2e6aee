"""What is missing of the stream of a Redis is told by every screen, and ends none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.errors import ExitCode
from drtool.repository.damage import known_damage
from drtool.repository.layout import ReplicationHistory
from drtool.verify.depth import Whole
from tests.repository.building import tamper
from tests.wiring.redis_state_rig import (
    SOURCE,
    A,
    B,
    C,
    RedisPast,
    a_redis_past,
    over_two_failovers,
    problems,
)

PIECES = ((A, 200, 260), (A, 260, 340), (B, 300, 400), (B, 400, 500))


@pytest.fixture
def past(tmp_path: Path) -> Iterator[RedisPast]:
    """The past of two failovers, where a receiver holds its lease."""
    past = over_two_failovers(tmp_path)
    with past.receiver():
        yield past


def test_a_past_of_two_failovers_is_well(past: RedisPast) -> None:
    row, code = past.status()

    assert problems(row.findings) == problems(past.checked()) == []
    assert problems(past.verify().findings) == []
    assert code == ExitCode.DONE


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: f"{piece[0][0]}-{piece[1]}")
def test_a_piece_that_is_gone_is_told_by_status_and_check(
    past: RedisPast, piece: tuple[str, int, int]
) -> None:
    name, begin, end = piece
    past.repository.store.delete(ReplicationHistory(SOURCE, name).segment_key(begin, end))

    row, code = past.status()

    assert code == ExitCode.INTEGRITY
    [told] = [one for one in problems(row.findings) if "goes on as" in one]
    assert "is missing, or was found damaged, and no snapshot was taken behind it" in told
    assert told in problems(past.checked())


def test_a_piece_that_verification_found_damaged_is_told_by_status_and_check(
    past: RedisPast,
) -> None:
    key = ReplicationHistory(SOURCE, B).segment_key(300, 400)
    sealed = past.repository.store.read(key)
    tamper(past.repository.store, key, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    past.verify(Whole())
    assert key in known_damage(past.repository)

    row, code = past.status()

    assert code == ExitCode.INTEGRITY
    assert any("goes on as" in one for one in problems(row.findings))
    assert any("goes on as" in one for one in problems(past.checked()))


def test_a_snapshot_of_what_a_failover_lost_is_told_as_that(tmp_path: Path) -> None:
    """No gap was recorded, and no object is missing."""
    past = a_redis_past(tmp_path)
    past.begin(A, 100, seconds=1)
    past.held(A, 100, 340, seconds=300)
    past.snapshot(A, 320, seconds=310)
    past.link(B, A, 300, seconds=345)
    past.held(B, 300, 400, seconds=400)
    with past.receiver():
        row, code = past.status()

    assert code == ExitCode.NOT_RECOVERABLE
    assert any("of a history that a failover" in one for one in problems(row.findings))


def test_a_recorded_gap_is_told_as_that(tmp_path: Path) -> None:
    past = a_redis_past(tmp_path)
    past.begin(A, 100, seconds=1)
    past.snapshot(A, 100, seconds=2)
    past.held(A, 100, 340, seconds=300)
    past.begin(C, 900, seconds=400, previous=(A, 340))
    past.held(C, 900, 950, seconds=500)
    with past.receiver():
        row, code = past.status()

    assert code == ExitCode.NOT_RECOVERABLE
    assert any("it has a gap, recorded at" in one for one in problems(row.findings))
