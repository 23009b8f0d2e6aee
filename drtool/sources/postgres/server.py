"""A server of our own on a restored data directory: private, unprivileged, watched by its log."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from psycopg import pq
from psycopg.conninfo import make_conninfo

from drtool.errors import DestinationRefused, NotRecoverable
from drtool.sources.postgres.binaries import ServerBinaries, reachable_by
from drtool.sources.postgres.log import (
    LINE_PREFIX,
    LogEvent,
    ServerFailed,
    ServerReady,
    parse_line,
)
from drtool.system.clock import Clock
from drtool.system.network_namespace import without_network
from drtool.system.process import ChildProcess, clean_environment, start_program
from drtool.system.runtime_directory import PrivateRuntime, hand_over_runtime
from drtool.system.users import RunAs

_SOCKET_PORT = 5432
_LONGEST_SOCKET_PATH = 107
_TAIL_LINES = 40
_READ_BYTES = 1 << 20
_POLL_SECONDS = 0.02
_NEUTRAL = {
    "hostaddr": "",
    "target_session_attrs": "any",
    "channel_binding": "prefer",
    "require_auth": "",
    "requirepeer": "",
    "gssencmode": "disable",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "sslrootcert": "",
    "min_protocol_version": "3.0",
}
# Only this user and root can reach the socket's directory, so whoever connects may.
_HBA = "local all all trust\nlocal replication all trust\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """What to start: `settings` are handed over in their order, later ones outranking earlier."""

    data_directory: Path
    binaries: ServerBinaries
    run_as: RunAs
    settings: Mapping[str, str]
    outlives_us: bool = False


class RunningServer:
    """A started server. Whoever has it must `stop` or `release` it; not for two threads."""

    def __init__(self, child: ChildProcess, runtime: PrivateRuntime, clock: Clock) -> None:
        self._child = child
        self._clock = clock
        self._runtime = runtime.path
        self._log = runtime.log
        self._rest = b""
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.is_ready = False

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def socket_directory(self) -> Path:
        """Where its Unix socket lies; readable for its user and root only."""
        return self._runtime

    @property
    def socket(self) -> Path:
        """That socket."""
        return self._runtime / f".s.PGSQL.{_SOCKET_PORT}"

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.exit_code()

    @property
    def log_tail(self) -> str:
        """The last lines of its log that were read, for messages."""
        return "\n".join(self._tail)

    def dsn(self, *, dbname: str = "postgres", user: str = "postgres") -> str:
        """How to connect to it."""
        return make_conninfo(
            **_of_our_own(),
            host=str(self._runtime),
            port=_SOCKET_PORT,
            dbname=dbname,
            user=user,
        )

    def read_log(self) -> list[LogEvent]:
        """What its log has told since the last call; at most 1 MiB of log in one call."""
        read = self._rest + self._log.read(_READ_BYTES)
        *lines, self._rest = read.split(b"\n")
        events = []
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            self._tail.append(line)
            event = parse_line(line)
            if event is not None:
                events.append(event)
                self.is_ready |= isinstance(event, ServerReady)
        return events

    def wait_ready(self, *, timeout_seconds: float) -> list[LogEvent]:
        """Wait until it takes connections; all that its log told meanwhile.

        NotRecoverable with the end of its log if it fails, ends, or is not ready in time; it is then
        still to be stopped.
        """
        deadline = self._clock.monotonic() + timeout_seconds
        events: list[LogEvent] = []
        while True:
            # The order matters: what it wrote before it ended must be read after that was seen.
            code = self.exit_code
            events += self.read_log()
            if self.is_ready:
                return events
            failed = next((event for event in events if isinstance(event, ServerFailed)), None)
            if code is not None:
                fact = failed.text if failed else f"it ended with exit code {code}"
                raise NotRecoverable(
                    f"the restored server does not start: {fact}", hint=self._hint()
                )
            if self._clock.monotonic() > deadline:
                raise NotRecoverable(
                    f"the restored server is not ready after {timeout_seconds:g} s",
                    hint=self._hint(),
                )
            self._clock.wait(_POLL_SECONDS)

    def stop(self, *, timeout_seconds: float = 120, is_immediate: bool = False) -> int | None:
        """Shut it down (fast, or at once without a checkpoint), reap it, remove socket and log.

        What does not end in time is made to, by SIGQUIT and then SIGKILL. Returns its exit code.
        """
        if self.exit_code is None:
            self._child.send(signal.SIGQUIT if is_immediate else signal.SIGINT)
        code = self._child.wait(timeout_seconds)
        for harder in (signal.SIGQUIT, signal.SIGKILL):
            if code is None:
                self._child.send(harder)
                code = self._child.wait(10)
        self.read_log()
        self.release()
        shutil.rmtree(self._runtime, ignore_errors=True)
        return code

    def abort(self) -> None:
        """Ask for an immediate shutdown, and wait for nothing: whoever has it stops it. Any thread."""
        self._child.send(signal.SIGQUIT)

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut would; it is then still to be stopped."""
        self._child.kill_family()

    def release(self) -> None:
        """Let go of a server that goes on without us; its socket directory and log stay."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(is_immediate=error is not None)

    def _hint(self) -> str:
        return "The end of its log:\n" + self.log_tail


def _of_our_own() -> dict[str, str]:
    """What the environment may say of connections, put out of force: it is about other servers.

    With PGHOSTADDR in it, libpq would ask that server in the copy's place, as its superuser.
    """
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    return {name: value for name, value in _NEUTRAL.items() if name in known}


def start_server(plan: ServerPlan, *, clock: Clock, scratch: Path | None = None) -> RunningServer:
    """Start a server as `plan` says, without waiting for it, and without a network where this machine
    allows that.

    Its socket, log and own empty configuration lie in a new directory (mode 0700) in `scratch` or
    the temporary directory. Unless it `outlives_us`, it is shut down at once when this program dies.
    """
    runtime = _runtime_directory(scratch)
    try:
        binaries = reachable_by(plan.binaries, plan.run_as, runtime)
        contents = {"postgresql.conf": "", "pg_hba.conf": _HBA, "pg_ident.conf": ""}
        private = hand_over_runtime(runtime, plan.run_as, contents=contents)
        own = {
            "config_file": str(runtime / "postgresql.conf"),
            "hba_file": str(runtime / "pg_hba.conf"),
            "ident_file": str(runtime / "pg_ident.conf"),
            "data_directory": str(plan.data_directory),
            "unix_socket_directories": str(runtime),
            "unix_socket_permissions": "0700",
            "port": str(_SOCKET_PORT),
            "log_line_prefix": LINE_PREFIX,
        }
        command = [str(binaries.program("postgres"))]
        for name, value in {**own, **plan.settings, **own}.items():
            command += ["-c", f"{name}={value}"]
        with private.told as log:
            child = start_program(
                command,
                output=log,
                run_as=without_network(plan.run_as),
                environment=clean_environment(),
                directory=runtime,
                death_signal=None if plan.outlives_us else signal.SIGQUIT,
            )
    except BaseException:
        shutil.rmtree(runtime, ignore_errors=True)
        raise
    return RunningServer(child, private, clock)


def _runtime_directory(scratch: Path | None) -> Path:
    runtime = Path(tempfile.mkdtemp(prefix="drtool-pg-", dir=scratch))
    if len(str(runtime / f".s.PGSQL.{_SOCKET_PORT}.lock")) > _LONGEST_SOCKET_PATH:
        runtime.rmdir()
        raise DestinationRefused(
            f"a Unix socket cannot be made in {runtime.parent}: the path is too long",
            hint="Let TMPDIR name a directory with a short path, such as /tmp.",
        )
    return runtime
