"""A restore held against what was promised: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from drtool.drill.judging import ANSWERED, judge_ledger, judge_loss, judge_stream, judge_time
from drtool.drill.loss import Loss
from drtool.model.objective import LossInterval, Objective, Verdict
from drtool.model.outcome import Judgement, LostWrites, Phase
from drtool.model.target import ToLatest, ToLsn, ToTime
from drtool.model.wal import Lsn

NOW = datetime(2024, 5, 1, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OBJECTIVE = Objective(rpo=15 * MINUTE, rto=60 * MINUTE)


def phase(name: str, begin: float, seconds: float) -> Phase:
    return Phase(name=name, title=name, begin_seconds=begin, seconds=seconds)


def to_latest(proven_until: datetime | None, lost_at: datetime | None = None) -> Judgement:
    """Declared now."""
    return judge_loss(
        ToLatest(), OBJECTIVE, proven_until=proven_until, declared=NOW, lost_at=lost_at
    )


@pytest.mark.parametrize(("seconds", "verdict"), [(3500.0, Verdict.MET), (3590.1, Verdict.MISSED)])
def test_the_time_counts_to_the_end_of_the_answer_and_no_further(
    seconds: float, verdict: Verdict
) -> None:
    phases = [phase("fetch", 0, seconds), phase(ANSWERED, seconds, 10), phase("verify", 3601, 900)]

    judged = judge_time(phases, OBJECTIVE, is_answered=True)

    assert judged.measured == timedelta(seconds=seconds + 10)
    assert judged.verdict is verdict


def test_a_copy_that_never_answered_has_no_time() -> None:
    """Promise 7: not measured is not met; and an answer that was wrong is none."""
    without = judge_time([phase("fetch", 0, 10)], OBJECTIVE, is_answered=True)
    wrong = judge_time([phase(ANSWERED, 0, 10)], OBJECTIVE, is_answered=False)

    assert (without.measured, without.verdict) == (None, Verdict.UNKNOWN)
    assert wrong.verdict is not Verdict.MET


def test_a_restore_to_a_moment_loses_nothing_before_it() -> None:
    judged = judge_loss(ToTime(NOW), OBJECTIVE, proven_until=None, declared=NOW, lost_at=None)

    assert judged.measured == LossInterval(timedelta(0), timedelta(0))
    assert judged.verdict is Verdict.MET


def test_a_stream_cut_at_a_moment_may_lack_what_came_after_the_newest_mark_in_the_copy() -> None:
    """What was acknowledged in the tenth of a second before the moment may not have arrived by then."""
    step = timedelta(milliseconds=100)

    marked = judge_stream(ToTime(NOW), OBJECTIVE, proven_until=NOW - MINUTE, index_step=step)
    stale = judge_stream(ToTime(NOW), OBJECTIVE, proven_until=NOW - 16 * MINUTE, index_step=step)
    without = judge_stream(ToTime(NOW), OBJECTIVE, proven_until=None, index_step=step)

    assert marked.measured == LossInterval(timedelta(0), MINUTE)
    assert (marked.verdict, stale.verdict) == (Verdict.MET, Verdict.MISSED)
    assert without.measured == LossInterval(timedelta(0), step)
    assert "heartbeat_key" in without.explanation


def test_the_loss_is_judged_on_the_upper_end_of_what_the_log_proves() -> None:
    met = to_latest(NOW - 10 * MINUTE, lost_at=NOW - 5 * MINUTE)
    missed = to_latest(NOW - 30 * MINUTE, lost_at=NOW - 5 * MINUTE)

    assert met.measured == LossInterval(timedelta(0), 5 * MINUTE)
    assert met.verdict is Verdict.MET
    assert missed.measured == LossInterval(timedelta(0), 25 * MINUTE)
    assert missed.verdict is Verdict.MISSED


def test_without_the_moment_of_the_disaster_a_long_silence_is_unknown_and_not_missed() -> None:
    judged = to_latest(NOW - 30 * MINUTE)

    assert judged.verdict is Verdict.UNKNOWN
    assert "--lost-at" in judged.explanation


def test_a_disaster_before_the_last_mark_lost_nothing() -> None:
    judged = to_latest(NOW - MINUTE, lost_at=NOW - 5 * MINUTE)

    assert judged.measured == LossInterval(timedelta(0), timedelta(0))


def test_a_mark_ahead_of_the_clock_proves_nothing() -> None:
    """PITFALLS 74: a clock was wrong; within a minute it is the usual difference of two machines."""
    assert to_latest(NOW + 120 * MINUTE).verdict is Verdict.UNKNOWN
    assert to_latest(NOW + 120 * MINUTE, lost_at=NOW).verdict is Verdict.UNKNOWN
    assert to_latest(NOW + MINUTE / 2).measured == LossInterval(timedelta(0), timedelta(0))


def test_what_no_mark_and_no_moment_tells_is_unknown() -> None:
    position = ToLsn(Lsn(1))
    judged = judge_loss(position, OBJECTIVE, proven_until=NOW, declared=NOW, lost_at=NOW)

    assert to_latest(None).verdict is Verdict.UNKNOWN
    assert judged.verdict is Verdict.UNKNOWN


def loss(high: timedelta, *, is_prefix: bool) -> Loss:
    writes = LostWrites(
        acknowledged=10, recovered=8, lost=2, unacknowledged_recovered=0, is_prefix=is_prefix
    )
    return Loss(LossInterval(timedelta(0), high), writes)


def test_a_ledger_judges_on_the_upper_end_and_never_forgives_a_hole() -> None:
    """PITFALLS 62: a drill that cannot fail is none."""
    met = judge_ledger(loss(MINUTE, is_prefix=True), OBJECTIVE)
    late = judge_ledger(loss(16 * MINUTE, is_prefix=True), OBJECTIVE)
    holed = judge_ledger(loss(MINUTE, is_prefix=False), OBJECTIVE)

    assert [one.verdict for one in (met, late, holed)] == [
        Verdict.MET, Verdict.MISSED, Verdict.MISSED,
    ]  # fmt: skip
    assert "2 of 10 acknowledged writes were lost" in met.explanation
    assert "holes" in holed.explanation


def test_a_ledger_of_which_nothing_came_back_is_not_met() -> None:
    writes = LostWrites(
        acknowledged=1, recovered=0, lost=1, unacknowledged_recovered=0, is_prefix=True
    )

    assert judge_ledger(Loss(None, writes), OBJECTIVE).verdict is not Verdict.MET
