"""A store in a directory: a file an object, in place only when whole and synced."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from drtool.errors import (
    AccessDenied,
    AlreadyExists,
    DrtoolError,
    IntegrityError,
    ObjectMissing,
    PlaceMissing,
    RepositoryUnavailable,
    StoreFull,
)
from drtool.stores.keys import (
    check_directory,
    check_key,
    check_prefix,
    check_range,
    in_order,
)
from drtool.stores.protocol import (
    LARGEST_OBJECT_BYTES,
    Buffer,
    Names,
    StoredObject,
    too_large,
)
from drtool.system.clock import Clock
from drtool.system.durable import (
    create_durably,
    make_directory,
    replace_durably,
    sync_directory,
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM)
_MISSING = (errno.ENOENT, errno.ENOTDIR)
# A directory may be removed, emptied by a `delete`, between being made and being written to.
_PLACING_TRIES = 20
_LOCK_NAME = ".drtool-lock.tmp"
_LOCK_SECONDS = 30
_LOCK_PAUSE_SECONDS = 0.01


class LocalStore:
    """Objects below the directory `root`, which must exist (`stores.open.prepare_place` makes it).

    A missing root is PlaceMissing, never ObjectMissing: an unmounted disk must not look like an
    empty repository. Symbolic links below root are not followed. Unfinished files of a crashed
    writer are never listed and never in the way.
    """

    def __init__(self, root: Path, *, clock: Clock) -> None:
        self._root = Path(os.path.realpath(root))
        self._clock = clock
        self._identity: tuple[int, int] | None = None

    @property
    def url(self) -> str:
        return "file://" + quote(os.fsencode(self._root))

    @property
    def creates_atomically(self) -> bool:
        return True

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        path = self._path(key)
        with self._reported(key, writing=True):
            try:
                self._place(path, parts)
                return
            except FileExistsError:
                self._refuse_links(path)
            if not self._holds(path, parts):
                raise AlreadyExists(key)
            # The other writer may have been cut off before this.
            sync_directory(path.parent)

    def read(self, key: str, *, most_bytes: int = LARGEST_OBJECT_BYTES) -> bytes:
        with self._opened(key) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > most_bytes:
                raise too_large(key, size, most_bytes)
            return bytes(_read_exactly(descriptor, 0, size, key=key))

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        check_range(start, length)
        with self._opened(key) as descriptor:
            return memoryview(_read_exactly(descriptor, start, length, key=key))

    def read_tail(self, key: str, length: int) -> memoryview:
        check_range(0, length)
        with self._opened(key) as descriptor:
            size = os.fstat(descriptor).st_size
            length = min(length, size)
            return memoryview(_read_exactly(descriptor, size - length, length, key=key))

    def stat(self, key: str) -> StoredObject | None:
        try:
            with self._opened(key) as descriptor:
                return _described(key, os.fstat(descriptor))
        except ObjectMissing:
            return None

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[StoredObject]:
        check_prefix(prefix)
        directory = prefix.rpartition("/")[0]
        return self._listed(f"{directory}/" if directory else "", prefix, after)

    def list_directories(self, prefix: str) -> Names:
        check_directory(prefix)
        directories = [name for name in self._names(prefix) if name.endswith("/")]
        # Like an object store, which knows no empty directory.
        held = [name[:-1] for name in directories if any(True for _ in self.list(prefix + name))]
        return sorted(held, key=in_order)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._reported(key, writing=True):
            self._refuse_links(path)
            try:
                path.unlink()
                sync_directory(path.parent)
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
            self._remove_empty_parents(path)

    def replace_if(self, key: str, content: bytes, expected: bytes | None) -> bool:
        path = self._path(key)
        with self._reported(key, writing=True), self._locked():
            self._refuse_links(path)
            if not _is_content(path, expected):
                return False
            make_directory(path.parent)
            replace_durably(path, content)
            return True

    def now(self) -> datetime:
        return self._clock.now()

    def close(self) -> None:
        pass

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    def _place(self, path: Path, parts: Sequence[Buffer]) -> None:
        for remaining in reversed(range(_PLACING_TRIES)):
            self._require_root()
            self._refuse_links(path)
            try:
                make_directory(path.parent)
                create_durably(path, parts)
                return
            except FileNotFoundError:
                if not remaining:
                    raise

    def _holds(self, path: Path, parts: Sequence[Buffer]) -> bool:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if os.fstat(descriptor).st_size != sum(memoryview(part).nbytes for part in parts):
                return False
            offset = 0
            for part in parts:
                view = memoryview(part).cast("B")
                if os.pread(file.fileno(), len(view), offset) != view:
                    return False
                offset += len(view)
        return True

    def _remove_empty_parents(self, path: Path) -> None:
        for parent in path.parents:
            if parent == self._root:
                return
            try:
                parent.rmdir()
            except OSError:
                return  # not empty, or somebody else was quicker: either way nothing to do

    def _require_root(self) -> None:
        """PlaceMissing unless root is the directory that it was when this store first saw it."""
        try:
            found = os.stat(self._root)
        except FileNotFoundError as error:
            raise PlaceMissing(
                f"directory {self._root} of the repository does not exist",
                hint="Mount its disk if it has one; `drtool repository init` makes a new one.",
            ) from error
        identity = (found.st_dev, found.st_ino)
        if self._identity is None:
            self._identity = identity
        if self._identity != identity:
            raise PlaceMissing(
                f"directory {self._root} is not the one it was when this run began",
                hint="Look whether its disk is still mounted.",
            )

    def _refuse_links(self, path: Path) -> None:
        """A symbolic link on the way could lead anywhere, so none is followed."""
        if os.path.realpath(path.parent) != str(path.parent) or path.is_symlink():
            raise RepositoryUnavailable(
                f"{path} leads over a symbolic link",
                hint="Put the directory itself there, or mount it; drtool follows no links.",
            )

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        path = self._path(key)
        with self._reported(key, writing=False):
            self._require_root()
            self._refuse_links(path)
            # Not blocking: a FIFO that somebody put there must not hang us.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            try:
                descriptor = os.open(path, flags)
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                self._require_root()
                raise ObjectMissing(key) from error
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ObjectMissing(key)
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One compare-and-swap at a time on this directory, over all processes of this machine."""
        self._require_root()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._root / _LOCK_NAME, flags, 0o600)
        try:
            self._wait_for_lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int) -> None:
        deadline = self._clock.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if self._clock.monotonic() > deadline:
                    raise RepositoryUnavailable(
                        f"{self._root / _LOCK_NAME} has been locked for {_LOCK_SECONDS} s",
                        hint="Look with `fuser` which process holds it; it may be stopped.",
                    ) from error
            self._clock.wait(_LOCK_PAUSE_SECONDS)

    @contextmanager
    def _reported(self, key: str, *, writing: bool) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _translated(error, self._root / key, writing=writing) from error

    def _listed(self, directory: str, prefix: str, after: str | None) -> Iterator[StoredObject]:
        for name in self._names(directory):
            key = directory + name
            if name.endswith("/"):
                if _may_hold(key, prefix, after):
                    yield from self._listed(key, prefix, after)
            elif key.startswith(prefix) and (after is None or in_order(key) > in_order(after)):
                found = self.stat(key)
                if found is not None:
                    yield found

    def _names(self, directory: str) -> Names:
        """Names in a directory, those of directories with a slash, in the order of their keys."""
        path = self._root / directory
        with self._reported(directory, writing=False):
            self._require_root()
            self._refuse_links(path / "x")
            try:
                with os.scandir(path) as entries:
                    names = [_name(entry) for entry in entries]
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                self._require_root()
                return []
        return sorted((name for name in names if name is not None), key=in_order)


