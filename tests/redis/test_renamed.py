"""`rename-command` on real servers: told at backup and by a check, and not mistaken for an ACL."""

from __future__ import annotations

import pytest

from drtool.errors import SourceUnsuitable
from drtool.model.finding import Severity
from drtool.policy.secrets import Secret
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.connection import connect
from drtool.sources.redis.psync import open_link
from drtool.sources.redis.renamed import RenamedCommands, check_renamed, read_renamed
from drtool.system.clock import SystemClock
from tests.servers.redis import MakeRedis, RedisServer, renaming
from tests.servers.redis_programs import VALKEY

pytestmark = pytest.mark.redis
ANYBODY = Login()
VERSIONS = ["6.2", "7.0", "7.4", VALKEY]


def read(server: RedisServer, login: Login = ANYBODY) -> RenamedCommands:
    with connect(NodeAddress.parse(server.address), login) as connection:
        return read_renamed(connection)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_renamed_is_told_from_what_was_taken_away_and_from_what_an_acl_forbids(
    make_redis: MakeRedis, version: str
) -> None:
    names = {"set": "set2", "get": "get2", "xgroup": "group", "flushall": "empty", "flushdb": ""}
    server = make_redis(version, settings=renaming(**names))
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">word", "+info", "+command")

    expected = RenamedCommands(written=("FLUSHALL", "SET", "XGROUP"))

    assert read(server) == expected
    assert read(server, Login(username="weak", password=Secret("word"))) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_said_of_a_server_that_renames_nothing(
    make_redis: MakeRedis, version: str
) -> None:
    server = make_redis(version)

    with connect(NodeAddress.parse(server.address), ANYBODY) as connection:
        assert check_renamed(connection, has_stream=True) == []


def test_who_may_not_ask_says_so_and_claims_nothing(redis7: RedisServer) -> None:
    with redis7.client() as client:
        client.execute_command("ACL", "SETUSER", "few", "on", ">word", "+info")
    login = Login(username="few", password=Secret("word"))
    with connect(NodeAddress.parse(redis7.address), login) as connection:
        [finding] = check_renamed(connection, has_stream=True)
    with redis7.client() as client:
        client.execute_command("ACL", "DELUSER", "few")

    assert finding.severity is Severity.NOTE
    assert "may not run command" in finding.fact
    assert "+command" in finding.fix


@pytest.mark.parametrize("name", ["PSYNC", "REPLCONF"])
def test_without_the_commands_of_a_replica_a_check_says_why(
    make_redis: MakeRedis, name: str
) -> None:
    server = make_redis(settings=renaming(**{name.lower(): "hidden"}))
    address = NodeAddress.parse(server.address)
    with connect(address, ANYBODY) as connection:
        [finding] = check_renamed(connection, has_stream=False)
    with pytest.raises(SourceUnsuitable, match=f"it has no {name}") as refused:
        open_link(address, ANYBODY, clock=SystemClock())

    assert finding.severity is Severity.PROBLEM
    assert f"{name} is not there" in finding.fact
    assert f"rename-command {name}" in refused.value.hint


@pytest.mark.parametrize("version", ["6.2", "7.0"])
def test_a_renamed_info_is_named_by_whoever_connects(make_redis: MakeRedis, version: str) -> None:
    server = make_redis(version, settings=renaming(info="hidden"))

    with pytest.raises(SourceUnsuitable, match="it has no INFO"):
        connect(NodeAddress.parse(server.address), ANYBODY)
