"""Real Redis servers for tests: 7.0 from Debian; 6.2, 7.4 and Valkey 8.1 from wheels.

`redis7` and `redis62` are running servers that a whole session shares; `make_redis` starts servers
of a test's own. `redis_sentinel` and `redis_cluster` are groups that a session shares. All listen on
loopback, live under /tmp, and are stopped by pid.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.servers.ports import free_port
from tests.servers.postgres import as_server_user, server_directory
from tests.servers.redis_programs import VALKEY, redis_program

START_SECONDS = 30
STOP_SECONDS = 30


class RedisServer:
    """One server in a directory of its own; `settings` are those of its next start."""

    def __init__(
        self,
        root: Path,
        version: str = "7.0",
        *,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
        is_sentinel: bool = False,
    ) -> None:
        self.root = root
        self.version = version
        self.port = free_port()
        self.password = password
        self.is_sentinel = is_sentinel
        self.settings = {**_DEFAULTS, **({"requirepass": f'"{password}"'} if password else {})}
        self.settings.update(settings or {})
        self.tls_port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers and has loaded its data."""
        command = [str(redis_program(self.version))]
        if self.is_sentinel:
            command += [str(self.root / "sentinel.conf"), "--sentinel"]
        else:
            path = self.root / "redis.conf"
            lines = {"port": str(self.port), "dir": str(self.root), **self.settings}
            path.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
            command.append(str(path))
        with (self.root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                **as_server_user(),
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.is_running, f"the server stopped:\n{self.log_text()[-3000:]}"
            try:
                with self.client() as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        wait_for(is_ready, what=f"Redis at {self.address}", seconds=START_SECONDS)

    def client(self, **more: Any) -> redis.Redis:
        """A connection of the test's own; bytes are left as bytes."""
        given = {"host": "127.0.0.1", "port": self.port, "password": self.password}
        return redis.Redis(**{"socket_timeout": 20, **given, **more})

    def stop(self, kind: signal.Signals = signal.SIGTERM) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(kind)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._process = None

    def kill9(self) -> None:
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        """Stop the server and remove everything of it."""
        self.kill9()
        shutil.rmtree(self.root, ignore_errors=True)

    def digest(self, **more: Any) -> str:
        """DEBUG DIGEST: the same for the same content, whatever the order it came in."""
        with self.client(**more) as client:
            return str(client.execute_command("DEBUG", "DIGEST").decode())

    def log_text(self) -> str:
        log = self.root / "server.log"
        return log.read_text(errors="replace") if log.exists() else ""


_DEFAULTS = {
    "bind": "127.0.0.1",
    "save": '""',
    "appendonly": "no",
    "daemonize": "no",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}


def wait_for(condition: Callable[[], object], *, what: str, seconds: float = 30) -> None:
    """Poll until `condition` holds; AssertionError names what did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


MakeRedis = Callable[..., RedisServer]


def new_redis(version: str = "7.0", *, is_started: bool = True, **options: Any) -> RedisServer:
    """Make and start a server in a directory of its own; `options` as RedisServer takes them."""
    settings = dict(options.pop("settings", None) or {})
    if version != "6.2":
        settings.setdefault("enable-debug-command", "yes")
    server = RedisServer(server_directory("drtool-redis-"), version, settings=settings, **options)
    try:
        if is_started:
            server.start()
    except BaseException:
        server.close()
        raise
    return server


def make_certificates(directory: Path) -> None:
    """`server.crt` and `server.key` for 127.0.0.1, signed by themselves."""
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", "server.key", "-out", "server.crt",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, cwd=directory, **as_server_user())


def new_tls_redis(**options: Any) -> RedisServer:
    """A running server that speaks TLS on `tls_port`; its certificate lies in `root`."""
    root = server_directory("drtool-redis-")
    make_certificates(root)
    server = RedisServer(root, "7.0", **options)
    server.tls_port = free_port()
    server.settings |= {
        "tls-port": str(server.tls_port),
        "tls-cert-file": str(root / "server.crt"),
        "tls-key-file": str(root / "server.key"),
        "tls-ca-cert-file": str(root / "server.crt"),
        "tls-auth-clients": "no",
    }
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


def is_linked(replica: RedisServer) -> bool:
    """Whether a replica has its master and all its data."""
    with replica.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


@pytest.fixture(scope="session")
def redis7() -> Iterator[RedisServer]:
    """A running Redis 7.0 that everyone shares; FLUSHALL before use."""
    server = new_redis("7.0")
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis62() -> Iterator[RedisServer]:
    """A running Redis 6.2 that everyone shares; FLUSHALL before use."""
    server = new_redis("6.2")
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis74() -> Iterator[RedisServer]:
    """A running Redis 7.4 that everyone shares; FLUSHALL before use."""
    server = new_redis("7.4")
    yield server
    server.close()


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """A running Valkey 8.1 that everyone shares; FLUSHALL before use."""
    server = new_redis(VALKEY)
    yield server
    server.close()


@pytest.fixture
def make_redis() -> Iterator[MakeRedis]:
    """`make_redis("7.0", settings={...}, password=...)`: running servers of the test's own."""
    with ExitStack() as stack:

        def make(version: str = "7.0", *, tls: bool = False, **options: Any) -> RedisServer:
            server = new_tls_redis(**options) if tls else new_redis(version, **options)
            stack.callback(server.close)
            return server

        yield make


def make_replica(make: MakeRedis, master: RedisServer, **options: Any) -> RedisServer:
    """A running replica of `master`, in step with it."""
    settings = {"replicaof": f"127.0.0.1 {master.port}", **options.pop("settings", {})}
    if master.password:
        settings["masterauth"] = master.password
    replica = make(master.version, settings=settings, **options)
    wait_for(lambda: is_linked(replica), what="the replica's link")
    return replica


class SentinelGroup:
    """One master, two replicas and three sentinels that call it `main`."""

    def __init__(self) -> None:
        self.nodes = [new_redis("7.0")]
        self.sentinels: list[RedisServer] = []
        try:
            for _ in range(2):
                self.nodes.append(
                    new_redis(settings={"replicaof": f"127.0.0.1 {self.nodes[0].port}"})
                )
            for replica in self.nodes[1:]:
                wait_for(lambda one=replica: is_linked(one), what="a replica's link")  # type: ignore[misc] # a default binds the loop's value
            for _ in range(3):
                self.sentinels.append(_new_sentinel(self.nodes[0]))
            wait_for(self.is_whole, what="the sentinels")
        except BaseException:
            self.close()
            raise

    def is_whole(self) -> bool:
        """Whether every sentinel knows both replicas and the other sentinels."""
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                told = client.execute_command("SENTINEL", "MASTER", "main")
            found = _mapping(told)
            if (found["num-slaves"], found["num-other-sentinels"]) != ("2", "2"):
                return False
        return True

    @property
    def master(self) -> RedisServer:
        """Whoever the first sentinel says is the master now."""
        with self.sentinels[0].client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        return next(node for node in self.nodes if node.port == int(port))

    def close(self) -> None:
        for server in (*self.sentinels, *self.nodes):
            server.close()


def _mapping(told: Any) -> dict[str, str]:
    """Names and values, however the library hands them over."""
    given = told.items() if isinstance(told, dict) else zip(told[::2], told[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in given}


def _new_sentinel(master: RedisServer) -> RedisServer:
    sentinel = RedisServer(server_directory("drtool-redis-"), is_sentinel=True)
    path = sentinel.root / "sentinel.conf"
    path.write_text(
        f"port {sentinel.port}\nbind 127.0.0.1\ndir {sentinel.root}\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 2\n"
        "sentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 5000\n"
    )
    path.chmod(0o666)
    try:
        sentinel.start()
    except BaseException:
        sentinel.close()
        raise
    return sentinel


class ClusterGroup:
    """Masters and their replicas; `nodes[:masters]` began as the masters."""

    def __init__(self, masters: int = 3, replicas: int = 1) -> None:
        self.nodes: list[RedisServer] = []
        self.master_count = masters
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
        try:
            for _ in range(masters * (1 + replicas)):
                server = RedisServer(
                    server_directory("drtool-redis-"),
                    settings={**settings, "enable-debug-command": "yes"},
                )
                self.nodes.append(server)
                server.start()
            addresses = [server.address for server in self.nodes]
            command = ["redis-cli", "--cluster", "create", *addresses]
            command += ["--cluster-replicas", str(replicas), "--cluster-yes"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            wait_for(self.is_whole, what="the cluster", seconds=60)
        except BaseException:
            self.close()
            raise

    def is_whole(self) -> bool:
        """Whether every node says ok and knows every replica, and each of those has its data."""
        replicas = len(self.nodes) - self.master_count
        for server in self.nodes:
            with server.client() as client:
                told = client.info("replication")
            if b"cluster_state:ok" not in _raw(server, "CLUSTER", "INFO"):
                return False
            if _raw(server, "CLUSTER", "NODES").count(b"slave ") != replicas:
                return False
            if told["role"] == "slave" and told.get("master_link_status") != "up":
                return False
        return True

    def masters(self) -> list[RedisServer]:
        """Those that are masters now."""
        found = []
        for server in self.nodes:
            if server.is_running:
                with server.client() as client:
                    if client.info("replication")["role"] == "master":
                        found.append(server)
        return found

    def client(self) -> redis.RedisCluster:
        """A client that finds the right master for each key."""
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port)

    def close(self) -> None:
        for server in self.nodes:
            server.close()


def _raw(server: RedisServer, *words: str) -> bytes:
    with server.client() as client:
        client.response_callbacks.clear()
        reply = client.execute_command(*words)
    return reply if isinstance(reply, bytes) else str(reply).encode()


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[SentinelGroup]:
    """A master, two replicas and three sentinels that everyone shares."""
    group = SentinelGroup()
    yield group
    group.close()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[ClusterGroup]:
    """Three masters and three replicas that everyone shares."""
    group = ClusterGroup()
    yield group
    group.close()


def renaming(**names: str) -> dict[str, str]:
    """Settings that give commands other names; an empty one takes the command away."""
    lines = [f'{name.upper()} "{other}"' for name, other in names.items()]
    return {"rename-command": "\nrename-command ".join(lines)}
