"""Places that are in use, into which nothing is restored: a repository, a protected tree, a server's data."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drtool.errors import DestinationRefused
from drtool.policy.sources import FilesSource
from drtool.sources.postgres.cluster_files import holds_cluster
from drtool.sources.redis.running import running_servers

_HINT = "Restore --into a directory that lies outside of it."


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """What a policy has on this machine: the directory of its repository, if it is one, and its trees."""

    repository: Path | None
    trees: Mapping[str, FilesSource]


def refuse_occupied(destination: Path, in_use: InUse, *, source: str) -> None:
    """DestinationRefused if restoring `source` into `destination` would write into what is in use.

    A tree of files may come back to the very directory that it was taken from.
    """
    real = Path(os.path.realpath(destination))
    tree = in_use.trees.get(source)
    own = tree if tree is not None and real == Path(os.path.realpath(tree.path)) else None
    if in_use.repository is not None:
        _refuse_repository(real, in_use.repository, own=own)
    if own is None:
        _refuse_trees(real, in_use.trees)
        _refuse_servers(real)


def _refuse_repository(real: Path, repository: Path, *, own: FilesSource | None) -> None:
    place = Path(os.path.realpath(repository))
    if real.is_relative_to(place):
        raise _refused(real, place, "the repository")
    if not place.is_relative_to(real) or (own is not None and _leaves_out(own, real, place)):
        return
    raise DestinationRefused(
        f"destination {real} is a directory above {place}, the repository",
        hint="Restore --into a directory that holds nothing of it.",
    )


def _leaves_out(tree: FilesSource, root: Path, place: Path) -> bool:
    """Whether nothing of the repository can be in a backup of the tree, nor be written over."""
    from drtool.sources.files.exclude import compile_rules

    return compile_rules(tree.exclude).excludes_below(os.fsencode(place.relative_to(root)))


def _refuse_trees(real: Path, trees: Mapping[str, FilesSource]) -> None:
    for name, tree in trees.items():
        root = Path(os.path.realpath(tree.path))
        if real.is_relative_to(root):
            raise _refused(real, root, f"the tree of source {name}")


def _refuse_servers(real: Path) -> None:
    servers = {(one.device, one.inode): one.pid for one in running_servers()}
    for place in (real, *real.parents):
        if holds_cluster(place):
            raise _refused(real, place, "a directory with the data of a PostgreSQL")
        try:
            status = place.stat()
        except OSError:
            continue
        pid = servers.get((status.st_dev, status.st_ino))
        if pid is not None and not _is_everybodys(place, status):
            raise _refused(real, place, f"the directory of a Redis that runs, process {pid}")


def _is_everybodys(place: Path, status: os.stat_result) -> bool:
    """A server that was started in / or /tmp does not own what lies there."""
    return place.parent == place or bool(status.st_mode & stat.S_ISVTX)


def _refused(real: Path, place: Path, what: str) -> DestinationRefused:
    where = f"is {what}" if real == place else f"lies in {place}, {what}"
    return DestinationRefused(f"destination {real} {where}", hint=_HINT)
