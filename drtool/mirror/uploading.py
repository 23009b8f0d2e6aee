"""Puts files of a tree into the bucket as they were at one moment, hashed while they are read."""

from __future__ import annotations

import hashlib
import mimetypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from drtool.errors import DrtoolError, IntegrityError, Interrupted, RepositoryUnavailable
from drtool.mirror.entries import MirrorEntry, stored_entry
from drtool.mirror.keys import key_of
from drtool.sources.files.entries import Omitted, TreeEntry
from drtool.sources.files.reading import (
    FileBegan,
    FileBytes,
    FileEnded,
    FileHole,
    ReadItem,
    TreeFiles,
)
from drtool.stores.bucket import SINGLE_PUT_BYTES, Bucket, ObjectRefused, Placed
from drtool.system.clock import Clock
from drtool.system.retry import RetryLimits, retrying

# Large files on their way at a time: each takes 5 parts of memory.
LARGE_AT_A_TIME = 2
_LARGE_RETRIES = RetryLimits(attempts=4, within_seconds=3600)
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class ToStore:
    """A file to put, and the object that the mirror holds of it (None: no such object)."""

    path: bytes
    known: MirrorEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The mirror holds the file now. `sent_bytes` is None if it held that very content before."""

    entry: MirrorEntry
    sent_bytes: int | None
    torn: Omitted | None


@dataclass(frozen=True, slots=True)
class NotStored:
    """The file could not be read, or (with `error`) not be put."""

    path: bytes
    omitted: Omitted | None = None
    error: DrtoolError | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that was read to its end. `placed` is None if its content was not sent."""

    tree: TreeEntry
    content: str
    placed: Placed | None
    torn: Omitted | None


class Uploader:
    """Stores batches of files. Any thread may call `store`; each has readers of its own.

    Memory: 8 MiB a thread, and 40 MiB for each of two large files.
    """

    def __init__(
        self,
        bucket: Bucket,
        root: int,
        *,
        clock: Clock,
        stop: threading.Event,
        has_looked: bool = False,
    ) -> None:
        """`root` is an open directory and stays the caller's to close.

        `has_looked` says that each `known` object was just seen in a listing, as it was put.
        """
        self._has_looked = has_looked
        self._bucket = bucket
        self._root = root
        self._clock = clock
        self._stop = stop
        self._large = threading.Semaphore(LARGE_AT_A_TIME)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._readers: list[TreeFiles] = []

    def store(self, batch: Sequence[ToStore]) -> list[Stored | NotStored]:
        """Put each file that is not there yet. Interrupted if somebody asked to stop.

        A file that the store refuses is told and the others go on; what concerns all of them
        (credentials, a missing bucket, no room) is raised.
        """
        done = []
        for item in batch:
            if self._stop.is_set():
                raise Interrupted("the run was asked to stop", hint="Run it again: it goes on.")
            done.append(self._store(item))
        return done

    def close(self) -> None:
        """Let the open directories go, once no thread is in `store`."""
        for reader in self._readers:
            reader.close()

    def _store(self, item: ToStore) -> Stored | NotStored:
        try:
            read = self._read(item)
        except RepositoryUnavailable as error:
            if not error.retryable and not isinstance(error, ObjectRefused):
                raise
            return NotStored(item.path, error=error)
        if isinstance(read, Omitted):
            return NotStored(item.path, omitted=read)
        if read.placed is not None:
            entry = stored_entry(read.tree, read.content, read.placed)
            return Stored(entry=entry, sent_bytes=read.tree.size_bytes, torn=read.torn)
        assert item.known is not None
        known = item.known
        placed = Placed(known.etag, known.version)
        entry = stored_entry(read.tree, read.content, placed)
        return Stored(entry=entry, sent_bytes=None, torn=read.torn)

    def _read(self, item: ToStore) -> _Read | Omitted:
        items = self._reader.read(item.path)
        began = next(items)
        while isinstance(began, FileBegan):
            if began.size_bytes > SINGLE_PUT_BYTES:
                return self._read_large(item)
            read = self._small(item, items)
            if not isinstance(read, FileBegan):
                return read
            began = read
        assert isinstance(began, Omitted)
        return began

    def _small(self, item: ToStore, items: Iterator[ReadItem]) -> _Read | Omitted | FileBegan:
        """All of the file in memory, then one put; or the beginning of another attempt at reading."""
        parts: list[bytes] = []
        for piece in items:
            if isinstance(piece, FileBytes):
                parts.append(bytes(piece.data))
            elif isinstance(piece, FileHole):
                parts.append(bytes(piece.length))
            elif isinstance(piece, FileEnded):
                break
            else:
                return piece
        else:
            raise AssertionError("a file was read without an end")
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        content = hashlib.sha256(data).hexdigest()
        if self._is_there(item.known, content, len(data)):
            return _Read(piece.entry, content, None, piece.torn)
        attributes = attributes_of(piece.entry, content)
        placed = self._bucket.put(key_of(item.path), data, attributes)
        return _Read(piece.entry, content, placed, piece.torn)

    def _read_large(self, item: ToStore) -> _Read | Omitted:
        with self._large:
            known = item.known
            if known is not None and known.content is not None:
                # Reading twice is cheaper than sending what is there already.
                read = self._hash(item.path)
                if isinstance(read, Omitted) or self._is_there(
                    known, read.content, read.tree.size_bytes
                ):
                    return read
            return retrying(
                lambda: self._send(item.path),
                limits=_LARGE_RETRIES,
                clock=self._clock,
                stop=self._stop,
            )

    def _hash(self, path: bytes) -> _Read | Omitted:
        stream = _Stream(self._reader.read(path), self._stop, restarts=True)
        for _piece in stream:
            pass
        if stream.omitted is not None or stream.ended is None:
            assert stream.omitted is not None
            return stream.omitted
        return _Read(stream.ended.entry, stream.content, None, stream.ended.torn)

    def _send(self, path: bytes) -> _Read | Omitted:
        """Read and put at once; begun anew while the file changes under the reading."""
        items = self._reader.read(path)
        began = next(items)
        while isinstance(began, FileBegan):
            stream = _Stream(items, self._stop, restarts=False)
            key = key_of(path)
            # The hash is known at the end only: metadata of a large object does not hold it.
            try:
                placed = self._bucket.put_stream(key, stream, {}, size_bytes=began.size_bytes)
            except _BeganAgain as again:
                began = again.began
                continue
            except _Vanished:
                assert stream.omitted is not None
                return stream.omitted
            assert stream.ended is not None
            self._check_size(key, stream.taken, placed)
            return _Read(stream.ended.entry, stream.content, placed, stream.ended.torn)
        assert isinstance(began, Omitted)
        return began

    def _is_there(self, known: MirrorEntry | None, content: str, size_bytes: int) -> bool:
        """Whether the mirror's object holds this content, asked of the bucket itself.

        The catalogue alone does not know: a run that was killed, or another client, may have put
        something else there, and the file may since have been turned back to what it was.
        """
        if known is None or (known.content, known.tree.size_bytes) != (content, size_bytes):
            return False
        if self._has_looked:
            return True
        met = self._bucket.look(known.key)
        if met is None or met.size_bytes != size_bytes:
            return False
        # A server that answers another form of etag than it did to the put costs a put, no harm.
        return met.etag == known.etag or None in (met.etag, known.etag)

    def _check_size(self, key: str, size_bytes: int, placed: Placed) -> None:
        met = self._bucket.look(key)
        if met is None or met.size_bytes != size_bytes:
            found = "nothing" if met is None else f"{met.size_bytes} bytes"
            raise IntegrityError(
                f"{self._bucket.url}: object {key} has {found} after {size_bytes} bytes were put"
                f" as {placed.etag}",
                hint="See that nothing else writes to the mirror, then run `drtool sync` again.",
            )

    @property
    def _reader(self) -> TreeFiles:
        reader: TreeFiles | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = TreeFiles(self._root)
            with self._lock:
                self._readers.append(reader)
        return reader


