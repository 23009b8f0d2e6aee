"""A restore held against what was promised: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from drtool.drill.judging import (
    ANSWERED,
    Asked,
    judge_ledger,
    judge_loss,
    judge_snapshot,
    judge_stream,
    judge_time,
)
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
    asked = Asked(target=ToLatest(), declared=NOW, lost_at=lost_at)
    judged = judge_loss(asked, OBJECTIVE, proven_until=proven_until)
    assert judged is not None
    return judged


def to_moment(proven_until: datetime, lost_at: datetime | None = None) -> Judgement:
    """To NOW, half an hour before the restore is declared."""
    asked = Asked(target=ToTime(NOW), declared=NOW + 30 * MINUTE, lost_at=lost_at)
    judged = judge_loss(asked, OBJECTIVE, proven_until=proven_until)
    assert judged is not None
    return judged


def test_a_question_that_was_not_answered_with_true_misses_the_time() -> None:
    """The trial: "UNKNOWN RTO: not measured", where the report's legend says MISSED."""
    phases = [phase(ANSWERED, 0, 10)]

    judged = judge_time(phases, OBJECTIVE, is_answered=False, failed_questions=1)

    assert judged.verdict is Verdict.MISSED
    assert "1 question was not answered with true" in judged.explanation


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
    judged = to_moment(NOW)

    assert judged.measured == LossInterval(timedelta(0), timedelta(0))
    assert judged.verdict is Verdict.MET


def test_a_restore_to_a_moment_that_lacks_what_a_mark_tells_of_is_judged_by_what_it_holds() -> None:
    """The trials: "0.00 s MET, everything acknowledged is there", with rows missing."""
    judged = to_moment(NOW - 20 * MINUTE)

    assert judged.measured == LossInterval(timedelta(0), 20 * MINUTE)
    assert judged.verdict is Verdict.MISSED


def test_what_was_written_between_the_moment_and_the_disaster_is_lost() -> None:
    """The trial: --lost-at 46 minutes after the target was "RPO 0.00 s MET"."""
    judged = to_moment(NOW, lost_at=NOW + 46 * MINUTE)
    asked = Asked(target=ToTime(NOW), declared=NOW + 60 * MINUTE, lost_at=NOW + 46 * MINUTE)
    stream = judge_stream(asked, OBJECTIVE, proven_until=NOW, index_step=timedelta(0))
    tree = judge_snapshot(asked, OBJECTIVE, taken_from=NOW - 4 * MINUTE)

    assert judged.measured == LossInterval(timedelta(0), 46 * MINUTE)
    assert stream.measured == LossInterval(timedelta(0), 46 * MINUTE)
    assert tree is not None
    assert tree.measured == LossInterval(timedelta(0), 50 * MINUTE)
    assert {judged.verdict, stream.verdict, tree.verdict} == {Verdict.MISSED}


def test_the_newest_moment_of_a_whole_stack_is_judged_like_the_latest() -> None:
    asked = Asked(target=ToTime(NOW - 20 * MINUTE), declared=NOW, is_latest=True)

    judged = judge_loss(asked, OBJECTIVE, proven_until=NOW - 20 * MINUTE)

    assert judged is not None
    assert judged.measured == LossInterval(timedelta(0), 20 * MINUTE)
    assert judged.verdict is Verdict.UNKNOWN


def test_a_position_is_reached_exactly_and_judged_only_against_a_disaster() -> None:
    """The trial: --to-lsn, --to-xid and --to-name, restored perfectly, ended with 3."""
    position = Asked(target=ToLsn(Lsn(1)), declared=NOW)
    against = Asked(target=ToLsn(Lsn(1)), declared=NOW, lost_at=NOW)

    judged = judge_loss(against, OBJECTIVE, proven_until=NOW - MINUTE)

    assert judge_loss(position, OBJECTIVE, proven_until=NOW) is None
    assert judged is not None
    assert judged.measured == LossInterval(timedelta(0), MINUTE)


def test_a_stream_cut_at_a_moment_may_lack_what_came_after_the_newest_mark_in_the_copy() -> None:
    """What was acknowledged in the tenth of a second before the moment may not have arrived by then."""
    step = timedelta(milliseconds=100)

    asked = Asked(target=ToTime(NOW), declared=NOW)
    marked = judge_stream(asked, OBJECTIVE, proven_until=NOW - MINUTE, index_step=step)
    stale = judge_stream(asked, OBJECTIVE, proven_until=NOW - 16 * MINUTE, index_step=step)
    without = judge_stream(asked, OBJECTIVE, proven_until=None, index_step=step)

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


def test_a_disaster_just_before_the_last_mark_lost_nothing() -> None:
    """Clocks of two machines differ by so much."""
    judged = to_latest(NOW - MINUTE, lost_at=NOW - 1.5 * MINUTE)

    assert judged.measured == LossInterval(timedelta(0), timedelta(0))


def test_a_copy_of_a_time_after_the_disaster_is_not_met() -> None:
    """What a DROP or an `rm -r` took is missing in it, and it was "RPO 0.00 s MET"."""
    latest = Asked(target=ToLatest(), declared=NOW, lost_at=NOW - 5 * MINUTE)
    of_stack = Asked(target=ToTime(NOW), declared=NOW, lost_at=NOW - 5 * MINUTE, is_latest=True)
    found = [
        judge_loss(latest, OBJECTIVE, proven_until=NOW - MINUTE),
        judge_snapshot(latest, OBJECTIVE, taken_from=NOW - MINUTE),
        judge_stream(of_stack, OBJECTIVE, proven_until=NOW - MINUTE, index_step=timedelta(0)),
        judge_stream(of_stack, OBJECTIVE, proven_until=None, index_step=timedelta(0)),
    ]

    for judged in found:
        assert judged is not None
        assert (judged.measured, judged.verdict) == (None, Verdict.UNKNOWN)
        assert "after the disaster of 2024-05-01 09:55:00Z" in judged.explanation


def test_a_mark_ahead_of_the_clock_proves_nothing() -> None:
    """PITFALLS 74: a clock was wrong; within a minute it is the usual difference of two machines."""
    assert to_latest(NOW + 120 * MINUTE).verdict is Verdict.UNKNOWN
    assert to_latest(NOW + 120 * MINUTE, lost_at=NOW).verdict is Verdict.UNKNOWN
    assert to_latest(NOW + MINUTE / 2).measured == LossInterval(timedelta(0), timedelta(0))


def test_a_snapshot_or_a_stream_ahead_of_the_clock_proves_nothing_either() -> None:
    """A snapshot dated 2043 was "0.00 s MET"."""
    latest = Asked(target=ToLatest(), declared=NOW)
    of_stack = Asked(target=ToTime(NOW + 120 * MINUTE), declared=NOW, is_latest=True)

    far = judge_snapshot(latest, OBJECTIVE, taken_from=NOW + 120 * MINUTE)
    near = judge_snapshot(latest, OBJECTIVE, taken_from=NOW + MINUTE / 2)
    stream = judge_stream(
        of_stack, OBJECTIVE, proven_until=NOW + 120 * MINUTE, index_step=timedelta(0)
    )

    assert far is not None
    assert near is not None
    assert far.verdict is Verdict.UNKNOWN
    assert "clock" in far.explanation
    assert near.verdict is Verdict.MET
    assert stream.verdict is Verdict.UNKNOWN


def test_what_no_mark_tells_is_unknown() -> None:
    assert to_latest(None).verdict is Verdict.UNKNOWN


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
