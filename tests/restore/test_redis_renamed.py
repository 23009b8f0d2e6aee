"""A stream whose source renamed commands: restored up to the first of them, refused beforehand behind it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from drtool.errors import NotRecoverable
from drtool.model.finding import Severity
from drtool.model.target import ToBackup, ToLatest, ToTime
from drtool.repository.backups import backup_ids
from drtool.repository.repository import Repository
from drtool.restore.redis_commands import require_known_commands
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_plan import RedisPlan, plan_redis_restore
from drtool.system.clock import SystemClock
from tests.archiving.redis_rig import wait_held
from tests.restore.redis_rig import SOURCE, restore, servers_of, started, streamed, take_snapshot
from tests.servers.redis import MakeRedis, RedisServer, make_replica, renaming
from tests.servers.redis_programs import bin_dir

pytestmark = pytest.mark.redis
Target = ToLatest | ToTime | ToBackup


def planned(repository: Repository, target: Target) -> RedisPlan:
    """As the command plans it."""
    plan = plan_redis_restore(look_redis(repository, SOURCE, target), target)
    require_known_commands(plan, repository)
    return plan


def run(server: RedisServer, *words: object) -> None:
    with server.client() as client:
        client.execute_command(*words)


@pytest.mark.parametrize("version", ["6.2", "7.0"])
def test_a_restore_goes_up_to_the_first_write_under_another_name_and_is_refused_behind_it(
    make_redis: MakeRedis, repository: Repository, root: Path, version: str
) -> None:
    server = make_redis(version, settings=renaming(set="set2", exec="exec2", flushall="empty"))
    with streamed(repository, server):
        outcome = take_snapshot(repository, servers_of(server))
        run(server, "SETEX", "kept", 1000, "by a name that Redis knows")
        wait_held(repository, server)
        digest, moment = server.digest(), SystemClock().now()
        unharmed = planned(repository, ToLatest())
        run(server, "MSET", "between", 1)
        wait_held(repository, server)
        run(server, "set2", "kept", "by another")
        wait_held(repository, server)

    with pytest.raises(NotRecoverable, match="rename-command of the source gave") as refused:
        planned(repository, ToLatest())

    [backup_id] = backup_ids(repository, SOURCE)
    told = [one for one in outcome.findings if "rename-command gave" in one.fact]
    assert [one.severity for one in told] == [Severity.WARNING, Severity.NOTE]
    assert "FLUSHALL, SET another name" in refused.value.message.replace("EXEC, ", "")
    assert f"--backup {backup_id}" in refused.value.hint
    assert "--to '20" in refused.value.hint
    assert unharmed.stream_bytes > 0
    assert planned(repository, ToBackup(backup_id)).stream_bytes == 0
    copies = restore(repository, root / "copy", ToTime(moment), bin_dir=bin_dir(version))
    with started(copies) as [copy]:
        assert copy.execute_command("DEBUG", "DIGEST").decode() == digest  # type: ignore[no-untyped-call] # theirs


def test_the_moment_that_the_refusal_names_comes_back(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    server = make_redis(settings=renaming(**{"del": "del2"}))
    with streamed(repository, server):
        run(server, "SET", "a", 1)
        take_snapshot(repository, servers_of(server))
        for name in ("b", "c"):
            run(server, "SET", name, 2)
            wait_held(repository, server)
        run(server, "del2", "a")
        wait_held(repository, server)
    with pytest.raises(NotRecoverable) as refused:
        planned(repository, ToLatest())
    named = refused.value.hint.split("--to '")[1].split("'")[0]

    target = ToTime(datetime.fromisoformat(named))
    planned(repository, target)
    with started(restore(repository, root / "copy", target)) as [copy]:
        assert copy.mget("a", "b") == [b"1", b"2"]


def test_where_nobody_could_ask_the_refusal_says_what_it_may_be(
    make_redis: MakeRedis, repository: Repository, root: Path
) -> None:
    server = make_redis(settings=renaming(set="set2", command=""))
    with streamed(repository, server):
        outcome = take_snapshot(repository, servers_of(server))
        run(server, "set2", "a", 1)
        wait_held(repository, server)

    with pytest.raises(NotRecoverable, match="holds SET2") as refused:
        restore(repository, root / "copy")

    assert any(
        "nobody can tell whether commands are renamed" in one.fact for one in outcome.findings
    )
    assert "If rename-command of the source gave it another name" in refused.value.hint
    assert not list(root.rglob("appendonly.aof.manifest"))


def test_what_a_master_that_took_over_had_renamed_is_known_too(
    make_redis: MakeRedis, repository: Repository
) -> None:
    """The snapshot is of a server that renamed nothing."""
    master = make_redis()
    with streamed(repository, master):
        take_snapshot(repository, servers_of(master))
        run(master, "SET", "a", 1)
        wait_held(repository, master)
    heir = make_replica(make_redis, master, settings=renaming(set="set2"))
    run(heir, "REPLICAOF", "NO", "ONE")
    master.kill9()
    with streamed(repository, heir):
        run(heir, "MSET", "b", 1)
        wait_held(repository, heir)
        unharmed = planned(repository, ToLatest())
        run(heir, "set2", "a", 2)
        wait_held(repository, heir)

    with pytest.raises(NotRecoverable, match="gave SET another name"):
        planned(repository, ToLatest())

    assert unharmed.stream_bytes > 0
