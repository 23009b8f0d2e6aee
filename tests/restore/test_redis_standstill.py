"""A receiver, its machine or its link that stands still for seconds: what comes then came late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.archiving.redis_clock import ServerClock
from drtool.archiving.redis_lateness import Joined, Lateness, Probe
from drtool.errors import NotRecoverable
from drtool.model.request import Edge
from drtool.model.target import ToTime
from drtool.model.window import UncertainSpan
from drtool.repository.backups import read_manifests
from drtool.repository.layout import ReplicationHistory
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import take_stream_inventory
from drtool.repository.stream_uncertain import uncertain_spans
from drtool.repository.streamlate import LateStretch, open_late
from drtool.restore.redis_look import look_redis
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.psync import Position
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from tests.archiving.redis_rig import attached, receiving, settings_for, wait_held
from tests.archiving.rig import new_repository, until
from tests.repository.building import ManualClock
from tests.restore.redis_rig import restore, servers_of, started, take_snapshot
from tests.servers.redis import RedisServer, new_redis
from tests.servers.stalling import StallingRelay

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis
STILL_SECONDS = 1.6
# What is in step again is known so a moment later.
SETTLE_SECONDS = 0.6
PROGRAM = textwrap.dedent(
    """
    import sys, threading
    from pathlib import Path
    from drtool.archiving.redis import receive_stream
    from drtool.repository.keys import NO_SECRET
    from drtool.repository.repository import open_repository
    from drtool.stores.local import LocalStore
    from drtool.system.clock import SystemClock
    from tests.archiving.redis_rig import settings_for

    class Server:
        address = sys.argv[2]

    repository = open_repository(LocalStore(Path(sys.argv[1]), clock=SystemClock()), NO_SECRET)
    receive_stream(
        repository, settings_for([Server()]), stop=threading.Event(), clock=SystemClock()
    )
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """At `inside` 10 of the keys called `name` had been acknowledged in a standstill, of 15 in all."""

    name: str
    inside: datetime
    after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One log in which a receiver was stopped, its link stalled, and it was stopped while all was idle."""

    repository: Repository
    stopped: Standstill
    stalled: Standstill
    idle: datetime


def write(server: RedisServer, name: str, first: int, last: int) -> None:
    with server.client() as client:
        for number in range(first, last):
            client.set(f"{name}:{number}", number)


def stand_still(server: RedisServer, name: str) -> datetime:
    """Write while nothing is received; a moment in the middle of it."""
    write(server, name, 0, 10)
    time.sleep(STILL_SECONDS / 2)
    inside = datetime.now(UTC)
    write(server, name, 10, 15)
    time.sleep(STILL_SECONDS / 2)
    return inside


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def is_in_step(repository: Repository) -> bool:
    """Whether each late stretch that is recorded has an end."""
    [history] = take_stream_inventory(repository, "cache").logs.values()
    closed = {one.begin for one in history.late if one.end is not None}
    return closed == {one.begin for one in history.late}


def settled(repository: Repository, server: RedisServer, name: str) -> datetime:
    """A moment behind a standstill, with one more write called `name` before it, and one after it."""
    write(server, "settled", 0, 1)
    wait_held(repository, server)
    time.sleep(SETTLE_SECONDS)
    until(lambda: is_in_step(repository), "it is in step again")
    write(server, name, 100, 101)
    wait_held(repository, server)
    after = datetime.now(UTC)
    write(server, name, 101, 102)
    wait_held(repository, server)
    return after


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    place = tmp_path_factory.mktemp("store")
    repository = new_repository(LocalStore(place, clock=SystemClock()))
    with ExitStack() as stack:
        server = stack.enter_context(closing(new_redis()))
        relay = stack.enter_context(closing(StallingRelay(server.port)))
        take_snapshot(repository, servers_of(server))
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", PROGRAM, str(place), relay.address]
        receiver = stack.enter_context(subprocess.Popen(command, env=environ))
        stack.callback(receiver.kill)
        until(lambda: attached(server) or receiver.poll() is not None, "it joins")
        settled(repository, server, "joined")

        stop(receiver)
        stopped = stand_still(server, "stopped")
        receiver.send_signal(signal.SIGCONT)
        after_stopped = settled(repository, server, "stopped")

        with relay.stalled():
            stalled = stand_still(server, "stalled")
        after_stalled = settled(repository, server, "stalled")

        stop(receiver)
        time.sleep(STILL_SECONDS / 2)
        idle = datetime.now(UTC)
        time.sleep(STILL_SECONDS / 2)
        receiver.send_signal(signal.SIGCONT)
        time.sleep(2 * SETTLE_SECONDS)
        settled(repository, server, "idle")
        yield Log(
            repository=repository,
            stopped=Standstill(name="stopped", inside=stopped, after=after_stopped),
            stalled=Standstill(name="stalled", inside=stalled, after=after_stalled),
            idle=idle,
        )


def keys_at(
    repository: Repository, into: Path, name: str, moment: datetime, edge: Edge | None = None
) -> int:
    with started(restore(repository, into, ToTime(moment), edge=edge)) as [copy]:
        return len(copy.keys(f"{name}:*"))


def spans_of(repository: Repository) -> tuple[UncertainSpan, ...]:
    manifests, _ = read_manifests(repository, "cache")
    inventory = take_stream_inventory(repository, "cache")
    return uncertain_spans(repository, inventory, [one.redis for one in manifests])


def _holds(span: UncertainSpan, moment: datetime) -> bool:
    return span.begin < moment and (span.end is None or moment < span.end)


@pytest.mark.parametrize("name", ["stopped", "stalled"])
def test_a_moment_at_which_the_receiver_stood_still_is_refused_and_its_edges_are_not(
    log: Log, root: Path, name: str
) -> None:
    """10 of 10 acknowledged keys were missing in the copy, which ended with 0."""
    still = log.stopped if name == "stopped" else log.stalled
    with pytest.raises(NotRecoverable, match="received later than it was written"):
        restore(log.repository, root / "refused", ToTime(still.inside))

    assert keys_at(log.repository, root / "earlier", name, still.inside, Edge.EARLIER) == 0
    assert keys_at(log.repository, root / "later", name, still.inside, Edge.LATER) == 15
    assert keys_at(log.repository, root / "after", name, still.after) == 16


def test_the_screens_show_each_standstill_in_which_was_written_and_no_idle_one(log: Log) -> None:
    spans = spans_of(log.repository)

    for still in (log.stopped, log.stalled):
        assert len([span for span in spans if _holds(span, still.inside)]) == 1
    assert not any(_holds(span, log.idle) for span in spans)
    assert look_redis(log.repository, "cache", ToTime(log.idle)).uncertain == spans
    # It lasts no longer than it did.
    for span in spans:
        assert span.end is not None
        assert span.end - span.begin < timedelta(seconds=STILL_SECONDS + 10)


def test_a_moment_of_an_idle_standstill_is_exact(log: Log, root: Path) -> None:
    assert keys_at(log.repository, root / "idle", "stalled", log.idle) == 17


class PausedClock(SystemClock):
    """The clock of a virtual machine that is paused for a while: it knows nothing of it."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._paused_at: float | None = None

    def pause(self) -> None:
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        assert self._paused_at is not None
        self._lost += time.monotonic() - self._paused_at
        self._paused_at = None

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=time.monotonic() - self.monotonic())

    def monotonic(self) -> float:
        paused_at = self._paused_at
        return (time.monotonic() if paused_at is None else paused_at) - self._lost


