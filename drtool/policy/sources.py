"""What a policy says of one protected source, by its kind."""

# `described` is dataclasses.field with a sentence; the rule knows only the original.
# ruff: noqa: RUF009

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from drtool.model.objective import Objective
from drtool.policy.described import described
from drtool.policy.scalars import ByteSize, CronLine, StoreUrl
from drtool.policy.secrets import SecretReference

# A slot keeps the segment that is being received, and what was written since.
SMALLEST_SLOT_LIMIT = 64 << 20
# NAMEDATALEN less its end; PostgreSQL would cut a longer name and ask another database.
_LONGEST_NAME = 63


class WalMode(StrEnum):
    """`stream`: drtool receives the WAL; `push`: the server's archive_command hands it over."""

    STREAM = "stream"
    PUSH = "push"


class RedisTopology(StrEnum):
    """How the Redis servers of one source belong together."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When work is due, as crontab lines in the policy's time zone."""

    backup: CronLine | None = described("When a backup is taken.", default=None)
    check: CronLine | None = described("When readiness is checked.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFrom:
    """Another server to take base backups from: a standby of the source."""

    dsn: SecretReference = described("Connection string of the standby, by reference.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WalSettings:
    """How the WAL reaches the repository."""

    mode: WalMode = described("Who brings the WAL: stream or push.", default=WalMode.STREAM)
    flush: timedelta = described(
        "A change is put into the repository at most this long after it arrived.",
        default=timedelta(seconds=10),
    )
    slot: str | None = described(
        "Physical replication slot that keeps WAL until it is stored; drtool_SOURCE where WAL is"
        " streamed, and none to go without.",
        default=None,
    )
    slot_limit: ByteSize = described(
        "The slot is dropped, and a gap recorded, rather than that it keeps more WAL on the server.",
        default=ByteSize(16 << 30),
    )
    heartbeat: timedelta = described(
        "How often a mark is made: the resolution of 'recoverable until'.",
        default=timedelta(seconds=10),
    )

    def __post_init__(self) -> None:
        for name, span in (("flush", self.flush), ("heartbeat", self.heartbeat)):
            if span <= timedelta(0):
                raise ValueError(f"{name} must be longer than nothing")
        if self.slot_limit < SMALLEST_SLOT_LIMIT:
            raise ValueError("slot_limit is less than 64MiB, which a slot may need at any time")
        if self.slot is not None and not _is_slot_name(self.slot):
            raise ValueError(
                f"{self.slot!r} is not the name of a slot: use up to 63 small letters, digits and '_'"
            )


def _is_slot_name(text: str) -> bool:
    # Source: src/backend/replication/slot.c, ReplicationSlotValidateName.
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_")
    return 0 < len(text) <= 63 and set(text) <= allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresRestore:
    """How a restored cluster is put in place."""

    run_as: str | None = described("User that runs the restored server; never root.", default=None)
    tablespaces: Mapping[str, Path] = described(
        "New directories of tablespaces, by the tablespace's OID or old path.",
        factory=lambda: MappingProxyType({}),
    )
    preload: tuple[str, ...] = described(
        "Libraries that the recovering server loads: those of extensions with WAL of their own kind.",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A question to a restored copy; one that is written as a text alone is its SQL."""

    short: ClassVar[str] = "sql"

    sql: str = described("A query that answers with one row, whose first column is true.")
    database: str | None = described(
        "Database in which it is asked; without it checks_database.", default=None
    )

    def __post_init__(self) -> None:
        if "\0" in self.sql + (self.database or ""):
            raise ValueError("a check cannot hold a character of code 0")
        if self.database is not None and len(self.database.encode()) > _LONGEST_NAME:
            raise ValueError(f"database {self.database!r} is longer than {_LONGEST_NAME} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSource:
    """One PostgreSQL cluster."""

    kind: ClassVar[str] = "postgres"

    dsn: SecretReference = described("Connection string of the primary, by reference.")
    backup_from: BackupFrom | None = described("Take base backups from a standby.", default=None)
    wal: WalSettings = described("How the WAL reaches the repository.", factory=WalSettings)
    schedule: Schedule = described("When work is due.", factory=Schedule)
    max_delete: int = described(
        "A backup stops if more than this percentage of the relations is gone.", default=50
    )
    checks: tuple[Check, ...] = described(
        "Questions in SQL that a restored copy must answer with true.", default=()
    )
    checks_database: str | None = described(
        "Database for the checks that name none; without it the one that dsn names.", default=None
    )
    objective: Objective | None = described("This source's own promise.", default=None)
    restore: PostgresRestore = described("How it is restored.", factory=PostgresRestore)
    bin_dir: Path | None = described(
        "Directory of the matching server's programs (initdb, postgres, pg_ctl).", default=None
    )

    def __post_init__(self) -> None:
        _require_percentage("max_delete", self.max_delete)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTls:
    """How a Redis server proves itself, and drtool to it."""

    ca_file: Path | None = described(
        "Whom to trust; without it whom this machine trusts.", default=None
    )
    certificate: Path | None = described("drtool's own certificate.", default=None)
    key: Path | None = described("The key to that certificate.", default=None)
    check_hostname: bool = described("Whether the name must be the server's.", default=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisRestore:
    """How a restored Redis is put in place."""

    run_as: str | None = described("User that runs the restored server; never root.", default=None)
    port: int | None = described(
        "Port of the copy, or of a cluster's first; else a free one from 6379, or 7001, on.",
        default=None,
    )

    modules: tuple[Path, ...] = described("Files of the modules that the copy loads.", default=())

    def __post_init__(self) -> None:
        if self.port is not None and not 0 < self.port < 55536:
            raise ValueError(f"port {self.port} is not one from 1 to 55535")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSource:
    """One Redis: a server, a group under Sentinel, or a cluster."""

    kind: ClassVar[str] = "redis"

    topology: RedisTopology = described(
        "How the servers belong together.", default=RedisTopology.STANDALONE
    )
    nodes: tuple[str, ...] = described("Addresses, HOST:PORT, of some of the servers.")
    username: str | None = described("ACL user to log in as.", default=None)
    password: SecretReference | None = described("Its password, by reference.", default=None)
    tls: RedisTls | None = described("Speak TLS with the servers.", default=None)
    group: str | None = described(
        "The master's name among sentinels that watch several.", default=None
    )
    stream: bool = described("Archive the replication stream between snapshots.", default=False)
    flush: timedelta = described(
        "A change is put into the repository at most this long after it arrived.",
        default=timedelta(seconds=10),
    )
    heartbeat: timedelta = described(
        "How often a mark is made, where `heartbeat_key` names a key.",
        default=timedelta(seconds=10),
    )
    heartbeat_key: str | None = described(
        "A key that drtool writes on each master to make marks; none: nothing is written.",
        default=None,
    )
    max_delete: int = described(
        "A backup stops if more than this percentage of the keys is gone.", default=50
    )
    restore: RedisRestore = described("How it is restored.", factory=RedisRestore)
    bin_dir: Path | None = described("Directory of the matching redis-server.", default=None)
    schedule: Schedule = described("When work is due.", factory=Schedule)
    objective: Objective | None = described("This source's own promise.", default=None)

    def __post_init__(self) -> None:
        for name, span in (("flush", self.flush), ("heartbeat", self.heartbeat)):
            if span <= timedelta(0):
                raise ValueError(f"{name} must be longer than nothing")
        if self.heartbeat_key is not None and "{" in self.heartbeat_key:
            raise ValueError("heartbeat_key has no braces: they are added for each shard")
        _require_percentage("max_delete", self.max_delete)
        if not self.nodes:
            raise ValueError("nodes names no server")
        for node in self.nodes:
            host, _, port = node.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{node!r} is not an address: write HOST:PORT")


def _require_percentage(name: str, value: int) -> None:
    if not 0 <= value <= 100:
        raise ValueError(f"{name} {value} is not a percentage from 0 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesSource:
    """One tree of application files."""

    kind: ClassVar[str] = "files"

    path: Path = described("The directory to protect.")
    mirror: StoreUrl | None = described("A plain copy, one object a file.", default=None)
    exclude: tuple[str, ...] = described(
        "What is left out: patterns as in a .gitignore in that directory.", default=()
    )
    max_delete: int = described(
        "A run stops if more than this percentage of the files is gone.", default=25
    )
    one_file_system: bool = described(
        "Leave out, with a warning, what other file systems are mounted below it.", default=True
    )
    sentinel: str | None = described(
        "A file in the directory without which a run stops: the disk may not be mounted.",
        default=None,
    )
    schedule: Schedule = described("When work is due.", factory=Schedule)
    objective: Objective | None = described("This source's own promise.", default=None)

    def __post_init__(self) -> None:
        _require_percentage("max_delete", self.max_delete)
        if self.sentinel is not None and (not self.sentinel or "/" in self.sentinel):
            raise ValueError(
                f"sentinel {self.sentinel!r} is not the name of a file in the directory"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSource:
    """One bucket of application files, kept as a mirror in another."""

    kind: ClassVar[str] = "bucket"

    url: StoreUrl = described(
        "The bucket to protect: s3://BUCKET/PREFIX, with ?endpoint=https://HOST:PORT for"
        " a server of one's own."
    )
    mirror: StoreUrl = described("Where its copy is kept: s3://BUCKET/PREFIX, likewise.")
    max_delete: int = described(
        "A run stops if more than this percentage of the objects is gone.", default=25
    )
    schedule: Schedule = described("When work is due.", factory=Schedule)
    objective: Objective | None = described("This source's own promise.", default=None)

    def __post_init__(self) -> None:
        _require_percentage("max_delete", self.max_delete)


SourcePolicy = PostgresSource | RedisSource | FilesSource | BucketSource
