"""drtool is killed in the middle of a restore: what it leaves behind cannot be started as if whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from drtool.errors import Interrupted
from drtool.model.progress import Emit, Event, PhaseBegan
from tests.archiving.rig import fill
from tests.restore.rig import local_store, protected, restore, settle, take_backup, wait_for
from tests.restore.test_damage import assert_refuses_to_start
from tests.servers.postgres import MakePostgres

pytestmark = pytest.mark.postgres
ROOT = Path(__file__).parent.parent.parent

# Dies by its own hand, at the event or at the so-many-th read of WAL that the argument names.
RESTORE = """
    import itertools, os, signal, sys
    from pathlib import Path
    from drtool.repository.keys import NO_SECRET
    from drtool.repository.repository import open_repository
    from drtool.stores.local import LocalStore
    from tests.restore.rig import CLOCK, restore

    root, into, fatal = sys.argv[1:]

    def pass_by(place):
        if place == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    class Store(LocalStore):
        reads = itertools.count(1)

        def read(self, key, *, most_bytes):
            if key.startswith("log/"):
                pass_by(f"segment {next(self.reads)}")
            return super().read(key, most_bytes=most_bytes)

    def emit(event):
        pass_by(f"{type(event).__name__} {getattr(event, 'phase', '')}")

    restore(open_repository(Store(Path(root), clock=CLOCK), NO_SECRET), Path(into), emit=emit)
"""


def test_a_restore_that_is_killed_or_asked_to_stop_leaves_nothing_that_can_be_started(
    make_postgres: MakePostgres, server_root: Path, tmp_path: Path
) -> None:
    """Promise 6, PITFALLS 57: at the first files, when they are all there, and in mid-replay."""
    server = make_postgres(15, segment_mb=1)
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    with protected(server, local_store(tmp_path)) as repository:
        take_backup(repository, server)
        fill(server, 24)
        settle(repository, server)
    events = [
        "PhaseAdvanced fetch",
        "PhaseEnded fetch",
        "PhaseBegan replay",
        # The last of some 26 segments are not handed out yet, so the replay cannot have ended.
        "segment 20",
    ]

    for number, event in enumerate(events):
        copy = server_root / f"copy {number}"
        command = [sys.executable, "-c", textwrap.dedent(RESTORE)]
        killed = subprocess.run(
            [*command, str(tmp_path / "repository"), str(copy), event],
            cwd=ROOT,
            timeout=120,
            check=False,
        )

        assert killed.returncode == -signal.SIGKILL
        await_end(copy)
        assert_refuses_to_start(copy)

    for phase in ("fetch", "replay", "answer", "verify", "finish"):
        copy = server_root / f"stopped in {phase}"
        stop, begun = threading.Event(), list[str]()
        emit = asking(stop, phase, begun)
        if phase == "answer":
            emit = asking_while_it_answers(stop, copy, begun)
        with pytest.raises(Interrupted):
            restore(
                repository,
                copy,
                questions=questions_to(copy) if phase == "answer" else (),
                emit=emit,
                stop=stop,
            )
        assert begun[-1] == phase
        assert not is_running(copy)
        assert_refuses_to_start(copy)
        assert not (copy / "asked").exists()


def questions_to(copy: Path) -> list[str]:
    """The second must not be waited for; the third leaves a file as the first does, and comes no more."""
    return [
        f"COPY (SELECT 1) TO '{copy}/answering'",
        "SELECT pg_sleep(10) IS NOT NULL",
        f"COPY (SELECT 1) TO '{copy}/asked'",
    ]


def asking(stop: threading.Event, phase: str, begun: list[str]) -> Emit:
    """Asks the run to stop once `phase` has begun; all that have are `begun`."""

    def emit(event: Event) -> None:
        if isinstance(event, PhaseBegan):
            begun.append(event.phase)
            if event.phase == phase:
                stop.set()

    return emit


def asking_while_it_answers(stop: threading.Event, copy: Path, begun: list[str]) -> Emit:
    """Asks the run to stop while the copy answers the second question."""

    def ask() -> None:
        wait_for((copy / "answering").exists, "it is asked")
        stop.set()

    def emit(event: Event) -> None:
        if isinstance(event, PhaseBegan):
            begun.append(event.phase)
            if event.phase == "answer":
                threading.Thread(target=ask).start()

    return emit


def await_end(data: Path) -> None:
    """The server dies with whoever started it."""
    wait_for(lambda: not is_running(data), "the server dies with its starter")


def is_running(data: Path) -> bool:
    """Whether a server that was started on this directory still runs."""
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return False
    pid = pid_file.read_text().split("\n", 1)[0]
    return Path(f"/proc/{pid}").exists()
