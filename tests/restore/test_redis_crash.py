"""drtool is killed in the middle of the restore of a Redis: nothing of it starts as if it were whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path

import pytest

from drtool.errors import Interrupted
from drtool.model.progress import Emit, Event, PhaseBegan
from drtool.policy.sources import RedisTopology
from drtool.stores.local import LocalStore
from tests.archiving.redis_rig import wait_for_more, wait_held
from tests.archiving.rig import new_repository
from tests.restore.redis_rig import (
    CLOCK,
    restore,
    servers_of,
    started,
    streamed,
    take_snapshot,
)
from tests.servers.redis import ClusterGroup, wait_for

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis
ROOT = Path(__file__).parent.parent.parent
KEYS = 300

# Dies by its own hand, at the event or at the so-many-th configuration that the argument names.
RESTORE = """
    import itertools, os, signal, sys
    from pathlib import Path
    import tests.restore.redis_rig as rig
    from drtool.repository.keys import NO_SECRET
    from drtool.repository.repository import open_repository
    from drtool.stores.local import LocalStore
    from drtool.system.owned_directory import OwnedDirectory

    root, into, fatal = sys.argv[1:]
    written, calls = OwnedDirectory.replace, itertools.count(1)

    def pass_by(place):
        if place == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(*given, **named):
        written(*given, **named)
        pass_by(f"file {next(calls)}")

    def emit(event):
        pass_by(f"{type(event).__name__} {getattr(event, 'phase', '')}")

    OwnedDirectory.replace = write
    repository = open_repository(LocalStore(Path(root), clock=rig.CLOCK), NO_SECRET)
    rig.restore(repository, Path(into), emit=emit)
"""
EVENTS = [
    "PhaseAdvanced fetch", "PhaseEnded fetch", "PhaseBegan replay", "PhaseEnded replay",
    "PhaseBegan answer", "PhaseEnded verify", "PhaseBegan finish",
]  # fmt: skip
# Each of three masters, and then of their three replicas, gets its nodes.conf and its redis.conf.
FILES = [1, 2, 3, 6, 7, 11]


def test_a_restore_that_ends_early_leaves_no_configuration_before_all_data_is_whole(
    redis_cluster: ClusterGroup, root: Path, tmp_path: Path
) -> None:
    """Promise 6: killed at every phase, after any file that makes a server startable, or asked to stop."""
    (tmp_path / "store").mkdir()
    repository = new_repository(LocalStore(tmp_path / "store", clock=CLOCK))
    with streamed(repository, *redis_cluster.nodes, kind=RedisTopology.CLUSTER):
        take_snapshot(repository, servers_of(*redis_cluster.nodes, kind=RedisTopology.CLUSTER))
        fill(redis_cluster)
        for master in redis_cluster.masters():
            wait_held(repository, master)
        for master in redis_cluster.masters():
            wait_for_more(repository, master)

    for number, place in enumerate([*EVENTS, *(f"file {count}" for count in FILES)]):
        copy = root / f"copy {number}"
        command = [sys.executable, "-c", textwrap.dedent(RESTORE), str(tmp_path / "store")]
        killed = subprocess.run([*command, str(copy), place], cwd=ROOT, timeout=120, check=False)

        assert killed.returncode == -signal.SIGKILL, place
        wait_for(partial(is_left, copy), what="the servers die with their starter")
        startable = sorted(path.parent.name for path in copy.rglob("redis.conf"))
        if place.startswith("file"):
            assert startable == expected_after(int(place.split()[1]))
        else:
            assert startable == [], place

    for phase in ("fetch", "replay", "verify"):
        copy = root / f"stopped in {phase}"
        with pytest.raises(Interrupted):
            restore(repository, copy, emit=asking(stop := threading.Event(), phase), stop=stop)
        assert is_left(copy)
        assert list(copy.rglob("redis.conf")) == []

    outcome = restore(repository, root / "whole")
    with started(outcome) as copies:
        assert sum(one.dbsize() for one in copies) == KEYS


def asking(stop: threading.Event, phase: str) -> Emit:
    """Asks the run to stop once `phase` has begun."""

    def emit(event: Event) -> None:
        if isinstance(event, PhaseBegan) and event.phase == phase:
            stop.set()

    return emit


def expected_after(files: int) -> list[str]:
    """A redis.conf is the last of a server's two files; no replica before every master."""
    masters = ["slots-0", "slots-5461", "slots-10923"]
    names = [*masters, *(f"{name}-replica-1" for name in masters)]
    return sorted(names[: files // 2])


def fill(cluster: ClusterGroup) -> None:
    for master in cluster.masters():
        with master.client() as client:
            client.flushall()
    with cluster.client() as client:
        for number in range(KEYS):
            client.set(f"key:{number}", number)


def is_left(place: Path) -> bool:
    """Whether no process has its working directory below `place`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = os.readlink(process / "cwd")
        except OSError:
            continue  # it has ended meanwhile
        if Path(where).is_relative_to(place):
            return False
    return True
