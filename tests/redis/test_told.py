"""What a server says of itself is within limits, or is refused as a server that cannot be used."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drtool.errors import SourceUnavailable
from drtool.restore.redis_loading import mark_of
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.clusternodes import parse_nodes
from drtool.sources.redis.psync import position_of
from drtool.sources.redis.told import address_of, moment_of, said, whole

NODE = "a" * 40 + " 10.0.0.1:7001@17001 master - 0 0 1 connected"


@pytest.mark.parametrize(
    "read",
    [
        lambda: whole({"lag": "1_0"}, "lag"),
        lambda: whole({"lag": "٣"}, "lag"),
        lambda: whole({"lag": "9" * 5000}, "lag"),
        lambda: said({}, "master_host"),
        # A path would be connected to, and given the password.
        lambda: address_of("/run/other.sock", "0"),
        lambda: address_of("10.0.0.1", "65536"),
        lambda: address_of("10.0.0.1\n", "1"),
        lambda: moment_of(10**15),
        lambda: position_of("../" + "a" * 37, "1"),
        lambda: position_of("a" * 40, "-1"),
        lambda: parse_nodes(f"{NODE} 0-16383\n{NODE} 0-16383", NodeAddress("h", 1)),
        lambda: parse_nodes(f"{NODE}\n" * 6000, NodeAddress("h", 1)),
    ],
)
def test_what_is_no_number_address_or_position_is_refused(read: Callable[[], object]) -> None:
    with pytest.raises(SourceUnavailable):
        read()


@pytest.mark.parametrize(
    "text", ["", "x", "2026-11-29", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59Z"]
)
def test_a_key_that_a_client_wrote_is_no_mark_unless_it_tells_a_moment(text: str) -> None:
    assert mark_of(text) is None
