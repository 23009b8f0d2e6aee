"""Which branch of a Redis history was live at a moment: by descent and by time, never by length."""

from __future__ import annotations

from datetime import datetime, timedelta

from drtool.repository.layout import ReplicationHistory
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import StreamInventory, take_stream_inventory
from drtool.repository.streambranch import (
    Stretch,
    dead_branches,
    find_path,
    left_behind,
)
from drtool.repository.streamlog import (
    StreamBegin,
    StreamIndex,
    StreamLink,
    StreamMoment,
    put_begin,
    put_link,
    put_stream,
)
from tests.repository.building import NOW, new_repository

A, B, C = "a" * 40, "b" * 40, "c" * 40


def at(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


class Log:
    """Segments and links of one shard, as a receiver puts them."""

    def __init__(self) -> None:
        self.repository: Repository = new_repository()

    def held(self, name: str, begin: int, end: int) -> Log:
        index = StreamIndex(begin, end, (StreamMoment(NOW, end),))
        history = ReplicationHistory("cache", name)
        put_stream(self.repository, history, index, content=[bytes(end - begin)])
        return self

    def link(self, name: str, previous: str, offset: int, *, seconds: int) -> Log:
        word = StreamLink(replication_id=name, previous=previous, offset=offset, at=at(seconds))
        put_link(self.repository, "cache", word)
        return self

    def gap(self, name: str, offset: int, *, previous: tuple[str, int], seconds: int) -> Log:
        word = StreamBegin(
            replication_id=name, offset=offset, reason="x", at=at(seconds), previous=previous
        )
        put_begin(self.repository, "cache", word)
        return self

    def look(self) -> StreamInventory:
        return take_stream_inventory(self.repository, "cache")


def failed_over() -> Log:
    """A was ahead, up to 900, when B took over at 300, in second 10; B has come to 400."""
    return Log().held(A, 100, 900).link(B, A, 300, seconds=10).held(B, 300, 400)


def stretches(log: Log, moment: datetime | None = None) -> list[tuple[str, int, int]]:
    path = find_path(log.look(), A, begin=100, moment=moment)
    return [(one.replication_id[0], one.begin, one.end) for one in path.stretches]


def test_the_new_masters_branch_counts_however_long_the_dead_one_is() -> None:
    assert stretches(failed_over()) == [("a", 100, 300), ("b", 300, 400)]
    assert stretches(failed_over(), at(10)) == [("a", 100, 300), ("b", 300, 400)]


def test_before_the_failover_the_old_masters_branch_counts() -> None:
    assert stretches(failed_over(), at(9)) == [("a", 100, 900)]


def test_a_failover_that_lost_nothing_is_one_history_at_any_moment() -> None:
    log = Log().held(A, 100, 300).link(B, A, 300, seconds=10).held(B, 300, 400)

    assert stretches(log, at(-5)) == stretches(log) == [("a", 100, 300), ("b", 300, 400)]


def test_what_the_dead_branch_had_alone_is_told() -> None:
    [dead] = dead_branches(failed_over().look(), A, begin=100)

    assert dead.path.stretches == (Stretch(A, 300, 900),)
    assert (dead.at, dead.followed_by, dead.size_bytes) == (at(10), B, 600)
    assert dead_branches(failed_over().look(), A, begin=100, moment=at(9)) == ()


def test_a_failover_that_was_taken_back_makes_the_old_branch_live_again() -> None:
    log = failed_over().link(A, A, 900, seconds=20).held(A, 900, 950)

    assert stretches(log) == [("a", 100, 950)]
    assert stretches(log, at(15)) == [("a", 100, 300), ("b", 300, 400)]
    [dead] = dead_branches(log.look(), A, begin=100)
    assert dead.path.stretches == (Stretch(B, 300, 400),)


def test_of_two_heirs_the_later_one_counts() -> None:
    log = failed_over().link(C, A, 250, seconds=20).held(C, 250, 260)

    assert stretches(log) == [("a", 100, 250), ("c", 250, 260)]


def test_a_snapshot_of_the_dead_branch_is_left_behind() -> None:
    inventory = failed_over().look()

    dead = left_behind(inventory, A, begin=500, after=at(5))
    assert dead is not None
    assert dead.replication_id == B
    assert left_behind(inventory, A, begin=500, after=at(5), moment=at(9)) is None
    assert left_behind(inventory, A, begin=200, after=at(5)) is None


def test_behind_a_gap_nothing_before_it_leads_on() -> None:
    log = failed_over().gap(C, 2000, previous=(B, 400), seconds=30).held(C, 2000, 2100)
    inventory = log.look()

    assert stretches(log)[-1] == ("b", 300, 400)
    assert left_behind(inventory, A, begin=200, after=at(0)) is not None
    assert left_behind(inventory, A, begin=200, after=at(0), moment=at(29)) is None
    assert left_behind(inventory, C, begin=2050, after=at(31)) is None
