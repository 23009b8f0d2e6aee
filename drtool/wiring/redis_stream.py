"""`drtool redis`: archive the replication stream, and how it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drtool.archiving.redis import StreamReceived, StreamSettings, receive_stream
from drtool.archiving.redis_status import StreamStatus, stream_status
from drtool.check.state import SourceState, Topic
from drtool.errors import PolicyError
from drtool.model.measure import format_size
from drtool.model.outcome import Fact, FactSheet
from drtool.model.request import RedisReceive, RedisStatus
from drtool.policy.policy import Policy
from drtool.policy.sources import RedisSource
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.node_choice import choose_node
from drtool.sources.redis.topology import discover
from drtool.wiring.commands import command_starter
from drtool.wiring.origins import require_same_source
from drtool.wiring.parts import opened_repository
from drtool.wiring.redis import login_of
from drtool.wiring.redis_base import BaseTaker
from drtool.wiring.state_facts import read_facts_of_state, window_fact
from drtool.wiring.state_redis import read_stream, redis_state, uncertain_words
from drtool.wiring.surroundings import Surroundings


def receive(
    request: RedisReceive, policy: Policy, around: Surroundings, *, policy_file: Path
) -> FactSheet:
    """Archive the stream until `around.stop` is set; what was received, at the end.

    Behind a gap a new snapshot is taken at once, by `drtool backup` on the same policy.
    """
    source = _redis(policy, request.source)
    settings = stream_settings(request.source, source, around)
    with opened_repository(policy, around) as repository:
        require_same_source(
            request.source,
            source,
            policy=policy,
            repository=repository,
            around=around,
            is_accepted=request.accepts_source,
        )
        if request.is_dry_run:
            return _would_receive(settings, stream_status(repository, request.source))
        bases = BaseTaker(request.source, command_starter(policy_file, around), around)
        try:
            return _received(
                receive_stream(
                    repository,
                    settings,
                    stop=around.stop,
                    clock=around.clock,
                    emit=around.emit,
                    ask_for_base=bases.ask,
                )
            )
        finally:
            bases.close()


def status(request: RedisStatus, policy: Policy, around: Surroundings) -> FactSheet:
    """What is archived of each source's stream, and all that is wrong with it and its receiver."""
    names = request.sources or tuple(
        str(name) for name, one in policy.sources.items() if isinstance(one, RedisSource)
    )
    if not names:
        raise PolicyError(
            "the policy has no source of kind redis",
            hint="Add one; `drtool policy schema` shows how.",
        )
    sources = {name: _redis(policy, name) for name in names}
    looked: list[tuple[SourceState, StreamStatus]] = []
    with opened_repository(policy, around) as repository:
        for name, source in sources.items():
            facts = read_facts_of_state(name, policy, repository, now=around.clock.now())
            stream = read_stream(facts)
            looked.append((redis_state(facts, source, stream=stream), stream))
    topics = Topic.RECEIVER, Topic.LOG, Topic.LOSS
    return FactSheet(
        kind="redis-status",
        title="Redis streams",
        facts=tuple(fact for one in looked for fact in _status_facts(*one)),
        findings=tuple(finding for state, _ in looked for finding in state.of(*topics)),
    )


def stream_settings(name: str, source: RedisSource, around: Surroundings) -> StreamSettings:
    """How the stream of a source is received, as the policy has it."""
    return StreamSettings(
        source=name,
        topology=source.topology,
        nodes=tuple(NodeAddress.parse(node) for node in source.nodes),
        login=login_of(source, around),
        group=source.group,
        flush_seconds=source.flush.total_seconds(),
        heartbeat_seconds=source.heartbeat.total_seconds(),
        heartbeat_key=source.heartbeat_key,
    )


def _redis(policy: Policy, name: str) -> RedisSource:
    source = policy.source(name)
    if not isinstance(source, RedisSource):
        raise PolicyError(
            f"source {name} is of kind {source.kind}, not redis",
            hint="Name a source of kind redis.",
        )
    return source


def _would_receive(settings: StreamSettings, stands: StreamStatus) -> FactSheet:
    shape = discover(settings.topology, settings.nodes, settings.login, group=settings.group)
    held = {shard.name: shard for shard in stands.shards}
    facts = []
    for shard in shape.shards:
        node = choose_node(shape, shard).node
        known = held.get(shard.name)
        after = "nothing is held yet" if known is None else str(known.end)
        facts.append(Fact(name=f"{shard.name}_server", value=str(node.address)))
        facts.append(Fact(name=f"{shard.name}_role", value=str(node.role)))
        facts.append(Fact(name=f"{shard.name}_after", value=after))
    facts.append(Fact(name="receiver", value=stands.receiver or "none", label="receiver now"))
    return FactSheet(
        kind="redis-receive-plan",
        title=f"Would receive the stream of {settings.source}; nothing was done",
        facts=tuple(facts),
    )


def _received(received: StreamReceived) -> FactSheet:
    facts: list[Fact] = []
    for one in received.shards:
        name = one.shard
        facts += [
            Fact(name=f"{name}_replication_id", value=one.replication_id),
            Fact(name=f"{name}_durable", value=one.durable, label=f"{name}: durable up to"),
            Fact(
                name=f"{name}_received_bytes",
                value=one.received_bytes,
                shown=format_size(one.received_bytes),
                label=f"{name}: received",
            ),
            Fact(name=f"{name}_segments", value=one.segments, label=f"{name}: segments put"),
            Fact(name=f"{name}_marks", value=one.marks, label=f"{name}: marks put"),
            Fact(name=f"{name}_failovers", value=one.links, label=f"{name}: failovers followed"),
            Fact(name=f"{name}_gaps", value=one.gaps, label=f"{name}: gaps recorded"),
        ]
    return FactSheet(
        kind="redis-receive",
        title=f"Received the stream of {received.source}",
        facts=tuple(facts),
    )


def _status_facts(state: SourceState, one: StreamStatus) -> Iterator[Fact]:
    name = one.source
    yield Fact(
        name=f"{name}_recoverable_until",
        value=one.recoverable_until,
        label=f"{name}: recoverable until",
    )
    yield window_fact(state)
    yield Fact(name=f"{name}_uncertain", value=uncertain_words(state), label=f"{name}: not known")
    yield Fact(name=f"{name}_receiver", value=one.receiver or "none", label=f"{name}: receiver")
    for shard in one.shards:
        place = f"{name}, {shard.name}"
        yield Fact(
            name=f"{name}_{shard.name}_replication_id",
            value=shard.replication_id,
            label=f"{place}: replication id",
        )
        yield Fact(name=f"{name}_{shard.name}_end", value=shard.end, label=f"{place}: whole up to")
        yield Fact(
            name=f"{name}_{shard.name}_until",
            value=shard.recoverable_until,
            label=f"{place}: recoverable until",
        )
