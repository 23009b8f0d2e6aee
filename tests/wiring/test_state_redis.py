"""What is missing of the stream of a Redis is told by every screen, and ends none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.cli.verdicts import code_of
from drtool.errors import ExitCode, NotRecoverable
from drtool.model.target import ToLatest
from drtool.repository.damage import known_damage
from drtool.repository.layout import ReplicationHistory
from drtool.verify.depth import Whole
from tests.repository.building import tamper
from tests.wiring.redis_state_rig import (
    SOURCE,
    A,
    B,
    C,
    D,
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
    [told] = [one for one in problems(row.findings) if "and goes on as" in one]
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


LOG = f"log/{SOURCE}/"
KNOWN = f"marks/{SOURCE}/*/known/*"
_LAST_OF_B = f"{LOG}{B}/{400:016X}-{500:016X}"
# What is deleted, of what else tells of it too, and what is said.
GONE = {
    "all links": ((f"{LOG}*/continues/*", KNOWN), "follows nothing"),
    "a link that is known": ((f"{LOG}{C}/continues/*",), "it is missing: that it was recorded"),
    "the newest history": ((f"{LOG}{C}/*",), "nothing of it is held"),
    "its last piece": ((f"{LOG}{C}/{550:016X}-*",), "it is held up to offset 550 only"),
    "the whole log": ((f"{LOG}*",), "nothing of it is held"),
    "what arrived late": ((f"{LOG}*/late/*",), "it is missing: that it was recorded"),
    "the last piece before a link": ((_LAST_OF_B, KNOWN), f"goes on as {C} at offset 500"),
    "the first piece": ((f"{LOG}{A}/{100:016X}-*", KNOWN), f"bytes 120 to 200 of {A} are missing"),
}


@pytest.mark.parametrize(("patterns", "words"), GONE.values(), ids=GONE)
def test_what_is_gone_of_the_stream_is_missed_by_every_command(
    past: RedisPast, patterns: tuple[str, ...], words: str
) -> None:
    """`verify --whole` said that nothing is wrong, status MET, and a restore that nothing was lost."""
    for pattern in patterns:
        assert past.delete(pattern)

    whole = past.verify(Whole())
    row, code = past.status()

    assert any(words in one for one in problems(whole.findings)), problems(whole.findings)
    assert code_of(whole) == code == ExitCode.INTEGRITY
    assert any(words in one for one in problems(row.findings))
    assert row.rpo_now is None
    assert any(words in one for one in problems(past.checked()))
    assert any(words in one or "has a gap after" in one for one in planned(past))


def planned(past: RedisPast) -> list[str]:
    """What `--plan` says of the latest moment: its problems, or why it is refused."""
    try:
        plan = past.plan(ToLatest())
    except NotRecoverable as error:
        return [error.message]
    found = problems(plan.findings)
    assert (code_of(plan) == ExitCode.INTEGRITY) == bool(found)
    return found


def test_what_a_newer_snapshot_has_left_behind_is_no_loss_from_now_on(past: RedisPast) -> None:
    past.delete(f"{LOG}{A}/{200:016X}-*")
    past.snapshot(C, 560, seconds=570)

    row, code = past.status()

    assert problems(row.findings) == []
    assert any("are missing" in one.fact for one in row.findings)
    assert row.rpo_now is not None
    assert code == ExitCode.DONE
    assert problems(past.verify().findings) != []
    assert problems(past.plan(ToLatest()).findings) == []


def test_a_log_from_before_its_words_were_kept_elsewhere_is_well(past: RedisPast) -> None:
    assert past.delete(KNOWN)

    row, code = past.status()

    assert problems(row.findings) == problems(past.verify(Whole()).findings) == []
    assert code == ExitCode.DONE


def test_nothing_is_missed_of_a_log_that_went_through_everything_and_is_whole(
    tmp_path: Path,
) -> None:
    """A failover that was taken back, gaps with nothing between them, a master that parted early."""
    past = a_redis_past(tmp_path)
    past.begin(A, 100, seconds=1)
    past.snapshot(A, 120, seconds=2)
    past.held(A, 100, 340, seconds=300)
    past.link(B, A, 300, seconds=345)
    past.held(B, 300, 400, seconds=350)
    past.link(A, A, 340, seconds=355)
    past.held(A, 340, 400, seconds=360)
    past.begin(A, 500, seconds=365, previous=(A, 400))
    past.begin(A, 600, seconds=370, previous=(A, 500))
    past.held(A, 600, 650, seconds=375)
    past.begin(C, 50, seconds=380, previous=(A, 650))
    past.held(C, 50, 70, seconds=385)
    past.link(D, C, 40, seconds=390)
    past.held(D, 40, 90, seconds=395)
    past.snapshot(D, 80, seconds=396)

    assert problems(past.verify(Whole()).findings) == []
