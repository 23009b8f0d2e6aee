"""Checks, marks and captured configurations of real servers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from drtool.errors import IntegrityError, SourceUnsuitable
from drtool.model.finding import Severity
from drtool.policy.secrets import Secret
from drtool.policy.sources import RedisTopology
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.capture import CapturedServer, capture, startable_settings
from drtool.sources.redis.checks import (
    BacklogMargin,
    ServerState,
    backlog_margin,
    check_margin,
    check_node,
    check_server,
    check_shape,
    read_state,
    replica_buffer_limit,
)
from drtool.sources.redis.connection import connect
from drtool.sources.redis.heartbeat import beat, heartbeat_key
from drtool.sources.redis.keyslot import SlotRange
from drtool.sources.redis.psync import Position
from drtool.sources.redis.shape import RedisNode, Role, Shape, Shard
from drtool.sources.redis.topology import discover
from tests.redis.filling import LIBRARY
from tests.redis.linking import ANONYMOUS, Archive, address_of, join
from tests.servers.redis import (
    ClusterGroup,
    MakeRedis,
    RedisServer,
    make_replica,
    wait_for,
)

pytestmark = pytest.mark.redis


def state_of(server: RedisServer) -> ServerState:
    with connect(address_of(server), ANONYMOUS) as connection:
        return read_state(connection)


def facts_of(server: RedisServer) -> str:
    return "\n".join(finding.fact for finding in check_server(state_of(server)))


def test_a_server_that_is_set_up_well_has_no_findings(make_redis: MakeRedis) -> None:
    server = make_redis(
        settings={"appendonly": "yes", "repl-backlog-size": "64mb", "save": "3600 1"}
    )

    assert check_server(state_of(server)) == []


def test_a_server_that_keeps_nothing_is_a_problem(make_redis: MakeRedis) -> None:
    found = check_server(state_of(make_redis()))

    worst = [finding for finding in found if finding.severity is Severity.PROBLEM]
    assert ["neither an RDB nor an AOF" in finding.fact for finding in worst] == [True]
    assert all(finding.fix for finding in found)


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_save_that_fails_is_a_problem(make_redis: MakeRedis, version: str) -> None:
    server = make_redis(version, settings={"save": "3600 1"})
    with server.client() as client:
        client.set("a", 1)
        # The directory goes away under the server, as an unmounted disk does.
        shutil.rmtree(server.root)
        client.execute_command("BGSAVE")
        wait_for(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] != "ok", what="the failure"
        )

        assert "its last save of an RDB failed" in facts_of(server)


def test_a_replica_without_its_master_is_a_problem(make_redis: MakeRedis) -> None:
    assert "link to its master is down" in facts_of(
        make_redis(settings={"replicaof": "127.0.0.1 1"})
    )


def test_weak_settings_are_named(make_redis: MakeRedis) -> None:
    facts = facts_of(
        make_redis(
            settings={
                "rdbchecksum": "no",
                "maxmemory": "1mb",
                "maxmemory-policy": "allkeys-lru",
                "client-output-buffer-limit": "replica 100kb 50kb 60",
                "repl-backlog-size": "16kb",
                "appendonly": "yes",
                "appendfsync": "no",
            }
        )
    )

    for word in ("rdbchecksum", "maxmemory-policy", "buffer-limit replica", "16384", "appendfsync"):
        assert word in facts


def test_the_margin_of_the_backlog_is_told(make_redis: MakeRedis) -> None:
    server = make_redis(settings={"repl-backlog-size": "1mb"})
    archive = Archive()
    with server.client() as client, join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        archive.catch_up(link, server)
        position = archive.position
        assert position is not None
        client.set("a", "x" * 100_000)

        margin = backlog_margin(state_of(server), position, bytes_per_second=1000)

    assert margin.backlog_bytes == 1 << 20
    assert (1 << 20) - 101_000 < margin.left_bytes < (1 << 20) - 99_000
    assert margin.seconds == margin.left_bytes / 1000


def test_the_limit_of_a_replicas_buffer_is_read(redis7: RedisServer) -> None:
    assert replica_buffer_limit(state_of(redis7).settings) == (256 << 20, 64 << 20, 60)


def test_a_shard_without_a_replica_is_a_finding() -> None:
    node = NodeAddress("a", 1)
    sick = RedisNode(address=node, role=Role.REPLICA, trouble="its link to its master is down")
    master = RedisNode(address=node, role=Role.MASTER)
    shards = (
        Shard(name="slots-0", master=master, replicas=(sick,), slots=(SlotRange(0, 9),)),
        Shard(name="slots-10", master=master, replicas=(), slots=(SlotRange(10, 16383),)),
    )

    found = check_shape(Shape(kind=RedisTopology.CLUSTER, shards=shards))

    assert [finding.fact.split(":")[0] for finding in found] == ["it has no replica"]


def test_what_the_others_say_of_a_server_is_a_finding_of_it(make_redis: MakeRedis) -> None:
    server = make_redis(
        settings={"appendonly": "yes", "repl-backlog-size": "64mb", "save": "3600 1"}
    )
    trouble = "it is 99999999 bytes behind its master"
    replica = RedisNode(address=address_of(server), role=Role.REPLICA, trouble=trouble)

    found = check_node(replica, state_of(server))

    assert [(one.severity, one.fact) for one in found] == [(Severity.WARNING, trouble)]


def test_a_backlog_that_is_soon_used_up_is_a_warning(make_redis: MakeRedis) -> None:
    state = state_of(make_redis())
    soon = BacklogMargin(left_bytes=6 << 20, backlog_bytes=8 << 20, seconds=60)
    late = BacklogMargin(left_bytes=6 << 20, backlog_bytes=8 << 20, seconds=3600)
    idle = BacklogMargin(left_bytes=6 << 20, backlog_bytes=8 << 20, seconds=None)

    [finding] = check_margin("main", state, soon)

    assert finding.severity is Severity.WARNING
    assert "lasts 60 s more (6.29 MB of 8.39 MB)" in finding.fact
    assert "repl-backlog-size 75mb" in finding.fix
    assert check_margin("main", state, late) == check_margin("main", state, idle) == []
    assert check_margin("main", state, None)[0].severity is Severity.PROBLEM


def test_ends_that_hear_nothing_of_each_other_are_findings(make_redis: MakeRedis) -> None:
    state = state_of(make_redis(settings={"appendonly": "yes", "repl-backlog-size": "64mb"}))
    master = {**state.replication, "slave0": "ip=10.0.0.2,port=6379,state=online,offset=1,lag=99"}
    replica = {
        "role": "slave",
        "master_link_status": "up",
        "master_last_io_seconds_ago": "45",
    }

    told = [
        finding.fact
        for replication in (master, replica)
        for finding in check_server(replace(state, replication=replication))
    ]

    assert "its replica 10.0.0.2:6379 has acknowledged nothing for 99 s" in told
    assert "it has heard nothing of its master for 45 s" in told


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_mark_holds_every_write_before_its_moment(make_redis: MakeRedis, version: str) -> None:
    server = make_redis(version)
    archive = Archive()
    with server.client() as client, join(server) as link:
        archive.follow(link, lambda: archive.end is not None)
        client.set("acknowledged", 1)
        before = datetime.now(UTC)
        with connect(address_of(server), ANONYMOUS) as connection:
            mark = beat(connection, "drtool:heartbeat")
        client.set("later", 1)
        archive.catch_up(link, server)

    assert before - timedelta(seconds=1) < mark.moment < datetime.now(UTC) + timedelta(seconds=1)
    assert mark.position.replid == link.begun.position.replid
    history = archive.stream[: mark.position.offset]
    assert b"acknowledged" in history
    assert mark.moment.isoformat().encode() in history
    assert b"later" not in history


def test_a_mark_is_made_in_each_shard_under_a_key_of_its_own(redis_cluster: ClusterGroup) -> None:
    shape = discover(RedisTopology.CLUSTER, [address_of(redis_cluster.nodes[0])], ANONYMOUS)

    for shard in shape.shards:
        with connect(shard.master.address, ANONYMOUS) as connection:
            assert beat(connection, heartbeat_key(shard)).position.offset > 0


def test_a_replica_makes_no_marks(make_redis: MakeRedis, redis_cluster: ClusterGroup) -> None:
    replica = make_replica(make_redis, make_redis())
    shape = discover(RedisTopology.CLUSTER, [address_of(redis_cluster.nodes[0])], ANONYMOUS)
    elsewhere = heartbeat_key(shape.shards[1])

    with (
        connect(address_of(replica), ANONYMOUS) as connection,
        pytest.raises(SourceUnsuitable, match="no master"),
    ):
        beat(connection, "drtool:heartbeat")
    with (
        connect(shape.shards[0].master.address, ANONYMOUS) as connection,
        pytest.raises(SourceUnsuitable, match="no master"),
    ):
        beat(connection, elsewhere)


@pytest.mark.parametrize("version", ["7.0", "6.2"])
def test_a_configuration_is_captured_and_its_secrets_are_shown_to_nobody(
    make_redis: MakeRedis, version: str
) -> None:
    server = make_redis(version, password="sesame-open", settings={"masterauth": "hidden-word"})
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">app-password", "~*", "+@all")
        if version == "7.0":
            client.execute_command("FUNCTION", "LOAD", LIBRARY)
    login = Login(password=Secret("sesame-open"))
    with connect(address_of(server), login) as connection:
        captured = capture(connection)

    assert captured.findings == ()
    assert captured.settings["maxmemory-policy"] == "noeviction"
    assert {"requirepass", "masterauth"} <= set(captured.secrets)
    assert any("user app" in rule.reveal() for rule in captured.acl_rules)
    assert (captured.functions is not None) == (version == "7.0")
    shown = repr(captured) + json.dumps(dict(captured.settings))
    assert "sesame-open" not in shown
    assert "hidden-word" not in shown
    again = CapturedServer.from_sealed(captured.to_sealed())
    assert again.to_sealed() == captured.to_sealed()
    assert again.secrets["masterauth"].reveal() == "hidden-word"


def test_what_may_not_be_read_is_a_finding_and_not_a_failure(make_redis: MakeRedis) -> None:
    server = make_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">w", "+info", "+config|get")
    login = Login(username="weak", password=Secret("w"))

    with connect(address_of(server), login) as connection:
        captured = capture(connection)

    assert captured.settings["appendonly"] == "no"
    assert captured.acl_rules == ()
    assert ["+acl|list" in finding.fix for finding in captured.findings].count(True) >= 1


def test_a_restored_server_keeps_how_it_was_tuned_and_not_whom_it_followed(
    make_redis: MakeRedis,
) -> None:
    """PITFALLS 81, 82 and 85: no master, no old paths, as many databases as there were."""
    server = make_redis(settings={"databases": "32", "maxmemory": "64mb"})
    with connect(address_of(server), ANONYMOUS) as connection:
        captured = capture(connection)

    settings = startable_settings(captured, directory="/srv/restored")

    assert settings["databases"] == "32"
    assert settings["maxmemory"] == str(64 << 20)
    assert settings["dir"] == "/srv/restored"
    assert not {"replicaof", "port", "bind", "logfile", "requirepass", "appendonly"} & set(settings)


def test_a_captured_configuration_of_another_format_is_refused() -> None:
    with pytest.raises(IntegrityError):
        CapturedServer.from_sealed(b'{"format": 99}')
    with pytest.raises(IntegrityError):
        CapturedServer.from_sealed(b"\x00\xff")


def test_addresses_are_read_and_written() -> None:
    assert str(NodeAddress.parse("[::1]:6379")) == "[::1]:6379"
    assert NodeAddress.parse("redis-1:6379") == NodeAddress("redis-1", 6379)
    with pytest.raises(ValueError, match="HOST:PORT"):
        NodeAddress.parse("redis-1")
    with pytest.raises(ValueError, match="position"):
        Position("short", 1)
