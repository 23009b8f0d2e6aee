"""Programs run as the right user, with limits, without our secrets, and die with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drtool.errors import Interrupted, NotRecoverable, PolicyError
from drtool.sources.postgres.binaries import ServerBinaries, find_binaries, reachable_by
from drtool.system.process import (
    ProgramFailed,
    clean_environment,
    run_program,
    run_unless_stopped,
    start_program,
    start_told,
)
from drtool.system.users import choose_user, current_user
from tests.archiving.rig import until
from tests.servers.postgres import give_to_server_user, server_user

IS_ROOT = os.geteuid() == 0


def test_a_child_knows_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRTOOL_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    told = run_program(["env"], timeout_seconds=10)

    assert "secret" not in told.output
    assert "LC_ALL=C" in told.output


def test_a_program_that_takes_too_long_or_is_not_there_is_an_error() -> None:
    with pytest.raises(ProgramFailed, match="did not end within"):
        run_program(["sleep", "60"], timeout_seconds=0.2)
    with pytest.raises(ProgramFailed, match="cannot be started"):
        run_program(["/does/not/exist"], timeout_seconds=1)


def test_a_program_is_killed_once_somebody_asks_to_stop(tmp_path: Path) -> None:
    code = "import os, sys, time; os.mkdir(f'{sys.argv[1]}/pid {os.getpid()}'); time.sleep(60)"
    stop = threading.Event()

    def ask_once_it_runs() -> None:
        until(lambda: list(tmp_path.iterdir()), "it runs")
        stop.set()

    threading.Thread(target=ask_once_it_runs).start()

    with pytest.raises(Interrupted):
        run_unless_stopped(
            [sys.executable, "-c", code, str(tmp_path)], timeout_seconds=50, stop=stop
        )

    [place] = tmp_path.iterdir()
    assert not Path("/proc", place.name.split()[1]).exists()


def test_what_a_program_says_is_whole_though_a_stop_is_looked_at_meanwhile() -> None:
    code = "import time; print('a' * 300_000); time.sleep(0.3); print('b' * 300_000)"

    told = run_unless_stopped(
        [sys.executable, "-c", code], timeout_seconds=30, stop=threading.Event()
    )

    assert told.output == "a" * 300_000 + "\n" + "b" * 300_000 + "\n"


def test_what_a_child_says_is_kept_in_bounds_and_is_whole_once_it_has_ended() -> None:
    program = (
        "import sys; [print('line', n) for n in range(1000)]; print('x' * 9000, file=sys.stderr)"
    )

    child = start_told([sys.executable, "-u", "-c", program], environment=clean_environment())

    assert child.wait(30) == 0
    lines = child.lines()
    assert lines[-4:] == ["line 999", "x" * 4096, "x" * 4096, "x" * 808]
    assert len(lines) == 200
    assert child.lines() == []


def test_a_child_that_leaves_somebody_behind_is_not_waited_for() -> None:
    program = "import subprocess; print('done'); subprocess.Popen(['sleep', '8'])"

    child = start_told([sys.executable, "-c", program], environment=clean_environment())

    assert child.wait(20) == 0
    assert child.lines() == ["done"]


def test_a_whole_family_is_killed_whichever_thread_started_whom() -> None:
    program = (
        "import subprocess, threading, time\n"
        "def begin():\n"
        "    print(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"
        "    time.sleep(600)\n"
        "threading.Thread(target=begin).start()\n"
    )
    child = start_told([sys.executable, "-c", program], environment=clean_environment())
    deadline = time.monotonic() + 20
    while not (lines := child.lines()):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    child.kill_family()

    while _is_running(int(lines[0])):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_dies_when_we_are_killed(tmp_path: Path) -> None:
    """Even by SIGKILL, and even if the thread that asked for it is long gone."""
    program = (
        "import os, sys, threading, time\n"
        "from drtool.system.process import start_program\n"
        "def begin():\n"
        "    child = start_program(['sleep', '600'], output=open(sys.argv[1], 'wb'))\n"
        "    print(child.pid, flush=True)\n"
        "    global kept\n"
        "    kept = child\n"
        "    while open(f'/proc/{child.pid}/comm').read() != 'sleep\\n':\n"
        "        time.sleep(0.01)\n"
        "worker = threading.Thread(target=begin); worker.start(); worker.join()\n"
        "while os.path.exists(f'/proc/self/task/{worker.native_id}'):\n"
        "    time.sleep(0.01)\n"
        "print('thread gone', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.stdout.readline()
    outlived_the_thread = _is_running(pid)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    assert outlived_the_thread
    deadline = time.monotonic() + 20
    while _is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_is_told_to_stop_and_reaped(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as output:
        child = start_program(["sleep", "600"], output=output)
    assert child.wait(0) is None

    child.send(signal.SIGTERM)

    assert child.wait(20) == -signal.SIGTERM
    assert child.exit_code() == -signal.SIGTERM


def test_a_server_never_runs_as_root(server_root: Path) -> None:
    inside = choose_user(server_root / "not" / "there" / "yet")
    elsewhere = choose_user(Path("/etc/nowhere"))

    assert inside.uid == server_root.stat().st_uid
    assert 0 not in (inside.uid, elsewhere.uid)
    assert elsewhere.name == (server_user() or current_user().name)


@pytest.mark.parametrize("name", ["root", "no-such-user"])
def test_a_configured_user_who_cannot_be_is_refused(server_root: Path, name: str) -> None:
    with pytest.raises(PolicyError):
        choose_user(server_root, name)


def test_a_program_runs_as_the_chosen_user(server_root: Path) -> None:
    user = choose_user(server_root)

    told = run_program(["id", "-u", "-n"], timeout_seconds=10, run_as=user)
    groups = run_program(["id", "-G"], timeout_seconds=10, run_as=user)

    assert told.output.strip() == user.name
    assert not IS_ROOT or groups.output.split() == [str(user.gid)]


@pytest.mark.parametrize("major", [15, 18])
def test_the_programs_of_a_major_version_are_found(major: int) -> None:
    found = find_binaries(major)

    assert found.major == major
    assert found.version.startswith(f"{major}.")
    assert found.has("pg_controldata")
    assert find_binaries(major, bin_dir=found.bin_dir) == found


def test_a_directory_on_the_path_that_we_may_not_enter_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As root's own directories are for the unprivileged user that a container runs as."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    too_long = tmp_path / ("x" * 300)
    monkeypatch.setenv("PATH", f"{loop}:{too_long}:{os.environ['PATH']}")

    assert find_binaries(18).major == 18


def test_a_version_that_is_not_installed_is_named_with_how_to_get_it() -> None:
    with pytest.raises(NotRecoverable, match="PostgreSQL 99") as caught:
        find_binaries(99)

    assert "apt-get install postgresql-99" in caught.value.hint


def test_a_bin_dir_of_another_version_is_refused_though_the_right_one_is_installed() -> None:
    wrong = find_binaries(18).bin_dir

    with pytest.raises(NotRecoverable, match=r"needs PostgreSQL 15.*holds PostgreSQL 18"):
        find_binaries(15, bin_dir=wrong)


def test_programs_that_the_servers_user_cannot_reach_are_copied_for_it(
    server_root: Path, tmp_path: Path
) -> None:
    found = find_binaries(18)
    user = choose_user(server_root)
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "pkg").symlink_to(found.bin_dir.parent.parent)
    unreachable = ServerBinaries(
        bin_dir=hidden / "pkg" / "pginstall" / "bin", version=found.version, major=18
    )
    scratch = server_root / "scratch"
    scratch.mkdir(mode=0o755)
    give_to_server_user(scratch)

    usable = reachable_by(unreachable, user, scratch)

    told = run_program(
        [str(usable.program("pg_basebackup")), "--version"], timeout_seconds=30, run_as=user
    )
    assert told.code == 0
    # Ourselves reach what is ours; another user needs the copy.
    assert (usable.bin_dir == unreachable.bin_dir) is user.is_us
