"""Ports for restored servers: none by which a policy reaches a source, and none that another copy has.

A copy at its source's port would be taken for the source by whoever finds nobody else there.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from drtool.sources.redis.clusternodes import BUS_OFFSET
from drtool.system.listening import first_free_ports

CHOSEN = "free when the copy was made, and the port of no source of the policy and of no other copy"
_LAST_PORT = 65_535
# A copy lies in PLACE, PLACE/SOURCE or PLACE/SOURCE/SHARD.
_DEEPEST = 3
_MOST_DIRECTORIES = 10_000
_LARGEST_FILE = 1 << 20
_KERNEL = ("/proc", "/sys", "/dev")
_POSTGRES = re.compile(rb"^[ \t]*port[ \t]*=?[ \t]*'?([0-9]{1,5})\b", re.M)
_REDIS = re.compile(rb"^[ \t]*port[ \t]+([0-9]{1,5})[ \t\r]*$", re.M)
_CLUSTER = re.compile(rb"^[ \t]*cluster-enabled[ \t]+yes", re.M)


@dataclass(slots=True)
class CopyPorts:
    """Gives ports to the copies of one run, from any thread; none twice.

    `kept` are those by which the policy reaches its sources. Other copies are looked for below `roots`,
    each time: they may have been made meanwhile.
    """

    kept: frozenset[int] = frozenset()
    roots: tuple[Path, ...] = ()
    _given: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(
        self, first: int, *, offsets: Iterable[int] = (0,), kept: Collection[int] = ()
    ) -> int:
        """The first port from `first` on, then from the lowest on, that is free with those `offsets` above.

        `kept` are not to be had either. If all are in use, one that is nobody's of ours: the copy can be
        started there once whoever listens is gone.
        """
        above = tuple(offsets)
        with self._lock:
            taken = self.kept | self._given | frozenset(kept) | frozenset(_ports_below(self.roots))
            port = first_free_ports(first, offsets=above, taken=taken)
            if port is None:
                port = next(one for one in range(first, _LAST_PORT) if one not in taken)
            self._given.update(port + offset for offset in above)
            return port


def _ports_below(roots: Iterable[Path]) -> Iterator[int]:
    """The ports that copies have, started or not."""
    for directory in islice(_directories(dict.fromkeys(roots)), _MOST_DIRECTORIES):
        found = _POSTGRES.findall(_read(directory / "postgresql.auto.conf"))
        yield from (int(port) for port in found[-1:])
        settings = _read(directory / "redis.conf")
        for port in (int(port) for port in _REDIS.findall(settings)[-1:]):
            yield port
            if _CLUSTER.search(settings):
                yield port + BUS_OFFSET


def _directories(roots: Iterable[Path]) -> Iterator[Path]:
    """Those near a root first; what a data directory holds is none."""
    level = list(roots)
    for _ in range(_DEEPEST):
        below = [path for directory in level for path in _subdirectories(directory)]
        yield from below
        level = [path for path in below if not os.path.lexists(path / "PG_VERSION")]


def _subdirectories(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            found = [
                Path(entry.path)
                for entry in islice(entries, _MOST_DIRECTORIES)
                if entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
    return [path for path in found if str(path) not in _KERNEL]


def _read(path: Path) -> bytes:
    """A configuration file; nothing if it is none, or cannot be read: whoever may not read it may not
    restore beside it either.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return file.read(_LARGEST_FILE)