class _BeganAgain(Exception):
    """The file changed while it was sent: what went up is to be dropped."""

    def __init__(self, began: FileBegan) -> None:
        super().__init__("the file changed while it was sent")
        self.began = began


class _Vanished(Exception):
    """The file could not be read to its end."""


class _Stream:
    """The pieces of a file, hashed as they go by. How it ended stands in it afterwards."""

    def __init__(self, items: Iterator[ReadItem], stop: threading.Event, *, restarts: bool) -> None:
        self._items = items
        self._stop = stop
        self._restarts = restarts
        self._hash = hashlib.sha256()
        self.taken = 0
        self.ended: FileEnded | None = None
        self.omitted: Omitted | None = None

    @property
    def content(self) -> str:
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        for item in self._items:
            if self._stop.is_set():
                raise Interrupted("the run was asked to stop", hint="Run it again: it goes on.")
            match item:
                case FileBytes(_, data):
                    # A copy: the library keeps what it is given, and the buffer is used again.
                    yield self._hashed(bytes(data))
                case FileHole(_, length):
                    for begin in range(0, length, len(_ZEROS)):
                        yield self._hashed(_ZEROS[: length - begin])
                case FileEnded():
                    self.ended = item
                    return
                case FileBegan():
                    if not self._restarts:
                        raise _BeganAgain(item)
                    self._hash, self.taken = hashlib.sha256(), 0
                case Omitted():
                    self.omitted = item
                    if not self._restarts:
                        raise _Vanished
                    return

    def _hashed(self, piece: bytes) -> bytes:
        self._hash.update(piece)
        self.taken += len(piece)
        return piece


def attributes_of(tree: TreeEntry, content: str) -> dict[str, str]:
    """The metadata of an object, by the names that rclone knows (mtime, mode, uid, gid)."""
    seconds, nanoseconds = divmod(abs(tree.modified_ns), 1_000_000_000)
    sign = "-" if tree.modified_ns < 0 else ""
    return {
        "Content-Type": _content_type(tree.path.rpartition(b".")[2][:16]),
        "mtime": f"{sign}{seconds}.{nanoseconds:09d}",
        "mode": f"{0o100000 | tree.mode:o}",
        "uid": str(tree.uid),
        "gid": str(tree.gid),
        "sha256": content,
    }


@lru_cache(maxsize=1024)
def _content_type(extension: bytes) -> str:
    guessed, encoding = mimetypes.guess_type("x." + extension.decode("utf-8", "replace"))
    if guessed is None or encoding is not None:
        return "application/octet-stream"
    return guessed
