"""What the sentinels of a group say of it, and whether they could carry out a failover.

Source: sentinelCommand in src/sentinel.c of Redis 7.0 (MASTER, SENTINELS, REPLICAS, CKQUORUM).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.connection import RedisConnection, Reply, pairs, texts
from drtool.sources.redis.shape import Shape
from drtool.sources.redis.told import address_of, whole, whole_of

_LEAST_SENTINELS = 3
# Source: SENTINEL_HELLO_CHANNEL in src/sentinel.c.
_SENTINELS_CHANNEL = "__sentinel__:hello"
_DOWN = {"s_down", "o_down"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelState:
    """What one sentinel says. `others` are the sentinels it knows beside itself.

    `refusal` is why it says that no failover could be carried out; empty if one could. `strays` is
    how many replicas it lists that have no port: backup tools that once joined the master.
    """

    address: NodeAddress
    group: str
    master: NodeAddress
    quorum: int
    others: tuple[NodeAddress, ...]
    refusal: str
    is_master_down: bool
    strays: int


def read_sentinel(connection: RedisConnection, group: str) -> SentinelState:
    """All that is looked at; nothing is changed. SourceUnavailable if it does not watch `group`."""
    master = pairs(connection.ask("SENTINEL", "MASTER", group))
    others = _rows(connection.ask("SENTINEL", "SENTINELS", group))
    replicas = _rows(connection.ask("SENTINEL", "REPLICAS", group))
    return SentinelState(
        address=connection.address,
        group=group,
        master=_address(master),
        quorum=whole(master, "quorum"),
        # Redis 6.2 keeps those that came back under a new id, without a port.
        others=tuple(_address(one) for one in others if whole(one, "port")),
        refusal=_refusal(connection, group),
        is_master_down=bool(_DOWN & set(master.get("flags", "").split(","))),
        strays=sum(whole(one, "port") == 0 for one in replicas),
    )


def check_sentinel(state: SentinelState, *, first: SentinelState) -> list[Finding]:
    """What is wrong with one sentinel; `first` is the one whose word was taken for the master."""
    found = []
    group, place = state.group, f"sentinel {state.address}"
    if state.refusal:
        found.append(
            Finding(
                severity=Severity.PROBLEM,
                subject=place,
                fact=f"it says that no failover of {group} can be carried out: {state.refusal}",
                fix="Bring the missing sentinels back; those gone for good are forgotten by SENTINEL RESET,"
                " on one sentinel at a time.",
            )
        )
    if state.is_master_down:
        found.append(
            Finding(
                severity=Severity.PROBLEM,
                subject=place,
                fact=f"it takes the master {state.master} of {group} for down",
                fix="Look at that server, and at the network between the two.",
            )
        )
    if state.master != first.master:
        found.append(
            Finding(
                severity=Severity.PROBLEM,
                subject=place,
                fact=f"it says that the master of {group} is {state.master}, and"
                f" {first.address} says {first.master}",
                fix=f"Wait for the failover to end; if it stays so, run SENTINEL REMOVE {group} on the one"
                f" that is wrong, then SENTINEL MONITOR {group} HOST PORT QUORUM and its options.",
            )
        )
    if state.strays:
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject=place,
                fact=f"it lists {counted(state.strays, 'replica')} without a port: programs that joined"
                " the master and are gone",
                fix=f"Run SENTINEL RESET {group} there to forget them.",
            )
        )
    return found


def check_count(states: Sequence[SentinelState]) -> list[Finding]:
    """Whether there are enough sentinels that one of them may be lost."""
    if not states:
        return [
            Finding(
                severity=Severity.NOTE,
                subject="sentinels",
                fact="none was looked at: whether a failover can be carried out is not known",
                fix="Name the sentinels under `nodes` in the policy.",
            )
        ]
    known = max(1 + len(state.others) for state in states)
    if known >= _LEAST_SENTINELS:
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            subject=f"sentinels of {states[0].group}",
            fact=f"there are {known}: with one lost, no majority is left to carry out a failover",
            fix="Run three of them, on machines that fail independently.",
        )
    ]


def _refusal(connection: RedisConnection, group: str) -> str:
    try:
        connection.ask("SENTINEL", "CKQUORUM", group)
    except SourceUnavailable as error:
        if "NOQUORUM" not in error.message:
            raise
        return error.message.partition("NOQUORUM")[2].strip(" .")
    return ""


def _rows(reply: Reply) -> list[dict[str, str]]:
    return [pairs(one) for one in reply] if isinstance(reply, list) else []


def _address(told: Mapping[str, str]) -> NodeAddress:
    return address_of(told.get("ip", ""), told.get("port", "0"))


def is_watched_by_sentinels(connection: RedisConnection) -> bool | None:
    """Whether a sentinel listens on the channel that sentinels speak on at every server they watch."""
    try:
        told = texts(connection.ask("PUBSUB", "NUMSUB", _SENTINELS_CHANNEL))
    except SourceUnavailable:
        return None  # the user may not ask
    return whole_of(told[1], "number of subscribers") > 0 if len(told) == 2 else None


def require_watched(shape: Shape) -> None:
    """SourceUnsuitable if the policy says Sentinel where there is none."""
    if shape.is_watched is False:
        raise not_watched(shape)


def not_watched(shape: Shape) -> SourceUnsuitable:
    """What is said of servers that no sentinel watches."""
    return SourceUnsuitable(
        f"Redis at {shape.shards[0].master.address} is watched by no sentinel, and the policy says"
        " topology: sentinel",
        hint="Write topology: standalone; or start the sentinels, and name them under `nodes`.",
    )
