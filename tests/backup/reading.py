"""Read a backup back into a directory, and compare it with the data directory it came from."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from drtool.model.progress import silent
from drtool.repository.backups import Manifest
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.restore.destination import Destination, TablespacePlace
from drtool.restore.fetch import fetch_files, put_control
from drtool.system.users import current_user
from tests.servers.postgres import (
    PostgresServer,
    give_to_server_user,
    server_directory,
)

_RELATION = re.compile(
    r"(base/\d+|global|pg_tblspc/\d+/PG_[^/]+/\d+)/\d+(_(fsm|vm|init))?(\.\d+)?$"
)
_SEGMENT = re.compile(r"[0-9A-F]{24}$")


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
    fetched = fetch_files(manifest, reader, destination, workers=2, emit=silent)
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


def assert_same_relations(restored: Path, source: Path) -> int:
    """Every relation file of either side is on the other, byte for byte; return how many there are."""
    ours, theirs = relation_files(restored), relation_files(source)
    assert sorted(ours) == sorted(theirs)
    different = [
        name for name, path in ours.items() if path.read_bytes() != theirs[name].read_bytes()
    ]
    assert different == []
    return len(ours)


def start_copy(
    manifest: Manifest, repository: Repository, source: PostgresServer
) -> PostgresServer:
    """A running server on what was read back, with WAL from the source; whoever calls closes it."""
    copy = PostgresServer(server_directory(), source.major)
    read_back(manifest, repository, copy.data)
    for path in (source.data / "pg_wal").iterdir():
        if _SEGMENT.match(path.name):
            shutil.copyfile(path, copy.data / "pg_wal" / path.name)
    for directory, directories, names in os.walk(copy.root):
        for name in [*directories, *names]:
            give_to_server_user(Path(directory) / name)
    copy.start()
    return copy


def assert_sound(copy: PostgresServer) -> None:
    """No damage that pg_amcheck sees in any database, nor pg_checksums in any page. Stops the copy."""
    copy.run(
        "pg_amcheck", "--all", "--install-missing", "--heapallindexed", "-h", str(copy.root),
        "-p", str(copy.port), "-U", "postgres",
    )  # fmt: skip
    copy.stop()
    copy.run("pg_checksums", "--check", "-D", str(copy.data))
