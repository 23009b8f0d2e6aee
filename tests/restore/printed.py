"""The lines of a report, pasted into a shell as they are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from drtool.model.outcome import RestoreOutcome

LIMIT_SECONDS = 90


def run_as_printed(command: str) -> str:
    """Paste one line into a shell; what it said. It must succeed."""
    done = subprocess.run(
        command,
        shell=True,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        cwd="/",
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@contextmanager
def started_as_printed(outcome: RestoreOutcome) -> Iterator[None]:
    """The copy runs for as long as the block lasts, by nothing but the report's own lines."""
    try:
        for command in outcome.how_to_start:
            run_as_printed(command)
        yield
    finally:
        for command in outcome.how_to_stop:
            run_as_printed(command)
