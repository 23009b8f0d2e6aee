"""Files that must survive a crash: written beside their place, synced, put in place, directory synced."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from drtool.system.users import PASSED_THROUGH, RunAs, give

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

    So a directory that lies beside it later can be reached by the user that it is for.
    """
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    for directory in reversed(missing):
        try:
            directory.mkdir(0o700)
        except FileExistsError:
            continue
        if directory != path:
            directory.chmod(PASSED_THROUGH)
        sync_directory(directory.parent)


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


def replace_durably(
    path: Path, content: Buffer, *, mode: int = 0o600, owner: RunAs | None = None
) -> None:
    """Write `content` at `path`, whole or not at all; what stood there before is replaced."""
    temporary = write_temporary(path.parent, [content], mode=mode)
    try:
        if owner is not None:
            give(temporary, owner)
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


def place_whole(path: Path, content: Buffer, *, scratch: Path, owner: RunAs) -> None:
    """Put a file at `path`, whole or not at all, by way of the directory `scratch` beside it.

    Not synced: for files that a reader takes away and syncs, such as PostgreSQL with its WAL.
    """
    temporary = scratch / path.name
    try:
        with temporary.open("wb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o600)
            view = memoryview(content).cast("B")
            while len(view):
                view = view[file.write(view) :]
        give(temporary, owner)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def set_aside(path: Path, ending: str) -> None:
    """Give a file another name beside its own; nothing if it is not there, or its disk is gone."""
    with contextlib.suppress(OSError):
        os.replace(path, path.with_name(path.name + ending))


def sync_file_systems(places: Iterable[Path]) -> None:
    """Make everything written on the file systems of `places` durable; OSError if it is not.

    One syncfs(2) for each file system: files by the thousand are synced in one go, and since Linux
    5.8 a write that failed in the background is reported here.
    """
    library = ctypes.CDLL(None, use_errno=True)
    done: set[int] = set()
    for place in places:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            device = os.fstat(descriptor).st_dev
            if device not in done and library.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(place))
            done.add(device)
        finally:
            os.close(descriptor)
