"""What was lost, from a ledger and a set of recovered writes: pure."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from drtool.drill.ledger import LedgerEntry
from drtool.drill.loss import is_prefix, measure_loss, violations
from drtool.model.objective import LossInterval

START = datetime(2024, 5, 1, 10, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def entry(number: int, *, writer: int = 1, acknowledged: float | None = None) -> LedgerEntry:
    """Write `number`, acknowledged at its own second unless told otherwise, begun half one before."""
    second = float(number) if acknowledged is None else acknowledged
    return LedgerEntry(
        writer=writer, number=number, begun=at(second - 0.5), acknowledged=at(second)
    )


def span(low: float, high: float) -> LossInterval:
    return LossInterval(timedelta(seconds=low), timedelta(seconds=high))


def test_the_loss_lies_between_the_first_lost_and_the_last_kept_write() -> None:
    ledger = [entry(number) for number in range(1, 6)]

    loss = measure_loss(ledger, {(1, 1), (1, 2), (1, 3)}, failed_at=at(10))

    assert loss.interval == span(6, 7)
    assert (loss.writes.acknowledged, loss.writes.recovered, loss.writes.lost) == (5, 3, 2)
    assert loss.writes.is_prefix is True


def test_nothing_lost_is_a_loss_of_none_up_to_the_silence_before_the_failure() -> None:
    ledger = [entry(1), entry(2)]

    loss = measure_loss(ledger, {(1, 1), (1, 2)}, failed_at=at(5))

    assert loss.interval == span(0, 3)
    assert loss.writes.lost == 0


def test_a_write_nobody_acknowledged_may_come_back_and_is_counted() -> None:
    loss = measure_loss([entry(1)], {(1, 1), (1, 2)}, failed_at=at(2))

    assert loss.writes.unacknowledged_recovered == 1
    assert loss.writes.is_prefix is True


def test_when_nothing_came_back_nobody_can_say_how_much_time_is_lost() -> None:
    loss = measure_loss([entry(1)], set(), failed_at=at(2))

    assert loss.interval is None
    assert loss.writes.lost == 1


def test_a_failure_that_was_noted_too_early_never_makes_the_loss_negative() -> None:
    loss = measure_loss([entry(5)], {(1, 5)}, failed_at=at(1))

    assert loss.interval == span(0, 0)


def test_a_hole_in_one_writers_writes_is_no_prefix() -> None:
    ledger = [entry(1), entry(2), entry(3), entry(1, writer=2)]

    assert is_prefix(ledger, {(1, 1), (1, 2), (2, 1)})
    assert is_prefix(ledger, {(1, 1), (1, 2), (1, 3)})
    assert not is_prefix(ledger, {(1, 1), (1, 3), (2, 1)})


def test_each_way_to_miss_a_moment_is_named() -> None:
    ledger = [entry(1), entry(2), entry(3)]

    assert violations(ledger, {(1, 1), (1, 2)}, at(2)) == []
    [missing] = violations(ledger, {(1, 1)}, at(2))
    [surplus] = violations(ledger, {(1, 1), (1, 2), (1, 3)}, at(2))
    assert "(1, 2)" in missing
    assert "is missing" in missing
    assert "(1, 3)" in surplus
    assert "should not be there" in surplus


def test_a_write_under_way_at_the_moment_may_be_there_or_not() -> None:
    """Begun before, acknowledged after: PostgreSQL owes it to nobody yet."""
    ledger = [entry(2)]

    assert violations(ledger, {(1, 2)}, at(1.75)) == []
    assert violations(ledger, set(), at(1.75)) == []


def test_any_prefix_of_any_ledger_is_judged_one_and_its_interval_holds_the_true_loss() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        ledger = [
            entry(number, writer=writer, acknowledged=number + chance.random())
            for writer in (1, 2, 3)
            for number in range(1, chance.randint(2, 30))
        ]
        cut = at(chance.uniform(1.5, 25))
        recovered = {one.name for one in ledger if one.acknowledged <= cut}

        loss = measure_loss(ledger, recovered, failed_at=at(40))

        assert violations(ledger, recovered, cut) == [], f"seed {seed}"
        assert loss.writes.is_prefix, f"seed {seed}"
        if loss.interval is not None and loss.writes.lost:
            low, high = loss.interval.at_least, loss.interval.at_most
            assert low <= at(40) - cut <= high, f"seed {seed}"
