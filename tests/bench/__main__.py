"""`python -m tests.bench [PART...]`: measure, print tables, judge nothing."""

from __future__ import annotations

import argparse
import os

from tests.bench.backups import bench_backup
from tests.bench.bed import bed
from tests.bench.changes import bench_changes
from tests.bench.front import bench_help
from tests.bench.mirror_bench import bench_mirror
from tests.bench.restoring import bench_restore
from tests.bench.stack import bench_stack
from tests.bench.trees import bench_trees
from tests.bench.wal import bench_wal

PARTS = ("help", "mirror", "files", "backup", "restore", "changes", "wal", "stack")


def main() -> None:
    """The parts that were named, or all of them, in the order of PARTS."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--rows", type=int, default=2_600_000, help="about 580 bytes each")
    parser.add_argument("--rounds", type=int, default=3, help="of what is interleaved with a peer")
    parser.add_argument("--wal-mb", type=int, default=1000, help="WAL to write for the part wal")
    parser.add_argument("--files", type=int, default=20_000, help="small ones, for the part mirror")
    parser.add_argument("--large", type=int, default=8, help="of 256 MiB, for the part mirror")
    given = parser.parse_args()
    unknown = sorted(set(given.part) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen = [part for part in PARTS if part in (given.part or PARTS)]
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.1f} before it begins\n", flush=True)
    if "help" in chosen:
        bench_help()
    if "mirror" in chosen:
        bench_mirror(files=given.files, large=given.large, rounds=given.rounds)
    if "files" in chosen:
        bench_trees(files=given.files, large=given.large, rounds=given.rounds)
    if not set(chosen) - {"help", "mirror", "files"}:
        return
    with bed(given.rows) as place:
        if "backup" in chosen:
            bench_backup(place, given.rounds)
        if "restore" in chosen:
            bench_restore(place, given.rounds)
        if "changes" in chosen:
            bench_changes(place)
        if "wal" in chosen:
            bench_wal(place, given.wal_mb * 1_000_000)
        if "stack" in chosen:
            bench_stack(place, given.rounds)


main()
