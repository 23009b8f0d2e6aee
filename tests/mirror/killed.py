"""A run of the mirror in a process of its own, which kills itself: `python -m tests.mirror.killed`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from drtool.mirror.catalogue import open_catalogue
from drtool.mirror.plan import TreeSettings
from drtool.mirror.run import MirrorRun, sync_tree
from drtool.model.progress import Event, PhaseAdvanced
from drtool.stores.bucket import open_bucket
from drtool.system.clock import SystemClock


def main(url: str, directory: Path, files: int) -> None:
    """Sync as the rig does, and be gone once so many files have been put."""
    batches = 0

    def emit(event: Event) -> None:
        nonlocal batches
        batches += isinstance(event, PhaseAdvanced)
        if 16 * batches >= files:
            os.kill(os.getpid(), signal.SIGKILL)

    clock = SystemClock()
    run = MirrorRun(
        bucket=open_bucket(url, clock=clock),
        catalogue=open_catalogue(directory / "cache" / "c.sqlite", identity="uploads"),
        clock=clock,
        emit=emit,
        stop=threading.Event(),
        check=lambda: None,
    )
    sync_tree(TreeSettings(source="uploads", root=directory / "tree"), run)


main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
