"""`python -m tests.bench.redis`: archiving a fast writer's stream, processor seconds a GB, and the writer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.measuring import DRTOOL, cpu_seconds_of, peak_bytes_of, run, wait_until
from tests.servers.postgres import server_directory
from tests.servers.redis import RedisServer, new_redis

_POLICY = """\
version: 1
stack: bench
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: none}}
sources:
  cache: {{kind: redis, nodes: ["{address}"], stream: true, flush: 2s}}
"""
_SETTINGS = {"repl-backlog-size": "256mb", "client-output-buffer-limit": "replica 1gb 0 0"}


def bench_stream(requests: int = 2_000_000) -> None:
    """Printed: how fast it was written without and with a receiver, and what the receiver cost."""
    server = new_redis(settings=_SETTINGS)
    root = server_directory("drtool-bench-")
    try:
        (root / "policy.yaml").write_text(_POLICY.format(root=root, address=server.address))
        (root / "repository").mkdir()
        policy = ["--policy", str(root / "policy.yaml")]
        run([DRTOOL, "repository", "init", *policy])
        alone = _write(server, requests)
        with _receiving(policy) as pid:
            wait_until(lambda: _lag(server) is not None, "the receiver joins")
            begin, was = _offset(server), cpu_seconds_of(pid)
            began = time.monotonic()
            beside = _write(server, requests)
            end = _offset(server)
            wait_until(lambda: (_lag(server) or 0) >= end, "all is archived")
            seconds = time.monotonic() - began
            spent, peak = cpu_seconds_of(pid) - was, peak_bytes_of(pid)
        gigabytes = (end - begin) / 1e9
        stored = sum(path.stat().st_size for path in (root / "repository/log").rglob("*-*"))
        print(f"{gigabytes:.2f} GB of stream in {seconds:.1f} s, until the last byte is durable")
        print(f"processor a GB: {spent / gigabytes:.2f} s; peak memory {peak / 1e6:.0f} MB")
        print(
            f"stored {stored / 1e6:.0f} MB; SETs a second {alone:,.0f} alone, {beside:,.0f} beside"
        )
    finally:
        server.close()
        shutil.rmtree(root)


def _write(server: RedisServer, requests: int) -> float:
    command = [
        "redis-benchmark", "-p", str(server.port), "-q", "-t", "set", "-n", str(requests),
        "-d", "256", "-r", "200000", "-P", "8", "-c", "8",
    ]  # fmt: skip
    return requests / run(command).seconds


def _offset(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("replication")["master_repl_offset"])


def _lag(server: RedisServer) -> int | None:
    with server.client() as client:
        found = client.info("replication").get("slave0")
    return int(found["offset"]) if isinstance(found, dict) and found["state"] == "online" else None


@contextmanager
def _receiving(policy: list[str]) -> Iterator[int]:
    process = subprocess.Popen(
        [DRTOOL, "redis", "receive", "cache", *policy, "-q"],
        stdout=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    assert Path(DRTOOL).exists()
    bench_stream()
