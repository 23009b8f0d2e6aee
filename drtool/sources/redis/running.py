"""The Redis servers that run on this machine, and the directory of each, as far as this user may know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROGRAMS = ("redis-server", "valkey-server", "keydb-server")
_LARGEST_COMMAND_LINE = 1 << 16
_PROCESSES = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRedis:
    """A server and its `dir`, known by device and inode: a container has another name for it."""

    pid: int
    device: int
    inode: int


def running_servers() -> Iterator[RunningRedis]:
    """Every one whose `dir` can be known: it is the working directory, at a start and after CONFIG SET.

    Sentinels are none, and keep no data. Servers of other users are seen by root alone.
    """
    try:
        processes = [one for one in _PROCESSES.iterdir() if one.name.isdigit()]
    except OSError:
        return
    for process in processes:
        try:
            if (process / "comm").read_text().strip() not in _PROGRAMS or _is_sentinel(process):
                continue
            status = os.stat(process / "cwd")
        except OSError:
            continue
        yield RunningRedis(pid=int(process.name), device=status.st_dev, inode=status.st_ino)


def _is_sentinel(process: Path) -> bool:
    with (process / "cmdline").open("rb") as file:
        line = file.read(_LARGEST_COMMAND_LINE)
    return b"--sentinel" in line or b"[sentinel]" in line
