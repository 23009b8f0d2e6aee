"""Moments inside an outage: bytes that were fetched afterwards do not say when they were written."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.archiving.redis_status import ShardStatus, StreamStatus
from drtool.errors import NotRecoverable
from drtool.model.objective import Mark
from drtool.model.request import Edge
from drtool.model.target import ToTime
from drtool.model.window import UncertainSpan
from drtool.repository.backups import read_manifests
from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.layout import ReplicationHistory
from drtool.repository.marks import put_mark
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import take_stream_inventory
from drtool.repository.stream_uncertain import Uncertain, is_known, uncertain_spans
from drtool.repository.streamlate import LateStretch, put_late
from drtool.repository.streamlog import StreamIndex, StreamLink, StreamMoment, put_link, put_stream
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_uncertain import uncertain_at
from tests.archiving.redis_rig import attached, position_of, wait_for_more, wait_held
from tests.archiving.rig import until
from tests.backup.taking import new_repository
from tests.restore.redis_rig import restore, servers_of, started, streamed, take_snapshot
from tests.servers.redis import MakeRedis, RedisServer, make_replica, new_redis

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis
# Longer than what is taken for the way of a write from the server to the archive.
LONG_SECONDS = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """20 keys had been acknowledged by `inside`, when nobody received; five more came after it."""

    repository: Repository
    inside: datetime


def write(server: RedisServer, first: int, last: int) -> None:
    with server.client() as client:
        for number in range(first, last):
            client.set(f"key:{number}", number)


@pytest.fixture(scope="module")
def outage() -> Iterator[Outage]:
    repository = new_repository()
    with ExitStack() as stack:
        server = stack.enter_context(closing(new_redis()))
        take_snapshot(repository, servers_of(server))
        with streamed(repository, server):
            write(server, 100, 101)
            wait_held(repository, server)
        write(server, 0, 20)
        time.sleep(LONG_SECONDS)
        inside = datetime.now(UTC)
        write(server, 20, 25)
        with streamed(repository, server):
            wait_held(repository, server)
            wait_for_more(repository, server)
        yield Outage(repository=repository, inside=inside)


def keys_at(outage: Outage, into: Path, moment: datetime, edge: Edge | None = None) -> int:
    outcome = restore(outage.repository, into, ToTime(moment), edge=edge)
    with started(outcome) as [copy]:
        return len(copy.keys("key:*")) - 1


def test_a_moment_inside_an_outage_is_refused_and_the_exact_ones_beside_it_named(
    outage: Outage, root: Path
) -> None:
    with pytest.raises(NotRecoverable, match="is not known: of main the stream was not") as refused:
        restore(outage.repository, root / "copy", ToTime(outage.inside))

    earlier, later = re.findall(r"--to '([^']+)'", refused.value.hint)
    assert keys_at(outage, root / "before", datetime.fromisoformat(earlier)) == 0
    assert keys_at(outage, root / "behind", datetime.fromisoformat(later)) == 25


def spans_of(repository: Repository) -> tuple[UncertainSpan, ...]:
    manifests, _ = read_manifests(repository, "cache")
    inventory = take_stream_inventory(repository, "cache")
    return uncertain_spans(repository, inventory, [one.redis for one in manifests])


def test_the_span_that_the_screens_show_is_the_one_that_a_plan_refuses(
    outage: Outage, root: Path
) -> None:
    [span] = spans_of(outage.repository)
    with pytest.raises(NotRecoverable) as refused:
        restore(outage.repository, root / "copy", ToTime(outage.inside))

    earlier, later = re.findall(r"--to '([^']+)'", refused.value.hint)
    named = (datetime.fromisoformat(earlier), datetime.fromisoformat(later))
    assert (span.begin, span.end) == named
    assert look_redis(outage.repository, "cache", ToTime(outage.inside)).uncertain == (span,)


def test_either_edge_of_an_outage_is_restored_if_it_is_asked_for(
    outage: Outage, root: Path
) -> None:
    assert keys_at(outage, root / "earlier", outage.inside, Edge.EARLIER) == 0
    assert keys_at(outage, root / "later", outage.inside, Edge.LATER) == 25

    outcome = restore(outage.repository, root / "told", ToTime(outage.inside), edge=Edge.EARLIER)
    [finding] = [one for one in outcome.findings if "may be missing" in one.fact]
    assert finding.subject == "main"


def test_a_moment_of_an_outage_in_which_nothing_was_written_is_known(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    """A master that has a replica sends PING all the time: bytes that came late, and no write."""
    master = make_redis(settings={"repl-ping-replica-period": "1"})
    replica = make_replica(make_redis, master)
    take_snapshot(repository, servers_of(master))
    with streamed(repository, master, replica):
        write(master, 100, 101)
        wait_held(repository, master)
    before = position_of(master).offset
    inside = datetime.now(UTC)
    until(lambda: position_of(master).offset > before + 20, "it has sent PING")
    time.sleep(LONG_SECONDS)
    with streamed(repository, master, replica):
        wait_held(repository, master)
        until(lambda: _late(repository), "the stretch is recorded")
        wait_for_more(repository, master)

    outcome = restore(repository, root / "copy", ToTime(inside))

    with started(outcome) as [copy]:
        assert len(copy.keys("key:*")) == 1
    assert spans_of(repository) == ()


def test_a_stretch_that_a_receiver_left_open_is_closed_by_the_next_that_has_it_all(
    make_redis: MakeRedis, repository: Repository
) -> None:
    """Else every later moment would be refused, up to the end of the next outage."""
    master = make_redis()
    take_snapshot(repository, servers_of(master))
    with streamed(repository, master):
        write(master, 0, 1)
        wait_held(repository, master)
    place = position_of(master)
    late = LateStretch(begin=place.offset - 10, since=datetime.now(UTC), reason="it was away")
    put_late(repository, ReplicationHistory("cache", place.replid), late)
    assert [span.end for span in spans_of(repository)] == [None]

    with streamed(repository, master):
        write(master, 1, 2)
        wait_held(repository, master)
    after = datetime.now(UTC)

    [span] = spans_of(repository)
    assert span.begin == late.since
    assert span.end is not None
    assert span.end < after


def test_a_replica_that_hangs_makes_moments_uncertain_though_its_link_stays(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    master = make_redis()
    replica = make_replica(make_redis, master)
    take_snapshot(repository, servers_of(master))
    with streamed(repository, master, replica):
        assert attached(replica)
        write(master, 100, 101)
        wait_held(repository, master)
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            write(master, 0, 20)
            time.sleep(LONG_SECONDS)
            inside = datetime.now(UTC)
            time.sleep(LONG_SECONDS)
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        wait_held(repository, master)
        until(lambda: _late(repository), "the stretch is recorded")
        wait_for_more(repository, master)

    with pytest.raises(NotRecoverable, match="received later than it was written"):
        restore(repository, root / "copy", ToTime(inside))


def _late(repository: Repository) -> bool:
    logs = take_stream_inventory(repository, "cache").logs.values()
    return any(name.end is not None for log in logs for name in log.late)


A = "a" * 40
B = "b" * 40
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def late_log(*marks: tuple[float, int], is_closed: bool = True) -> Repository:
    """Up to 200 in time; 200 to 300 written in seconds 10 to 40 and fetched at the end of them."""
    repository = new_repository()
    history = ReplicationHistory("cache", A)
    for begin, end, arrived in ((100, 200, 10), (200, 300, 40), (300, 310, 45)):
        index = StreamIndex(begin, end, (StreamMoment(at(arrived), end),))
        put_stream(repository, history, index, content=[bytes(end - begin)])
    put_late(repository, history, LateStretch(begin=200, since=at(10), reason="it was away"))
    if is_closed:
        late = LateStretch(begin=200, since=at(10), end=300, until=at(40), reason="it was away")
        put_late(repository, history, late)
    for seconds, offset in marks:
        put_mark(repository, history, Mark(at(seconds), offset, 0))
    return repository


def spans_to(repository: Repository) -> tuple[UncertainSpan, ...]:
    """What the screens show, of one snapshot at the beginning."""
    shard = RedisShard(name="main", rdb="x", replication_id=A, offset=100, taken_at=at(0), keys=())
    extent = RedisExtent(
        topology="standalone", server_version="7.0.0", databases=16, shards=(shard,)
    )
    inventory = take_stream_inventory(repository, "cache")
    return uncertain_spans(repository, inventory, [extent])


def uncertain(repository: Repository, seconds: float, reached: int = 200) -> Uncertain | None:
    shard = RedisShard(name="main", rdb="x", replication_id=A, offset=100, taken_at=at(0), keys=())
    inventory = take_stream_inventory(repository, "cache")
    return uncertain_at(repository, inventory, shard, moment=at(seconds), reached=reached)


def edges(found: Uncertain | None) -> list[tuple[int, datetime]]:
    assert found is not None
    return [(edge.offset, edge.moment) for edge in (found.earlier, found.later)]


def test_marks_that_were_made_in_the_outage_narrow_it() -> None:
    repository = late_log((20, 230), (30, 260))

    assert edges(uncertain(repository, 15)) == [(200, at(10)), (230, at(20))]
    assert edges(uncertain(repository, 25)) == [(230, at(20)), (260, at(30))]
    assert edges(uncertain(repository, 35)) == [(260, at(30)), (300, at(40))]


def test_the_moment_of_a_mark_is_exact_and_so_is_one_between_marks_at_one_offset() -> None:
    repository = late_log((20, 230), (30, 230))

    for seconds in (20, 22, 30):
        found = uncertain(repository, seconds)
        assert found is not None
        assert found.is_exact
        assert found.later.offset == 230


@pytest.mark.parametrize("end", [40, None])
def test_of_all_moments_the_same_ones_are_uncertain_to_a_plan_and_to_the_screens(
    end: float | None,
) -> None:
    repository = late_log((20, 230), (28, 230), (31, 260), is_closed=end is not None)

    spans = spans_to(repository)

    ends = [(span.begin, span.end) for span in spans]
    assert ends == [(at(10), at(20)), (at(28), end and at(end))]
    for seconds in [number / 2 for number in range(89)]:
        found = uncertain(repository, seconds, reached=200)
        is_refused = found is not None and not is_known(repository, "cache", found)
        is_shown = any(
            span.begin < at(seconds) and (span.end is None or at(seconds) < span.end)
            for span in spans
        )
        assert is_refused == (is_shown and seconds != 31), seconds


def test_what_arrives_while_it_comes_late_proves_nothing_of_what_was_written_meanwhile() -> None:
    """`status` told the moment of its arrival as the newest of which all is held."""
    shard = ShardStatus(
        name="main",
        replication_id=A,
        end=310,
        recoverable_until=at(45),
        gaps=(),
    )
    lasts = UncertainSpan(begin=at(10), end=None, shard="main", reason="it was away")
    over = replace(lasts, end=at(40))
    status = StreamStatus(source="cache", receiver=None, shards=(shard,), uncertain=(lasts,))

    assert status.recoverable_until == at(10)
    assert replace(status, uncertain=(over,)).recoverable_until == at(45)


def test_outside_of_the_outage_arrival_tells() -> None:
    assert uncertain(late_log(), 9, reached=180) is None
    assert uncertain(late_log(), 10) is None
    assert uncertain(late_log(), 40, reached=300) is None
    assert uncertain(late_log(), 44, reached=300) is None


@pytest.mark.parametrize("is_late", [False, True])
def test_a_stretch_of_a_master_that_was_left_ends_where_all_of_its_successor_is_received(
    is_late: bool,
) -> None:
    """Nobody closes it: every moment up to the next snapshot was refused, long after the failover."""
    repository = late_log(is_closed=False)
    history = ReplicationHistory("cache", B)
    link = StreamLink(replication_id=B, previous=A, offset=305, at=at(50))
    put_link(repository, "cache", link)
    for begin, end, arrived in ((305, 320, 60), (320, 330, 70)):
        index = StreamIndex(begin, end, (StreamMoment(at(arrived), end),))
        put_stream(repository, history, index, content=[bytes(end - begin)])
    if is_late:
        late = LateStretch(begin=305, since=at(10), end=320, until=at(62), reason="it was away")
        put_late(repository, history, late)

    ends = at(62) if is_late else at(50)
    assert [(span.begin, span.end) for span in spans_to(repository)] == [(at(10), ends)]
    assert edges(uncertain(repository, 30)) == [(200, at(10)), (305, ends)]
    for seconds, reached in ((12, 200), (49, 310), (51, 305), (61, 320), (65, 320)):
        found = uncertain(repository, seconds, reached=reached)
        assert (found is not None) == (at(seconds) < ends), seconds


def test_a_stretch_that_only_the_old_master_had_ends_when_it_was_left() -> None:
    repository = late_log(is_closed=False)
    link = StreamLink(replication_id=B, previous=A, offset=150, at=at(50))
    put_link(repository, "cache", link)
    index = StreamIndex(150, 320, (StreamMoment(at(60), 320),))
    put_stream(repository, ReplicationHistory("cache", B), index, content=[bytes(170)])

    [span] = spans_to(repository)

    assert (span.begin, span.end) == (at(10), at(50) - timedelta(microseconds=1))
    found = uncertain(repository, 30)
    assert found is not None
    assert found.later.path.last_id == A
    assert [found.earlier.offset, found.later.offset] == [200, 310]
    assert uncertain(repository, 55, reached=150) is None


def test_a_stretch_that_nobody_saw_the_end_of_lasts_to_the_end_of_what_is_held() -> None:
    assert edges(uncertain(late_log(is_closed=False), 20)) == [(200, at(10)), (310, at(45))]
