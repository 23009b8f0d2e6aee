"""Marks: which one is chosen, also when a clock has jumped."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtool.errors import AlreadyExists, IntegrityError
from drtool.model.objective import Mark
from drtool.repository.layout import Lineage, parse_mark_name
from drtool.repository.marks import (
    first_mark_after,
    marks_between,
    newest_mark,
    put_mark,
    read_mark,
)
from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType
from drtool.stores.memory import MemoryStore
from tests.repository.building import NOW, SYSTEM, ManualClock, new_repository

LINEAGE = Lineage("main", SYSTEM, 1)
EVERYWHERE = 2**64 - 1


def at(minutes: float, lsn: int) -> Mark:
    return Mark(NOW + timedelta(minutes=minutes), lsn, 1)


def with_marks(*marks: Mark, now: datetime = NOW) -> Repository:
    repository = new_repository(MemoryStore(clock=ManualClock(now)))
    for mark in marks:
        put_mark(repository, LINEAGE, mark)
    return repository


def test_the_first_mark_after_a_moment_is_later_than_it_and_not_equal() -> None:
    marks = [at(0, 100), at(1, 200), at(2, 300)]
    repository = with_marks(*marks)

    assert first_mark_after(repository, LINEAGE, NOW - timedelta(days=3)) == marks[0]
    assert first_mark_after(repository, LINEAGE, NOW) == marks[1]
    assert first_mark_after(repository, LINEAGE, NOW + timedelta(seconds=61)) == marks[2]
    assert first_mark_after(repository, LINEAGE, NOW + timedelta(minutes=2)) is None


def test_the_newest_mark_is_the_one_with_the_greatest_position_that_is_reached() -> None:
    marks = [at(0, 100), at(60 * 20, 200), at(60 * 21, 300)]
    repository = with_marks(*marks)

    assert newest_mark(repository, LINEAGE, most_lsn=EVERYWHERE) == marks[2]
    assert newest_mark(repository, LINEAGE, most_lsn=300) == marks[2]
    assert newest_mark(repository, LINEAGE, most_lsn=299) == marks[1]
    assert newest_mark(repository, LINEAGE, most_lsn=150) == marks[0]
    assert newest_mark(repository, LINEAGE, most_lsn=99) is None


@pytest.mark.parametrize("ahead_minutes", [30, 20 * 60, 20 * 24 * 60, 13 * 365 * 24 * 60])
def test_a_clock_that_ran_ahead_for_a_while_does_not_win(ahead_minutes: int) -> None:
    """The mark of the jump lies in WAL that later marks have overtaken."""
    jumped = [at(ahead_minutes + n, 200 + n) for n in range(3)]
    repository = with_marks(at(0, 100), *jumped, at(2, 400))

    assert newest_mark(repository, LINEAGE, most_lsn=EVERYWHERE) == at(2, 400)


def test_a_clock_that_ran_ahead_over_several_days_does_not_win_either() -> None:
    jumped = [at(n * 24 * 60, n) for n in range(10, 20)]
    repository = with_marks(*jumped, at(1, 400))

    assert newest_mark(repository, LINEAGE, most_lsn=EVERYWHERE) == at(1, 400)


def test_the_same_mark_again_is_a_success_and_another_one_in_its_place_is_not() -> None:
    """A receiver that died reads the same WAL again."""
    repository = with_marks(at(0, 100))

    put_mark(repository, LINEAGE, at(0, 100))

    with pytest.raises(AlreadyExists):
        put_mark(repository, LINEAGE, Mark(NOW, 100, 9))


def test_marks_between_two_moments_come_in_order_with_both_ends() -> None:
    marks = [at(n, 100 + n) for n in range(10)]
    repository = with_marks(*reversed(marks))

    between = list(marks_between(repository, LINEAGE, marks[3].moment, end=marks[6].moment))

    assert between == marks[3:7]


def test_a_damaged_mark_is_an_error_by_itself_and_passed_over_in_a_search() -> None:
    repository = with_marks()
    expected = newest_mark(repository, LINEAGE, most_lsn=EVERYWHERE)
    key = LINEAGE.mark_key(NOW, EVERYWHERE)
    repository.put(ObjectType.MARK, key, b"{}")

    with pytest.raises(IntegrityError):
        read_mark(repository, key)
    assert newest_mark(repository, LINEAGE, most_lsn=EVERYWHERE) == expected


@given(
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001 - hypothesis wants naive bounds
    st.integers(0, 2**64 - 1),
)
def test_the_name_of_a_mark_says_its_moment_and_position(moment: datetime, lsn: int) -> None:
    aware = moment.replace(tzinfo=NOW.tzinfo)

    name = LINEAGE.mark_key(aware, lsn).removeprefix(LINEAGE.marks)

    assert parse_mark_name(name) == (aware, lsn)
