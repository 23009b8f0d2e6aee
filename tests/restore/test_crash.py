"""drtool is killed in the middle of a restore: what it leaves behind cannot be started as if whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

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
    """Promise 6, PITFALLS 57: at the first files, with all of them, in mid-replay, and behind its end."""
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
        # Promoted: nothing is to be recovered any more.
        "PhaseBegan verify",
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
        started = time.monotonic()
        with pytest.raises(Interrupted):
            restore(
                repository,
                copy,
                questions=QUESTIONS if phase == "answer" else (),
                emit=emit,
                stop=stop,
            )
        assert time.monotonic() - started < 50
        assert begun[-1] == phase
        assert not is_running(copy)
        assert_refuses_to_start(copy)


QUESTIONS = ["SELECT true", "SELECT pg_sleep(60) IS NOT NULL", "SELECT pg_sleep(61) IS NOT NULL"]


def asking(stop: threading.Event, phase: str, begun: list[str]) -> Emit:
    """Asks the run to stop once `phase` has begun; all that have are `begun`."""

    def emit(event: Event) -> None:
        if isinstance(event, PhaseBegan):
            begun.append(event.phase)
            if event.phase == phase:
                stop.set()

    return emit


def asking_while_it_answers(stop: threading.Event, copy: Path, begun: list[str]) -> Emit:
    """Asks the run to stop while the copy answers the second question, which is not waited for."""

    def ask() -> None:
        wait_for(lambda: is_answering(copy), "it is asked")
        stop.set()

    def emit(event: Event) -> None:
        if isinstance(event, PhaseBegan):
            begun.append(event.phase)
            if event.phase == "answer":
                threading.Thread(target=ask).start()

    return emit


def is_answering(copy: Path) -> bool:
    """Whether its server sleeps in the second question."""
    told = (copy / "postmaster.pid").read_text().split("\n")
    dsn = make_conninfo(host=told[4], port=told[3], user="postgres", dbname="postgres")
    with psycopg.connect(dsn) as session:
        asked = session.execute("SELECT query FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        return any("pg_sleep(60)" in query for (query,) in asked)


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