def _is_content(path: Path, expected: bytes | None) -> bool:
    """Whether the file holds those bytes, or is not there where None is expected."""
    try:
        with path.open("rb") as file:
            return expected is not None and file.read(len(expected) + 1) == expected
    except FileNotFoundError:
        return expected is None


def _may_hold(directory: str, prefix: str, after: str | None) -> bool:
    """Whether a key below `directory` (with its slash) can begin with `prefix` and follow `after`."""
    if not (directory.startswith(prefix) or prefix.startswith(directory)):
        return False
    return after is None or after.startswith(directory) or in_order(directory) > in_order(after)


def _name(entry: os.DirEntry[str]) -> str | None:
    """The part of a key that a directory entry stands for; None for what is no object of ours."""
    try:
        check_key(entry.name)
    except ValueError:
        return None
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    return entry.name if entry.is_file(follow_symlinks=False) else None


def _described(key: str, found: os.stat_result) -> StoredObject:
    return StoredObject(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _read_exactly(descriptor: int, start: int, length: int, *, key: str) -> bytearray:
    if os.fstat(descriptor).st_size < start + length:
        raise _too_short(key, start + length)
    content = bytearray(length)
    view = memoryview(content)
    done = 0
    while done < length:
        count = os.preadv(descriptor, [view[done:]], start + done)
        if count == 0:
            raise _too_short(key, start + length)
        done += count
    return content


def _too_short(key: str, size_bytes: int) -> IntegrityError:
    return IntegrityError(
        f"object {key} is shorter than {size_bytes} bytes",
        hint="Run `drtool verify` to see which backups need it.",
    )


def _translated(error: OSError, path: Path, *, writing: bool) -> DrtoolError:
    reason = os.strerror(error.errno or 0).lower()
    doing = "written" if writing else "read"
    message = f"{path} cannot be {doing}: {reason}"
    if error.errno in _FULL:
        return StoreFull(message, hint=f"Make room on the file system of {path.parent}.")
    if error.errno in _DENIED:
        return AccessDenied(message, hint="Give the user that drtool runs as the right to do so.")
    return RepositoryUnavailable(message, hint="Look at the disk and at the kernel's log.")
