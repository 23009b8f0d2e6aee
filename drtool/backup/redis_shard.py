"""One shard's snapshot: joined as a replica, its RDB stored as it streams, its configuration beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from drtool.backup.batches import Batch
from drtool.backup.redis_counting import KeyCount
from drtool.backup.tree_large import LargeFile, PageStores
from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.model.finding import Finding, Severity
from drtool.repository.extents import RedisShard
from drtool.repository.table import Attributes, EntryKind
from drtool.sources.redis.address import Login
from drtool.sources.redis.capture import CapturedServer, capture
from drtool.sources.redis.connection import connect, server_moment
from drtool.sources.redis.node_choice import Attachment
from drtool.sources.redis.psync import (
    FullResync,
    LinkLimits,
    RdbChunk,
    RdbEnd,
    ReplicaLink,
    open_link,
)
from drtool.sources.redis.refusals import unknown_release
from drtool.sources.redis.release import Release
from drtool.sources.redis.renamed import renamed_at
from drtool.sources.redis.shape import Shard
from drtool.system.clock import Clock
from drtool.system.stopping import go_on

RDB = "shards/%d/dump.rdb"
CONFIG = "shards/%d/config.json"
_RECEIVE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """Shard number `number`, and the server of it to join."""

    number: int
    shard: Shard
    attachment: Attachment

    @property
    def place(self) -> str:
        return f"{self.shard.name} at {self.attachment.node.address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What all shards of a run share. `advance` is told of bytes. Once `stop` is set, because one of them
    failed, or `asked`, because somebody asked the run to end, all end.

    `is_sealed` is False where the repository has no key: passwords are then left out. With
    `accepts_unread` a server of an unknown version is stored all the same. `source` is for messages.
    """

    source: str
    login: Login
    limits: LinkLimits
    stores: PageStores
    clock: Clock
    advance: Callable[[int], None]
    asked: threading.Event
    stop: threading.Event
    is_sealed: bool
    accepts_unread: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenShard:
    """All of a shard is in packs, its records in the table."""

    shard: RedisShard
    release: Release
    modules: tuple[str, ...]
    is_read: bool
    databases: int
    read_bytes: int
    findings: tuple[Finding, ...]


def take_shard(task: ShardTask, reading: Reading) -> TakenShard:
    """Store one shard's snapshot, verified. Runs in a thread of its own.

    SourceUnavailable if the server fails, SourceUnsuitable if drtool does not know its version,
    RdbDamaged if what it sent does not match its checksum.
    """
    node = task.attachment.node
    batch = Batch()
    with connect(node.address, reading.login) as connection:
        if not (connection.release.is_known or reading.accepts_unread):
            raise unknown_release(connection.place, connection.release, reading.source)
        captured = _fit_to_keep(capture(connection), task, reading)
        config = captured.to_sealed()
        _store(CONFIG % task.number, config, reading=reading, batch=batch)
        with open_link(
            node.address,
            reading.login,
            clock=reading.clock,
            rdb_only=True,
            limits=reading.limits,
        ) as link:
            position = _granted(link)
            taken_at = server_moment(connection)
            counted, module_types, end = _store_rdb(link, task, reading, batch=batch)
    if isinstance(counted, str) and not reading.accepts_unread:
        raise SourceUnsuitable(
            f"the snapshot of {task.place} cannot be read: {counted}",
            hint=f"Install a newer drtool. `drtool backup {reading.source} --unread` keeps it as it is.",
        )
    written = _look_at_writer(task, reading)
    return TakenShard(
        shard=RedisShard(
            name=task.shard.name,
            rdb=RDB % task.number,
            replication_id=position.position.replid,
            offset=position.position.offset,
            taken_at=taken_at,
            keys=() if isinstance(counted, str) else tuple(sorted(counted.items())),
            slots=tuple((share.first, share.last) for share in task.shard.slots),
            node_id=task.shard.master.node_id or "",
            epoch=task.shard.epoch or 0,
            replicas=len(task.shard.replicas),
            writer_version=written.version,
            renamed=written.renamed,
        ),
        release=captured.release,
        modules=module_types,
        is_read=not isinstance(counted, str),
        databases=_databases(captured, counted),
        read_bytes=end.size_bytes + len(config),
        findings=(
            *task.attachment.findings,
            *captured.findings,
            *written.findings,
            *_doubts(task, captured, counted=counted, end=end),
        ),
    )


