"""What a restored Redis is handed over with: its configuration, written last, and how to start it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted
from drtool.model.outcome import ChangedSetting
from drtool.policy.sources import RedisTopology
from drtool.repository.extents import RedisShard
from drtool.restore.redis_places import RedisSite, ServerPlace, is_dealt_anew
from drtool.restore.redis_plan import RedisPlan
from drtool.sources.redis.address import is_listening
from drtool.sources.redis.aof import NAME
from drtool.sources.redis.capture import CapturedServer, startable_settings
from drtool.sources.redis.clusternodes import RestoredNode, nodes_conf
from drtool.system.owned_directory import OwnedDirectory
from drtool.system.users import command_prefix

_USERS = "users.acl"
_PID, _LOG = "redis.pid", "server.log"
_NODES = "nodes.conf"
_NODES_UNUSED = "nodes.conf.port-in-use"
_GROUPED = {"save": 2, "client-output-buffer-limit": 4}


def config_path(shard: RedisShard) -> str:
    """Where a snapshot keeps the configuration of a shard's server."""
    return str(PurePosixPath(shard.rdb).with_name("config.json"))


def write_configuration(
    places: Sequence[ServerPlace],
    captured: Sequence[CapturedServer],
    site: RedisSite,
    *,
    databases: int,
) -> None:
    """Give every server its `redis.conf`, and a cluster's its `nodes.conf`, for its owner only.

    `places` are the masters, in the order of `captured`, and then their replicas: what makes a replica
    startable is written when its master is whole.
    """
    masters = [place for place in places if place.follows is None]
    nodes = [_node(place, number, masters) for number, place in enumerate(places)]
    for number, place in enumerate(places):
        shard = number if place.follows is None else nodes[number].replica_of
        server = captured[shard] if shard is not None and shard < len(captured) else captured[0]
        rules = "".join(f"{rule.reveal()}\n" for rule in server.acl_rules)
        lines = [*_lines(place, server, databases=databases), *_module_lines(site)]
        text = "".join(f"{line}\n" for line in lines)
        with OwnedDirectory(place.directory, site.destination.owner) as home:
            if rules:
                home.replace(_USERS, rules.encode())
            if place.slots:
                home.replace(_nodes_name(place), nodes_conf(nodes, myself=number).encode())
            home.replace(place.configuration.name, text.encode())


def _nodes_name(place: ServerPlace) -> str:
    """A replica follows whoever listens at its master's address, and asks for no node id first.

    Without the file it starts as an empty node that knows nobody.
    """
    is_taken = place.follows is not None and is_listening(place.follows)
    return _NODES_UNUSED if is_taken else _NODES


def _node(place: ServerPlace, number: int, masters: Sequence[ServerPlace]) -> RestoredNode:
    if place.follows is None:
        return RestoredNode(address=place.address, slots=place.slots, epoch=number + 1)
    leader = next(at for at, one in enumerate(masters) if one.address == place.follows)
    return RestoredNode(address=place.address, replica_of=leader)


def how_to_start(places: Sequence[ServerPlace], site: RedisSite) -> tuple[str, ...]:
    """Command lines that start the copy, to be pasted into a shell: replicas last."""
    server = [*command_prefix(site.destination.owner), str(site.binaries.server)]
    return tuple(
        shlex.join([*server, str(place.configuration), "--daemonize", "yes"]) for place in places
    )


def how_to_stop(places: Sequence[ServerPlace], site: RedisSite) -> tuple[str, ...]:
    """Command lines that stop it again: replicas first.

    By signal, which does the same as SHUTDOWN: whoever may start the server may stop it, and needs
    none of the source's passwords. A number that belongs to another program by now is left alone.
    """
    prefix, program = command_prefix(site.destination.owner), site.binaries.server.name
    return tuple(
        shlex.join([*prefix, "pkill", "-F", str(place.directory / _PID), "-x", program])
        for place in reversed(places)
    )


def changed_settings(places: Sequence[ServerPlace], site: RedisSite) -> tuple[ChangedSetting, ...]:
    """What differs from the source, and why."""
    has_replicas = any(place.follows for place in places)
    found = [
        ChangedSetting(
            name="replicaof",
            value="no one; of replicas, their masters of the copy" if has_replicas else "no one",
            reason="a copy that follows a master of the source is wiped by its first full resync",
        ),
        ChangedSetting(
            name="appendonly",
            value="yes",
            reason="its data is an append-only file: with `no` it would start empty",
        ),
        ChangedSetting(
            name="bind", value="127.0.0.1", reason="nobody reaches the copy before you let them"
        ),
        ChangedSetting(
            name="port",
            value=", ".join(str(place.address.port) for place in places),
            reason=site.port_reason,
        ),
    ]
    if any(place.slots for place in places):
        found.append(
            ChangedSetting(
                name="cluster node ids",
                value="new",
                reason="nodes of the copy and of the source must not take each other for the same",
            )
        )
    return tuple(found)


