"""Files that Redis itself replays: a snapshot, and the history after it up to where it is cut.

Source: src/aof.c of Redis 7.0 (multi-part AOF) and of 6.2 (AOF with an RDB preamble).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path

from drtool.sources.redis.commands import is_open_transaction
from drtool.sources.redis.crc64 import Buffer
from drtool.system.owned_directory import OwnedDirectory
from drtool.system.users import RunAs, current_user

DIRECTORY = "appendonlydir"
NAME = "appendonly.aof"
_BASE = f"{NAME}.1.base.rdb"
_CHANGES = f"{NAME}.1.incr.aof"
MANIFEST = f"{NAME}.manifest"
_PIECE_BYTES = 1 << 20


class AofLayout(Enum):
    """How a server keeps its append-only file."""

    MULTI_PART = "multi-part"
    """A directory with a base, changes and a manifest: Redis 7.0 and later."""
    SINGLE = "single"
    """One file that begins with an RDB: Redis 6.2."""

    @classmethod
    def of(cls, version: tuple[int, ...]) -> AofLayout:
        """The layout of a server of that version."""
        return cls.MULTI_PART if version >= (7, 0) else cls.SINGLE


@dataclass(frozen=True, slots=True, kw_only=True)
class AofFiles:
    """What was written. `startable` came last: without it a server starts empty, or not at all."""

    startable: Path
    paths: tuple[Path, ...]
    base_bytes: int
    stream_bytes: int

    @property
    def changes(self) -> Path:
        """The file that ends with the stream."""
        return self.paths[1] if len(self.paths) > 1 else self.paths[0]


def write_aof(
    directory: Path,
    base: Iterable[Buffer],
    stream: Iterable[Buffer],
    *,
    layout: AofLayout,
    database: int | None = None,
    owner: RunAs | None = None,
) -> AofFiles:
    """Write what a server with `appendonly yes` and `dir` = `directory` loads.

    `base` is an RDB, `stream` the history from the RDB's offset to where it is cut, at any byte:
    `aof-load-truncated yes` drops half a command and half a transaction (but see
    `drop_open_transaction`). `database` is the RDB's aux
    field `repl-stream-db` where it has one: a replica's snapshot begins in the middle of its master's
    history, and only that field says for which database the first command is.
    Everything is durable when this returns. FileExistsError if there is such a file already; what was
    begun is left behind, and cannot be started.
    """
    counted_base = _Counted(base)
    counted_stream = _Counted(chain([select_command(database)], stream))
    with OwnedDirectory(directory, owner or current_user()) as place:
        if layout is AofLayout.SINGLE:
            names = [NAME]
            place.create(NAME, chain(counted_base, counted_stream))
        else:
            names = [f"{DIRECTORY}/{name}" for name in (_BASE, _CHANGES, MANIFEST)]
            place.make_directory(DIRECTORY)
            place.create(names[0], counted_base)
            place.create(names[1], counted_stream)
            place.create(names[2], [_manifest()])
        place.sync()
    paths = [directory / name for name in names]
    return AofFiles(
        startable=paths[-1],
        paths=tuple(paths),
        base_bytes=counted_base.size_bytes,
        stream_bytes=counted_stream.size_bytes,
    )


def files_in(directory: Path, layout: AofLayout, *, owner: RunAs) -> AofFiles:
    """What a server has made of its append-only file by a rewrite: a base, and nothing behind it.

    The server is `owner`'s: what it names is read with his rights, and no link is followed.
    """
    with OwnedDirectory(directory, owner) as place:
        if layout is AofLayout.SINGLE:
            path, size = directory / NAME, place.size(NAME)
            return AofFiles(startable=path, paths=(path,), base_bytes=size, stream_bytes=0)
        manifest = place.read(f"{DIRECTORY}/{MANIFEST}") or b""
        lines = [line.split() for line in manifest.decode("utf-8", "replace").splitlines()]
        names = {words[5]: f"{DIRECTORY}/{words[1]}" for words in lines if len(words) == 6}
        base, changes = names["b"], names["i"]
        return AofFiles(
            startable=directory / DIRECTORY / MANIFEST,
            paths=(directory / base, directory / changes, directory / DIRECTORY / MANIFEST),
            base_bytes=place.size(base),
            stream_bytes=place.size(changes),
        )


def select_command(database: int | None) -> bytes:
    """The command that says for which database the next ones are; empty for None."""
    if database is None:
        return b""
    number = b"%d" % database
    return b"*2\r\n$6\r\nSELECT\r\n$%d\r\n%s\r\n" % (len(number), number)


def cut(parts: Iterable[Buffer], size_bytes: int) -> Iterator[memoryview]:
    """The first `size_bytes` bytes of `parts`; EOFError if there are fewer."""
    left = size_bytes
    for part in parts:
        if left <= 0:
            break
        view = memoryview(part)[:left]
        left -= len(view)
        yield view
    if left > 0:
        raise EOFError(f"{left} bytes are missing of {size_bytes}")


def drop_open_transaction(files: AofFiles, size_bytes: int, *, owner: RunAs | None = None) -> bool:
    """Remove the last `size_bytes` if they are the beginning of a transaction and nothing else.

    A server that has replayed a stream cut in half a command inside a transaction takes that half off
    the file, and leaves the commands before it, none of which it carried out (`readerr` in
    loadSingleAppendOnlyFile, src/aof.c): they would swallow what is appended next. False, and nothing
    is changed, if the end is anything else. To be called while no server has the files.
    """
    with OwnedDirectory(files.changes.parent, owner or current_user()) as place:
        descriptor = place.open(files.changes.name, os.O_RDWR)
    with os.fdopen(descriptor, "r+b") as file:
        begin = file.seek(0, os.SEEK_END) - size_bytes
        if begin < 0:
            return False
        file.seek(begin)
        if not is_open_transaction(iter(lambda: file.read(_PIECE_BYTES), b"")):
            return False
        file.truncate(begin)
        os.fsync(file.fileno())
    return True


class _Counted:
    """Passes parts on and counts their bytes."""

    def __init__(self, parts: Iterable[Buffer]) -> None:
        self._parts = parts
        self.size_bytes = 0

    def __iter__(self) -> Iterator[Buffer]:
        for part in self._parts:
            self.size_bytes += len(part)
            yield part


def _manifest() -> bytes:
    return f"file {_BASE} seq 1 type b\nfile {_CHANGES} seq 1 type i\n".encode()
