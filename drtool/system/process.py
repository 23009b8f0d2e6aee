"""Other programs: started from argument lists, without our secrets, with limits, always reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from drtool.errors import DrtoolError
from drtool.system.changeable import trusted_program
from drtool.system.clock import Stopwatch, SystemClock
from drtool.system.stopping import go_on
from drtool.system.users import RunAs

# What a child may know of our environment: not DRTOOL_KEY, not the clouds' credentials.
_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "TZ", "TZDIR")
# The kernel sends the parent-death signal when the *thread* that started the child ends. So one
# thread that lives as long as the program starts all children.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drtool-starter")

# How often a stop that is asked for is looked at while a program runs.
_LOOK_SECONDS = 0.1
_MOST_LINES = 200
_LONGEST_LINE = 4096
_LAST_WORDS_SECONDS = 5.0


class ProgramFailed(DrtoolError):
    """A program could not be started, or did not end in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that ended: `code` is negative for the signal that killed it."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class Enclosure:
    """How to start a program as a user without a network: the words before its command, and whom the
    first of them runs as. `refused` says why there is no namespace; the program is then started as ever.
    """

    prefix: tuple[str, ...]
    run_as: RunAs | None
    refused: str | None = None


def clean_environment(**more: str) -> dict[str, str]:
    """The environment for a child: PATH and the like, English messages, and `more`."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, "LC_ALL": "C", **more}


def run_program(
    command: Sequence[str],
    *,
    timeout_seconds: float,
    run_as: RunAs | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path = Path("/"),
    given: str = "",
) -> Finished:
    """Run `command` to its end, with `given` as its standard input; ProgramFailed if it cannot start or
    takes longer than allowed.
    """
    process = _started(command, run_as=run_as, environment=environment, directory=directory)
    return _to_its_end(process, given, seconds=timeout_seconds, stop=None)


def run_unless_stopped(
    command: Sequence[str],
    *,
    timeout_seconds: float,
    stop: threading.Event,
    run_as: RunAs | None = None,
) -> Finished:
    """As `run_program`; once `stop` is set it is killed, and Interrupted is raised."""
    process = _started(command, run_as=run_as, environment=None, directory=Path("/"))
    return _to_its_end(process, "", seconds=timeout_seconds, stop=stop)


def _started(
    command: Sequence[str],
    *,
    run_as: RunAs | None,
    environment: Mapping[str, str] | None,
    directory: Path,
) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=dict(environment if environment is not None else clean_environment()),
            text=True,
            errors="replace",
            **_switch(run_as),
        )
    except OSError as error:
        raise ProgramFailed(f"{command[0]} cannot be started: {error}") from error


def _to_its_end(
    process: subprocess.Popen[str], given: str, *, seconds: float, stop: threading.Event | None
) -> Finished:
    """Talk to it until it ends; whatever happens, it has ended and is reaped."""
    [name, *_] = process.args if isinstance(process.args, list) else [process.args]
    with process:
        try:
            output, errors = _said(process, given, name=str(name), seconds=seconds, stop=stop)
        finally:
            process.kill()
    return Finished(code=process.returncode, output=output, errors=errors)


def _said(
    process: subprocess.Popen[str],
    given: str,
    *,
    name: str,
    seconds: float,
    stop: threading.Event | None,
) -> tuple[str, str]:
    watch, to_say = Stopwatch(SystemClock()), given or None
    while True:
        if stop is not None:
            go_on(stop, name)
        left = max(0.0, seconds - watch.seconds())
        try:
            return process.communicate(
                to_say, timeout=left if stop is None else min(left, _LOOK_SECONDS)
            )
        except subprocess.TimeoutExpired as error:
            to_say = None  # what was not said yet is kept
            if watch.seconds() >= seconds:
                raise ProgramFailed(f"{name} did not end within {seconds:g} s") from error


class ChildProcess:
    """A program that runs beside us. Whoever started it stops it; any thread may."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that killed it. Reaps it."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        self._process.send_signal(number)

    def kill_family(self) -> None:
        """SIGKILL it and all that descends from it, as a power cut would; its own end is awaited."""
        family = _descendants(self.pid)
        self.send(signal.SIGKILL)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(10)

    def wait(self, timeout_seconds: float) -> int | None:
        """Its exit code, or None if it still runs after `timeout_seconds`."""
        try:
            return self._process.wait(max(0.0, timeout_seconds))
        except subprocess.TimeoutExpired:
            return None


