"""A stream into which somebody put commands that no master replicates: none is carried out by a restore."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from drtool.errors import IntegrityError, NotRecoverable
from drtool.model.target import ToTime
from drtool.repository.repository import Repository
from drtool.sources.redis.replicated import NotReplicated
from tests.archiving.redis_rig import wait_held
from tests.archiving.rig import new_repository
from tests.restore.redis_rig import restore, servers_of, started, streamed, take_snapshot
from tests.servers.redis import MakeRedis, RedisServer, new_redis
from tests.servers.redis_programs import bin_dir, redis_module

pytestmark = pytest.mark.redis


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

    def inject(self, *words: str) -> None:
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
