"""The read-ahead ring and its restore_command, run by the shell as PostgreSQL would."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from drtool.errors import IntegrityError, RepositoryUnavailable
from drtool.model.target import RecoveryTarget, ToLatest
from drtool.repository import layout
from drtool.repository.layout import Lineage
from drtool.repository.log import put_history
from drtool.repository.repository import Repository
from drtool.restore.look import look
from drtool.restore.plan import plan_restore
from drtool.restore.ring import MOST_AHEAD, REFUSING_COMMAND, RESTORE_COMMAND, RING, WalRing
from drtool.restore.supply import WalSupply
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import LARGEST_OBJECT_BYTES
from drtool.system.clock import SystemClock
from drtool.system.retry import RetryLimits
from drtool.system.users import current_user
from tests.repository.building import EXTENT_OF_BACKUP as EXTENT
from tests.repository.building import (
    MIB,
    SYSTEM,
    a_tree,
    new_repository,
    put_segments,
    put_tail,
    store_tree,
    tamper,
    wal_bytes,
)

SOURCE = "main"
SHORT = RetryLimits(attempts=2, within_seconds=1, first_pause_seconds=0.01)


def name(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}00000000{number:08X}"


class WeakStore(MemoryStore):
    """A store that is slow, or away, when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.delay_seconds = 0.0

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        time.sleep(self.delay_seconds)
        if self.is_away:
            raise RepositoryUnavailable("the store is away")
        return super().read(key, most_bytes=most_bytes)


@pytest.fixture
def store() -> WeakStore:
    return WeakStore()


@pytest.fixture
def repository(store: WeakStore, tmp_path: Path) -> Repository:
    """A backup of segment 2, and WAL of the segments 2 to 29."""
    repository = new_repository(store)
    store_tree(repository, a_tree(tmp_path / "tree", {}), extent=EXTENT)
    put_segments(repository, range(2, 30))
    return repository


@contextmanager
def a_ring(
    repository: Repository, directory: Path, target: RecoveryTarget | None = None
) -> Iterator[WalRing]:
    (directory / "pg_wal").mkdir(parents=True)
    target = target or ToLatest()
    plan = plan_restore(look(repository, SOURCE, target), target)
    clock = SystemClock()
    supply = WalSupply(repository, plan, clock=clock, patience=SHORT)
    with WalRing(supply, directory, owner=current_user(), clock=clock) as ring:
        yield ring


def ask(directory: Path, wanted: str, *, command: str = RESTORE_COMMAND) -> int:
    """Run the restore_command as PostgreSQL does: in the data directory, by /bin/sh."""
    line = command.replace("%f", wanted).replace("%p", "pg_wal/RECOVERYXLOG").replace("%%", "%")
    return subprocess.run(
        ["/bin/sh", "-c", line], cwd=directory, timeout=60, check=False
    ).returncode


def taken(directory: Path) -> bytes:
    return (directory / "pg_wal" / "RECOVERYXLOG").read_bytes()


@pytest.mark.parametrize("odd", ["data", 'it\'s a "copy" of 100%p $HOME; rm -r x'])
def test_segments_are_handed_over_in_any_directory(
    repository: Repository, tmp_path: Path, odd: str
) -> None:
    """PITFALLS 88: the command holds no path of ours, so no path needs quoting."""
    with a_ring(repository, tmp_path / odd):
        for number in (*range(2, 30), 29, 5):
            assert ask(tmp_path / odd, name(number)) == 0
            assert taken(tmp_path / odd) == wal_bytes(number)

    assert not (tmp_path / odd / RING).exists()


def test_what_lies_beyond_the_plan_is_surely_not_there(
    repository: Repository, tmp_path: Path
) -> None:
    with a_ring(repository, tmp_path / "data"):
        answers = [ask(tmp_path / "data", wanted) for wanted in (name(30), "00000002.history")]

    assert answers == [1, 1]


def test_a_store_that_is_away_is_never_the_end_of_the_wal(
    repository: Repository, store: WeakStore, tmp_path: Path
) -> None:
    """PITFALLS 39, section 0: above 125, so that PostgreSQL stops."""
    with a_ring(repository, tmp_path / "data") as ring:
        store.is_away = True
        answers = [ask(tmp_path / "data", name(number)) for number in range(2, 30)]

    assert set(answers) <= {0, 250}
    assert answers[-1] == 250
    assert ring.fault is not None
    assert isinstance(ring.fault.error, RepositoryUnavailable)


def test_a_damaged_segment_is_never_the_end_of_the_wal(
    repository: Repository, store: WeakStore, tmp_path: Path
) -> None:
    """PITFALLS 39: what was read before it is still handed over."""
    key = Lineage(SOURCE, SYSTEM, 1).segment_key(name(4))
    tamper(store, key, store.read(key)[:-1])
    with a_ring(repository, tmp_path / "data") as ring:
        answers = [ask(tmp_path / "data", name(number)) for number in (2, 3, 4)]

    assert answers == [0, 0, 250]
    assert ring.fault is not None
    assert isinstance(ring.fault.error, IntegrityError)


