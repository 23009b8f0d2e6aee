"""The kinds of Redis that a campaign runs on: servers that are killed, and known to be whole again."""

from __future__ import annotations

from typing import Protocol

from tests.servers.redis import ClusterGroup, RedisServer, SentinelGroup, is_linked, new_redis


class Group(Protocol):
    """Servers that belong together, as the policy names them."""

    nodes: list[RedisServer]
    topology: str
    shards: int

    @property
    def asked(self) -> list[RedisServer]:
        """Those that the policy names."""

    def masters(self) -> list[RedisServer]:
        """Those that run and lead now: one a shard, while the group is whole."""

    def is_whole(self) -> bool:
        """Whether every server is there, and has its place and its data."""

    def close(self) -> None:
        """Stop all."""


class Cluster(ClusterGroup):
    """Three masters, three replicas."""

    topology, shards = "cluster", 3

    @property
    def asked(self) -> list[RedisServer]:
        return self.nodes


class Sentinels(SentinelGroup):
    """A master, two replicas, three sentinels."""

    topology, shards = "sentinel", 1

    @property
    def asked(self) -> list[RedisServer]:
        return self.sentinels

    def masters(self) -> list[RedisServer]:
        master = self.master
        return [master] if master.is_running and _role(master) == "master" else []

    def is_whole(self) -> bool:
        if not super().is_whole():
            return False
        masters = self.masters()
        return all(
            node.is_running and (node in masters or (_role(node) == "slave" and is_linked(node)))
            for node in self.nodes
        )


class Alone:
    """One server that keeps every write in its AOF: it comes back with its data and a new history."""

    topology, shards = "standalone", 1

    def __init__(self) -> None:
        self.nodes = [new_redis("7.0", settings={"appendonly": "yes", "appendfsync": "always"})]

    @property
    def asked(self) -> list[RedisServer]:
        return self.nodes

    def masters(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.is_running]

    def is_whole(self) -> bool:
        return all(node.is_running and _role(node) == "master" for node in self.nodes)

    def close(self) -> None:
        for node in self.nodes:
            node.close()


GROUPS: dict[str, type[Cluster | Sentinels | Alone]] = {
    "cluster": Cluster,
    "sentinel": Sentinels,
    "standalone": Alone,
}


def _role(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])
