"""A base backup as the server sends it: BASE_BACKUP over the replication protocol, item by item.

Source: PostgreSQL docs, "Streaming Replication Protocol", BASE_BACKUP (the single COPY stream of 15
and later). Checksums in the server's manifest are not asked for: they cost the server a pass over
every byte, and the repository hashes each byte anyway; `manifest.py` compares paths and sizes and
checks the manifest's own SHA-256. WAIT is off: whether the WAL is safe is our business, and the
server would wait for its archive_command, perhaps for ever (PITFALLS 23).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg
from psycopg import pq

from drtool.errors import IntegrityError, SourceUnavailable
from drtool.model.finding import Finding
from drtool.model.wal import Lsn
from drtool.sources.postgres.answers import not_postgresql, number, understood
from drtool.sources.postgres.connection import ReplicationConnection, failure_of, rows_of
from drtool.sources.postgres.damage import DamageReports
from drtool.sources.postgres.facts import Tablespace
from drtool.sources.postgres.refusals import DataCorrupted, refused
from drtool.sources.postgres.tar import (
    MemberBegan,
    MemberBytes,
    MemberEnded,
    MemberKind,
    TarReader,
)

__all__ = [
    "Advanced",
    "ArchiveBegan",
    "BackupBegan",
    "BackupEnded",
    "BackupItem",
    "BackupLimits",
    "BaseBackup",
    "ManifestBytes",
    "MemberBegan",
    "MemberBytes",
    "MemberEnded",
    "MemberKind",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupBegan:
    """The server has made its start checkpoint. `estimated_bytes` is what it expects to send."""

    start_lsn: Lsn
    timeline: int
    tablespaces: tuple[Tablespace, ...]
    estimated_bytes: int


@dataclass(frozen=True, slots=True)
class ArchiveBegan:
    """The members that follow belong to `tablespace`, or to the data directory if it is None."""

    tablespace: Tablespace | None


@dataclass(frozen=True, slots=True)
class ManifestBytes:
    """The next bytes of the server's backup_manifest, valid until the next item is asked for."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Advanced:
    """How many bytes the server has read so far, by its own count; about once a second."""

    bytes_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupEnded:
    """All has arrived: consistent once WAL up to `stop_lsn` of `timeline` is there too.

    `findings` are pages whose checksum the server found wrong (PITFALLS 36): the backup is whole,
    and as damaged as its source.
    """

    stop_lsn: Lsn
    timeline: int
    findings: tuple[Finding, ...]


