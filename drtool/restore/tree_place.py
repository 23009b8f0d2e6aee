"""Where a tree is restored to: looked at before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from drtool.errors import DestinationRefused
from drtool.model.measure import format_size
from drtool.restore.tree_plan import TreePlan
from drtool.system.access import looking_at, require_writable
from drtool.system.durable import make_private_directory

_ELSEWHERE = "Restore --into a new directory."


def check_tree_place(plan: TreePlan, into: Path, *, occupied: Callable[[], int]) -> Path:
    """The real path of a place that will do; DestinationRefused says why one will not.

    New or empty, unless the plan is a delta: then the directory must be there. `occupied` reads from
    the file table how many bytes the files need without their holes; asked for only if it matters.
    """
    with looking_at(into):
        return _checked(plan, into, occupied)


def _checked(plan: TreePlan, into: Path, occupied: Callable[[], int]) -> Path:
    real = Path(os.path.realpath(into))
    if into.is_symlink() and not into.exists():
        raise DestinationRefused(
            f"destination {into} is a symbolic link that leads nowhere", hint=_ELSEWHERE
        )
    if real.parent == real:
        raise DestinationRefused(
            f"destination {into} is the root of the file system", hint=_ELSEWHERE
        )
    if real.exists() and not real.is_dir():
        raise DestinationRefused(f"destination {into} is not a directory", hint=_ELSEWHERE)
    if plan.is_delta:
        if not real.is_dir():
            raise DestinationRefused(
                f"destination {into} is not there, so there is nothing to compare with",
                hint="Leave --delta out, or name the directory to change.",
            )
        require_writable(real)
        return real
    _refuse_content(real)
    require_writable(real)
    _require_room(plan, real, occupied)
    return real


def make_tree_place(plan: TreePlan, place: Path) -> None:
    """Make the directory, closed to others; refused again if something appeared in it meanwhile."""
    if plan.is_delta:
        return
    try:
        make_private_directory(place)
    except OSError as error:
        raise DestinationRefused(
            f"destination {place} cannot be made: {error.strerror}",
            hint="Restore --into a directory on a file system that can be written.",
        ) from error
    _refuse_content(place)


def _refuse_content(path: Path) -> None:
    try:
        first = next((entry.name for entry in os.scandir(path)), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DestinationRefused(
            f"destination {path} cannot be looked into: {error.strerror}", hint=_ELSEWHERE
        ) from error
    if first is not None:
        raise DestinationRefused(
            f"destination {path} is not empty: found {first}",
            hint="Restore --into a new directory, or pass --delta to change what differs there.",
        )


def _require_room(plan: TreePlan, path: Path, occupied: Callable[[], int]) -> None:
    place = path
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    if free >= plan.size_bytes:
        return
    needed = occupied()
    if free < needed:
        raise DestinationRefused(
            f"destination {path} has {format_size(free)} free, and what is to be restored"
            f" needs {format_size(needed)}",
            hint="Restore --into a directory on a larger file system, or a part of it with --path.",
        )
