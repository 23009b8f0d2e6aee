"""The ports that a policy reaches its sources by, and so the ones that no copy may have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from drtool.errors import PolicyError
from drtool.policy.policy import Policy
from drtool.policy.sources import PostgresSource, RedisSource, RedisTopology, SourcePolicy
from drtool.restore.copy_ports import CopyPorts
from drtool.sources.postgres.connection import DEFAULT_PORT, ports_of
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.clusternodes import BUS_OFFSET
from drtool.wiring.parts import dsn_of
from drtool.wiring.surroundings import Surroundings


def copy_ports(into: Path | None, policy: Policy, around: Surroundings) -> CopyPorts:
    """What gives the copies of one restore their ports, beside those of the sources and of other copies:
    those below restore_root, and beside `into`.
    """
    kept = {port for source in policy.sources.values() for port in _reached_by(source, around)}
    beside = () if into is None else (into.absolute().parent,)
    return CopyPorts(kept=frozenset(kept), roots=(policy.restore_root.absolute(), *beside))


def _reached_by(source: SourcePolicy, around: Surroundings) -> Iterable[int]:
    match source:
        case PostgresSource():
            return _of_postgres(source, around)
        case RedisSource():
            return _of_redis(source)
        case _:
            return ()


def _of_postgres(source: PostgresSource, around: Surroundings) -> Iterator[int]:
    references = [source.dsn]
    if source.backup_from is not None:
        references.append(source.backup_from.dsn)
    for reference in references:
        try:
            yield from ports_of(dsn_of(reference, around))
        except PolicyError:
            # A restore does without the source's DSN; this is where most servers are.
            yield DEFAULT_PORT


def _of_redis(source: RedisSource) -> Iterator[int]:
    for node in source.nodes:
        port = NodeAddress.parse(node).port
        yield port
        if source.topology is RedisTopology.CLUSTER:
            yield port + BUS_OFFSET