def test_a_machine_that_was_paused_with_its_clocks_learns_it_from_the_masters_time(
    root: Path,
) -> None:
    """What came then was told by moments before it was written, and so was all after it."""
    repository, clock = new_repository(), PausedClock()
    with ExitStack() as stack:
        server = stack.enter_context(closing(new_redis()))
        relay = stack.enter_context(closing(StallingRelay(server.port)))
        take_snapshot(repository, servers_of(server))
        joined = replace(settings_for([server]), nodes=(NodeAddress.parse(relay.address),))
        stack.enter_context(receiving(repository, joined, clock=clock))
        until(lambda: attached(server), "it joins")
        settled(repository, server, "joined")
        clock.pause()
        with relay.stalled():
            inside = stand_still(server, "paused")
            clock.resume()
        after = settled(repository, server, "paused")

    with pytest.raises(NotRecoverable, match="received later than it was written"):
        restore(repository, root / "refused", ToTime(inside))
    assert keys_at(repository, root / "later", "paused", inside, Edge.LATER) == 15
    assert keys_at(repository, root / "after", "paused", after) == 16


def test_a_master_that_takes_no_writes_of_ours_is_still_known_to_be_in_step() -> None:
    """A Redis at its `maxmemory` refuses the heartbeat, and carries out what frees memory."""
    repository = new_repository()
    with ExitStack() as stack:
        server = stack.enter_context(closing(new_redis()))
        client = stack.enter_context(server.client())
        take_snapshot(repository, servers_of(server))
        beating = settings_for([server], key="mark")
        running = stack.enter_context(receiving(repository, beating))
        until(lambda: attached(server), "it joins")
        write(server, "before", 0, 20)
        client.config_set("maxmemory", 1)
        until(lambda: running.warned("no marks are made"), "the heartbeat is refused")
        for number in range(20):
            client.delete(f"before:{number}")
            time.sleep(0.08)
        wait_held(repository, server)
        assert not running.recovered("marks are made again")
        client.config_set("maxmemory", 0)
        until(lambda: running.recovered("marks are made again"), "and that it no longer is")

    assert not [span for span in spans_of(repository) if span.end is None]


