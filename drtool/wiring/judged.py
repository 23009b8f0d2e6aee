"""What a restore was asked for, and its outcome with the judgements that follow."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from drtool.drill.judging import Asked, judge_time
from drtool.model.finding import Finding, Severity
from drtool.model.objective import Objective
from drtool.model.outcome import Judgement, RestoreOutcome
from drtool.model.request import RestoreRequest
from drtool.model.target import RecoveryTarget


def asked_of(request: RestoreRequest, target: RecoveryTarget, *, declared: datetime) -> Asked:
    """What the loss of a restore is judged against."""
    return Asked(
        target=target,
        declared=declared,
        lost_at=request.lost_at,
        is_latest=request.is_latest,
        zone=request.zone,
    )


def judge_ready(outcome: RestoreOutcome, objective: Objective) -> Judgement:
    """The RTO, by what the copy itself answered."""
    passed = [question.passed for question in outcome.questions]
    return judge_time(
        outcome.phases,
        objective,
        is_answered=outcome.is_writable and all(passed),
        failed_questions=passed.count(False),
    )


def judged(
    outcome: RestoreOutcome, asked: Asked, loss: Judgement | None, *, duration: Judgement
) -> RestoreOutcome:
    """The outcome with its judgements; where no loss can be judged, that is said."""
    if loss is not None:
        unsaid = asked.unsaid if loss.measured is not None else ""
        told = replace(loss, against=asked.against, explanation=f"{loss.explanation}{unsaid}")
        return replace(outcome, lost_at=asked.lost_at, judgements=(told, duration))
    note = Finding(
        severity=Severity.NOTE,
        subject="RPO",
        fact=f"it is not judged: what was asked for, {outcome.target}, was reached exactly, and how much"
        " was lost only the moment of a disaster tells",
        fix="Give it with --lost-at.",
    )
    return replace(outcome, judgements=(duration,), findings=(*outcome.findings, note))
