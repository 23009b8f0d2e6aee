"""Files that must survive a crash: written beside their place, synced, put in place, directory synced."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from drtool.system.beneath import open_real
from drtool.system.users import PASSED_THROUGH

_MADE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Buffer = bytes | bytearray | memoryview


def sync_directory(path: Path) -> None:
    """Make renames, links and removals in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Create `path` and its missing parents, each synced into its parent."""
    missing = []
    place = path
    while not place.is_dir():
        missing.append(place)
        place = place.parent
    for directory in reversed(missing):
        try:
            directory.mkdir(mode)
        except FileExistsError:
            continue
        sync_directory(directory.parent)


def make_private_directory(path: Path) -> None:
    """Create `path` for its owner alone (0700); what is missing above it becomes ours, and whoever knows
    a name may pass through it (0711), whatever the umask. Nothing that is there is changed.

    So a directory that lies beside it later can be reached by the user that it is for. No link is
    followed that somebody puts in the way meanwhile.
    """
    real = Path(os.path.realpath(path))
    missing = [place for place in (real, *real.parents) if not place.is_dir()]
    for directory in reversed(missing):
        above = open_real(directory.parent)
        try:
            os.mkdir(directory.name, 0o700, dir_fd=above)
            if directory != real:
                made = os.open(directory.name, _MADE, dir_fd=above)
                try:
                    os.fchmod(made, PASSED_THROUGH)
                finally:
                    os.close(made)
            os.fsync(above)
        except FileExistsError:
            continue
        finally:
            os.close(above)


def write_temporary(directory: Path, parts: Iterable[Buffer], *, mode: int = 0o600) -> Path:
    """Write and sync `parts` as a new file with a name of its own in `directory`; the caller places it.

    Nothing is left behind when it fails.
    """
    descriptor, name = tempfile.mkstemp(prefix=".drtool-", suffix=".tmp", dir=directory)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            os.fchmod(file.fileno(), mode)
            for part in parts:
                view = memoryview(part).cast("B")
                while len(view):
                    view = view[file.write(view) :]
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def replace_durably(path: Path, content: Buffer, *, mode: int = 0o600) -> None:
    """Write `content` at `path`, whole or not at all; what stood there before is replaced."""
    temporary = write_temporary(path.parent, [content], mode=mode)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(path.parent)


def create_durably(path: Path, parts: Iterable[Buffer], *, mode: int = 0o600) -> None:
    """Write a new file at `path`, whole or not at all; FileExistsError if there is one already.

    The temporary file gets its name by a hard link, which fails where a rename would overwrite.
    """
    temporary = write_temporary(path.parent, parts, mode=mode)
    try:
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync_directory(path.parent)


def sync_file_systems(directories: Iterable[int]) -> None:
    """Make everything written on the file systems of these open directories durable; OSError if it is not.

    One syncfs(2) for each file system: files by the thousand are synced in one go, and since Linux
    5.8 a write that failed in the background is reported here, if the directory was open by then.
    """
    library = ctypes.CDLL(None, use_errno=True)
    done: set[int] = set()
    for descriptor in directories:
        device = os.fstat(descriptor).st_dev
        if device not in done and library.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        done.add(device)