def findings(
    plan: RedisPlan, places: Sequence[ServerPlace], captured: Sequence[CapturedServer]
) -> Iterator[Finding]:
    """What a person has to see to before production."""
    modules = sorted({name for server in captured for name in server.modules})
    if modules:
        yield Finding(
            severity=Severity.WARNING,
            subject="modules",
            fact=f"the source had modules loaded: {', '.join(modules)}",
            fix="Install them and add `loadmodule` lines to each redis.conf.",
        )
    if not all(server.acl_rules for server in captured):
        yield Finding(
            severity=Severity.WARNING,
            subject="users",
            fact="the snapshot holds no users and passwords: everyone on this machine may use the copy",
            fix="Set requirepass or users in each redis.conf before you open it to others.",
        )
    yield from _about_shape(plan, places)
    taken = [str(place.address.port) for place in places if is_listening(place.address)]
    if taken:
        is_cluster = any(place.slots for place in places)
        yield Finding(
            severity=Severity.WARNING,
            subject="ports",
            fact=f"something else listens on {', '.join(taken)} of this machine, so the copy cannot be"
            " started as it is, and no replica of it was told to follow that",
            fix="Set another `restore: {port: N}` in the policy and restore again, or change the ports in"
            " each redis.conf, nodes.conf and replicaof; a replica's is"
            f" {_NODES_UNUSED if is_cluster else 'commented out'} where its master's port was in use.",
        )


def _about_shape(plan: RedisPlan, places: Sequence[ServerPlace]) -> Iterator[Finding]:
    masters = [place for place in places if place.follows is None]
    replicas = [place for place in places if place.follows is not None]
    shape = "cluster" if any(place.slots for place in places) else "replicas"
    if replicas:
        yield Finding(
            severity=Severity.NOTE,
            subject=shape,
            fact=f"{counted(len(masters), 'master')} and {counted(len(replicas), 'replica')} are at"
            " 127.0.0.1; a replica fetches its data, as much again, from its master when both are started",
            fix="Wait for master_link_status:up in INFO replication of each replica before you rely on"
            " it. To run them elsewhere change the addresses"
            f" {_WHERE[shape]} and `bind` before the first start.",
        )
    elif shape == "cluster":
        yield Finding(
            severity=Severity.NOTE,
            subject=shape,
            fact=f"{counted(len(masters), 'master was', 'masters were')} restored, at 127.0.0.1,"
            f" without replicas{_why_none(plan, masters)}",
            fix="To run them elsewhere change the addresses in every nodes.conf and `bind` before the"
            " first start; then add replicas with redis-cli --cluster add-node ... --cluster-slave.",
        )
    elif any(one.shard.replicas is None for one in plan.shards):
        yield Finding(
            severity=Severity.NOTE,
            subject=shape,
            fact=f"one master was restored, without replicas{_why_none(plan, masters)}",
            fix="If it had some, start each with `replicaof 127.0.0.1"
            f" {masters[0].address.port}`. Backups from now on record how many there are.",
        )
    if plan.manifest.redis.topology == RedisTopology.SENTINEL:
        yield Finding(
            severity=Severity.NOTE,
            subject="Sentinel",
            fact="the source was watched by Sentinel; nobody watches the copy",
            fix=f"Add `sentinel monitor NAME 127.0.0.1 {masters[0].address.port} QUORUM` to the"
            " sentinels that are to watch it.",
        )


def _why_none(plan: RedisPlan, masters: Sequence[ServerPlace]) -> str:
    if is_dealt_anew(plan, len(masters)):
        return ": another number of masters was asked for than the source had"
    if any(one.shard.replicas is None for one in plan.shards):
        return ": the snapshot is from before drtool recorded how many there were"
    return ": the source had none"


_WHERE = {"cluster": "in every nodes.conf", "replicas": "after replicaof"}


def _lines(place: ServerPlace, server: CapturedServer, *, databases: int) -> Iterator[str]:
    yield "# Written by drtool for a restored copy. What differs from the source is in its report."
    settings = startable_settings(server, directory=str(place.directory))
    settings["databases"] = str(databases)
    for name, value in sorted(settings.items()):
        yield from _setting(name, value)
    yield f"port {place.address.port}"
    yield f"bind {place.address.host}"
    yield f"pidfile {_quoted(str(place.directory / _PID))}"
    yield f"logfile {_quoted(str(place.directory / _LOG))}"
    yield "appendonly yes"
    yield f"appendfilename {NAME}"
    yield "aof-load-truncated yes"
    if server.acl_rules:
        yield f"aclfile {_quoted(str(place.directory / _USERS))}"
    if "masterauth" in server.secrets:
        yield f"masterauth {_quoted(server.secrets['masterauth'].reveal())}"
        if server.settings.get("masteruser"):
            yield f"masteruser {_quoted(server.settings['masteruser'])}"
    if place.follows is not None and not place.slots:
        line = f"replicaof {place.follows.host} {place.follows.port}"
        # Whoever listens there now is not the copy's master, which has not been started yet.
        yield f"# {line}, but that port was in use" if is_listening(place.follows) else line
    if place.slots:
        yield "cluster-enabled yes"
        yield f"cluster-config-file {_NODES}"


def _module_lines(site: RedisSite) -> Iterator[str]:
    for path in site.modules:
        yield f"loadmodule {_quoted(str(path))}"


def _setting(name: str, value: str) -> Iterator[str]:
    """CONFIG GET gives in one line what older servers read in several."""
    words = value.split()
    if name in _GROUPED and words:
        count = _GROUPED[name]
        for begin in range(0, len(words), count):
            yield f"{name} {' '.join(words[begin : begin + count])}"
    else:
        yield f"{name} {_quoted(value)}"


def _quoted(value: str) -> str:
    # Source: sdssplitargs in src/sds.c.
    if value and all(char.isalnum() or char in "_-./:,%+@" for char in value):
        return value
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in value.encode("utf-8", "surrogateescape")
    )
    return f'"{escaped}"'
