"""A stream into which somebody put commands that no master replicates: none is carried out by a restore."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest

from drtool.backup.plan import Accepted
from drtool.errors import ExitCode, IntegrityError, NotRecoverable, SourceUnavailable
from drtool.model.finding import Severity, code_of_findings
from drtool.model.request import TtlMode
from drtool.model.target import ToTime
from drtool.repository.repository import Repository
from drtool.restore.network import network_findings
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.aof import AofLayout, write_aof
from drtool.sources.redis.binaries import find_binaries, server_user
from drtool.sources.redis.rdbcodes import RdbDamaged
from drtool.sources.redis.release import Product, Release
from drtool.sources.redis.replicated import NotReplicated
from drtool.sources.redis.server import ScratchPlan, start_scratch
from drtool.system.clock import SystemClock
from tests.archiving.redis_rig import wait_held
from tests.archiving.rig import new_repository
from tests.redis.test_replicated import sent
from tests.restore.redis_rig import restore, servers_of, started, streamed, take_snapshot
from tests.servers.ports import free_port
from tests.servers.redis import MakeRedis, RedisServer, new_redis
from tests.servers.redis_programs import VALKEY, bin_dir, redis_module
from tests.servers.rewriting import rewritten

pytestmark = pytest.mark.redis
RELEASE = Release(Product.REDIS, (7, 0, 0))


@dataclass(frozen=True, slots=True)
class Archived:
    """A master whose stream is archived, and what was archived."""

    master: RedisServer
    repository: Repository

    def begin(self) -> None:
        """A snapshot, and behind it a write."""
        take_snapshot(self.repository, servers_of(self.master))
        with self.master.client() as client:
            client.set("kept", "secret")
        wait_held(self.repository, self.master)

    def inject(self, *words: str | bytes) -> None:
        """Into the stream, by a debugging aid of Redis 7.0: the master itself does not carry it out."""
        with self.master.client() as client:
            client.execute_command("DEBUG", "REPLICATE", *words)
            client.set("behind", 1)
        wait_held(self.repository, self.master)


@pytest.fixture(scope="module")
def archived() -> Iterator[Archived]:
    master, repository = new_redis(), new_repository()
    try:
        with streamed(repository, master):
            yield Archived(master, repository)
    finally:
        master.close()


@pytest.fixture
def outside() -> Iterator[socket.socket]:
    """Somebody's port; nobody connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


