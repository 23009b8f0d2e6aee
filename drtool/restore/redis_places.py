"""Where each server of a restored Redis comes to lie, what it is called and which slots it holds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drtool.model.request import TtlMode
from drtool.repository.held import MOST_GONE_PERCENT
from drtool.restore.copy_ports import CHOSEN
from drtool.restore.destination import Destination
from drtool.restore.redis_plan import RedisPlan
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.binaries import RedisBinaries
from drtool.sources.redis.keyslot import SlotRange, even_slots, slot_owners
from drtool.sources.redis.shape import shard_name

# What servers are first loaded from when they are written anew afterwards; removed at the end.
LOADING = ".loading"
CONFIGURATION = "redis.conf"
_STANDALONE_PORT = 6379
_CLUSTER_PORT = 7001


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSite:
    """Where a restore happens, with which programs, and in what shape.

    `masters` None keeps the shape; 1 makes one server that is no cluster. Servers get ports from
    `first_port` on, chosen as `port_reason` says. Marks were made in `heartbeat_key`, if any. Servers
    load `modules`. `load_seconds` bounds the loading of one server; `scratch` is where private sockets
    and logs go, None the temporary directory. A copy that lost no more than `gone_percent` of the keys
    of its snapshot needs no warning.
    """

    destination: Destination
    binaries: RedisBinaries
    ttl: TtlMode = TtlMode.ABSOLUTE
    masters: int | None = None
    first_port: int | None = None
    port_reason: str = CHOSEN
    heartbeat_key: str | None = None
    modules: tuple[Path, ...] = ()
    load_seconds: float = 4 * 3600
    scratch: Path | None = None
    gone_percent: float = MOST_GONE_PERCENT


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlace:
    """One server of the copy. `slots` is empty where it is no cluster.

    A replica `follows` another one of the copy, has its master's slots, and gets its data from there.
    """

    name: str
    directory: Path
    slots: tuple[SlotRange, ...]
    address: NodeAddress
    follows: NodeAddress | None = None

    @property
    def configuration(self) -> Path:
        return self.directory / CONFIGURATION


def master_count(plan: RedisPlan, masters: int | None) -> int:
    """How many masters the copy has."""
    if masters is not None:
        return masters
    return len(plan.shards) if plan.owners is None else len(plan.owners.shares)


def is_dealt_anew(plan: RedisPlan, masters: int | None) -> bool:
    """Whether keys go to other servers than those of the snapshot."""
    return plan.owners is not None or master_count(plan, masters) != len(plan.shards)


def is_written_anew(plan: RedisPlan, *, ttl: TtlMode, masters: int | None) -> bool:
    """Whether the copy is made of RDBs that differ from the snapshots."""
    return is_dealt_anew(plan, masters) or ttl is not TtlMode.ABSOLUTE


def needed_bytes(plan: RedisPlan, *, is_anew: bool) -> int:
    """Room for what is written; three times the data where it is loaded, saved and dealt anew."""
    return (plan.fetch_bytes + plan.stream_bytes) * (3 if is_anew else 1)


def server_places(plan: RedisPlan, site: RedisSite) -> tuple[ServerPlace, ...]:
    """The servers of the copy, in order of their slots; every slot of a cluster is held once."""
    count = master_count(plan, site.masters)
    if not is_dealt_anew(plan, site.masters):
        shares = [ranges(one.shard.slots) for one in plan.shards]
    elif plan.owners is not None and count == len(plan.owners.shares):
        shares = [ranges(one.slots) for one in plan.owners.shares]
    else:
        shares = [()] if count == 1 else list(even_slots(count))
    is_cluster = any(shares)
    if is_cluster:
        slot_owners(shares)
    first = site.first_port or (_CLUSTER_PORT if is_cluster else _STANDALONE_PORT)
    return tuple(
        ServerPlace(
            name=shard_name(share),
            directory=site.destination.data / shard_name(share),
            slots=share,
            address=NodeAddress("127.0.0.1", first + number),
        )
        for number, share in enumerate(shares)
    )


def replica_places(
    plan: RedisPlan, site: RedisSite, masters: Sequence[ServerPlace]
) -> tuple[ServerPlace, ...]:
    """As many replicas as each shard had, behind the masters' ports.

    None where keys are dealt out anew: another shape than the source's is asked for then.
    """
    counts = [one.shard.replicas or 0 for one in plan.shards]
    if plan.owners is not None:
        counts = [one.replicas for one in plan.owners.shares]
    if len(masters) != len(counts):
        return ()
    owners = [
        (master, number + 1)
        for master, count in zip(masters, counts, strict=True)
        for number in range(count)
    ]
    first = masters[-1].address.port + 1
    return tuple(
        ServerPlace(
            name=f"{master.name}-replica-{number}",
            directory=site.destination.data / f"{master.name}-replica-{number}",
            slots=master.slots,
            address=NodeAddress("127.0.0.1", first + place),
            follows=master.address,
        )
        for place, (master, number) in enumerate(owners)
    )


def loading_places(plan: RedisPlan, site: RedisSite) -> tuple[Path, ...]:
    """Where the snapshot and stream of each shard are written, to be loaded."""
    root = site.destination.data
    if is_written_anew(plan, ttl=site.ttl, masters=site.masters):
        return tuple(root / LOADING / one.shard.name for one in plan.shards)
    return tuple(root / one.shard.name for one in plan.shards)


def ranges(slots: Sequence[tuple[int, int]]) -> tuple[SlotRange, ...]:
    """Hash slots as the repository has them, as ranges."""
    return tuple(SlotRange(first, last) for first, last in slots)
