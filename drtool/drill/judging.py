"""A restore held against what was promised: how much was lost, and how long until it answered. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from drtool.drill.loss import Loss
from drtool.model.measure import CLOCK_SKEW, UTC_ZONE, counted, format_moment, format_span
from drtool.model.objective import DISASTER, LossInterval, Objective, Verdict, judge
from drtool.model.outcome import Judgement, Phase, Promise
from drtool.model.target import RecoveryTarget, ToLatest, ToTime

# The phase at whose end the copy has taken a write and answered the policy's questions.
ANSWERED = "answer"


def judge_time(
    phases: Sequence[Phase], objective: Objective, *, is_answered: bool, failed_questions: int = 0
) -> Judgement:
    """The RTO: from the declaration to the first successful read and write, questions answered.

    `is_answered`: whether the write went through and every question was answered as it should. One that
    was answered otherwise misses it: such a copy was ready at no time.
    """
    if failed_questions:
        return Judgement(
            objective=Promise.RTO,
            promised=objective.rto,
            measured=None,
            verdict=Verdict.MISSED,
            explanation=f"{counted(failed_questions, 'question was', 'questions were')} not answered with"
            " true, and a copy is ready once all are",
        )
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a restore was asked for. `lost_at` is when the disaster was, where somebody knows; else it was
    no later than `declared`. `is_latest`: as late as possible, although `target` is the moment that all
    sources of a stack could be brought to.
    """

    target: RecoveryTarget
    declared: datetime
    lost_at: datetime | None = None
    is_latest: bool = False
    zone: ZoneInfo = UTC_ZONE

    def shown(self, moment: datetime) -> str:
        """A moment as whoever asked reads it."""
        return format_moment(moment, self.zone)

    @property
    def moment(self) -> datetime | None:
        """The moment that somebody chose; None if none was chosen."""
        if isinstance(self.target, ToTime) and not self.is_latest:
            return self.target.moment
        return None

    @property
    def is_position(self) -> bool:
        """Whether a position was asked for, and no moment: all before it is there, whatever was lost."""
        return not isinstance(self.target, ToTime | ToLatest)

    @property
    def until(self) -> datetime:
        """Up to when whatever was acknowledged and is not in the copy counts as lost."""
        return self.lost_at or self.moment or self.declared

    @property
    def since(self) -> str:
        """What happened at `until`, in words."""
        if self.lost_at is not None:
            return "the disaster came"
        return "the moment asked for is" if self.moment else "this restore was declared"

    @property
    def against(self) -> str:
        """What `until` is, in words."""
        if self.lost_at is not None:
            return DISASTER
        return "the moment asked for" if self.moment else "the declaration of this restore"

    @property
    def unsaid(self) -> str:
        """What a measurement against a chosen moment leaves open; empty if somebody said it."""
        if self.lost_at is not None or self.moment is None:
            return ""
        return "; what the disaster lost, only its moment tells: give it with --lost-at"


def judge_loss(
    asked: Asked, objective: Objective, *, proven_until: datetime | None
) -> Judgement | None:
    """The RPO of a restore, from what the log proves; None where there is nothing to judge.

    `proven_until`: everything acknowledged up to this moment is in the copy, as marks say. A position
    (WAL position, transaction, restore point, end of a backup) is reached exactly or not at all: a loss
    is judged only against the moment of a disaster.
    """
    if asked.is_position and asked.lost_at is None:
        return None
    if proven_until is None:
        return _judged(
            None, objective, "no mark tells up to which moment the copy holds everything"
        )
    if _lies_ahead(asked, proven_until):
        return _ahead(asked, objective, what="the newest mark", moment=proven_until)
    if _holds_disaster(asked, proven_until):
        return _after_disaster(
            asked, objective, what="the copy holds what was written by", reached=proven_until
        )
    span = max(asked.until - proven_until, timedelta(0))
    interval = LossInterval(timedelta(0), span)
    if asked.lost_at is None and asked.moment is None and span > objective.rpo:
        return Judgement(
            objective=Promise.RPO,
            promised=objective.rpo,
            measured=interval,
            verdict=Verdict.UNKNOWN,
            explanation=f"nothing acknowledged by {asked.shown(proven_until)} is lost; whether"
            f" anything was written in the {format_span(span)} after it, only the moment of the"
            " disaster tells: give it with --lost-at",
        )
    if asked.moment is not None and not span:
        told = f"everything acknowledged by {asked.shown(asked.moment)} is there"
        return _judged(interval, objective, told)
    return _judged(
        interval,
        objective,
        f"nothing acknowledged by {asked.shown(proven_until)} is lost, and {asked.since}"
        f" {format_span(span)} later",
    )


