"""A server of our own on restored files: private, unprivileged, without masters, clients or saves."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from drtool.errors import DestinationRefused, NotRecoverable, SourceUnavailable
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.binaries import RedisBinaries, reachable_by
from drtool.sources.redis.connection import RedisConnection, connect, keys_by_database
from drtool.sources.redis.load_errors import LoadErrors, load_errors
from drtool.system.clock import Clock
from drtool.system.network_namespace import without_network
from drtool.system.process import ChildProcess, start_program
from drtool.system.runtime_directory import PrivateRuntime, hand_over_runtime
from drtool.system.users import RunAs

_LONGEST_SOCKET_PATH = 107
_POLL_SECONDS = 0.02
_TAIL_BYTES = 4000
_COMMAND_SECONDS = 3600.0
# What could reach other machines or run other code, by a script, too; nobody here needs these.
_TAKEN_AWAY = ("MIGRATE", "REPLICAOF", "SLAVEOF", "FAILOVER", "MODULE")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchPlan:
    """What to start on the files in `directory`.

    With `keeps_expired` nothing expires while it runs: it is a replica of nobody, so it holds every
    key that there was at the moment restored to, and takes no writes. Without, it is a master.
    `rdb_name` is what it loads unless it `uses_aof`, and what `save` writes; `modules` come first.
    """

    directory: Path
    binaries: RedisBinaries
    run_as: RunAs
    uses_aof: bool
    keeps_expired: bool = True
    databases: int = 16
    rdb_name: str = "dump.rdb"
    modules: tuple[Path, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How far a server has loaded: None where it does not say."""

    is_done: bool
    share: float | None
    seconds_left: float | None


class ScratchServer:
    """A started server. Whoever has it must `stop` it; not for two threads."""

    def __init__(
        self,
        child: ChildProcess,
        runtime: PrivateRuntime,
        clock: Clock,
        *,
        nobody: socket.socket | None,
    ) -> None:
        self._child = child
        self._runtime = runtime.path
        self._log = runtime.log
        self._clock = clock
        self._nobody = nobody
        self._connection: RedisConnection | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def address(self) -> NodeAddress:
        """Its Unix socket; for its user and root only."""
        return NodeAddress(str(self._runtime / "redis.sock"), 0)

    @property
    def log_tail(self) -> str:
        """The end of its log, for messages."""
        size = self._log.seek(0, 2)
        self._log.seek(max(0, size - _TAIL_BYTES))
        return self._log.read().decode("utf-8", "replace")

    def load_errors(self) -> LoadErrors:
        """What of its append-only file it refused while it loaded, and left out."""
        return load_errors(self._log)

    def loading(self) -> Loading:
        """How far it has loaded; NotRecoverable with the end of its log if it has ended."""
        code = self._child.exit_code()
        if code is not None:
            raise NotRecoverable(
                f"the restored Redis does not start: it ended with exit code {code}",
                hint=_why(self.log_tail) + "The end of its log:\n" + self.log_tail,
            )
        try:
            told = self._connected().info("persistence")
        except SourceUnavailable:
            # It has not opened its socket yet.
            self._disconnect()
            return Loading(is_done=False, share=None, seconds_left=None)
        if told.get("loading") == "0":
            return Loading(is_done=True, share=1.0, seconds_left=0.0)
        share = told.get("loading_loaded_perc")
        left = told.get("loading_eta_seconds")
        return Loading(
            is_done=False,
            share=None if share is None else float(share) / 100,
            seconds_left=None if left is None else float(left),
        )

    def wait_loaded(self, *, timeout_seconds: float) -> None:
        """Wait until it has loaded everything; NotRecoverable if it ends, or is not done in time."""
        deadline = self._clock.monotonic() + timeout_seconds
        while not self.loading().is_done:
            if self._clock.monotonic() > deadline:
                raise NotRecoverable(
                    f"the restored Redis has not loaded its data after {timeout_seconds:g} s",
                    hint="The end of its log:\n" + self.log_tail,
                )
            self._clock.wait(_POLL_SECONDS)

    def connection(self) -> RedisConnection:
        """The connection to it, in database 0; it is closed when the server is stopped."""
        return self._connected()

    def database_sizes(self) -> dict[int, int]:
        """How many keys each database holds; those that hold none are left out.

        Keys that have expired count until they are removed, which never happens in a server that
        `keeps_expired`.
        """
        return keys_by_database(self._connected())

    def digest(self) -> str:
        """DEBUG DIGEST: equal for equal content. It takes a time that grows with the data."""
        return self._connected().text("DEBUG", "DIGEST")

    def save(self) -> Path:
        """Write an RDB of all it holds, what has expired included, into its directory; its path."""
        connection = self._connected()
        connection.ask("SAVE")
        directory, name = connection.settings("dir"), connection.settings("dbfilename")
        return Path(directory["dir"]) / name["dbfilename"]

    def rewrite(self, *, timeout_seconds: float) -> None:
        """Let it write its append-only file anew: what it holds, and not how it came by it.

        NotRecoverable if it cannot, or not in time.
        """
        connection, deadline = self._connected(), self._clock.monotonic() + timeout_seconds
        connection.ask("BGREWRITEAOF")
        while True:
            told = connection.info("persistence")
            if "1" not in (told.get("aof_rewrite_in_progress"), told.get("aof_rewrite_scheduled")):
                break
            if self._clock.monotonic() > deadline:
                break
            self._clock.wait(_POLL_SECONDS)
        if (
            told.get("aof_rewrite_in_progress") != "0"
            or told.get("aof_last_bgrewrite_status") != "ok"
        ):
            raise NotRecoverable(
                "the restored Redis cannot write its append-only file anew",
                hint="Make room in the destination, or memory for a fork. The end of its log:\n"
                + self.log_tail,
            )

    def stop(self, *, timeout_seconds: float = 60) -> int | None:
        """End it without saving, reap it, remove socket and log; its exit code.

        What does not end in time is killed.
        """
        self._disconnect()
        if self._child.exit_code() is None:
            self._child.send(signal.SIGTERM)
        code = self._child.wait(timeout_seconds)
        if code is None:
            self._child.send(signal.SIGKILL)
            code = self._child.wait(10)
        if self._nobody is not None:
            self._nobody.close()
        self._log.close()
        shutil.rmtree(self._runtime, ignore_errors=True)
        return code

    def kill(self) -> None:
        """Kill it at once, as a power cut would; it is then still to be stopped."""
        self._child.kill_family()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _connected(self) -> RedisConnection:
        if self._connection is None:
            self._connection = connect(self.address, Login(), answer_seconds=_COMMAND_SECONDS)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def start_scratch(plan: ScratchPlan, *, clock: Clock, scratch: Path | None = None) -> ScratchServer:
    """Start a server as `plan` says, without waiting for it.

    It has no network where this machine allows that, and listens on no port in any case; its socket and
    log lie in a new directory (mode 0700) in `scratch` or the temporary directory. It never saves or
    rewrites of its own will, and dies with this program.
    """
    runtime = _runtime_directory(scratch)
    nobody: socket.socket | None = None
    try:
        binaries = reachable_by(plan.binaries, plan.run_as, runtime)
        private = hand_over_runtime(runtime, plan.run_as, contents={})
        master = ["no", "one"]
        if plan.keeps_expired:
            nobody = _nobody()
            master = ["127.0.0.1", str(nobody.getsockname()[1])]
        command = [str(binaries.server)]
        for name, words in _own_settings(plan, runtime, binaries).items():
            command += [f"--{name}", *words]
        command += ["--replicaof", *master]
        for name in _TAKEN_AWAY:
            command += ["--rename-command", name, ""]
        for module in plan.modules:
            command += ["--loadmodule", str(module)]
        with private.told as log:
            child = start_program(
                command,
                output=log,
                run_as=without_network(plan.run_as),
                directory=plan.directory,
                death_signal=signal.SIGKILL,
            )
    except BaseException:
        if nobody is not None:
            nobody.close()
        shutil.rmtree(runtime, ignore_errors=True)
        raise
    return ScratchServer(child, private, clock, nobody=nobody)


