"""The directory of a server's socket and log: filled while it is ours, then given to the server's user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from drtool.system.users import RunAs

LOG_NAME = "server.log"


@dataclass(frozen=True, slots=True)
class PrivateRuntime:
    """A directory that is another user's now, and its log, opened before that: `told` to be written by
    the server, `log` to be read by us. Whatever has the log's name later is neither read nor written.
    """

    path: Path
    told: IO[bytes]
    log: IO[bytes]


def hand_over_runtime(path: Path, user: RunAs, *, contents: Mapping[str, str]) -> PrivateRuntime:
    """Write `contents` by name and an empty log into the new directory `path`, and give all to `user`.

    The caller closes both descriptors.
    """
    for name, content in contents.items():
        with _new(path / name, user) as file:
            file.write(content.encode())
    told = _new(path / LOG_NAME, user)
    try:
        log = (path / LOG_NAME).open("rb")
        if not user.is_us:
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    except BaseException:
        told.close()
        raise
    return PrivateRuntime(path, told, log)


def _new(path: Path, user: RunAs) -> IO[bytes]:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    if not user.is_us:
        os.fchown(descriptor, user.uid, user.gid)
    return os.fdopen(descriptor, "ab")
