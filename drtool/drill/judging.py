"""A restore held against what was promised: how much was lost, and how long until it answered. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from drtool.drill.loss import Loss
from drtool.model.measure import format_span
from drtool.model.objective import LossInterval, Objective, Verdict, judge
from drtool.model.outcome import Judgement, Phase, Promise
from drtool.model.target import RecoveryTarget, ToLatest, ToTime

# The phase at whose end the copy has taken a write and answered the policy's questions.
ANSWERED = "answer"
# Clocks of two machines are never quite the same; beyond this a mark's moment proves nothing.
TOLERATED_SKEW = timedelta(minutes=1)


def judge_time(phases: Sequence[Phase], objective: Objective, *, is_answered: bool) -> Judgement:
    """The RTO: from the declaration to the first successful read and write, questions answered.

    `is_answered`: whether the write went through and every question was answered as it should.
    """
    answered = [phase for phase in phases if phase.name == ANSWERED and is_answered]
    measured = None
    if answered:
        measured = timedelta(seconds=answered[-1].begin_seconds + answered[-1].seconds)
    return Judgement(
        objective=Promise.RTO,
        promised=objective.rto,
        measured=measured,
        verdict=judge(measured, objective.rto),
        explanation="from the declaration to the first read and write of the copy, and all questions"
        " answered; deeper checks come after and are not counted",
    )


def judge_loss(
    target: RecoveryTarget,
    objective: Objective,
    *,
    proven_until: datetime | None,
    declared: datetime,
    lost_at: datetime | None,
) -> Judgement:
    """The RPO of a restore, from what the log proves.

    `proven_until`: everything acknowledged up to this moment is in the copy (a mark says so).
    `lost_at`: when the disaster was, if somebody knows; else it was no later than `declared`.
    """
    match target:
        case ToTime(moment):
            interval = LossInterval(timedelta(0), timedelta(0))
            return _judged(
                interval, objective, f"everything acknowledged by {moment.isoformat()} is there"
            )
        case ToLatest() if proven_until is not None and proven_until > declared + TOLERATED_SKEW:
            return _judged(
                None,
                objective,
                f"the newest mark, of {proven_until.isoformat()}, lies ahead of this machine's clock:"
                " one of the clocks was wrong, so nobody can tell how much was lost",
            )
        case ToLatest() if proven_until is not None:
            until = lost_at or declared
            span = max(until - proven_until, timedelta(0))
            interval = LossInterval(timedelta(0), span)
            if lost_at is None and span > objective.rpo:
                return Judgement(
                    objective=Promise.RPO,
                    promised=objective.rpo,
                    measured=interval,
                    verdict=Verdict.UNKNOWN,
                    explanation=f"nothing acknowledged by {proven_until.isoformat()} is lost; whether"
                    f" anything was written in the {format_span(span)} after it, only the moment of the"
                    " disaster tells: give it with --lost-at",
                )
            since = "the disaster came" if lost_at else "this restore was declared"
            return _judged(
                interval,
                objective,
                f"nothing acknowledged by {proven_until.isoformat()} is lost, and {since}"
                f" {format_span(span)} later",
            )
        case _:
            return _judged(
                None, objective, "no moment was asked for that a loss could be told from"
            )


def judge_stream(
    target: RecoveryTarget,
    objective: Objective,
    *,
    proven_until: datetime | None,
    index_step: timedelta,
) -> Judgement:
    """The RPO of a restore to a moment, where a stream is cut at what had arrived by then.

    `proven_until`: the newest mark in the copy. Without marks only arrivals are known, each told to
    `index_step`: what was on its way from the server is then in no measurement.
    """
    if not isinstance(target, ToTime):
        return _judged(None, objective, "no moment was asked for that a loss could be told from")
    asked = target.moment.isoformat()
    if proven_until is None:
        return _judged(
            LossInterval(timedelta(0), index_step),
            objective,
            f"what had arrived {format_span(index_step)} before {asked} is there; what had not arrived"
            " may not be. How long it was on its way, only marks tell: set `heartbeat_key`",
        )
    span = max(target.moment - proven_until, timedelta(0))
    return _judged(
        LossInterval(timedelta(0), span),
        objective,
        f"everything acknowledged by {proven_until.isoformat()} is there; of what came in the"
        f" {format_span(span)} from then to {asked}, what had not arrived here may not be",
    )


def judge_snapshot(
    target: RecoveryTarget,
    objective: Objective,
    *,
    taken_from: datetime,
    declared: datetime,
    lost_at: datetime | None,
) -> Judgement:
    """The RPO of a source that only has snapshots: what changed after one began may not be in it."""
    asked = target.moment if isinstance(target, ToTime) else lost_at
    span = max((asked or declared) - taken_from, timedelta(0))
    interval = LossInterval(timedelta(0), span)
    since = "the moment asked for" if asked else "this restore was declared"
    told = f"the snapshot began {format_span(span)} before {since}; changes after that may not be there"
    if asked is None and span > objective.rpo:
        return Judgement(
            objective=Promise.RPO,
            promised=objective.rpo,
            measured=interval,
            verdict=Verdict.UNKNOWN,
            explanation=f"{told}: how much was lost, only the moment of the disaster tells: give it"
            " with --lost-at",
        )
    return _judged(interval, objective, told)


def _judged(measured: LossInterval | None, objective: Objective, explanation: str) -> Judgement:
    return Judgement(
        objective=Promise.RPO,
        promised=objective.rpo,
        measured=measured,
        verdict=judge(measured.at_most if measured else None, objective.rpo),
        explanation=explanation,
    )


def judge_ledger(loss: Loss, objective: Objective) -> Judgement:
    """The RPO as a ledger of acknowledged writes measured it: the strongest evidence there is."""
    writes = loss.writes
    told = f"{writes.lost} of {writes.acknowledged} acknowledged writes were lost; judged on the upper end"
    if writes.is_prefix is False:
        return Judgement(
            objective=Promise.RPO,
            promised=objective.rpo,
            measured=loss.interval,
            verdict=Verdict.MISSED,
            explanation=f"{told}. What came back has holes: it is no prefix of what was acknowledged",
        )
    return _judged(loss.interval, objective, told)
