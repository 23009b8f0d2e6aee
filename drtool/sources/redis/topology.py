"""Finding the servers of a source, and the one to take a backup from."""

from __future__ import annotations

from collections.abc import Sequence

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.measure import counted
from drtool.policy.sources import RedisTopology
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.clusternodes import (
    ClusterNode,
    OpenSlot,
    check_at_rest,
    check_slots,
    parse_nodes,
)
from drtool.sources.redis.connection import RedisConnection, connect, pairs, texts
from drtool.sources.redis.keyslot import SLOTS
from drtool.sources.redis.release import server_mode
from drtool.sources.redis.sentinels import is_watched_by_sentinels
from drtool.sources.redis.shape import RedisNode, Role, Shape, Shard, shard_name
from drtool.sources.redis.told import address_of, said, whole, words_of

# A replica that lags further behind its master than this is passed over.
MOST_LAG_BYTES = 64 << 20
_LOOK_SECONDS = 3.0
# Each is connected to.
_MOST_REPLICAS = 200
# A server that hangs takes connections and says nothing; a script is at fault after five seconds.
_LOOK_ANSWER_SECONDS = 10.0


def discover(
    kind: RedisTopology,
    nodes: Sequence[NodeAddress],
    login: Login,
    *,
    group: str | None = None,
    accepts_moving: bool = False,
) -> Shape:
    """The servers of a source, as they are now.

    `nodes` are some of them, or some sentinels; each is asked until one answers. `group` names the
    master among sentinels that watch several. Every server found is looked at itself, so a replica
    that is cut off from its master has its `trouble`. SourceUnavailable or SourceUnsuitable if no
    server answers, the kind is another one, or a part of a cluster is missing; and if hash slots are
    being moved, unless `accepts_moving`: then masters that have none yet are shards as well.
    """
    last: SourceUnavailable | None = None
    for address in nodes:
        try:
            with look_at(address, login) as connection:
                mode = server_mode(connection.info("server"))
                if mode == "sentinel":
                    return _behind_sentinel(connection, kind, login=login, group=group)
                _check_kind(connection, kind, mode)
                if kind is RedisTopology.CLUSTER:
                    return _cluster(connection, login, accepts_moving=accepts_moving)
                return _group(connection, kind, login=login)
        except SourceUnavailable as error:
            if not error.retryable:
                raise
            last = error
    if last is None:
        raise SourceUnsuitable("the source names no servers")
    raise last


def _look(address: NodeAddress, login: Login) -> RedisConnection:
    return connect(
        address, login, timeout_seconds=_LOOK_SECONDS, answer_seconds=_LOOK_ANSWER_SECONDS
    )


def look_at(address: NodeAddress, login: Login) -> RedisConnection:
    """A connection to a server or a sentinel, which is not waited for as long as one is elsewhere."""
    try:
        return _look(address, login)
    except SourceUnsuitable as error:
        # Sentinels are often left without the password of what they watch.
        if "has no password" not in error.message or login.password is None:
            raise
        anonymous = Login(tls=login.tls)
        connection = _look(address, anonymous)
        if server_mode(connection.info("server")) == "sentinel":
            return connection
        connection.close()
        raise


def _check_kind(connection: RedisConnection, kind: RedisTopology, mode: str) -> None:
    is_cluster = kind is RedisTopology.CLUSTER
    if is_cluster != (mode == "cluster"):
        raise SourceUnsuitable(
            f"{connection.place} is {'a node of a cluster' if mode == 'cluster' else mode}, and the"
            f" policy says topology: {kind}",
            hint=f"Write topology: {'cluster' if mode == 'cluster' else 'standalone'} (or sentinel).",
        )


