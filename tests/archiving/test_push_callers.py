"""Who pushes WAL is asked before anything is taken from them, and nobody keeps others out by waiting."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from drtool.archiving.callers import MOST_CONNECTIONS
from drtool.archiving.serving import PushSite
from tests.archiving.rig import new_repository
from tests.archiving.test_push import finished_segment, place, push, reachable_python, serving
from tests.servers.postgres import MakePostgres, as_server_user

__all__ = ["place"]  # the fixture

pytestmark = pytest.mark.postgres
STRANGER = 65534
IS_ROOT = os.geteuid() == 0


def said_by(program: str, user: dict[str, object]) -> str:
    done = subprocess.run(
        [reachable_python(), "-S", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=60,
        cwd="/",
        **user,  # type: ignore[call-overload]
    )
    printed: bytes = done.stdout
    return printed.decode()


@contextmanager
def idle(place: Path, count: int) -> Iterator[None]:
    """So many connections of this user that never say a word."""
    with ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(place))
        yield


def test_connections_that_say_nothing_stop_no_archiving(
    make_postgres: MakePostgres, place: Path
) -> None:
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    segment = finished_segment(server)

    with serving(new_repository(), server, PushSite(socket=place)):
        before = len(os.listdir("/proc/self/fd"))
        with idle(place, 5 * MOST_CONNECTIONS):
            began = time.monotonic()
            done = push(segment, place, "--timeout", "8")
            took = time.monotonic() - began
            # Theirs and ours: of each kept connection the other end is in this process, too.
            kept = len(os.listdir("/proc/self/fd")) - before - 5 * MOST_CONNECTIONS

    assert done.returncode == 0, done.stderr
    assert took < 5
    assert kept <= MOST_CONNECTIONS


def test_a_stranger_is_turned_away_before_anything_is_taken(
    make_postgres: MakePostgres, place: Path
) -> None:
    server = make_postgres(15, segment_mb=1)
    connects = (
        "import socket,time\nb=time.monotonic()\ns=socket.socket(socket.AF_UNIX)\n"
        "try:\n"
        f" s.connect({str(place)!r})\n"
        "except OSError as e: print(e.strerror); raise SystemExit\n"
        "s.settimeout(20)\nprint(s.recv(4096).decode(), s.recv(10), time.monotonic()-b < 3)"
    )
    # Without root's rights nobody else can be played, and nobody else is let in.
    stranger: dict[str, object] = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    stranger = stranger if IS_ROOT else {}
    owner = server.data.stat().st_uid

    with serving(new_repository(), server, PushSite(socket=place, user_ids=frozenset({owner}))):
        mode = stat.S_IMODE(place.stat().st_mode)
        kept_out = said_by(connects, stranger)
        # As on a file system without access control lists.
        place.chmod(0o666)
        turned_away = said_by(connects, stranger)
        let_in = said_by(connects.replace("20", "1"), as_server_user())

    assert mode & 0o007 == 0
    assert not IS_ROOT or "Permission denied" in kept_out
    assert (
        not IS_ROOT or turned_away.strip() == f"2 user {STRANGER} may not push WAL here\n b'' True"
    )
    assert "timed out" in let_in