def judge_nothing(objective: Objective, why: str) -> Judgement:
    """The RPO of a restore that nobody can tell."""
    return _judged(None, objective, why)


def judge_stream(
    asked: Asked, objective: Objective, *, proven_until: datetime | None, index_step: timedelta
) -> Judgement:
    """The RPO of a restore to a moment, where a stream is cut at what had arrived by then.

    `proven_until`: the newest mark in the copy. Without marks only arrivals are known, each told to
    `index_step`: what was on its way from the server is then in no measurement.
    """
    if not isinstance(asked.target, ToTime):
        return _judged(None, objective, "no moment was asked for that a loss could be told from")
    until, moment = asked.until, asked.target.moment
    reached = moment if proven_until is None else proven_until
    if _holds_disaster(asked, reached) and not _lies_ahead(asked, reached):
        return _after_disaster(
            asked, objective, what="the copy holds what had arrived by", reached=reached
        )
    if proven_until is None:
        span = max(until - moment, timedelta(0)) + index_step
        return _judged(
            LossInterval(timedelta(0), span),
            objective,
            f"what had arrived {format_span(index_step)} before {asked.shown(moment)} is there; what had"
            f" not arrived may not be{_after(asked)}. How long it was on its way, only marks tell: set"
            " `heartbeat_key`",
        )
    if _lies_ahead(asked, proven_until):
        return _ahead(asked, objective, what="the newest mark", moment=proven_until)
    span = max(until - proven_until, timedelta(0))
    return _judged(
        LossInterval(timedelta(0), span),
        objective,
        f"everything acknowledged by {asked.shown(proven_until)} is there; of what came in the"
        f" {format_span(max(moment - proven_until, timedelta(0)))} from then to {asked.shown(moment)},"
        f" what had not arrived here may not be{_after(asked)}",
    )


def _after(asked: Asked) -> str:
    """What was written behind the moment restored to, up to the disaster, is lost too."""
    if not isinstance(asked.target, ToTime) or asked.until <= asked.target.moment:
        return ""
    span = format_span(asked.until - asked.target.moment)
    return f", and {asked.since} {span} after that moment"


def judge_snapshot(asked: Asked, objective: Objective, *, taken_from: datetime) -> Judgement | None:
    """The RPO of a source that only has snapshots: what changed after one began may not be in it.

    None where a snapshot was named, and nobody says when the disaster was.
    """
    if asked.is_position and asked.lost_at is None:
        return None
    if _lies_ahead(asked, taken_from):
        return _ahead(asked, objective, what="the beginning of the snapshot", moment=taken_from)
    if _holds_disaster(asked, taken_from):
        return _after_disaster(
            asked, objective, what="the snapshot was begun at", reached=taken_from
        )
    span = max(asked.until - taken_from, timedelta(0))
    interval = LossInterval(timedelta(0), span)
    told = (
        f"the snapshot began {format_span(span)} before {_event(asked)}; changes after that may not be"
        " there"
    )
    if asked.lost_at is None and asked.moment is None and span > objective.rpo:
        return Judgement(
            objective=Promise.RPO,
            promised=objective.rpo,
            measured=interval,
            verdict=Verdict.UNKNOWN,
            explanation=f"{told}: how much was lost, only the moment of the disaster tells: give it"
            " with --lost-at",
        )
    return _judged(interval, objective, told)


def _event(asked: Asked) -> str:
    if asked.lost_at is not None:
        return "the disaster"
    return "the moment asked for" if asked.moment else "this restore was declared"


def _lies_ahead(asked: Asked, moment: datetime) -> bool:
    """Whether `moment` is later than the restore that it is held against: then a clock was wrong."""
    return asked.moment is None and moment > asked.declared + CLOCK_SKEW


def _ahead(asked: Asked, objective: Objective, *, what: str, moment: datetime) -> Judgement:
    return _judged(
        None,
        objective,
        f"{what}, of {asked.shown(moment)}, lies ahead of this machine's clock: one of the clocks was"
        " wrong, so nobody can tell how much was lost",
    )


def _holds_disaster(asked: Asked, reached: datetime) -> bool:
    """Whether a copy of that moment is of a time after the disaster, by more than clocks differ."""
    return asked.lost_at is not None and reached > asked.lost_at + CLOCK_SKEW


def _after_disaster(
    asked: Asked, objective: Objective, *, what: str, reached: datetime
) -> Judgement:
    lost_at = asked.shown(asked.until)
    return _judged(
        None,
        objective,
        f"{what} {asked.shown(reached)}, which is after the disaster of {lost_at}: it may hold what the"
        f" disaster did, and lack what that took. Restore --to a moment before {lost_at}",
    )


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
