"""The checks of one Redis: each of its servers, how they belong together, its stream, its snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from drtool.check.freshness import check_clock
from drtool.check.links import check_link
from drtool.check.run import Seen, attempt, not_looked
from drtool.errors import DrtoolError, SourceUnavailable
from drtool.model.checked import Look
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_skew
from drtool.policy.sources import RedisSource, RedisTopology
from drtool.sources.redis.address import VERIFY, Login, NodeAddress, link_of
from drtool.sources.redis.binaries import server_user
from drtool.sources.redis.checks import (
    ServerState,
    check_node,
    check_shape,
    read_state,
)
from drtool.sources.redis.cluster_checks import (
    ClusterView,
    check_cluster,
    check_cluster_state,
    read_cluster,
)
from drtool.sources.redis.clusternodes import ClusterNode
from drtool.sources.redis.connection import RedisConnection, connect, keys_by_database
from drtool.sources.redis.refusals import NEEDED_RIGHTS, unknown_release
from drtool.sources.redis.release import server_mode
from drtool.sources.redis.renamed import check_renamed
from drtool.sources.redis.rights import missing_rights, read_rules
from drtool.sources.redis.sentinels import (
    SentinelState,
    check_count,
    check_sentinel,
    not_watched,
    read_sentinel,
)
from drtool.sources.redis.shape import RedisNode, Role, Shape
from drtool.sources.redis.topology import discover, look_at
from drtool.wiring.check_destination import look_at_destination
from drtool.wiring.check_stream import look_at_stream
from drtool.wiring.checking import Checking
from drtool.wiring.redis import login_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What a server said, and when on the monotonic clock."""

    state: ServerState
    at: float


@dataclass(slots=True, kw_only=True)
class _Servers:
    """The servers of a source while they are looked at, one after the other."""

    checking: Checking
    source: RedisSource
    login: Login
    shape: Shape | None = None
    run_ids: set[str] = field(default_factory=set)
    samples: dict[NodeAddress, Sampled] = field(default_factory=dict)
    keys: dict[NodeAddress, int] = field(default_factory=dict)

    def keys_held(self) -> int | None:
        """The keys of all masters; None where not all of them could be asked."""
        masters = [shard.master.address for shard in self.shape.shards] if self.shape else []
        if not masters or not all(address in self.keys for address in masters):
            return None
        return sum(self.keys[address] for address in masters)


def look_at_redis(checking: Checking, source: RedisSource) -> Iterator[Look]:
    """Every server, and what the repository holds; one failure does not hide the rest."""
    servers: _Servers | None = None
    try:
        login = login_of(source, checking.around)
        servers = _Servers(checking=checking, source=source, login=login)
    except DrtoolError as error:
        yield not_looked("servers", error)
    if servers is not None:
        yield from _look_at_servers(servers)
    shape = servers.shape if servers else None
    samples = servers.samples if servers else {}
    first = {address: (sample.state, sample.at) for address, sample in samples.items()}
    keys = servers.keys_held() if servers else None
    yield from look_at_stream(checking, source, shape, first=first, keys=keys)
    yield look_at_destination(checking, lambda place: server_user(place, source.restore.run_as))


def _look_at_servers(servers: _Servers) -> Iterator[Look]:
    source = servers.source
    seeds = [NodeAddress.parse(node) for node in source.nodes]
    cluster: ClusterView | None = None
    trouble: SourceUnavailable | None = None
    if source.topology is RedisTopology.CLUSTER:
        try:
            cluster = read_cluster(seeds, servers.login)
            found = check_cluster(cluster)
            yield Look(name="slots", seen=cluster.seen, findings=tuple(found))
        except SourceUnavailable as error:
            trouble = error
    try:
        servers.shape = discover(source.topology, seeds, servers.login, group=source.group)
    except SourceUnavailable as error:
        # Of a cluster whose slots were told above, the same need not be told once more.
        trouble = trouble or (None if cluster and check_cluster(cluster) else error)
    nodes = _nodes(servers, seeds, cluster.nodes if cluster else ())
    if trouble is not None and (servers.shape is None and len(nodes) != 1):
        yield not_looked("shape", trouble)
    if servers.shape is not None:
        shape = servers.shape
        found = [*check_shape(shape), *_unwatched(shape)]
        yield Look(name="shape", seen=_shape_seen(shape), findings=tuple(found))
        if shape.kind is RedisTopology.SENTINEL:
            yield from _look_at_sentinels(servers, seeds, shape.group)
    for node in nodes:
        look = attempt(f"server {node.address}", partial(_look_at_node, servers, node))
        if look.seen:
            yield look


def _unwatched(shape: Shape) -> Iterator[Finding]:
    if shape.is_watched is False:
        error = not_watched(shape)
        yield Finding(
            severity=Severity.PROBLEM, subject="sentinels", fact=error.message, fix=error.hint
        )


