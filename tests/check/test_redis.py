"""`drtool check` on real Redis servers, each in the state that the check is there to find."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from drtool.errors import ExitCode, NotRecoverable, SourceUnavailable
from drtool.model.checked import Readiness
from drtool.model.finding import Severity
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.rights import missing_rights
from drtool.sources.redis.sentinels import SentinelState, check_count, check_sentinel
from tests.check.rig import (
    Stack,
    exit_code,
    facts,
    has_marks,
    look,
    part,
    problems,
    receiving,
    told,
    until,
)
from tests.servers.redis import (
    ClusterGroup,
    MakeRedis,
    RedisServer,
    SentinelGroup,
    make_replica,
    renaming,
    wait_for,
)
from tests.servers.redis_programs import VALKEY, bin_dir

pytestmark = pytest.mark.redis
WELL = {"appendonly": "yes", "repl-backlog-size": "64mb", "save": "3600 1"}
_SOURCE = """\
  cache:
    kind: redis
    topology: {topology}
    nodes: [{nodes}]
    stream: true
    flush: 500ms
    heartbeat: 250ms
    heartbeat_key: "drtool:mark"
    schedule: {{backup: "0 * * * *"}}
"""


def stack_of(
    root: Path, *servers: RedisServer, topology: str = "standalone", more: str = ""
) -> Stack:
    nodes = ", ".join(f'"{server.address}"' for server in servers)
    stack = Stack(root=root, sources=_SOURCE.format(topology=topology, nodes=nodes) + more)
    stack.init()
    return stack


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_redis_that_is_protected_has_no_problem(
    make_redis: MakeRedis, tmp_path: Path, version: str
) -> None:
    master = make_redis(version, settings=WELL)
    replica = make_replica(make_redis, master, settings=WELL)
    stack = stack_of(tmp_path, master)
    with receiving(stack, "cache"):
        stack.backup()
        until(lambda: has_marks(stack, "cache"), "a mark")
        until(lambda: stack.status().rows[0].latest, "a moment that can be returned to")

        report = stack.check()

    assert problems(report) == []
    assert exit_code(report) == ExitCode.DONE
    names = [one.name for one in part(report, "cache").looks]
    servers = [f"server {one.address}" for one in (master, replica)]
    stored = ["backups", "restore", "content", "receiver", "stream", "marks", "backlog"]
    assert names == ["shape", *servers, *stored, "recoverable until", "restores to"]
    # What the newest snapshot had to say is told again: this repository has no key.
    warnings = facts(report, Severity.WARNING)
    assert [fact.split(":")[0] for fact in warnings] == [
        "its passwords and users are left out of the backup"
    ]
    assert "left" in look(report, "cache", "backlog").seen


@pytest.mark.parametrize(
    ("version", "release"), [("7.4", "Redis 7.4"), (VALKEY, "Valkey 8.1")], ids=["7.4", "valkey"]
)
def test_whether_this_machine_could_restore_it_is_known_before_anybody_needs_it(
    make_redis: MakeRedis, tmp_path: Path, version: str, release: str
) -> None:
    """At the backup, in check and status, and by --plan: not once everything was fetched."""
    server = make_redis(version, settings=WELL)
    with server.client() as client:
        client.set("a", 1)
    empty = tmp_path / "empty"
    empty.mkdir()
    lacking = stack_of(tmp_path, server, more=f"    bin_dir: {empty}\n")
    able = Stack(root=tmp_path, sources=lacking.sources.replace(str(empty), str(bin_dir(version))))

    [outcome] = lacking.backup()
    [row] = lacking.status().rows

    told_everywhere = (
        told([finding.fact for finding in outcome.findings], f"{release} or later"),
        told(problems(lacking.check()), f"{release} or later"),
        told([finding.fact for finding in row.findings], f"{release} or later"),
    )
    assert told_everywhere == (True, True, True)
    with pytest.raises(NotRecoverable, match=f"{release} or later"):
        lacking.plan_restore("cache")
    assert not told(problems(able.check()), "cannot be restored")
    assert look(able.check(), "cache", "restore").seen.startswith(release)
    [server_look] = [
        one for one in part(able.check(), "cache").looks if one.name.startswith("server")
    ]
    assert server_look.seen.startswith(release)
    able.plan_restore("cache")


def test_a_source_that_lost_most_of_its_keys_is_a_problem_until_it_is_accepted(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(settings=WELL)
    stack = stack_of(tmp_path, server)
    with server.client() as client:
        client.mset({f"key:{number}": number for number in range(100)})
        stack.backup()
        assert not told(problems(stack.check()), "most of its keys are gone")
        client.flushall()

        assert told(problems(stack.check()), "most of its keys are gone")
        stack.backup(accepts_source=True)

    report = stack.check()
    assert not told(problems(report), "most of its keys are gone")
    assert told(facts(report, Severity.WARNING), "the window has a break")
    assert told([one.fact for one in stack.status().rows[0].findings], "the window has a break")


def test_of_a_server_that_came_back_empty_no_hint_is_a_backup_that_is_refused(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    """The trial: beside the right finding two said to run it, and one that there will be a gap."""
    server = make_redis(settings=WELL)
    stack = stack_of(tmp_path, server)
    with receiving(stack, "cache"), server.client() as client:
        client.mset({f"key:{number}": number for number in range(100)})
        stack.backup()
        until(lambda: has_marks(stack, "cache"), "a mark")
        server.kill9()
        shutil.rmtree(server.root / "appendonlydir")
        server.start()
        begins = tmp_path / "repository" / "log" / "cache"
        until(lambda: len(list(begins.rglob("begins/*"))) >= 2, "the gap is recorded")

        report, status = stack.check(), stack.status()

    findings = [one for line in part(report, "cache").looks for one in line.findings]
    assert told(problems(report), "most of its keys are gone")
    assert told(problems(report), "no snapshot was taken behind it")
    assert not told(facts(report), "there will be a gap")
    fixes = [one.fix for one in findings if "drtool backup cache" in one.fix]
    assert ["--accept-source" in fix for fix in fixes] == [True], fixes
    [gap] = [one for one in status.rows[0].findings if "no snapshot was taken" in one.fact]
    assert "`drtool check cache`, which tells whether" in gap.fix


def test_a_receiver_that_does_not_run_is_a_problem(make_redis: MakeRedis, tmp_path: Path) -> None:
    stack = stack_of(tmp_path, make_redis(settings=WELL))
    stack.backup()

    report = stack.check()

    assert look(report, "cache", "receiver").readiness is Readiness.NOT_READY
    assert exit_code(report) == ExitCode.OBJECTIVE_MISSED


def test_a_replica_that_is_gone_is_a_finding_and_the_others_are_still_checked(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    master = make_redis(settings=WELL)
    replica = make_replica(make_redis, master, settings=WELL)
    stack = stack_of(tmp_path, replica, master)
    replica.kill9()

    report = stack.check()

    assert look(report, "cache", f"server {replica.address}").readiness is Readiness.UNKNOWN
    assert look(report, "cache", f"server {master.address}").readiness is Readiness.READY
    assert exit_code(report) == ExitCode.SOURCE_UNAVAILABLE


def test_a_replica_that_is_cut_off_from_its_master_is_a_problem(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    master = make_redis(settings=WELL)
    replica = make_replica(make_redis, master, settings=WELL)
    stack = stack_of(tmp_path, master, replica)
    master.kill9()

    report = stack.check()

    assert look(report, "cache", f"server {master.address}").readiness is Readiness.UNKNOWN
    assert look(report, "cache", f"server {replica.address}").readiness is Readiness.NOT_READY
    assert told(problems(report), "its link to its master is down")


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_drtools_own_receiver_is_not_taken_for_a_replica_that_could_take_over(
    make_redis: MakeRedis, tmp_path: Path, version: str
) -> None:
    master = make_redis(version, settings={**WELL, "min-replicas-to-write": "1"})
    stack = stack_of(tmp_path, master)
    refused = stack.check()
    with receiving(stack, "cache"):
        with master.client() as client:
            wait_for(
                lambda: client.info("replication")["min_slaves_good_slaves"] == 1, what="the link"
            )
        alone = stack.check()
        replica = make_replica(make_redis, master, settings=WELL)
        wait_for(lambda: _is_online(replica, of=master), what="its first acknowledgement")
        well = stack.check()

    assert told(facts(refused, Severity.WARNING), "every write is refused (NOREPLICAS)")
    assert told(facts(alone, Severity.WARNING), "only because readers such as drtool's receiver")
    assert not told(facts(well), "min-replicas-to-write")


def _is_online(replica: RedisServer, *, of: RedisServer) -> bool:
    with of.client() as client:
        told = client.info("replication")
    listed = [told.get(f"slave{number}", {}) for number in range(3)]
    return any(one.get("port") == replica.port and one["state"] == "online" for one in listed)


def test_a_replica_that_takes_writes_is_told(make_redis: MakeRedis, tmp_path: Path) -> None:
    master = make_redis(settings=WELL)
    make_replica(make_redis, master, settings={**WELL, "replica-read-only": "no"})
    stack = stack_of(tmp_path, master)

    report = stack.check()

    assert told(facts(report, Severity.WARNING), "replica-read-only is no")


def test_an_aof_that_can_no_longer_be_written_is_a_problem(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    """Its file is the device on which no byte ever has room: a full disk."""
    server = make_redis(is_started=False, settings={"appendfsync": "everysec", **WELL})
    files = server.root / "appendonlydir"
    files.mkdir()
    shutil.chown(files, server.root.owner(), server.root.group())
    (files / "appendonly.aof.1.incr.aof").symlink_to("/dev/full")
    server.start()
    stack = stack_of(tmp_path, server)
    with server.client() as client:
        client.set("a", 1)
        wait_for(
            lambda: client.info("persistence")["aof_last_write_status"] != "ok", what="the failure"
        )

        report = stack.check()

    assert told(problems(report), "its last write to the AOF failed")


def test_a_rewrite_of_the_aof_that_fails_is_a_problem(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(settings=WELL)
    stack = stack_of(tmp_path, server)
    with server.client() as client:
        shutil.rmtree(server.root)
        with contextlib.suppress(redis.ResponseError):  # it may fail before it has answered
            client.execute_command("BGREWRITEAOF")
        wait_for(
            lambda: client.info("persistence")["aof_last_bgrewrite_status"] != "ok",
            what="the failure",
        )

        report = stack.check()

    assert told(problems(report), "its last rewrite of the AOF failed")


def test_a_backlog_that_no_longer_holds_what_comes_next_is_a_problem(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(settings={**WELL, "repl-backlog-size": "1mb"})
    stack = stack_of(tmp_path, server)
    with receiving(stack, "cache"):
        stack.backup()
        until(lambda: has_marks(stack, "cache"), "a mark")
    held = stack.check()
    with server.client() as client:
        for number in range(4):
            client.set(f"key:{number}", b"x" * 500_000)

    lost = stack.check()

    assert "of 1.05 MB left" in look(held, "cache", "backlog").seen
    assert told(facts(held, Severity.WARNING), "repl-backlog-size is 1048576 bytes")
    assert told(problems(lost), "it no longer holds what comes after the archived stream")


def test_a_hole_behind_the_newest_snapshot_is_a_problem(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(settings={**WELL, "repl-backlog-size": "1mb"})
    stack = stack_of(tmp_path, server)
    with receiving(stack, "cache"):
        stack.backup()
        until(lambda: has_marks(stack, "cache"), "a mark")
    with server.client() as client:
        for number in range(4):
            client.set(f"key:{number}", b"x" * 500_000)
    with receiving(stack, "cache"):
        begins = tmp_path / "repository" / "log" / "cache"
        until(lambda: len(list(begins.rglob("begins/*"))) >= 2, "the log begins anew")

        report = stack.check()

    assert told(problems(report), "and no snapshot was taken behind it")


def test_a_user_that_may_not_replicate_is_found(make_redis: MakeRedis, tmp_path: Path) -> None:
    server = make_redis(settings=WELL)
    rights = ["+info", "+time", "+config|get", "+acl|list", "+ping"]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "drtool", "on", ">word", *rights)
    more = '    username: drtool\n    password: "env:CACHE_PASSWORD"\n'
    stack = stack_of(tmp_path, server, more=more)
    stack.environ["CACHE_PASSWORD"] = "word"

    without = stack.check()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "drtool", "+psync", "+replconf", "+set", "~*")
    given = stack.check()

    assert told(problems(without), "user drtool may not run psync, replconf, set")
    assert not told(problems(given), "may not run")


def test_renamed_commands_are_told_and_what_was_written_under_another_name_is_not_planned(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(settings=WELL | renaming(set="set2", flushall="empty"))
    stack = stack_of(tmp_path, server)
    with receiving(stack, "cache"):
        stack.backup()
        report = stack.check()
        with server.client() as client:
            client.execute_command("set2", "a", 1)
        until(lambda: _plan_is_refused(stack), "a plan that is refused")

    assert told(problems(report), "rename-command gave SET another name")
    assert told(facts(report, Severity.WARNING), "rename-command gave FLUSHALL another name")


def test_a_server_without_config_is_told_and_all_else_is_looked_at(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(settings=WELL | renaming(config="hidden"))
    stack = stack_of(tmp_path, server)
    with receiving(stack, "cache"):
        stack.backup()
        until(lambda: has_marks(stack, "cache"), "a mark")
        report = stack.check()

    assert told(problems(report), "it has no CONFIG")
    assert look(report, "cache", "backlog").seen == "main not known"


def _plan_is_refused(stack: Stack) -> bool:
    try:
        stack.plan_restore("cache")
    except NotRecoverable as error:
        return "rename-command of the source gave FLUSHALL, SET" in error.message
    return False


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ("+@all", ()),
        ("-@all +psync +replconf +set", ()),
        ("+@all -@dangerous", ("psync", "replconf")),
        ("+@all -@write -psync", ("psync", "set")),
        ("-@all", ("psync", "replconf", "set")),
    ],
)
def test_the_last_rule_about_a_command_counts(rules: str, missing: tuple[str, ...]) -> None:
    assert missing_rights(rules.split(), writes_marks=True) == missing


def test_a_cluster_is_checked_server_by_server(redis_cluster: ClusterGroup, tmp_path: Path) -> None:
    stack = stack_of(tmp_path, redis_cluster.nodes[0], topology="cluster")

    report = stack.check()

    looks = part(report, "cache").looks
    assert sum(one.name.startswith("server") for one in looks) == 6
    assert look(report, "cache", "slots").seen == "16,384 of 16,384 are held by 3 masters"


def test_servers_behind_sentinel_are_found_and_checked(
    redis_sentinel: SentinelGroup, tmp_path: Path
) -> None:
    stack = stack_of(tmp_path, *redis_sentinel.sentinels, topology="sentinel")

    report = stack.check()

    looks = part(report, "cache").looks
    assert {one.name for one in looks if one.name.startswith("server")} == {
        f"server {node.address}" for node in redis_sentinel.nodes
    }
    assert look(report, "cache", "shape").seen == "sentinel, 1 master, 2 replicas"


def test_a_server_that_no_sentinel_watches_is_a_problem_where_the_policy_says_sentinel(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    stack = stack_of(tmp_path, make_redis(settings=WELL), topology="sentinel")

    report = stack.check()

    assert told(problems(report), "watched by no sentinel")


def test_every_sentinel_is_asked_though_the_policy_names_one(
    redis_sentinel: SentinelGroup, tmp_path: Path
) -> None:
    first = redis_sentinel.sentinels[0]
    stack = stack_of(tmp_path, first, topology="sentinel")

    report = stack.check()

    looks = {one.name: one for one in part(report, "cache").looks}
    for sentinel in redis_sentinel.sentinels:
        found = looks[f"sentinel {sentinel.address}"]
        master = redis_sentinel.master.address
        assert found.seen == f"watches main at {master}, knows 2 others, quorum 2"
        assert [one for one in found.findings if one.severity is not Severity.NOTE] == []
    assert "sentinels" not in looks


def test_sentinels_that_cannot_carry_out_a_failover_are_a_problem(tmp_path: Path) -> None:
    group = SentinelGroup()
    try:
        kept, *lost = group.sentinels
        for sentinel in lost:
            sentinel.kill9()
        stack = stack_of(tmp_path, kept, topology="sentinel")
        with kept.client() as client:
            wait_for(lambda: _has_no_quorum(client), what="the loss to be noticed")

        report = stack.check()
    finally:
        group.close()

    found = problems(report)
    assert told(found, "no failover of main can be carried out: 1 usable Sentinels")
    for sentinel in lost:
        assert told(found, f"Redis at {sentinel.address} cannot be reached")


def _has_no_quorum(client: Any) -> bool:
    try:
        client.execute_command("SENTINEL", "CKQUORUM", "main")
    except redis.ResponseError as error:
        return "NOQUORUM" in str(error)
    return False


def test_what_sentinels_say_is_judged() -> None:
    master, other = NodeAddress("10.0.0.1", 6379), NodeAddress("10.0.0.2", 6379)
    well = SentinelState(
        address=NodeAddress("10.0.0.9", 26379), group="main", master=master, quorum=1, others=(other,),
        refusal="", is_master_down=False, strays=0,
    )  # fmt: skip

    def facts_of(**changes: Any) -> str:
        found = check_sentinel(replace(well, **changes), first=well)
        return "; ".join(one.fact for one in found)

    assert facts_of() == ""
    assert "takes the master 10.0.0.1:6379 of main for down" in facts_of(is_master_down=True)
    assert "10.0.0.2:6379, and 10.0.0.9:26379 says 10.0.0.1:6379" in facts_of(master=other)
    assert "lists 2 replicas without a port" in facts_of(strays=2)
    assert check_count([replace(well, others=(other, other))]) == []
    assert "none was looked at" in check_count([])[0].fact
    assert "there are 2: with one lost" in check_count([well])[0].fact


def test_slots_that_are_missing_or_on_the_move_are_found(tmp_path: Path) -> None:
    cluster = ClusterGroup(masters=3, replicas=0)
    try:
        stack = stack_of(tmp_path, cluster.nodes[0], topology="cluster")
        with cluster.nodes[0].client() as client, cluster.nodes[1].client() as other:
            mine, name = (
                one.execute_command("CLUSTER", "MYID").decode() for one in (client, other)
            )
            client.execute_command("CLUSTER", "SETSLOT", 5, "MIGRATING", name)
            moving = stack.check()
            client.execute_command("CLUSTER", "SETSLOT", 5, "STABLE")
            # Only the node that moves a hash slot shows it, and the policy names another.
            other.execute_command("CLUSTER", "SETSLOT", 6000, "MIGRATING", mine)
            elsewhere = stack.check()
            with pytest.raises(SourceUnavailable, match="moves 1 slots, the first is 6000"):
                stack.backup()
            other.execute_command("CLUSTER", "SETSLOT", 6000, "STABLE")
        for node in cluster.nodes:
            with node.client() as client:
                client.execute_command("CLUSTER", "DELSLOTS", 7)
        wait_for(lambda: not cluster.is_whole(), what="a state that is not ok")
        missing = stack.check()
    finally:
        cluster.close()

    assert told(problems(moving), "hash slot 5 is being moved")
    assert told(problems(elsewhere), "hash slot 6000 is being moved")
    assert told(problems(missing), "no master holds the hash slots 7")
    assert told(problems(missing), "it says cluster_state fail")
    # Every server is looked at although no backup could be taken.
    looks = part(missing, "cache").looks
    assert sum(one.name.startswith("server") for one in looks) == 3
