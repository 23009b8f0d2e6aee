"""Whether a place can be written by whoever runs this: asked before anything is fetched or read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drtool.errors import DestinationRefused


@contextmanager
def looking_at(into: Path) -> Iterator[None]:
    """DestinationRefused instead of the system's error, for whoever looks at `into`."""
    try:
        yield
    except OSError as error:
        raise DestinationRefused(
            f"destination {into} cannot be looked at: {error.strerror}",
            hint="Restore --into a directory that you may reach, or as another user.",
        ) from error


def require_writable(path: Path) -> None:
    """DestinationRefused if `path`, or the nearest directory above it that is there, cannot be written."""
    place = path
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        above = "" if place == path else f": you may not write in {place}"
        raise DestinationRefused(
            f"destination {path} cannot be written{above}",
            hint="Restore --into a directory that you may write, or as another user.",
        )


def umask_now() -> int:
    """The mask of this process; asking the system call for it would change it for a moment."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            lines = [line for line in file if line.startswith("Umask:")]
        return int(lines[0].split()[1], 8)
    except (OSError, IndexError, ValueError):
        return 0o077


def require_temporary_files() -> None:
    """DestinationRefused if no directory for temporary files can be written, or it has no room."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"drtool")
            file.flush()
    except OSError as error:
        where = tempfile.tempdir or "/tmp"  # noqa: S108 - to name it
        raise DestinationRefused(
            f"no temporary file can be written: {error.strerror or error} ({where})",
            hint="Set TMPDIR to a directory that can be written, with free space:"
            " export TMPDIR=/var/tmp",
        ) from error
