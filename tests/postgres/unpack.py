"""What tests do with a base backup: put it on disk, and take the WAL that it needs."""

from __future__ import annotations

import os
from pathlib import Path

from drtool.model.wal import Lsn, WalSegment
from drtool.sources.postgres.basebackup import (
    ArchiveBegan,
    BackupBegan,
    BackupEnded,
    BaseBackup,
    ManifestBytes,
    MemberBegan,
    MemberBytes,
)
from drtool.sources.postgres.connection import connect_replication
from drtool.sources.postgres.tar import MemberKind
from drtool.sources.postgres.walstream import WalBytes, open_wal_stream
from tests.servers.postgres import PostgresServer, give_to_server_user


class Unpacked:
    """A base backup on disk, and everything that was said about it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.members: dict[bytes, MemberBegan] = {}
        self.sizes: dict[bytes, int] = {}
        self.archives: list[ArchiveBegan] = []
        self.manifest = b""
        self.began: BackupBegan | None = None
        self.ended: BackupEnded | None = None


def unpack_backup(dsn: str, directory: Path, *, label: str = "test") -> Unpacked:
    """Take a base backup and write its members below `directory`, tablespaces below pg_tblspc."""
    made = Unpacked(directory)
    directory.mkdir(mode=0o700)
    give_to_server_user(directory)
    file: int | None = None
    with BaseBackup(connect_replication(dsn, purpose="backup"), label=label) as backup:
        for item in backup:
            if isinstance(item, MemberBytes):
                assert file is not None
                os.write(file, item.data)
            elif isinstance(item, MemberBegan):
                file = _begin(made, item, file)
            elif isinstance(item, ManifestBytes):
                made.manifest += item.data
            elif isinstance(item, ArchiveBegan):
                made.archives.append(item)
            elif isinstance(item, BackupBegan):
                made.began = item
            elif isinstance(item, BackupEnded):
                made.ended = item
    if file is not None:
        os.close(file)
    return made


def _begin(made: Unpacked, member: MemberBegan, file: int | None) -> int | None:
    if file is not None:
        os.close(file)
    made.members[member.path] = member
    path = made.directory / os.fsdecode(member.path)
    if member.kind is MemberKind.DIRECTORY:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        give_to_server_user(path)
        return None
    assert member.kind is MemberKind.FILE
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        give_to_server_user(path.parent)
    made.sizes[member.path] = member.size_bytes
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    give_to_server_user(path)
    return descriptor


def fetch_wal(
    server: PostgresServer,
    archive: Path,
    *,
    begin: Lsn,
    end: Lsn,
    timeline: int,
    segment_bytes: int,
) -> list[str]:
    """Stream WAL into whole files in `archive`, the segment of `begin` to that of `end`, zero-padded."""
    first = WalSegment.holding(timeline, begin, segment_bytes)
    at = first.begin(segment_bytes)
    names = []
    with connect_replication(server.socket_dsn(), purpose="wal") as connection:
        stream = open_wal_stream(connection, start=at, timeline=timeline)
        while at < end:
            item = stream.receive(10)
            if not isinstance(item, WalBytes):
                continue
            assert item.begin == at
            view = item.data
            while len(view):
                segment = WalSegment.holding(timeline, at, segment_bytes)
                take = min(len(view), segment.end(segment_bytes) - at)
                path = archive / segment.name(segment_bytes)
                if not path.exists():
                    path.write_bytes(bytes(segment_bytes))
                    give_to_server_user(path)
                    names.append(path.name)
                with path.open("r+b") as file:
                    file.seek(at - segment.begin(segment_bytes))
                    file.write(view[:take])
                at = Lsn(at + take)
                view = view[take:]
        stream.report(received=at, flushed=at)
        stream.finish()
    return names
