"""`drtool-wal push` says 0 only for what is durable, and never more than 125."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drtool.archiving.serving import PushServed, PushSite, serve_push
from drtool.model.progress import Emit, Event, PhaseAdvanced, silent
from drtool.model.wal import WalSegment
from drtool.repository.layout import Lineage
from drtool.repository.log import SegmentWriter, read_segment
from drtool.repository.repository import Repository
from drtool.sources.postgres.facts import read_facts
from drtool.system.clock import SystemClock
from tests.archiving.rig import (
    SOURCE,
    fill,
    inventory,
    new_repository,
    settings_for,
    until,
)
from tests.servers.postgres import MakePostgres, PostgresServer, as_server_user

pytestmark = pytest.mark.postgres


def push(file: Path | str, place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drtool.archiving.push", "push", *more]
    return subprocess.run(
        [*command, "--socket", str(place), str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="drtool-push-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "run" / "main-db.sock"


@contextmanager
def serving(
    repository: Repository, server: PostgresServer, site: PushSite, *, emit: Emit = silent
) -> Iterator[list[PushServed]]:
    stop = threading.Event()
    served: list[PushServed] = []

    def serve() -> None:
        settings, clock = settings_for(server), SystemClock()
        served.append(serve_push(repository, settings, site, stop=stop, clock=clock, emit=emit))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        until(lambda: site.socket.exists() or not thread.is_alive(), "the socket")
        yield served
    finally:
        stop.set()
        thread.join(30)


def reachable_python() -> str:
    """An interpreter that the servers' user can start: root's own may lie in a private directory."""
    return sys.executable if os.geteuid() else "/usr/bin/python3"


def finished_segment(server: PostgresServer) -> Path:
    """A complete segment of the server's own."""
    name = server.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
    fill(server, 1)
    server.query("SELECT pg_switch_wal()")
    return server.data / "pg_wal" / str(name)


def test_all_kinds_of_files_are_taken_and_other_bytes_refused(
    make_postgres: MakePostgres, place: Path, tmp_path: Path
) -> None:
    """PITFALLS 1, 2, 8, 12: the same bytes again are well, other bytes and clusters are not."""
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    clone = make_postgres(15, segment_mb=1)
    repository = new_repository()
    segment, foreign = finished_segment(server), finished_segment(clone)
    other = tmp_path / segment.name
    other.write_bytes(segment.read_bytes()[:-1] + b"!")
    short = tmp_path / "short" / segment.name
    short.parent.mkdir()
    short.write_bytes(segment.read_bytes()[:-8192])
    history = tmp_path / "00000002.history"
    history.write_text("1\t0/2000000\tno recovery target specified\n")
    rubbish = tmp_path / "00000003.history"
    rubbish.write_text("no history at all\n")
    empty = tmp_path / "00000004.history"
    empty.write_text("# nothing\n")
    label = tmp_path / f"{segment.name}.00000028.backup"
    label.write_text("START WAL LOCATION: 0/2000028\n")
    partial = tmp_path / f"{segment.name}.partial"
    partial.write_bytes(segment.read_bytes())

    with serving(repository, server, PushSite(socket=place)):
        codes = {
            "first": push(segment, place),
            "again": push(segment, place),
            "other": push(other, place),
            "short": push(short, place),
            "foreign": push(foreign, place),
            "history": push(history, place),
            "rubbish": push(rubbish, place),
            "empty": push(empty, place),
            "label": push(label, place),
            "partial": push(partial, place),
            "odd name": push("/etc/hostname", place),
            "no file": push(tmp_path / "none", place),
        }
        mode = place.parent.stat().st_mode & 0o777

    assert {name: done.returncode for name, done in codes.items()} == {
        "first": 0, "again": 0, "other": 7, "short": 7, "foreign": 5, "history": 0,
        "rubbish": 7, "empty": 7, "label": 0, "partial": 0, "odd name": 2, "no file": 1,
    }  # fmt: skip
    assert "is not the history of a timeline" in codes["rubbish"].stderr
    assert mode == 0o700
    lineage = Lineage(SOURCE, read_facts(server.dsn()).system_id, 1)
    stored = read_segment(
        repository, lineage, WalSegment.parse(segment.name, 1 << 20), segment_bytes=1 << 20
    )
    assert stored == segment.read_bytes()


def test_nobody_there_is_said_with_what_to_do(place: Path) -> None:
    done = push("/etc/hostname", place)

    assert done.returncode == 6
    assert "drtool wal receive" in done.stderr


