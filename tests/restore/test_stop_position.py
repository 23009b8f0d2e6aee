"""Which commit a moment lies before, where clocks jumped: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drtool.model.objective import Mark
from drtool.model.wal import Lsn
from drtool.restore.stop_position import choose_stop
from drtool.sources.postgres.walevents import TransactionEnd

MOMENT = datetime(2024, 5, 1, 10, tzinfo=UTC)
COVERING = Mark(MOMENT + timedelta(seconds=5), 10_000, 1)


def ends(*seconds: float) -> list[TransactionEnd]:
    """Commits in the order of the WAL, each so long after the moment."""
    return [
        TransactionEnd(
            begin=Lsn(100 * number),
            end=Lsn(100 * number + 50),
            xid=700 + number,
            moment=MOMENT + timedelta(seconds=after),
            is_commit=True,
        )
        for number, after in enumerate(seconds)
    ]


def test_the_first_commit_after_the_moment_is_left_out() -> None:
    stop = choose_stop(ends(-3, 0, 0.001, 2), MOMENT, covering=COVERING)

    assert stop is not None
    assert (stop.lsn, stop.misdated) == (200, ())


def test_sessions_side_by_side_may_write_their_commits_out_of_order() -> None:
    stop = choose_stop(ends(-3, 0.002, -0.002, 2), MOMENT, covering=COVERING)

    assert stop is not None
    assert (stop.lsn, stop.misdated) == (100, ())


def test_a_commit_with_an_earlier_one_behind_it_came_before_the_moment() -> None:
    """A clock that was set forward by three seconds, and back."""
    stop = choose_stop(ends(-5, 3, -2, 1), MOMENT, covering=COVERING)

    assert stop is not None
    assert stop.lsn == 300
    assert stop.misdated == (MOMENT + timedelta(seconds=3),)


def test_a_commit_far_beyond_the_mark_behind_it_is_kept() -> None:
    stop = choose_stop(ends(-5, 6e8, 1), MOMENT, covering=COVERING)

    assert stop is not None
    assert (stop.lsn, len(stop.misdated)) == (200, 1)


def test_without_a_commit_after_the_moment_nobody_can_tell() -> None:
    assert choose_stop(ends(-5, -1), MOMENT, covering=COVERING) is None