BackupItem = (
    BackupBegan
    | ArchiveBegan
    | MemberBegan
    | MemberBytes
    | MemberEnded
    | ManifestBytes
    | Advanced
    | BackupEnded
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupLimits:
    """`start_seconds` covers the start checkpoint and counting the files, in which a busy server may
    be silent for long; `silence_seconds` any wait for a byte after that.
    """

    start_seconds: float = 3600.0
    silence_seconds: float = 60.0


class BaseBackup:
    """One run of BASE_BACKUP on `connection`, to be iterated once, by one thread.

    The items come in the order of the stream: BackupBegan; for each archive ArchiveBegan and its
    members (tablespaces first, `global/pg_control` last of all); ManifestBytes; BackupEnded. Paths of
    a tablespace begin with `pg_tblspc/OID/`. If the iteration ends without BackupEnded there is no
    backup: it raised SourceUnavailable, SourceUnsuitable or IntegrityError, or was closed.
    """

    def __init__(
        self,
        connection: ReplicationConnection,
        *,
        label: str,
        limits: BackupLimits | None = None,
        verifies_checksums: bool = True,
    ) -> None:
        self._connection = connection
        self._limits = limits or BackupLimits()
        self._damage = DamageReports()
        self._ended = False
        self._stopped: tuple[str | None, ...] = ()
        quoted = label.replace("'", "''")
        self._command = (
            f"BASE_BACKUP (LABEL '{quoted}', PROGRESS true, CHECKPOINT 'fast', WAIT false,"
            " TABLESPACE_MAP true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'NONE',"
            f" VERIFY_CHECKSUMS {'true' if verifies_checksums else 'false'})"
        )

    def __iter__(self) -> Iterator[BackupItem]:
        connection = self._connection
        connection.on_notice(lambda notice: self._damage.take(failure_of(notice)))
        connection.send(self._command)
        began = self._begin()
        yield began
        yield from self._stream({f"{space.oid}": space for space in began.tablespaces})
        yield self._end()
        self._ended = True

    def close(self) -> None:
        """End the run and its session; a backup that is not finished is cancelled on the server."""
        if not self._ended:
            self._connection.cancel()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> BackupBegan:
        wait = self._limits.start_seconds
        row = self._row(wait)[0]
        spaces = self._row(wait)
        copy = self._connection.result(timeout_seconds=wait)
        if copy is None or copy.status != pq.ExecStatus.COPY_OUT:
            raise self._unexpected()
        with understood(self._connection.place):
            start, timeline = row
            return BackupBegan(
                start_lsn=Lsn.parse(start or ""),
                timeline=number(timeline),
                tablespaces=tuple(
                    Tablespace(
                        oid=number(oid), location=location or "", size_bytes=_kilobytes(size)
                    )
                    for oid, location, size in spaces
                    if oid is not None
                ),
                estimated_bytes=sum(_kilobytes(size) for _, _, size in spaces),
            )

    def _stream(self, tablespaces: dict[str, Tablespace]) -> Iterator[BackupItem]:
        # The hot loop: about 30,000 messages for each gigabyte.
        connection, silence = self._connection, self._limits.silence_seconds
        get_copy_data = connection.pgconn.get_copy_data
        tar: TarReader | None = None
        try:
            while True:
                length, data = get_copy_data(1)
                if length == 0:
                    connection.await_bytes(silence)
                    continue
                if length < 0:
                    break
                kind = data[0]
                if kind == 0x64:  # d: contents of the archive or of the manifest
                    if tar is not None:
                        yield from tar.feed(data[1:])
                    else:
                        yield ManifestBytes(data[1:])
                elif kind == 0x70:  # p: progress
                    yield Advanced(int.from_bytes(data[1:9], "big"))
                else:
                    if tar is not None:
                        tar.finish()
                    tar = None
                    if kind == 0x6E:  # n: a new archive
                        tar, space = _archive(bytes(data[1:]), tablespaces)
                        yield ArchiveBegan(space)
                    elif kind != 0x6D:  # m: the manifest
                        raise self._unexpected()
        except psycopg.Error as error:
            raise refused(connection.place, str(error)) from None
        # The server ends the stream for an ERROR as it does for a good end: its answer comes first,
        # or its own words would be lost behind an archive that is cut short.
        self._stopped = self._row(silence)[0]
        if tar is not None:
            tar.finish()

    def _end(self) -> BackupEnded:
        wait = self._limits.silence_seconds
        with understood(self._connection.place):
            stop, timeline = self._stopped
            stop_lsn, last_timeline = Lsn.parse(stop or ""), number(timeline)
        try:
            while self._connection.result(timeout_seconds=wait) is not None:
                pass
        except DataCorrupted:
            # The server says this after the last byte and the stop position: nothing is missing.
            self._damage.confirm()
        return BackupEnded(
            stop_lsn=stop_lsn, timeline=last_timeline, findings=self._damage.findings()
        )

    def _row(self, wait: float) -> list[tuple[str | None, ...]]:
        result = self._connection.result(timeout_seconds=wait)
        if result is None or result.status != pq.ExecStatus.TUPLES_OK or not result.ntuples:
            raise self._unexpected()
        return rows_of(result)

    def _unexpected(self) -> SourceUnavailable:
        return not_postgresql(self._connection.place, "BASE_BACKUP brought something else")


def _kilobytes(size: str | None) -> int:
    return number(size) * 1024 if size else 0


def _archive(
    message: bytes, tablespaces: dict[str, Tablespace]
) -> tuple[TarReader, Tablespace | None]:
    name, location, *_ = [*message.split(b"\0"), b""]
    shown = name.decode("utf-8", "replace")
    if not location and shown == "base.tar":
        return TarReader(shown), None
    space = tablespaces.get(shown.removesuffix(".tar"))
    if space is None:
        raise IntegrityError(
            f"the base backup holds an archive {shown} of a tablespace that was not announced",
            hint="Take the backup again.",
        )
    return TarReader(shown, b"pg_tblspc/%d/" % space.oid), space
