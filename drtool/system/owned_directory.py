"""A directory that belongs to another user, opened once: all that is done below it is done as that user.

Paths are taken name by name from the open directory and no symbolic link is followed, so neither its
owner nor whoever may write above it can make root's hands write, read or remove anything elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from drtool.errors import DestinationRefused
from drtool.system.acting import acting_as
from drtool.system.beneath import Beneath, check_path, open_real, split
from drtool.system.durable import Buffer
from drtool.system.users import RunAs

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class OwnedDirectory:
    """The directory `path`, a real path, which must be `owner`'s. Any thread may use it.

    Paths of the methods are relative to it. They raise OSError where a link stands in the way.
    """

    def __init__(self, path: Path, owner: RunAs) -> None:
        """DestinationRefused if it is not `owner`'s; OSError if it cannot be opened, or by a link alone."""
        self.path = path
        self.owner = owner
        with acting_as(owner):
            self._root = open_real(path)
        found = os.fstat(self._root).st_uid
        if found != owner.uid:
            self.close()
            raise DestinationRefused(
                f"{path} belongs to user {found}, and the restore gave it to {owner.name}",
                hint="Look who changes it meanwhile, and restore into another directory.",
            )

    def __enter__(self) -> OwnedDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the directory go."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    @property
    def descriptor(self) -> int:
        """The open directory; it stays ours to close."""
        return self._root

    def open(self, path: str | bytes, flags: int, mode: int = 0o600) -> int:
        """A descriptor of a file, the caller's to close."""
        with self._at(path) as (directory, name):
            return _open(directory, name, flags, mode=mode)

    def new(self, path: str | bytes, mode: int = 0o600) -> int:
        """A descriptor of a new file, to be written; FileExistsError if there is anything of that name."""
        with self._at(path) as (directory, name):
            descriptor = _open(directory, name, _NEW, mode=mode)
            os.fchmod(descriptor, mode)
            return descriptor

    def make_directory(self, path: str | bytes, mode: int = 0o700) -> None:
        """Make a directory; one that is there stays, and gets that mode."""
        with self._at(path) as (directory, name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=directory)
            made = _open(directory, name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fchmod(made, mode)
            finally:
                os.close(made)

    def names(self, path: str | bytes = b"") -> list[str]:
        """What a directory holds."""
        with acting_as(self.owner), Beneath(self._root) as way:
            return os.listdir(way.directory(_checked(path)))

    def exists(self, path: str | bytes) -> bool:
        """Whether there is anything of that name, a link included."""
        try:
            with self._at(path) as (directory, name):
                os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str | bytes) -> int:
        """The size of a file, or of a link itself."""
        with self._at(path) as (directory, name):
            return os.stat(name, dir_fd=directory, follow_symlinks=False).st_size

    def read(self, path: str | bytes, *, most: int = 1 << 26) -> bytes | None:
        """The content of a file, at most so many bytes; None if there is none, and no regular file."""
        try:
            with self._at(path) as (directory, name):
                descriptor = _open(directory, name, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(most)

    def touch(self, path: str | bytes) -> None:
        """See to it that there is a file of that name."""
        os.close(self.open(path, os.O_WRONLY | os.O_CREAT))

    def remove(self, path: str | bytes) -> None:
        """Remove a file or a link; nothing if it is not there."""
        with self._at(path) as (directory, name), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)

    def remove_tree(self, path: str | bytes) -> None:
        """Remove a directory with all that is in it, as far as its owner may."""
        with self._at(path) as (directory, name):
            shutil.rmtree(name, ignore_errors=True, dir_fd=directory)

    def set_aside(self, path: str | bytes, ending: str) -> None:
        """Give a file another name beside its own; nothing if it is not there, or its disk is gone."""
        with contextlib.suppress(OSError), self._at(path) as (directory, name):
            os.replace(name, name + os.fsencode(ending), src_dir_fd=directory, dst_dir_fd=directory)

    def link_to(self, target: Path, path: str | bytes) -> None:
        """Make a symbolic link; FileExistsError if there is anything of that name."""
        with self._at(path) as (directory, name):
            os.symlink(target, name, dir_fd=directory)

    def replace(self, path: str | bytes, content: Buffer, *, mode: int = 0o600) -> None:
        """Write a file, whole or not at all, durably; what stood there before is replaced."""
        with self._at(path) as (directory, name):
            temporary = _temporary_name()
            descriptor = _open(directory, temporary, _NEW)
            try:
                _fill(descriptor, [content], mode)
                os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.unlink(temporary, dir_fd=directory)
                raise
            os.fsync(directory)

    def create(self, path: str | bytes, parts: Iterable[Buffer], *, mode: int = 0o600) -> None:
        """Write a new file, whole or not at all, durably; FileExistsError if there is one already.

        `parts` are read with our own rights.
        """
        directory, name = split(_checked(path))
        beside = (directory + b"/" if directory else b"") + _temporary_name()
        descriptor = self.new(beside)
        try:
            _fill(descriptor, parts, mode)
            with self._at(path) as (where, name):
                os.link(
                    split(beside)[1],
                    name,
                    src_dir_fd=where,
                    dst_dir_fd=where,
                    follow_symlinks=False,
                )
        finally:
            self.remove(beside)
        self.sync(directory)

    def place(self, path: str | bytes, content: Buffer, *, scratch: str) -> None:
        """Put a file in place, whole or not at all, by way of the directory `scratch`.

        Not synced: for files that a reader takes away and syncs, such as PostgreSQL with its WAL.
        """
        beside = os.fsencode(scratch) + b"/" + _temporary_name()
        descriptor = self.new(beside)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                _write(file.fileno(), content)
            with self._at(path) as (where, name), Beneath(self._root) as way:
                other = way.directory(split(beside)[0])
                os.replace(split(beside)[1], name, src_dir_fd=other, dst_dir_fd=where)
        except BaseException:
            self.remove(beside)
            raise

    def sync(self, path: str | bytes = b"") -> None:
        """Make renames and removals in a directory survive a power cut."""
        with Beneath(self._root) as way:
            os.fsync(way.directory(_checked(path)))

    @contextmanager
    def _at(self, path: str | bytes) -> Iterator[tuple[int, bytes]]:
        """The directory that holds `path`, and the name in it, with the owner's rights."""
        directory, name = split(_checked(path))
        try:
            with acting_as(self.owner), Beneath(self._root) as way:
                yield way.directory(directory), name
        except OSError as error:
            error.filename = str(self.path / os.fsdecode(path))
            raise


def _checked(path: str | bytes) -> bytes:
    encoded = os.fsencode(path)
    check_path(encoded)
    return encoded


def _open(directory: int, name: bytes, flags: int, *, mode: int = 0o600) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)


def _temporary_name() -> bytes:
    return f".drtool-{secrets.token_hex(8)}.tmp".encode()


def _fill(descriptor: int, parts: Iterable[Buffer], mode: int) -> None:
    """Write a new file whole, and sync it; closes it."""
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        os.fchmod(descriptor, mode)
        for part in parts:
            _write(descriptor, part)
        os.fsync(file.fileno())


def _write(descriptor: int, content: Buffer) -> None:
    view = memoryview(content).cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]
