"""Leases: one at a time, and whoever lost it publishes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from drtool.errors import LeaseHeld, RepositoryUnavailable
from drtool.repository import layout
from drtool.repository.lease import LONGEST_SKEW, TERM, Lease, lease_holder
from drtool.repository.repository import Repository
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import Store
from drtool.system.clock import SystemClock
from tests.repository.building import ManualClock, new_repository

KEY = layout.lease_key("backup-main")


class Still(ManualClock):
    """Time for the holder of a lease that was stopped: nothing of it runs, its thread neither."""

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        if until is None:
            return SystemClock().wait(seconds)  # the store waits for its lock
        return until.wait(60)


@pytest.fixture
def clock() -> ManualClock:
    return Still()


@pytest.fixture(params=["memory", "local"])
def repository(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Repository:
    stores: dict[str, Callable[[], Store]] = {
        "memory": lambda: MemoryStore(clock=clock),
        "local": lambda: LocalStore(tmp_path, clock=clock),
    }
    return new_repository(stores[request.param]())


@pytest.fixture
def take(repository: Repository, clock: ManualClock) -> Iterator[Callable[[], Lease]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Lease(repository, "backup-main", clock=clock))


Take = Callable[[], Lease]


def test_of_two_takers_the_second_is_refused_until_the_first_lets_go(take: Take) -> None:
    first = take()

    with pytest.raises(LeaseHeld, match="pid"):
        take()
    first.release()
    second = take()

    second.check()
    assert second.fencing == first.fencing + 1


def test_of_eight_takers_at_once_one_wins(repository: Repository, clock: ManualClock) -> None:
    """PITFALLS 33: two backups started at the same instant."""
    won: list[Lease] = []
    gate = threading.Barrier(8)

    def attempt() -> None:
        gate.wait(30)
        try:
            won.append(Lease(repository, "backup-main", clock=clock))
        except LeaseHeld:
            return

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(won) == 1
    won[0].release()


def test_a_lease_that_ran_out_is_taken_over_and_the_first_cannot_publish(
    take: Take, clock: ManualClock
) -> None:
    """PITFALLS 33: the first one was stopped (SIGSTOP) past its term, and goes on."""
    first = take()
    clock.pass_(TERM + timedelta(seconds=1))

    second = take()

    with pytest.raises(LeaseHeld, match="lost"):
        first.check()
    second.check()
    first.release()
    second.check()


def test_a_lease_that_ran_out_and_was_wanted_by_nobody_is_renewed_by_the_check(
    take: Take, clock: ManualClock
) -> None:
    first = take()
    clock.pass_(TERM * 5)

    first.check()

    with pytest.raises(LeaseHeld):
        take()


def test_a_lease_that_lies_in_the_past_for_another_machine_is_still_held(
    repository: Repository, take: Take
) -> None:
    """Only the store's clock counts: another machine's may be an hour ahead."""
    take()
    ahead = Still()
    ahead.pass_(timedelta(hours=1))

    with pytest.raises(LeaseHeld):
        Lease(repository, "backup-main", clock=ahead)


def test_a_lease_is_renewed_while_time_passes() -> None:
    clock = ManualClock()
    repository = new_repository(MemoryStore(clock=clock))
    with Lease(repository, "backup-main", clock=clock) as lease:
        before = repository.store.read(KEY)
        clock.pass_(timedelta(seconds=20))
        deadline = threading.Event()
        for _ in range(1000):
            if repository.store.read(KEY) != before:
                break
            deadline.wait(0.01)

        assert repository.store.read(KEY) != before
        lease.check()


class Forgetful(MemoryStore):
    """Puts what it is told, and then says that it could not."""

    fails = False

    def replace_if(self, key: str, content: bytes, expected: bytes | None) -> bool:
        done = super().replace_if(key, content, expected)
        if self.fails:
            self.fails = False
            raise RepositoryUnavailable("the answer was lost")
        return done


def test_a_renewal_whose_answer_was_lost_is_no_lost_lease() -> None:
    clock = Still()
    store = Forgetful(clock=clock)
    with Lease(new_repository(store), "backup-main", clock=clock) as lease:
        clock.pass_(timedelta(seconds=15))
        store.fails = True
        with pytest.raises(RepositoryUnavailable):
            lease.check()

        clock.pass_(timedelta(seconds=15))
        lease.check()
        lease.check()


def test_nothing_is_published_while_the_store_cannot_be_asked() -> None:
    class Away(MemoryStore):
        is_away = False

        def replace_if(self, key: str, content: bytes, expected: bytes | None) -> bool:
            if self.is_away:
                raise RepositoryUnavailable("the store is away")
            return super().replace_if(key, content, expected)

    clock = Still()
    store = Away(clock=clock)
    lease = Lease(new_repository(store), "backup-main", clock=clock)
    store.is_away = True

    with pytest.raises(RepositoryUnavailable):
        lease.check()
    lease.release()

    assert json.loads(store.read(KEY))["fencing"] == 1


def test_leases_of_other_names_do_not_matter(repository: Repository, clock: ManualClock) -> None:
    with (
        Lease(repository, "backup-main", clock=clock) as one,
        Lease(repository, "wal-main", clock=clock) as other,
    ):
        one.check()
        other.check()


_HOLDER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from drtool.repository.lease import Lease
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
store = LocalStore(Path(sys.argv[1]), clock=SystemClock())
Lease(SimpleNamespace(store=store), "backup-main", clock=SystemClock())
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lease of the repository in `tmp_path`."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def _take_from(root: Path, *, outlives_process: bool = False) -> Lease:
    clock = SystemClock()
    repository = SimpleNamespace(store=LocalStore(root, clock=clock))
    return Lease(repository, "backup-main", clock=clock, outlives_process=outlives_process)


def test_the_term_of_what_writes_in_place_is_waited_for_though_its_process_was_killed(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    holder.kill()
    holder.wait(60)

    with pytest.raises(LeaseHeld, match=f"pid {holder.pid}"):
        _take_from(tmp_path, outlives_process=True)


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_the_lease_of_a_process_that_was_killed_is_free_at_once(
    tmp_path: Path, holder: subprocess.Popen[bytes], is_waited_for: bool
) -> None:
    with pytest.raises(LeaseHeld):
        _take_from(tmp_path)

    holder.kill()
    if is_waited_for:
        holder.wait(60)
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)

    with _take_from(tmp_path) as lease:
        assert lease.fencing == 2
        lease.check()


def test_the_lease_of_a_process_that_is_stopped_is_held(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    holder.send_signal(signal.SIGSTOP)

    with pytest.raises(LeaseHeld, match=f"pid {holder.pid}"):
        _take_from(tmp_path)


@pytest.mark.parametrize(
    ("change", "is_free"),
    [
        ({}, False),
        ({"started": 1}, True),  # the number went to another process since
        ({"boot": "another", "started": 1}, False),
        ({"namespace": "pid:[1]", "started": 1}, False),
        ({"pid": 1 << 40}, False),
    ],
)
def test_only_of_processes_of_this_machine_is_it_known_that_they_ended(
    tmp_path: Path, holder: subprocess.Popen[bytes], change: dict[str, object], is_free: bool
) -> None:
    store = LocalStore(tmp_path, clock=SystemClock())
    before = store.read(KEY)
    told = json.loads(before)
    told["process"] |= change
    assert store.replace_if(KEY, json.dumps(told).encode(), before)

    with nullcontext() if is_free else pytest.raises(LeaseHeld):
        _take_from(tmp_path).release()


def test_a_lease_that_does_not_tell_its_process_runs_out_by_time_alone(
    repository: Repository, take: Take, clock: ManualClock
) -> None:
    """As drtool 0.1.0 wrote them at first, and as it does where there is no /proc."""
    until = clock.now() + timedelta(seconds=30)
    old = {"owner": "somebody", "until": until.isoformat(), "fencing": 7}
    repository.store.create(KEY, [json.dumps(old).encode()])

    with pytest.raises(LeaseHeld, match="somebody"):
        take()
    clock.pass_(timedelta(seconds=31))
    assert take().fencing == 8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"owner": 1, "until": "x", "fencing": 1}',
        b'{"owner": "", "until": "2024-05-01T10:00:00+00:00", "fencing": 1, "process": {"pid": 1}}',
        (
            b'{"owner": "", "until": "2024-05-01T10:00:00+00:00", "fencing": 1, "process": {"boot": "",'
            b' "namespace": "", "pid": -5, "started": 1}}'
        ),
    ],
)
def test_what_is_no_lease_keeps_nobody_from_it(content: bytes, clock: ManualClock) -> None:
    """Whoever may write to the store can put it there."""
    repository = new_repository(MemoryStore(clock=clock))
    repository.store.create(KEY, [content])

    assert lease_holder(repository, "backup-main") is None
    with Lease(repository, "backup-main", clock=clock, numbered_above=lambda: 41) as lease:
        assert lease_holder(repository, "backup-main") is not None
        assert lease.fencing == 42


@pytest.mark.parametrize(
    "ahead", [timedelta(days=17 * 365), LONGEST_SKEW + timedelta(seconds=1)], ids=["2043", "5 min"]
)
def test_a_lease_taken_under_a_clock_that_ran_ahead_holds_nobody_up(
    repository: Repository, clock: ManualClock, take: Callable[[], Lease], ahead: timedelta
) -> None:
    """PITFALLS 79: it was held until 2043."""
    clock.pass_(ahead)
    abandoned = take()
    clock.pass_(-ahead)

    assert lease_holder(repository, "backup-main") is None
    assert take().fencing == abandoned.fencing + 1


def test_a_lease_whose_term_two_clocks_may_tell_so_is_held(
    repository: Repository, clock: ManualClock, take: Callable[[], Lease]
) -> None:
    clock.pass_(LONGEST_SKEW)
    take()
    clock.pass_(-LONGEST_SKEW)

    assert lease_holder(repository, "backup-main") is not None
    with pytest.raises(LeaseHeld):
        take()


def test_a_lease_whose_object_was_removed_goes_on_behind_the_numbers_that_were_given(
    repository: Repository, clock: ManualClock
) -> None:
    with Lease(repository, "backup-main", clock=clock, numbered_above=lambda: 41) as first:
        pass
    with Lease(repository, "backup-main", clock=clock, numbered_above=lambda: 7) as second:
        pass

    assert (first.fencing, second.fencing) == (42, 43)
