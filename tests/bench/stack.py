"""`drtool backup` of a whole stack: its sources side by side, beside one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.bench.bed import Bed, settle
from tests.bench.measuring import DRTOOL, Cost, Figures, run
from tests.bench.trees import make_tree
from tests.servers.redis import new_redis

_KEYS = 400_000
_VALUE_BYTES = 700
_FILES, _LARGE = 5000, 1
_POLICY = """\
version: 1
stack: bench
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/stack", key: "env:DRTOOL_BENCH_KEY"}}
sources:
  main-db: {{kind: postgres, dsn: env:DRTOOL_BENCH_DSN}}
  cache: {{kind: redis, nodes: ["{address}"]}}
  uploads: {{kind: files, path: "{root}/tree"}}
"""


def bench_stack(bed: Bed, rounds: int) -> None:
    """Both into an empty repository, interleaved. Memory is that of the whole command."""
    (bed.root / "tree").mkdir()
    size = make_tree(bed.root / "tree", files=_FILES, large=_LARGE)
    redis = new_redis()
    try:
        _fill(redis.port)
        text = _POLICY.format(root=bed.root, address=redis.address)
        (bed.root / "stack.yaml").write_text(text)
        together, apart = [], []
        for _ in range(rounds):
            together.append(_backup(bed, at_once=3))
            apart.append(_backup(bed, at_once=1))
    finally:
        redis.close()
    title = f"backup of PostgreSQL, {_KEYS:,} keys of Redis, {_FILES:,} files of {size >> 20} MiB"
    figures = Figures(title, "one after the other")
    for name, unit, read in (
        ("wall time", "s", _seconds), ("processor", "s", _cpu), ("peak memory", "MiB", _peak),
    ):  # fmt: skip
        figures.compare(
            name, [read(one) for one in together], [read(one) for one in apart], unit=unit
        )
    figures.print()
    shutil.rmtree(bed.root / "tree")


def _backup(bed: Bed, *, at_once: int) -> Cost:
    place = bed.root / "stack"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    policy = ["--policy", str(bed.root / "stack.yaml"), "-q"]
    run([DRTOOL, "repository", "init", *policy], bed.environment())
    settle()
    return run([DRTOOL, "backup", "--at-once", str(at_once), *policy], bed.environment())


def _fill(port: int) -> None:
    assert Path(DRTOOL).exists()
    command = [
        "redis-benchmark", "-p", str(port), "-q", "-t", "set", "-n", str(3 * _KEYS), "-r", str(_KEYS),
        "-d", str(_VALUE_BYTES), "-P", "16",
    ]  # fmt: skip
    run(command)


def _seconds(cost: Cost) -> float:
    return cost.seconds


def _cpu(cost: Cost) -> float:
    return cost.cpu_seconds


def _peak(cost: Cost) -> float:
    return cost.peak_bytes / (1 << 20)