def _look_at_sentinels(
    servers: _Servers, seeds: list[NodeAddress], group: str | None
) -> Iterator[Look]:
    """Those that the policy names, and those that they know of. `group` None: it names servers only."""
    states: list[SentinelState] = []

    def look(address: NodeAddress) -> Seen:
        with look_at(address, servers.login) as connection:
            told = connection.info("server")
            run_id = told.get("run_id", str(address))
            if run_id in servers.run_ids or server_mode(told) != "sentinel":
                return "", ()
            servers.run_ids.add(run_id)
            state = read_sentinel(connection, group or "")
        states.append(state)
        seen = f"watches {group} at {state.master}, knows {len(state.others)} others, quorum {state.quorum}"
        return seen, check_sentinel(state, first=states[0])

    waiting = [] if group is None else list(seeds)
    met = set(waiting)
    while waiting:
        address = waiting.pop(0)
        one = attempt(f"sentinel {address}", partial(look, address))
        if one.seen:
            yield one
        told = {other for state in states for other in state.others} - met
        waiting += sorted(told)
        met |= told
    if found := check_count(states):
        yield Look(name="sentinels", seen=f"{len(states)} answer", findings=tuple(found))


def _nodes(
    servers: _Servers, seeds: list[NodeAddress], cluster: Sequence[ClusterNode]
) -> list[RedisNode]:
    """Every server that anybody knows of: the shape's, the cluster's, and those of the policy."""
    found: dict[NodeAddress, RedisNode] = {}
    for shard in servers.shape.shards if servers.shape else ():
        for node in (shard.master, *shard.replicas):
            found[node.address] = node
    for one in cluster:
        if one.address is not None and "handshake" not in one.flags:
            role = Role.MASTER if one.is_master else Role.REPLICA
            found.setdefault(one.address, RedisNode(address=one.address, role=role))
    if servers.source.topology is RedisTopology.STANDALONE:
        # A replica that is cut off is not known to its master any more.
        for address in seeds:
            found.setdefault(address, RedisNode(address=address, role=Role.MASTER))
    return list(found.values())


def _look_at_node(servers: _Servers, node: RedisNode) -> Seen:
    """One server; nothing is seen if it is one that was looked at under another name."""
    clock = servers.checking.around.clock
    with connect(node.address, servers.login) as connection:
        run_id = connection.info("server").get("run_id", str(node.address))
        if run_id in servers.run_ids:
            return "", ()
        servers.run_ids.add(run_id)
        state = read_state(connection)
        skew = state.moment - clock.now()
        servers.samples[node.address] = Sampled(state=state, at=clock.monotonic())
        findings = [*check_node(node, state), *_rights(servers, connection)]
        findings += check_renamed(connection, has_stream=servers.source.stream)
        findings += check_clock(connection.place, skew)
        findings += check_link(connection.place, link_of(node.address, servers.login), fix=VERIFY)
        if servers.source.topology is RedisTopology.CLUSTER:
            findings += check_cluster_state(node.address, _cluster_info(connection))
        servers.keys[node.address] = sum(keys_by_database(connection).values())
        findings += _release(servers, connection)
        release = connection.release
    role = "replica" if state.replication.get("role") == "slave" else "master"
    appendonly = state.settings.get("appendonly", "unknown")
    return (
        f"{release}, {role}, appendonly {appendonly}, clock {format_skew(skew)}",
        (findings),
    )


def _release(servers: _Servers, connection: RedisConnection) -> list[Finding]:
    """Backups refuse a version that is not known."""
    if connection.release.is_known:
        return []
    error = unknown_release(connection.place, connection.release, servers.checking.name)
    return [
        Finding(
            severity=Severity.PROBLEM,
            subject=connection.place,
            fact=error.message,
            fix=error.hint,
        )
    ]


def _rights(servers: _Servers, connection: RedisConnection) -> list[Finding]:
    """Each server has ACLs of its own."""
    user = servers.login.username or "default"
    fix = f"Run ACL SETUSER {user} there with what drtool needs: {NEEDED_RIGHTS}."
    try:
        rules = read_rules(connection, servers.login)
    except SourceUnavailable as error:
        return [
            Finding(
                severity=Severity.PROBLEM,
                subject=connection.place,
                fact=f"nobody can tell whether user {user} may replicate: {error.message}",
                fix=error.hint or fix,
            )
        ]
    missing = missing_rights(rules, writes_marks=servers.source.heartbeat_key is not None)
    if not missing:
        return []
    return [
        Finding(
            severity=Severity.PROBLEM,
            subject=connection.place,
            fact=f"user {user} may not run {', '.join(missing)}",
            fix=f"Run ACL SETUSER {user} {' '.join('+' + name for name in missing)} there; all that"
            f" drtool needs: {NEEDED_RIGHTS}.",
        )
    ]


def _cluster_info(connection: RedisConnection) -> dict[str, str]:
    lines = connection.text("CLUSTER", "INFO").splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _shape_seen(shape: Shape) -> str:
    replicas = sum(len(shard.replicas) for shard in shape.shards)
    return f"{shape.kind}, {counted(len(shape.shards), 'master')}, {counted(replicas, 'replica')}"
