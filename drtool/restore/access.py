"""Whether a place can be written by whoever runs the restore: asked before anything is fetched."""

from __future__ import annotations

import os
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
