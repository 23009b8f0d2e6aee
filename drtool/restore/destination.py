"""Where a restore writes: checked before anything is copied, and never anywhere else.

Nothing here deletes. A destination is new or empty; tablespaces go beside it, or where the policy
says, never back to where the source has them (PITFALLS 25, 53).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drtool.errors import DestinationRefused, IntegrityError
from drtool.model.measure import format_size
from drtool.restore.plan import RestorePlan
from drtool.system.access import looking_at, require_writable
from drtool.system.beneath import open_real
from drtool.system.durable import make_private_directory, sync_directory
from drtool.system.owned_directory import OwnedDirectory
from drtool.system.users import RunAs

# PostgreSQL keeps replayed WAL until a restartpoint: as much as two max_wal_size of the default.
_REPLAY_ROOM_BYTES = 2 << 30
_LOST_AND_FOUND = "lost+found"


@dataclass(frozen=True, slots=True)
class TablespacePlace:
    """One tablespace: where the source has it, and where the restored copy gets it."""

    oid: int
    source: str
    path: Path


@dataclass(frozen=True, slots=True)
class Destination:
    """Places that were found fit to be written, and whose the files will be.

    `wanted` are places for tablespaces by oid or old location, those not in the backup included.
    """

    data: Path
    tablespaces: tuple[TablespacePlace, ...]
    owner: RunAs
    wanted: Mapping[str, Path] = field(default_factory=dict)

    def open(self) -> OwnedDirectory:
        """The data directory, to work in as its owner; DestinationRefused if it is not his any more."""
        return OwnedDirectory(self.data, self.owner)

    def place_of(self, path: bytes) -> tuple[Path, bytes]:
        """Where the entry `path` of a file table goes: a directory of the restore, and the way from there.

        IntegrityError for one that leads outside.
        """
        parts = path.split(b"/")
        if any(part in (b"", b".", b"..") for part in parts) or b"\0" in path:
            raise IntegrityError(
                f"the backup's file table names {os.fsdecode(path)!r}, which is no place in a data"
                " directory",
                hint="Run `drtool verify`, and restore from another backup.",
            )
        if parts[0] == b"pg_tblspc" and len(parts) > 1:
            for space in self.tablespaces:
                if parts[1] == b"%d" % space.oid:
                    return space.path, b"/".join(parts[2:])
        return self.data, path


def check_destination(
    plan: RestorePlan, into: Path, *, owner: RunAs, tablespaces: Mapping[str, Path]
) -> Destination:
    """Look whether `into` and the tablespaces' places will do; DestinationRefused says why not.

    `tablespaces` maps a tablespace's oid or old location to a new directory; others go below
    `<into>-tablespaces`. Nothing is made yet.
    """
    data = check_place(into, owner)
    places: list[TablespacePlace] = []
    for oid, location in plan.manifest.postgres.tablespaces:
        wanted = tablespaces.get(location) or tablespaces.get(str(oid)) or beside(data) / str(oid)
        path = check_place(Path(wanted), owner)
        _refuse_live(path, location)
        places.append(TablespacePlace(oid, location, path))
    taken = [data, *(place.path for place in places)]
    for path in taken:
        if any(path != other and path.is_relative_to(other) for other in taken):
            raise DestinationRefused(
                f"destination {path} lies inside another place of this restore",
                hint="Give the data directory and each tablespace a directory of its own.",
            )
    if len(set(taken)) != len(taken):
        raise DestinationRefused(
            "two places of this restore are the same directory",
            hint="Give the data directory and each tablespace a directory of its own.",
        )
    _require_room(plan, data)
    return Destination(data, tuple(places), owner, tablespaces)


def beside(data: Path) -> Path:
    """Where tablespaces go that nobody gave another place."""
    return data.with_name(data.name + "-tablespaces")


def checked_tablespace(
    destination: Destination, oid: int, location: str, *, taken: Sequence[Path]
) -> Path:
    """A place for a tablespace that the backup does not hold; DestinationRefused if there is none.

    The wanted one, unless an earlier tablespace of the replay has it: a location may be used again.
    """
    default = beside(destination.data) / str(oid)
    wanted = destination.wanted.get(location) or destination.wanted.get(str(oid)) or default
    used = [destination.data, *(place.path for place in destination.tablespaces), *taken]
    if Path(os.path.realpath(wanted)) in used:
        wanted = default
    path = check_place(Path(wanted), destination.owner)
    _refuse_live(path, location)
    if any(path.is_relative_to(other) or other.is_relative_to(path) for other in used):
        raise DestinationRefused(
            f"tablespace directory {path} lies inside another place of this restore",
            hint="Name another directory under restore.tablespaces in the policy.",
        )
    return path


def check_directory(into: Path, *, owner: RunAs, needed_bytes: int) -> Destination:
    """Look whether one directory will do for `needed_bytes`; DestinationRefused says why not."""
    data = check_place(into, owner)
    _require_free(needed_bytes, data)
    return Destination(data, (), owner)


def make_destination(destination: Destination) -> None:
    """Create the directories, 0700 and their owner's (PITFALLS 61); again refused if one is not empty."""
    for path in (destination.data, *(place.path for place in destination.tablespaces)):
        make_place(path, destination.owner)