def _fit_to_keep(captured: CapturedServer, task: ShardTask, reading: Reading) -> CapturedServer:
    if reading.is_sealed or not (captured.secrets or captured.acl_rules):
        return captured
    left_out = Finding(
        severity=Severity.WARNING,
        subject=task.place,
        fact="its passwords and users are left out of the backup: the repository has no key",
        fix="Make another repository with `key: env:DRTOOL_KEY`, or keep them elsewhere.",
    )
    findings = (*captured.findings, left_out)
    return replace(captured, secrets={}, acl_rules=(), findings=findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """What the master writes into the stream: its version, and the commands that have other names there."""

    version: str = ""
    renamed: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def _look_at_writer(task: ShardTask, reading: Reading) -> _Writer:
    """Replicas pass on what their master writes: that decides how to read it. Empty: not known."""
    try:
        with connect(task.shard.master.address, reading.login) as connection:
            renamed, findings = renamed_at(connection)
            version = ".".join(map(str, connection.version))
            return _Writer(version=version, renamed=renamed, findings=tuple(findings))
    except SourceUnavailable as error:
        not_asked = Finding(
            severity=Severity.WARNING,
            subject=task.place,
            fact="nobody can tell which version its master writes the stream in, and which commands are"
            f" renamed there: {error.message}",
            fix=error.hint
            or f"Take another backup once it answers: `drtool backup {reading.source}`.",
        )
        return _Writer(findings=(not_asked,))


def _granted(link: ReplicaLink) -> FullResync:
    if not isinstance(link.begun, FullResync):
        raise SourceUnavailable(f"{link.place} sends no snapshot to a replica that has none")
    return link.begun


def _store_rdb(
    link: ReplicaLink, task: ShardTask, reading: Reading, *, batch: Batch
) -> tuple[dict[int, int] | str, tuple[str, ...], RdbEnd]:
    path = RDB % task.number
    file = LargeFile(_attributes(path, 0, reading.clock.now()), batch, reading.stores)
    count = KeyCount()
    try:
        while not isinstance(item := link.receive(_RECEIVE_SECONDS), RdbEnd):
            for stop in (reading.asked, reading.stop):
                go_on(stop, f"the snapshot of {task.place}")
            if isinstance(item, RdbChunk):
                count.feed(item.content)
                file.take(item.content)
                reading.advance(len(item.content))
        file.finish(_attributes(path, item.size_bytes, reading.clock.now()))
        return count.finish(), count.module_types, item
    finally:
        count.abandon()


def _store(path: str, content: bytes, *, reading: Reading, batch: Batch) -> None:
    now = reading.clock.now()
    file = LargeFile(_attributes(path, 0, now), batch, reading.stores)
    file.take(memoryview(content))
    file.finish(_attributes(path, len(content), now))


def _attributes(path: str, size_bytes: int, now: datetime) -> Attributes:
    return Attributes(
        path=path.encode(),
        kind=EntryKind.FILE,
        mode=0o600,
        uid=0,
        gid=0,
        modified_ns=int(now.timestamp()) * 1_000_000_000,
        size_bytes=size_bytes,
    )


def _databases(captured: CapturedServer, counted: dict[int, int] | str) -> int:
    """How many the server has; at least as many as hold keys if it does not say (PITFALLS 85)."""
    told = captured.settings.get("databases", "")
    highest = 0 if isinstance(counted, str) else max(counted, default=0)
    return max(int(told) if told.isdigit() else 16, highest + 1)


def _doubts(
    task: ShardTask, captured: CapturedServer, *, counted: dict[int, int] | str, end: RdbEnd
) -> list[Finding]:
    found = []
    if not end.is_verified:
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject=task.place,
                fact="its snapshot bears no checksum: damage on the way would go unseen",
                fix="Set `rdbchecksum yes` there, which needs a restart.",
            )
        )
    if isinstance(counted, str):
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject=task.place,
                fact=f"its keys could not be counted: {counted}",
                fix="It can be restored whole, into the same number of servers, and cannot be held"
                " against a count.",
            )
        )
    if captured.modules:
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject=task.place,
                fact=f"modules are loaded there: {', '.join(captured.modules)}; they are not part of"
                " the backup",
                fix="Keep their files where a restore can find them, and name these in the policy:"
                " `restore: {modules: [/path/to/module.so]}`.",
            )
        )
    return found
