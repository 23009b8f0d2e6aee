"""How soon `drtool --help` answers, beside an interpreter that does nothing."""

from __future__ import annotations

import sys

from tests.bench.measuring import DRTOOL, Figures, run

RUNS = 20


def bench_help() -> None:
    """Once before, so that every file is in the page cache for both."""
    run([DRTOOL, "--help"])
    ours, bare = [], []
    for _ in range(RUNS):
        ours.append(run([DRTOOL, "--help"]).seconds * 1000)
        bare.append(run([sys.executable, "-c", "pass"]).seconds * 1000)
    figures = Figures(f"drtool --help, {RUNS} times", "python -c pass")
    figures.compare("wall time", ours, bare, unit="ms")
    figures.print()