REPLID = "a" * 40
HISTORY = ReplicationHistory("cache", REPLID)


class Session:
    """A session that has joined at 1000, by a clock that a test sets."""

    def __init__(self) -> None:
        self.clock, self.repository = ManualClock(), new_repository()
        joined = Joined(
            offset=1000, since=self.clock.now(), at=self.clock.monotonic(), is_late=False
        )
        self.lateness = Lateness(
            self.repository,
            HISTORY,
            joined,
            server_clock=ServerClock(self.clock),
            clock=self.clock,
        )

    def asks(self, told: int, *, held: int, after_seconds: float) -> None:
        """After so long the master is at `told`, and `held` is received."""
        self.clock.pass_(timedelta(seconds=after_seconds))
        probe = Probe(Position(REPLID, told), self.clock.monotonic(), self.clock.now())
        self.lateness.look(held, probe)

    def receives(self, offset: int, *, after_seconds: float) -> datetime:
        """After so long all up to `offset` arrives; when."""
        self.clock.pass_(timedelta(seconds=after_seconds))
        self.lateness.arrived(offset, self.clock.now())
        return self.clock.now()

    def recorded(self) -> LateStretch | None:
        self.lateness.put(lambda put: put())
        return open_late(self.repository, HISTORY)


def test_bytes_after_a_standstill_are_recorded_as_late_before_they_are_given_on() -> None:
    """Else a receiver that is killed then leaves them behind as in time."""
    session = Session()
    session.asks(1000, held=1000, after_seconds=0.3)
    in_time = session.receives(1010, after_seconds=0.2)
    session.receives(1020, after_seconds=2)

    late = session.recorded()
    assert late is not None
    assert (late.begin, late.since, late.until) == (1010, in_time, None)


def test_a_machine_that_is_busy_is_not_late_as_long_as_it_is_in_step_within_a_second() -> None:
    session = Session()
    for step in range(1, 40):
        session.receives(1000 + step, after_seconds=0.4)
        session.asks(1000 + step, held=1000 + step, after_seconds=0.4)

    assert session.recorded() is None


def test_an_idle_hour_between_two_questions_is_nothing_late() -> None:
    session = Session()
    session.asks(1000, held=1000, after_seconds=3600)
    session.receives(1010, after_seconds=0.5)

    assert session.recorded() is None
    assert not session.lateness.is_late