def _behind_sentinel(
    sentinel: RedisConnection, kind: RedisTopology, *, login: Login, group: str | None
) -> Shape:
    if kind is not RedisTopology.SENTINEL:
        raise SourceUnsuitable(
            f"{sentinel.place} is a Sentinel, and the policy says topology: {kind}",
            hint="Write topology: sentinel.",
        )
    told = sentinel.ask("SENTINEL", "MASTERS")
    masters = [pairs(one) for one in told] if isinstance(told, list) else []
    names = sorted(said(one, "name") for one in masters)
    name = group or (names[0] if len(names) == 1 else None)
    if name not in names:
        raise SourceUnsuitable(
            f"{sentinel.place} watches {', '.join(names) or 'nothing'}, and one of them must be named",
            hint="Name the group that is to be protected.",
        )
    assert name is not None
    # While a failover is on, this names the heir already, and the list above still the old one.
    place = texts(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name))
    if len(place) != 2:
        raise SourceUnavailable(f"{sentinel.place} does not say where the master of {name} is")
    address = address_of(place[0], place[1])
    known = sentinel.ask("SENTINEL", "REPLICAS", name)
    replicas = [
        address_of(said(one, "ip"), said(one, "port"))
        for one in (map(pairs, known) if isinstance(known, list) else ())
        # A replica without a port is a backup tool that once joined the master.
        if whole(one, "port")
    ]
    master, others = _read_master(address, login)
    shard = Shard(
        name=shard_name(()),
        master=master,
        replicas=_read_replicas([*replicas, *others], master, login),
    )
    return Shape(kind=kind, shards=(shard,), group=name)


def _group(connection: RedisConnection, kind: RedisTopology, *, login: Login) -> Shape:
    """A master and its replicas, found from any one of them."""
    told = connection.info("replication")
    address = connection.address
    if told.get("role") == "slave":
        address = address_of(said(told, "master_host"), said(told, "master_port"))
    master, others = _read_master(address, login)
    if told.get("role") == "slave":
        others = [connection.address, *others]
    shard = Shard(
        name=shard_name(()), master=master, replicas=_read_replicas(others, master, login)
    )
    is_watched = is_watched_by_sentinels(connection) if kind is RedisTopology.SENTINEL else None
    return Shape(kind=kind, shards=(shard,), is_watched=is_watched)


def _read_master(address: NodeAddress, login: Login) -> tuple[RedisNode, list[NodeAddress]]:
    """The master there and the replicas that it knows; it must be one."""
    with look_at(address, login) as connection:
        told = connection.info("replication")
    if told.get("role") != "master":
        raise SourceUnavailable(
            f"Redis at {address} is no master (any more)",
            hint="A failover is on: wait until it is over.",
        )
    master = RedisNode(
        address=address,
        role=Role.MASTER,
        offset=whole(told, "master_repl_offset"),
        replid=told.get("master_replid"),
    )
    return master, _listed_replicas(told)


def _listed_replicas(told: dict[str, str]) -> list[NodeAddress]:
    found = []
    for name, value in told.items():
        if name.startswith("slave") and name[5:].isdigit():
            words = words_of(value)
            # Port 0: a reader such as drtool itself, that is nobody's failover.
            if whole(words, "port"):
                found.append(address_of(said(words, "ip"), words["port"]))
    return found


def _read_replicas(
    addresses: Sequence[NodeAddress], master: RedisNode, login: Login
) -> tuple[RedisNode, ...]:
    if len(addresses) > _MOST_REPLICAS:
        raise SourceUnavailable(
            f"Redis at {master.address} is said to have {counted(len(addresses), 'replica')}",
            hint="Look at INFO replication there, and what stands between it and drtool.",
        )
    return tuple(
        _read_replica(address, master, login=login)
        for address in sorted(set(addresses))
        if address != master.address
    )


def _read_replica(
    address: NodeAddress, master: RedisNode, *, login: Login, node_id: str | None = None
) -> RedisNode:
    """A replica, as it says itself how it is."""
    offset: int | None = None
    is_writable = False
    try:
        with _look(address, login) as connection:
            told = connection.info("replication")
        is_writable = told.get("slave_read_only") == "0"
        offset = whole(told, "slave_repl_offset", -1)
        trouble = _replica_trouble(told, offset, master)
    except SourceUnavailable as error:
        trouble = error.message
    return RedisNode(
        address=address,
        role=Role.REPLICA,
        node_id=node_id,
        offset=offset,
        trouble=trouble,
        is_writable=is_writable,
    )


def _replica_trouble(told: dict[str, str], offset: int, master: RedisNode) -> str | None:
    if told.get("role") != "slave":
        return "it says that it is a master"
    if told.get("master_link_status") != "up":
        return "its link to its master is down"
    if told.get("master_sync_in_progress") == "1":
        return "it still receives its first copy"
    if master.replid is not None and told.get("master_replid") != master.replid:
        return "it follows another master, or the one that was"
    if master.offset is not None and master.offset - offset > MOST_LAG_BYTES:
        return f"it is {counted(master.offset - offset, 'byte')} behind its master"
    return None