COMMANDS = [
    "MIGRATE 127.0.0.1 PORT kept 0 1000 COPY",
    "REPLICAOF 127.0.0.1 PORT",
    "SLAVEOF 127.0.0.1 PORT",
    "MODULE LOAD /tmp/x.so",
    "CONFIG SET dir /tmp",
    "ACL SETUSER x on nopass ~* +@all",
    "DEBUG SLEEP 0",
    "EVAL return(redis.call('MIGRATE','127.0.0.1','PORT','kept','0','1000')) 0",
    "CLUSTER MEET 127.0.0.1 PORT",
    "FUNCTION KILL",
    "BGSAVE",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_no_master_replicates_is_not_carried_out_and_stops_the_restore(
    archived: Archived, outside: socket.socket, root: Path, command: str
) -> None:
    archived.begin()
    port = str(outside.getsockname()[1])
    archived.inject(*command.replace("PORT", port).split())

    with pytest.raises(NotReplicated) as refused:
        restore(archived.repository, root / "copy")

    assert command.split(maxsplit=1)[0] in refused.value.message
    assert f"at offset {refused.value.offset}" in refused.value.message
    assert not list((root / "copy").rglob("appendonly.aof.manifest"))


def test_the_moment_that_the_refusal_names_comes_back(archived: Archived, root: Path) -> None:
    archived.begin()
    archived.inject("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(IntegrityError, match="no master replicates") as refused:
        restore(archived.repository, root / "refused")
    named = refused.value.hint.split("--to '")[1].split("'")[0]

    outcome = restore(archived.repository, root / "copy", ToTime(datetime.fromisoformat(named)))

    with started(outcome) as [copy]:
        assert copy.get("kept") == b"secret"
        assert copy.get("behind") in (None, b"1")


def test_a_name_that_nobody_knows_is_refused_with_what_it_may_be(
    archived: Archived, root: Path
) -> None:
    archived.begin()
    archived.inject("BF.ADD", "filter", "one")

    with pytest.raises(NotRecoverable, match=r"holds BF\.ADD") as refused:
        restore(archived.repository, root / "copy")

    assert "restore: {modules:" in refused.value.hint
    assert "--to '20" in refused.value.hint


def test_commands_behind_the_end_of_a_snapshot_are_not_carried_out(
    make_redis: MakeRedis, outside: socket.socket, repository: Repository, root: Path
) -> None:
    """Of a version that drtool does not read, kept unread; what it reads, it refuses to keep."""
    server = make_redis(settings={"rdbchecksum": "no"})
    port = str(outside.getsockname()[1])
    with server.client() as client:
        client.set("kept", "secret")
    tail = sent("SELECT", "0") + sent("MIGRATE", "127.0.0.1", port, "kept", "0", "1000", "COPY")
    # Eight zeros stand for a checksum that was not made; Redis does not look at the ends of lines.
    tail += b"*2\r\n$3\r\nDEL\r\n$10\r\n" + bytes(12)
    for version, accepts in ((b"REDIS0010", Accepted()), (b"REDIS0008", Accepted(unread=True))):
        with rewritten(server.port, {b"REDIS0010": version}, behind_rdb=tail) as relay:
            servers = replace(servers_of(server), nodes=(NodeAddress("127.0.0.1", relay),))
            if not accepts.unread:
                with pytest.raises(RdbDamaged, match="do not belong to it"):
                    take_snapshot(repository, servers, accepts=accepts)
                continue
            take_snapshot(repository, servers, accepts=accepts)

    with pytest.raises(IntegrityError, match="its RDB ends at"):
        restore(repository, root / "copy")


def test_of_a_module_that_is_named_only_what_writes_is_replayed(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    module = redis_module("redisbloom.so")
    server = make_redis("7.4", settings={"loadmodule": str(module)})
    with server.client() as client, streamed(repository, server):
        take_snapshot(repository, servers_of(server))
        client.execute_command("BF.ADD", "seen", "one")
        wait_held(repository, server)
        whole = restore(repository, root / "whole", bin_dir=bin_dir("7.4"), modules=(module,))
        client.execute_command("DEBUG", "REPLICATE", "BF.EXISTS", "seen", "one")
        wait_held(repository, server)

    assert whole.wal_bytes
    with pytest.raises(NotRecoverable, match=r"holds BF\.EXISTS"):
        restore(repository, root / "copy", bin_dir=bin_dir("7.4"), modules=(module,))


def test_the_server_that_loads_has_no_network_and_no_command_that_needs_one(root: Path) -> None:
    owner = server_user(root)
    plan = ScratchPlan(
        directory=root, binaries=find_binaries(RELEASE), run_as=owner, uses_aof=False
    )
    port = free_port()
    with start_scratch(plan, clock=SystemClock()) as server:
        server.wait_loaded(timeout_seconds=30)
        connection = server.connection()
        for name in ("MIGRATE", "REPLICAOF", "MODULE"):
            with pytest.raises(SourceUnavailable, match=f"it has no {name}"):
                connection.ask(name, "127.0.0.1", "1")
        connection.ask("CONFIG", "SET", "port", port)

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

        assert connection.settings("port") == {"port": str(port)}
        assert connection.settings("sanitize-dump-payload") == {"sanitize-dump-payload": "yes"}
    assert network_findings(owner) == ()


@pytest.mark.parametrize("program", ["6.2", "7.0"])
def test_a_script_of_a_stream_of_6_2_reaches_nobody(
    make_redis: MakeRedis, repository: Repository, root: Path, program: str
) -> None:
    """Where it replicates scripts as they are, they are a part of the data: the copy has what they did."""
    server = make_redis("6.2", settings={"lua-replicate-commands": "no"})
    port = free_port()
    with streamed(repository, server), server.client() as client:
        take_snapshot(repository, servers_of(server))
        client.execute_command("EVAL", "redis.call('SET', 'made', '1')", 0)
        send = f"redis.pcall('MIGRATE','127.0.0.1','{port}','made','0','9','COPY')"
        client.execute_command("EVAL", send, 0)
        client.execute_command("EVAL", f"redis.call('SET', 'after', '2') {send}", 0)
        wait_held(repository, server)

    with socket.create_server(("127.0.0.1", port)) as outside:
        with started(restore(repository, root / "copy", bin_dir=bin_dir(program))) as [copy]:
            assert copy.mget("made", "after") == [b"1", b"2"]

        outside.setblocking(False)
        with pytest.raises(BlockingIOError):
            outside.accept()


def test_what_a_server_refuses_of_a_stream_as_it_loads_is_told(
    archived: Archived, root: Path
) -> None:
    """Without a word it would be missing from a copy that is called sound."""
    archived.begin()
    with archived.master.client() as client:
        payload = client.dump("kept")
    assert isinstance(payload, bytes)
    # The last byte is one of its checksum.
    archived.inject("RESTORE", "lost", "0", payload[:-1] + bytes([payload[-1] ^ 1]))

    outcomes = [
        restore(archived.repository, root / mode, ttl=mode)
        for mode in (TtlMode.ABSOLUTE, TtlMode.PERSIST)
    ]

    for outcome in outcomes:
        [told] = [one for one in outcome.findings if one.severity is Severity.PROBLEM]
        assert "refused 1 command of the stream" in told.fact
        assert "restore: DUMP payload version or checksum" in told.fact
        assert code_of_findings([told], otherwise=ExitCode.INTEGRITY) is ExitCode.INTEGRITY
    with started(outcomes[0]) as [copy]:
        assert copy.mget("kept", "behind", "lost") == [b"secret", b"1", None]


@pytest.mark.parametrize("program", ["6.2", "7.4", VALKEY])
def test_each_release_tells_in_its_log_what_it_refused(root: Path, program: str) -> None:
    owner = server_user(root)
    binaries = find_binaries(Release(Product.REDIS, (6, 2, 0)), bin_dir=bin_dir(program))
    stream = sent("SET", "a", "1") + sent("RESTORE", "b", "0", "damaged") + sent("LPUSH", "a", "1")
    if program == "6.2":
        stream += sent(
            "EVAL", "redis.call('SET', 'c', '1') return redis.call('LPUSH', 'a', '1')", "0"
        )
    write_aof(root, [], [stream], layout=AofLayout.of(binaries.version), owner=owner)
    plan = ScratchPlan(directory=root, binaries=binaries, run_as=owner, uses_aof=True)

    with start_scratch(plan, clock=SystemClock()) as server:
        server.wait_loaded(timeout_seconds=30)
        found = server.load_errors()

    assert (found.commands, found.scripts) == (2, 1 if program == "6.2" else 0)
    assert found.first.startswith("restore: ")