def make_place(path: Path, owner: RunAs) -> None:
    """Create one directory, 0700 and its owner's; DestinationRefused if it cannot be, or is not empty.

    Those missing above it become ours: whose a later copy beside it is does not depend on this one.
    """
    try:
        make_private_directory(path)
        directory = open_real(path)
    except OSError as error:
        raise DestinationRefused(
            f"destination {path} cannot be made: {error.strerror}",
            hint="Restore --into a directory on a file system that can be written.",
        ) from error
    try:
        _refuse_content(path, directory)
        os.fchmod(directory, 0o700)
        if not owner.is_us:
            os.fchown(directory, owner.uid, owner.gid)
        # From now on nobody else can put anything there; before, somebody may have.
        _refuse_content(path, directory)
    finally:
        os.close(directory)
    sync_directory(path.parent)


def check_place(path: Path, owner: RunAs) -> Path:
    """The real path of a place that is new or an empty directory which `owner` can reach, and we write.

    DestinationRefused says why it will not do. Nothing is made.
    """
    with looking_at(path):
        real = _real_place(path, owner)
        require_writable(real)
    return real


def _real_place(path: Path, owner: RunAs) -> Path:
    real = Path(os.path.realpath(path))
    if path.is_symlink() and not path.exists():
        raise DestinationRefused(
            f"destination {path} is a symbolic link that leads nowhere",
            hint="Restore --into the directory itself.",
        )
    if real.exists() and not real.is_dir():
        raise DestinationRefused(
            f"destination {path} is not a directory", hint="Restore --into a new directory."
        )
    if real.parent == real:
        raise DestinationRefused(
            f"destination {path} is the root of the file system",
            hint="Restore --into a new directory.",
        )
    if real.is_dir():
        _refuse_content(real)
    if "\n" in str(real) or "\r" in str(real):
        raise DestinationRefused(
            f"destination {str(real)!r} has a line break in its name, which PostgreSQL cannot take",
            hint="Restore --into a directory with another name.",
        )
    _require_reachable(real, owner)
    return real


def _refuse_content(path: Path, directory: int | None = None) -> None:
    """DestinationRefused if it is not empty: the open `directory`, which had the name `path`, if given."""
    try:
        first = min(os.listdir(path if directory is None else directory), default=None)
    except OSError as error:
        raise DestinationRefused(
            f"destination {path} cannot be looked into: {error.strerror}",
            hint="Restore --into a new directory.",
        ) from error
    if first is None:
        return
    below = "a directory below it" if first == _LOST_AND_FOUND else "a new directory"
    raise DestinationRefused(
        f"destination {path} is not empty: found {first}",
        hint=f"Restore --into {below}; drtool never writes over what is there.",
    )


def _refuse_live(path: Path, location: str) -> None:
    live = Path(os.path.realpath(location))
    if path == live or path.is_relative_to(live) or live.is_relative_to(path):
        raise DestinationRefused(
            f"tablespace directory {path} is where the source itself has that tablespace",
            hint="Name another directory under restore.tablespaces in the policy.",
        )


def _require_reachable(path: Path, owner: RunAs) -> None:
    """The server's user must be able to pass through every directory above."""
    for place in path.parents:
        if place.exists() and not _may_pass(place.stat(), owner):
            raise DestinationRefused(
                f"user {owner.name}, who will run the server, cannot reach {path}: {place} is closed"
                " to it",
                hint=f"Restore --into another directory, or open that one: chmod o+x {place}.",
            )


def _may_pass(status: os.stat_result, owner: RunAs) -> bool:
    if owner.uid == 0:
        return True
    if status.st_uid == owner.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == owner.gid and status.st_mode & stat.S_IXGRP:
        return True
    return bool(status.st_mode & stat.S_IXOTH)


def _require_room(plan: RestorePlan, data: Path) -> None:
    """Enough free space for all files and the WAL that piles up; judged where the data goes."""
    _require_free(plan.fetch_bytes + min(plan.wal_bytes, _REPLAY_ROOM_BYTES), data)


def _require_free(needed: int, data: Path) -> None:
    place = data
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise DestinationRefused(
            f"destination {data} has {format_size(free)} free, and the restore needs"
            f" {format_size(needed)}",
            hint="Restore --into a directory on a larger file system.",
        )
