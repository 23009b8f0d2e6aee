"""Directories below an open root, reached one name at a time, so that no symbolic link is followed."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from drtool.errors import IntegrityError

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_OPEN = 32


def open_real(path: Path) -> int:
    """A descriptor of the directory that the real path `path` names; OSError if a link stands in its way.

    A path that was resolved before may lead elsewhere by now: who may write in a directory above can
    have put a link in its place.
    """
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    names = os.path.abspath(path).split("/")[1:]
    for number, name in enumerate(names):
        last = number == len(names) - 1
        flags = _OPEN_DIRECTORY if last else _OPEN_DIRECTORY | os.O_PATH
        try:
            below = os.open(name or ".", flags, dir_fd=descriptor)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def check_path(path: bytes) -> None:
    """IntegrityError for a path that could lead out of the root or means two things."""
    names = path.split(b"/") if path else []
    if any(name in (b"", b".", b"..") or b"\0" in name for name in names):
        raise IntegrityError(
            f"path {path!r} does not stay below its directory",
            hint="Run `drtool verify`: what was read back is not what drtool writes.",
        )


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory of a path, and its name in there."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


class Beneath:
    """Opens what is below a root by walking there with openat(2) and O_NOFOLLOW.

    It keeps the last way open, at most 32 directories of it, so that neighbours and children cost
    one call each. For one thread; several may share one `root`, which stays the caller's to close.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        # The way to the last directory: (path, descriptor), each directly below the one before.
        self._way: list[tuple[bytes, int]] = []

    def __enter__(self) -> Beneath:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def directory(self, path: bytes) -> int:
        """A descriptor of the directory, good until the next call; OSError if a link stands in the way.

        What was removed and made again since it was last asked for may still be the old one: for
        `forget` there is a call.
        """
        way = self._way
        while way and not (path == way[-1][0] or path.startswith(way[-1][0] + b"/")):
            os.close(way.pop()[1])
        if not path:
            return self._root
        at, descriptor = way[-1] if way else (b"", self._root)
        rest = path[len(at) :].lstrip(b"/")
        for name in rest.split(b"/") if rest else ():
            at = at + b"/" + name if at else name
            descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
            way.append((at, descriptor))
            if len(way) > _MOST_OPEN:
                os.close(way.pop(0)[1])
        return descriptor

    def open(self, path: bytes, flags: int, mode: int = 0o600) -> int:
        """A new descriptor of a file below the root, the caller's to close; links are not followed."""
        directory, name = split(path)
        return os.open(
            name or b".",
            flags | os.O_NOFOLLOW | os.O_CLOEXEC,
            mode,
            dir_fd=self.directory(directory),
        )

    def forget(self) -> None:
        """Close the way; the next directory is looked for anew from the root."""
        while self._way:
            os.close(self._way.pop()[1])

    close = forget