def start_program(
    command: Sequence[str],
    *,
    output: IO[bytes],
    run_as: RunAs | Enclosure | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path = Path("/"),
    death_signal: signal.Signals | None = signal.SIGTERM,
) -> ChildProcess:
    """Start `command` with both its outputs going to `output`.

    When our program dies, however it dies, the kernel sends `death_signal` to the child, where
    `setpriv` is installed; None lets the child outlive us, in a session of its own.
    """
    prefix, user = (run_as.prefix, run_as.run_as) if isinstance(run_as, Enclosure) else ((), run_as)
    return ChildProcess(
        _start(
            [*prefix, *_guarded(command, death_signal)],
            output=output,
            run_as=user,
            environment=clean_environment() if environment is None else environment,
            directory=directory,
        )
    )


class ToldProcess(ChildProcess):
    """A program that runs beside us, and what it says: its newest 200 lines, of both outputs."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        super().__init__(process)
        self._output = output
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._reader = threading.Thread(target=self._read, name=f"read {self.pid}", daemon=True)
        self._reader.start()

    def lines(self) -> list[str]:
        """What it has said since this was last asked; all of it, once it has ended."""
        if self.exit_code() is not None:
            # A program of its own that it left behind may hold the pipe open.
            self._reader.join(_LAST_WORDS_SECONDS)
        found = []
        while self._lines:
            found.append(self._lines.popleft())
        return found

    def _read(self) -> None:
        with self._output:
            while line := self._output.readline(_LONGEST_LINE):
                if text := line.decode("utf-8", "replace").rstrip():
                    self._lines.append(text)


def start_told(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path = Path("/"),
    death_signal: signal.Signals = signal.SIGTERM,
) -> ToldProcess:
    """Start `command`, whose lines are kept for whoever asks; otherwise as `start_program`."""
    try:
        read_end, write_end = os.pipe()
    except OSError as error:
        raise ProgramFailed(f"{command[0]} cannot be started: {error}") from error
    output = open(read_end, "rb")  # noqa: SIM115 - closed by the thread that reads it
    try:
        with open(write_end, "wb") as ours:
            process = _start(
                _guarded(command, death_signal),
                output=ours,
                run_as=None,
                environment=environment,
                directory=directory,
            )
    except BaseException:
        output.close()
        raise
    return ToldProcess(process, output)


def _start(
    command: Sequence[str],
    *,
    output: IO[bytes],
    run_as: RunAs | None,
    environment: Mapping[str, str],
    directory: Path,
) -> subprocess.Popen[bytes]:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=dict(environment),
            # Control-C in our terminal is ours to answer, not the server's.
            start_new_session=True,
            **_switch(run_as),
        )

    try:
        return _STARTER.submit(start).result()
    except OSError as error:
        raise ProgramFailed(f"{command[0]} cannot be started: {error}") from error


def machine_memory_bytes() -> int:
    """The memory we may use: the machine's, or the container's limit where that is smaller."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def _descendants(pid: int) -> list[int]:
    """All that a process has started, by any of its threads, and what that has started (Linux: /proc)."""
    children = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return children  # it has ended meanwhile
    return children + [grandchild for child in children for grandchild in _descendants(child)]


def _guarded(command: Sequence[str], death_signal: signal.Signals | None) -> list[str]:
    # The kernel forgets a parent-death signal when the user changes, so it is set after that, by
    # setpriv: code of ours between fork and exec is not safe in a program with threads.
    setpriv = trusted_program("setpriv")
    if setpriv is None or death_signal is None:
        return list(command)
    name = death_signal.name.removeprefix("SIG")
    return [setpriv, "--no-new-privs", "--pdeathsig", name, "--", *command]


def _switch(run_as: RunAs | None) -> dict[str, Any]:  # arguments of Popen, of several types
    if run_as is None or run_as.is_us:
        return {}
    return {"user": run_as.uid, "group": run_as.gid, "extra_groups": []}
