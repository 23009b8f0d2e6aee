"""What a backup covers, by the kind of its source: the part of a manifest that only that kind has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from drtool.model.strict_json import JsonObject, number_and_text, whole_of_text
from drtool.model.wal import MOST_TIMELINE, Lsn, require_segment_bytes

_MOST_VERSION = 10_000_000
_MOST_DATABASES = (1 << 31) - 1

# What json.dumps takes.
Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresExtent:
    """What a base backup covers: consistent from `stop_lsn` on, if WAL from `start_lsn` is replayed.

    `stopped_at` is the server's clock at the end of the backup: a recovery to this moment or a
    later one may begin here. `tablespaces` are (oid, location on the source). `settings` are those of
    the server that a recovery may need to know, by name; empty where they were not recorded, as are
    `locales`, the names of libc's that its databases use, and `resource_managers`, the names of those
    that extensions had registered.
    `relations` are the tables, indexes and other relations that users made, in `relation_bytes`; None
    where they were not counted.
    """

    kind: ClassVar[str] = "postgres"

    system_id: int
    server_version: int
    timeline: int
    start_lsn: Lsn
    stop_lsn: Lsn
    segment_bytes: int
    stopped_at: datetime
    bootstrap_role: str
    has_checksums: bool
    tablespaces: tuple[tuple[int, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    locales: tuple[str, ...] = ()
    resource_managers: tuple[str, ...] = ()
    relations: int | None = None
    relation_bytes: int | None = None

    def to_json(self) -> Json:
        return {
            "system_id": str(self.system_id),
            "server_version": self.server_version,
            "timeline": self.timeline,
            "start_lsn": str(self.start_lsn),
            "stop_lsn": str(self.stop_lsn),
            "segment_bytes": self.segment_bytes,
            "stopped_at": self.stopped_at.isoformat(),
            "bootstrap_role": self.bootstrap_role,
            "has_checksums": self.has_checksums,
            "tablespaces": [[oid, location] for oid, location in self.tablespaces],
            # Absent where nothing was recorded, as in manifests from before there were any.
            **({"settings": dict(self.settings)} if self.settings else {}),
            **({"locales": list(self.locales)} if self.locales else {}),
            **(
                {"resource_managers": list(self.resource_managers)}
                if self.resource_managers
                else {}
            ),
            **({} if self.relations is None else {"relations": self.relations}),
            **({} if self.relation_bytes is None else {"relation_bytes": self.relation_bytes}),
        }

    @classmethod
    def from_json(cls, told: object) -> PostgresExtent:
        document = JsonObject(told)
        return cls(
            system_id=whole_of_text(document.text("system_id")),
            server_version=document.whole("server_version", most=_MOST_VERSION),
            timeline=document.whole("timeline", most=MOST_TIMELINE),
            start_lsn=Lsn.parse(document.text("start_lsn")),
            stop_lsn=Lsn.parse(document.text("stop_lsn")),
            segment_bytes=require_segment_bytes(document.whole("segment_bytes")),
            stopped_at=document.moment("stopped_at"),
            bootstrap_role=document.text("bootstrap_role"),
            has_checksums=document.flag("has_checksums"),
            tablespaces=tuple(
                number_and_text(row, "tablespaces") for row in document.items("tablespaces")
            ),
            settings=document.texts_by_name("settings"),
            locales=document.texts("locales", ()),
            resource_managers=document.texts("resource_managers", ()),
            relations=document.whole_or_none("relations"),
            relation_bytes=document.whole_or_none("relation_bytes"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesExtent:
    """A snapshot of a tree: every file as it was at some moment between `taken_from` and `taken_until`.

    `root` is the tree's path on the source, as text that os.fsencode turns back into bytes.
    `is_complete` is False if something could not be read; the findings say what. The rest is for
    the next snapshot, to see whether the tree is still the same one: where its root lay, and how
    many of its files looked like random bytes.
    """

    kind: ClassVar[str] = "files"

    root: str
    host: str
    taken_from: datetime
    taken_until: datetime
    is_complete: bool
    is_mount_point: bool = False
    device: int = 0
    file_system_id: int = 0
    random_files: int = 0

    def to_json(self) -> Json:
        return {
            "root": self.root,
            "host": self.host,
            "taken_from": self.taken_from.isoformat(),
            "taken_until": self.taken_until.isoformat(),
            "is_complete": self.is_complete,
            "is_mount_point": self.is_mount_point,
            "device": self.device,
            "file_system_id": self.file_system_id,
            "random_files": self.random_files,
        }

    @classmethod
    def from_json(cls, told: object) -> FilesExtent:
        document = JsonObject(told)
        return cls(
            root=document.text("root"),
            host=document.text("host"),
            taken_from=document.moment("taken_from"),
            taken_until=document.moment("taken_until"),
            is_complete=document.flag("is_complete"),
            is_mount_point=document.flag("is_mount_point"),
            device=document.whole("device"),
            file_system_id=document.whole("file_system_id"),
            random_files=document.whole("random_files"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisShard:
    """One shard's snapshot: the file `rdb` of the table, and the place in the stream where it ends.

    The replication stream of `replication_id` goes on at `offset`. `taken_at` is the server's clock
    when it had written everything before that offset. `keys` counts keys by database. `slots` are
    inclusive ranges, empty outside a cluster, as are `node_id` and `epoch`. `replicas` is how many it
    had; None in snapshots from before that was recorded. `writer_version` is the version of Redis that
    its master wrote the stream as, empty where nobody knows; `renamed` are the commands that had another
    name there, and that the stream may hold under it.
    """

    name: str
    rdb: str
    replication_id: str
    offset: int
    taken_at: datetime
    keys: tuple[tuple[int, int], ...]
    slots: tuple[tuple[int, int], ...] = ()
    node_id: str = ""
    epoch: int = 0
    replicas: int | None = None
    writer_version: str = ""
    renamed: tuple[str, ...] = ()

    def to_json(self) -> Json:
        return {
            "name": self.name,
            "rdb": self.rdb,
            "replication_id": self.replication_id,
            "offset": self.offset,
            "taken_at": self.taken_at.isoformat(),
            "keys": [[database, count] for database, count in self.keys],
            "slots": [[low, high] for low, high in self.slots],
            "node_id": self.node_id,
            "epoch": self.epoch,
            "replicas": self.replicas,
            "writer_version": self.writer_version,
            # Absent where nothing was renamed, as in manifests from before that was recorded.
            **({"renamed": list(self.renamed)} if self.renamed else {}),
        }

    @classmethod
    def from_json(cls, told: object) -> RedisShard:
        document = JsonObject(told)
        return cls(
            name=document.text("name"),
            rdb=document.text("rdb"),
            replication_id=document.text("replication_id"),
            offset=document.whole("offset"),
            taken_at=document.moment("taken_at"),
            keys=document.pairs("keys"),
            slots=document.pairs("slots"),
            node_id=document.text("node_id"),
            epoch=document.whole("epoch"),
            replicas=document.whole_or_none("replicas"),
            writer_version=document.text("writer_version", ""),
            renamed=document.texts("renamed", ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisExtent:
    """A snapshot of one Redis: all its shards. The table also holds each node's captured configuration.

    `product` is the program whose newest version among the servers is `server_version`. `modules` are
    the types of modules whose data it holds; `is_read` is False where the snapshot was kept without being
    read.
    """

    kind: ClassVar[str] = "redis"

    topology: str
    server_version: str
    databases: int
    shards: tuple[RedisShard, ...]
    product: str = "redis"
    modules: tuple[str, ...] = ()
    is_read: bool = True

    @property
    def keys(self) -> int | None:
        """How many keys it holds; None where they were not counted."""
        if not self.is_read:
            return None
        return sum(count for shard in self.shards for _, count in shard.keys)

    @property
    def stopped_at(self) -> datetime:
        """A recovery of the whole to this moment or a later one may begin here."""
        return max(shard.taken_at for shard in self.shards)

    def to_json(self) -> Json:
        return {
            "topology": self.topology,
            "server_version": self.server_version,
            "databases": self.databases,
            "product": self.product,
            "modules": list(self.modules),
            "is_read": self.is_read,
            "shards": [shard.to_json() for shard in self.shards],
        }

    @classmethod
    def from_json(cls, told: object) -> RedisExtent:
        document = JsonObject(told)
        shards = tuple(RedisShard.from_json(shard) for shard in document.items("shards"))
        if not shards:
            raise ValueError("a Redis backup without a shard")
        return cls(
            topology=document.text("topology"),
            server_version=document.text("server_version"),
            databases=document.whole("databases", most=_MOST_DATABASES),
            shards=shards,
            product=document.text("product", "redis"),
            modules=document.texts("modules", ()),
            is_read=document.flag("is_read", default=True),
        )


Extent = PostgresExtent | FilesExtent | RedisExtent
EXTENTS: dict[str, type[PostgresExtent] | type[FilesExtent] | type[RedisExtent]] = {
    "postgres": PostgresExtent,
    "files": FilesExtent,
    "redis": RedisExtent,
}