def test_a_push_that_is_killed_exits_below_126(place: Path) -> None:
    """PITFALLS 8: PostgreSQL does not count a command that died of a signal."""
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(place))
        mute.listen()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "drtool.archiving.push",
                "push",
                "--socket",
                str(place),
                "/etc/hostname",
            ],
            stderr=subprocess.PIPE,
        )
        connection, _ = mute.accept()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        connection.close()

    assert process.returncode == 1
    assert b"signal 15" in said


def test_an_answer_with_controls_is_one_printable_line_in_the_servers_log(place: Path) -> None:
    place.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(place))
        listener.listen()
        client = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "drtool.archiving.push",
                "push",
                "--socket",
                place,
                "/etc/hostname",
            ],
            stderr=subprocess.PIPE,
        )
        connection, _ = listener.accept()
        with connection:
            connection.sendall("6 x\x1b[2K\nLOG:  all is well\u202e\n".encode())
            _, said = client.communicate(timeout=60)

    assert client.returncode == 6
    assert said.decode() == "drtool-wal: x\\u001b[2K\\u000aLOG:  all is well\\u202e\n"


def test_a_server_that_does_not_answer_is_given_up(place: Path) -> None:
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(place))
        mute.listen()

        done = push("/etc/hostname", place, "--timeout", "0.2")

    assert done.returncode == 6


def test_a_stranger_may_not_push(make_postgres: MakePostgres, place: Path) -> None:
    """The socket's directory lets only chosen users in, and who connects is looked at."""
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    segment = finished_segment(server)
    owner = segment.stat().st_uid
    program = (
        "import socket,os\ns=socket.socket(socket.AF_UNIX)\n"
        f"s.connect({str(place)!r})\nfd=os.open({str(segment)!r},0)\n"
        f"socket.send_fds(s,[b'{segment.name}\\n'],[fd])\nprint(s.recv(4096).decode())"
    )

    def as_postgres() -> str:
        done = subprocess.run(
            [reachable_python(), "-S", "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
            cwd="/",
            **as_server_user(),
        )
        printed: bytes = done.stdout
        return printed.decode()

    repository = new_repository()
    with serving(repository, server, PushSite(socket=place, user_ids=frozenset({65534}))):
        refused = as_postgres()
    with serving(repository, server, PushSite(socket=place, user_ids=frozenset({owner}))):
        accepted = as_postgres()

    assert owner == os.geteuid() or "PermissionError" in refused
    assert accepted.strip() == "0"


def test_archive_command_fills_the_log_and_marks_follow(
    make_postgres: MakePostgres, place: Path
) -> None:
    """PITFALLS 5: what PostgreSQL believes to be archived is in the repository, without a hole."""
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    repository = new_repository()
    client = place.parent.parent / "push.py"
    client.write_bytes(Path("drtool/archiving/push.py").read_bytes())
    client.chmod(0o644)
    site = PushSite(socket=place, user_ids=frozenset({server.data.stat().st_uid}))
    python = reachable_python()
    events: list[Event] = []
    with serving(repository, server, site, emit=events.append):
        server.restart(
            archive_mode="on",
            archive_command=f"{python} {client} push --socket {place} %p",
        )
        fill(server, 3)
        last = str(server.query("SELECT pg_walfile_name(pg_switch_wal())")[0][0])

        def archived() -> bool:
            row = server.query("SELECT last_archived_wal, failed_count FROM pg_stat_archiver")[0]
            return row[0] is not None and str(row[0]) >= last

        until(archived, "the archiver got on")

        runs = inventory(repository, server).timelines[1].runs
        assert runs[-1].end >= WalSegment.parse(last, 1 << 20).end(1 << 20)
        assert len(runs) == 1
        told = [event.done for event in events if isinstance(event, PhaseAdvanced)]
        assert told[-1] == len(told) << 20


def test_a_torn_object_of_a_dead_push_is_not_in_the_way(
    make_postgres: MakePostgres, place: Path
) -> None:
    """PITFALLS 7: an object of the same content, put by a process that then died, is accepted."""
    server = make_postgres(15, segment_mb=1, settings={"wal_keep_size": "1GB"})
    repository = new_repository()
    segment = finished_segment(server)
    lineage = Lineage(SOURCE, read_facts(server.dsn()).system_id, 1)
    writer = SegmentWriter(repository, lineage, segment.name)
    writer.write(segment.read_bytes())
    writer.finish()

    with serving(repository, server, PushSite(socket=place)):
        done = push(segment, place)

    assert done.returncode == 0
