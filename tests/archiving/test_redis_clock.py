"""The server's clock as the receiver tells it: never back, and not lost with the server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from drtool.archiving.redis_clock import LOOK_SECONDS, ServerClock
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.connection import connect
from tests.repository.building import ManualClock
from tests.servers.redis import MakeRedis

pytest_plugins = ["tests.servers.redis"]
pytestmark = pytest.mark.redis
HOUR = timedelta(hours=1)


def test_the_servers_time_goes_on_by_our_monotonic_clock_and_never_back(
    make_redis: MakeRedis,
) -> None:
    server, ours = make_redis(), ManualClock()
    clock = ServerClock(ours)
    with connect(NodeAddress.parse(server.address), Login()) as connection:
        clock.look(connection)
        first = clock.now()
        ours.pass_(HOUR)
        later = clock.now()
        # To the server no time has passed: to us its clock was put back by an hour.
        clock.look(connection)

    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)
    assert later - first == HOUR
    assert clock.now() == later


def test_a_server_that_is_gone_leaves_its_time_as_it_was_known(make_redis: MakeRedis) -> None:
    server, ours = make_redis(), ManualClock()
    clock = ServerClock(ours)
    with connect(NodeAddress.parse(server.address), Login()) as connection:
        clock.look(connection)
        first = clock.now()
        server.kill9()
        ours.pass_(timedelta(seconds=LOOK_SECONDS + 1))
        clock.look_again(connection)

    assert clock.now() - first == timedelta(seconds=LOOK_SECONDS + 1)
