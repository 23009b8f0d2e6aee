"""Read a backup back into a directory, and compare it with the data directory it came from."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from drtool.model.progress import silent
from drtool.repository.backups import Manifest, open_table
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.repository.table import EntryKind
from drtool.restore.destination import Destination, TablespacePlace
from drtool.restore.fetch import fetch_files, put_control
from drtool.restore.phases import Phases
from drtool.system.clock import SystemClock
from drtool.system.users import current_user
from tests.servers.postgres import (
    PostgresServer,
    give_to_server_user,
    server_directory,
)

_RELATION = re.compile(
    r"(base/\d+|global|pg_tblspc/\d+/PG_[^/]+/\d+)/\d+(_(fsm|vm|init))?(\.\d+)?$"
)


def read_back(manifest: Manifest, repository: Repository, into: Path) -> Path:
    """All files of the backup below `into`, which must not exist, the control file too."""
    into.mkdir(mode=0o700)
    spaces = []
    for oid, location in manifest.postgres.tablespaces:
        path = into.with_name(f"{into.name}-{oid}")
        path.mkdir(mode=0o700)
        spaces.append(TablespacePlace(oid, location, path))
    destination = Destination(into, tuple(spaces), current_user())
    reader = ChunkReader(repository.store, repository.ring)
    fetched = fetch_files(
        manifest, reader, destination, workers=2, phases=Phases(SystemClock(), silent)
    )
    put_control(fetched, destination)
    for space in spaces:
        (into / "pg_tblspc" / str(space.oid)).symlink_to(space.path)
    return into


def relation_files(data: Path) -> dict[str, Path]:
    """Every file of a table, index or map below a data directory, tablespaces included."""
    found = {}
    for directory, _, names in os.walk(data, followlinks=True):
        for name in names:
            path = Path(directory) / name
            relative = str(path.relative_to(data))
            if _RELATION.match(relative):
                found[relative] = path
    return found


def contents(manifest: Manifest, repository: Repository) -> dict[str, bytes]:
    """Every file of the backup, in memory: read plainly, chunk by chunk, without the restore's code."""
    reader = ChunkReader(repository.store, repository.ring)
    table = open_table(manifest, reader)
    opened: dict[tuple[int, int], memoryview] = {}
    files: dict[str, bytearray] = {}
    for record in table:
        if record.attributes.kind is not EntryKind.FILE:
            continue
        content = files.setdefault(os.fsdecode(record.attributes.path), bytearray())
        assert len(content) == record.begin
        for length, pack, chunk, offset in record.extents.tolist():
            if (pack, chunk) not in opened:
                opened[pack, chunk] = reader.read_one(table.packs.place(pack, chunk))
            plain = opened[pack, chunk]
            assert offset + length <= len(plain)
            content += plain[offset : offset + length]
    return {name: bytes(content) for name, content in files.items()}


def assert_holds(manifest: Manifest, repository: Repository, source: Path) -> int:
    """The backup has every relation file of `source` and no other, byte for byte; how many there are."""
    held = contents(manifest, repository)
    theirs = relation_files(source)
    assert sorted(name for name in held if _RELATION.match(name)) == sorted(theirs)
    assert [name for name, path in theirs.items() if path.read_bytes() != held[name]] == []
    return len(theirs)


def assert_same_relations(restored: Path, source: Path) -> int:
    """Every relation file of either side is on the other, byte for byte; return how many there are."""
    ours, theirs = relation_files(restored), relation_files(source)
    assert sorted(ours) == sorted(theirs)
    assert [
        name for name, path in ours.items() if path.read_bytes() != theirs[name].read_bytes()
    ] == []
    return len(ours)


def start_copy(
    manifest: Manifest, repository: Repository, source: PostgresServer
) -> PostgresServer:
    """A running server on the backup, replayed to its end and no further with WAL of the source.

    Whoever calls closes it.
    """
    wal = source.data / "pg_wal"
    settings = {
        "restore_command": f'cp "{wal}/%f" "%p"',
        "recovery_target": "immediate",
        "recovery_target_action": "promote",
    }
    copy = PostgresServer(server_directory(), source.major, settings=settings)
    read_back(manifest, repository, copy.data)
    (copy.data / "recovery.signal").touch()
    for directory, directories, names in os.walk(copy.root):
        for name in [*directories, *names]:
            give_to_server_user(Path(directory) / name)
    copy.start()
    deadline = time.monotonic() + 60
    while copy.query("select pg_is_in_recovery()") != [(False,)]:
        assert time.monotonic() < deadline, copy.log_text()[-2000:]
        time.sleep(0.02)
    return copy


def assert_sound(copy: PostgresServer) -> None:
    """No damage that pg_amcheck sees in any database, nor pg_checksums in any page. Stops the copy."""
    copy.run(
        "pg_amcheck", "--all", "--install-missing", "--heapallindexed", "-h", str(copy.root),
        "-p", str(copy.port), "-U", "postgres",
    )  # fmt: skip
    copy.stop()
    copy.run("pg_checksums", "--check", "-D", str(copy.data))