def test_a_segment_that_vanished_since_the_plan_is_an_error(
    repository: Repository, store: WeakStore, tmp_path: Path
) -> None:
    """PITFALLS 5, 72: a lifecycle rule deletes while a restore runs."""
    with a_ring(repository, tmp_path / "data") as ring:
        for number in range(2, 4):
            assert ask(tmp_path / "data", name(number)) == 0
        store.delete(Lineage(SOURCE, SYSTEM, 1).segment_key(name(28)))
        answers = [ask(tmp_path / "data", name(number)) for number in range(4, 29)]

    assert answers[:-1] == [0] * 24
    assert answers[-1] == 250
    assert ring.fault is not None
    assert name(28) in ring.fault.error.message


def test_readers_never_see_a_half_written_segment(
    repository: Repository, store: WeakStore, tmp_path: Path
) -> None:
    """PITFALLS 45: eight readers on a slow store."""
    store.delay_seconds = 0.02
    ready = tmp_path / "data" / RING / "ready"
    stop = threading.Event()
    sizes: set[int] = set()

    def look_on() -> None:
        while not stop.is_set():
            for entry in os.scandir(ready):
                try:
                    sizes.add(entry.stat().st_size)
                except FileNotFoundError:
                    continue

    with a_ring(repository, tmp_path / "data"), ThreadPoolExecutor(8) as readers:
        watching = [readers.submit(look_on) for _ in range(8)]
        for number in range(2, 30):
            assert ask(tmp_path / "data", name(number)) == 0
        stop.set()
        for watch in watching:
            watch.result()

    assert sizes == {MIB}


def test_no_more_is_read_ahead_than_the_limit(repository: Repository, tmp_path: Path) -> None:
    ready = tmp_path / "data" / RING / "ready"
    with a_ring(repository, tmp_path / "data"):
        deadline = time.monotonic() + 30
        while len(list(ready.iterdir())) < MOST_AHEAD:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ask(tmp_path / "data", name(2)) == 0

        assert len(list(ready.iterdir())) <= MOST_AHEAD


def test_a_timeline_switch_in_the_middle_of_the_read_ahead_is_followed(
    repository: Repository, tmp_path: Path
) -> None:
    """PITFALLS 46, 49: the new timeline's segment, its history, and nothing of the old one's tail."""
    put_history(
        repository,
        SOURCE,
        SYSTEM,
        timeline=2,
        content=b"1\t0/A80000\tno recovery target specified\n",
    )
    put_segments(repository, range(10, 12), timeline=2)
    put_tail(repository, 12, [(0, 5000)], timeline=2)
    with a_ring(repository, tmp_path / "data"):
        data = tmp_path / "data"
        assert ask(data, "00000002.history") == 0
        assert taken(data).startswith(b"1\t0/A80000")
        assert ask(data, "00000003.history") == 1
        answers = [ask(data, name(number, 1)) for number in range(2, 10)]
        answers += [ask(data, name(number, 2)) for number in range(10, 13)]
        last = taken(data)
        beyond = [ask(data, name(10, 1)), ask(data, name(13, 2))]

    assert answers == [0] * 11
    assert beyond == [1, 1]
    assert last == wal_bytes(12)[:5000] + bytes(MIB - 5000)


def test_a_whole_segment_is_preferred_to_its_parts(repository: Repository, tmp_path: Path) -> None:
    """PITFALLS 48, 49: both are there; the part is older and shorter."""
    put_tail(repository, 29, [(0, 500)])
    with a_ring(repository, tmp_path / "data"):
        for number in range(2, 30):
            ask(tmp_path / "data", name(number))

        assert taken(tmp_path / "data") == wal_bytes(29)


def test_a_backup_history_file_hides_no_segment(repository: Repository, tmp_path: Path) -> None:
    """PITFALLS 48: names are compared whole, never by their beginning."""
    with a_ring(repository, tmp_path / "data"):
        assert ask(tmp_path / "data", name(2) + ".00000028.backup") == 1
        assert ask(tmp_path / "data", name(2)) == 0


def test_a_full_disk_is_an_error_and_not_an_end(repository: Repository, tmp_path: Path) -> None:
    """PITFALLS 47, 57: here the directory is gone altogether."""
    with a_ring(repository, tmp_path / "data") as ring:
        assert ask(tmp_path / "data", name(2)) == 0
        (tmp_path / "data" / RING).rename(tmp_path / "gone")
        deadline = time.monotonic() + 30
        while ring.fault is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)

        assert ask(tmp_path / "data", name(3)) == 250


def test_without_a_ring_the_command_refuses(tmp_path: Path) -> None:
    """Section 0: left over in a configuration, neither command can end a recovery quietly."""
    (tmp_path / "pg_wal").mkdir()

    assert ask(tmp_path, name(2)) == 250
    assert ask(tmp_path, name(2), command=REFUSING_COMMAND) == 250


def test_a_history_that_is_away_is_not_a_history_that_is_not_there(
    repository: Repository, store: WeakStore, tmp_path: Path
) -> None:
    """PITFALLS 11, 41: PostgreSQL would stay on the old timeline."""
    put_history(
        repository,
        SOURCE,
        SYSTEM,
        timeline=2,
        content=b"1\t0/A80000\tno recovery target specified\n",
    )
    put_segments(repository, range(10, 12), timeline=2)
    with a_ring(repository, tmp_path / "data") as ring:
        store.is_away = True

        assert ask(tmp_path / "data", "00000002.history") == 250

    assert ring.fault is not None
    assert layout.history_key(SOURCE, SYSTEM, 2).endswith("00000002.history")