def _own_settings(
    plan: ScratchPlan, runtime: Path, binaries: RedisBinaries
) -> dict[str, list[str]]:
    settings = {
        "databases": str(plan.databases),
        **plan.settings,
        "port": "0",
        "unixsocket": str(runtime / "redis.sock"),
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "dir": str(plan.directory),
        "dbfilename": plan.rdb_name,
        "save": "",
        "appendonly": "yes" if plan.uses_aof else "no",
        "appendfsync": "no",
        "auto-aof-rewrite-percentage": "0",
        "aof-load-truncated": "yes",
        "maxmemory": "0",
        "daemonize": "no",
        "logfile": "",
        "replica-serve-stale-data": "yes",
        # What a snapshot or a RESTORE holds packed is not read before it is known to be sound.
        "sanitize-dump-payload": "yes",
    }
    if binaries.version >= (7, 0, 0):
        settings["enable-debug-command"] = "local"
    return {name: [value] for name, value in settings.items()}


def _why(log: str) -> str:
    """What its log alone does not tell."""
    if "Unknown command" not in log:
        return ""
    return (
        "The stream holds a command that it does not know: rename-command of the source gave it another name,"
        " or a module that is not named here has it. Use --backup, which replays nothing, or --to a moment"
        " before it. "
    )


def _nobody() -> socket.socket:
    """A port of loopback that is taken and that nobody answers on, as long as it is held."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


def _runtime_directory(scratch: Path | None) -> Path:
    runtime = Path(tempfile.mkdtemp(prefix="drtool-redis-", dir=scratch))
    if len(str(runtime / "redis.sock")) > _LONGEST_SOCKET_PATH:
        runtime.rmdir()
        raise DestinationRefused(
            f"a Unix socket cannot be made in {runtime.parent}: the path is too long",
            hint="Let TMPDIR name a directory with a short path, such as /tmp.",
        )
    return runtime