def _cluster(connection: RedisConnection, login: Login, *, accepts_moving: bool) -> Shape:
    told = dict(
        line.split(":", 1)
        for line in connection.text("CLUSTER", "INFO").splitlines()
        if ":" in line
    )
    nodes = parse_nodes(connection.text("CLUSTER", "NODES"), connection.address)
    check_slots(nodes)
    if told.get("cluster_state") != "ok":
        raise SourceUnavailable(
            f"the cluster is not well: {connection.place} says cluster_state"
            f" {told.get('cluster_state')}",
            hint="Run redis-cli --cluster check there.",
        )
    masters = [node for node in nodes if node.is_master and (node.slots or accepts_moving)]
    shards = [_shard(node, nodes, login) for node in masters if not _is_empty_handed(node)]
    if not accepts_moving:
        check_at_rest(slot for shard in shards for slot in (*shard.importing, *shard.migrating))
        check_at_rest(one.slot for node in nodes for one in node.open_slots)
    return Shape(
        kind=RedisTopology.CLUSTER,
        shards=tuple(sorted(shards, key=_in_order)),
        epoch=whole(told, "cluster_current_epoch"),
    )


def _in_order(shard: Shard) -> tuple[int, str]:
    return (shard.slots[0].first if shard.slots else SLOTS, shard.master.node_id or "")


def _is_empty_handed(node: ClusterNode) -> bool:
    """A master that has failed and whose hash slots its heir has; it is nobody's server now."""
    return not node.slots and (node.is_failing or node.address is None)


def _shard(node: ClusterNode, nodes: Sequence[ClusterNode], login: Login) -> Shard:
    name = shard_name(node.slots) if node.slots else f"node-{node.node_id[:8]}"
    master, moving = _cluster_master(node, name, login)
    followers = [one for one in nodes if one.master_id == node.node_id and one.address is not None]
    replicas = []
    for one in followers:
        assert one.address is not None
        if one.is_failing:
            trouble = "the cluster says that it fails"
            replicas.append(
                RedisNode(
                    address=one.address, role=Role.REPLICA, node_id=one.node_id, trouble=trouble
                )
            )
        else:
            replicas.append(_read_replica(one.address, master, login=login, node_id=one.node_id))
    return Shard(
        name=name,
        master=master,
        replicas=tuple(replicas),
        slots=node.slots,
        epoch=node.epoch,
        importing=tuple(one.slot for one in moving if one.importing),
        migrating=tuple(one.slot for one in moving if not one.importing),
    )


def _cluster_master(
    node: ClusterNode, name: str, login: Login
) -> tuple[RedisNode, tuple[OpenSlot, ...]]:
    """A master as it says itself how it is, and the hash slots that it moves: only it tells."""
    if node.address is None:
        raise SourceUnavailable(
            f"the cluster knows no address of the master of {name}",
            hint="Run redis-cli --cluster check on another node.",
        )
    offset: int | None = None
    replid: str | None = None
    moving: tuple[OpenSlot, ...] = ()
    trouble: str | None = "is failing, says the cluster" if node.is_failing else None
    if trouble is None:
        try:
            with _look(node.address, login) as connection:
                told = connection.info("replication")
                moving = open_slots(connection)
            offset = whole(told, "master_repl_offset")
            replid = told.get("master_replid")
            if told.get("role") != "master":
                trouble = "says that it is a replica now"
        except SourceUnavailable as error:
            trouble = f"cannot be asked: {error.message}"
    found = RedisNode(
        address=node.address,
        role=Role.MASTER,
        node_id=node.node_id,
        offset=offset,
        replid=replid,
        trouble=trouble,
    )
    return found, moving


def open_slots(connection: RedisConnection) -> tuple[OpenSlot, ...]:
    """The hash slots that are being moved to or from a node; CLUSTER NODES shows them for it alone."""
    nodes = parse_nodes(connection.text("CLUSTER", "NODES"), connection.address)
    mine = [one for node in nodes if "myself" in node.flags for one in node.open_slots]
    return tuple(sorted(mine, key=lambda one: one.slot))
