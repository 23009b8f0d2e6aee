"""Snapshots of a tree beside restic: 20,000 files of 4-64 KiB and 8 of 256 MiB, first run and second."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

from tests.bench.bed import settle
from tests.bench.measuring import DRTOOL, Cost, Figures, run

_POLICY = """\
version: 1
stack: bench
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: "env:DRTOOL_BENCH_KEY"}}
sources: {{tree: {{kind: files, path: "{root}/tree"}}}}
"""
_SECRETS = {"DRTOOL_BENCH_KEY": "a passphrase for a bench", "RESTIC_PASSWORD": "x"}
_WORDS = 3000


def make_tree(root: Path, *, files: int, large: int, seed: int = 7) -> int:
    """Half of the small files words, half random bytes; the large ones likewise. Returns the bytes."""
    chance = random.Random(seed)
    words = [chance.randbytes(6).hex().encode() for _ in range(_WORDS)]
    size_bytes = 0
    for number in range(files):
        directory = root / f"{number % 40:02}" / f"{number // 40 % 25:02}"
        directory.mkdir(parents=True, exist_ok=True)
        size = chance.randint(4 << 10, 64 << 10)
        text = b" ".join(chance.choices(words, k=size // 13 + 1))[:size]
        (directory / f"{number:05}").write_bytes(chance.randbytes(size) if number % 2 else text)
        size_bytes += size
    for number in range(large):
        with (root / f"large-{number}").open("wb") as file:
            for _ in range(256):
                half = chance.randbytes(512 << 10)
                file.write(half + (half if number % 2 else b" ".join(words)[: 512 << 10]))
        size_bytes += (root / f"large-{number}").stat().st_size
    return size_bytes


def bench_trees(*, files: int, large: int, rounds: int) -> None:
    """Interleaved; each program first with an empty repository, then with nothing changed."""
    root = Path(tempfile.mkdtemp(prefix="drtool-bench-"))
    try:
        for name, small, big in (
            (f"{files:,} small files", files, 0),
            (f"{large} large", 0, large),
            (f"{files:,} small files and {large} large", files, large),
        ):
            tree = root / "tree"
            tree.mkdir()
            size_bytes = make_tree(tree, files=small, large=big)
            (root / "policy.yaml").write_text(_POLICY.format(root=root))
            ours: tuple[list[Cost], list[Cost]] = [], []
            theirs: tuple[list[Cost], list[Cost]] = [], []
            for _ in range(rounds):
                _round(root, ours, theirs)
            for run_name, mine, peer in zip(("first", "second"), ours, theirs, strict=True):
                figures = Figures(f"{name}, {size_bytes >> 20} MiB, {run_name} run", "restic")
                figures.compare(
                    "wall time", [c.seconds for c in mine], [c.seconds for c in peer], unit="s"
                )
                figures.compare(
                    "processor",
                    [c.cpu_seconds for c in mine],
                    [c.cpu_seconds for c in peer],
                    unit="s",
                )
                figures.compare(
                    "peak memory",
                    [c.peak_bytes / (1 << 20) for c in mine],
                    [c.peak_bytes / (1 << 20) for c in peer],
                    unit="MiB",
                )
                figures.print()
            shutil.rmtree(tree)
    finally:
        shutil.rmtree(root)


def _round(
    root: Path, ours: tuple[list[Cost], list[Cost]], theirs: tuple[list[Cost], list[Cost]]
) -> None:
    for place in ("repository", "restic", "cache"):
        shutil.rmtree(root / place, ignore_errors=True)
    (root / "repository").mkdir()
    environment = {**_SECRETS, "DRTOOL_POLICY": str(root / "policy.yaml")}
    run([DRTOOL, "repository", "init"], environment)
    # With its cache, as it comes: without one it reads its indexes from the repository each time.
    restic = ["restic", "-q", "--cache-dir", str(root / "cache"), "-r", str(root / "restic")]
    run([*restic, "init"], environment)
    for mine, peer in zip(ours, theirs, strict=True):
        settle()
        mine.append(run([DRTOOL, "backup", "tree"], environment))
        settle()
        peer.append(run([*restic, "backup", str(root / "tree")], environment))
    os.sync()
