"""Receiving WAL beside `pg_receivewal -Z 1`, both at the same time from the same server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.bench.bed import Bed
from tests.bench.measuring import (
    DRTOOL,
    Figures,
    cpu_seconds_of,
    mib,
    peak_bytes_of,
    wait_until,
)

_PASSES = (
    "update events set amount = amount + 1 where id % 10 = {number}",
    "checkpoint",
)


def bench_wal(bed: Bed, wal_bytes: int) -> None:
    """Processor time of each, from the first byte of the load until the last one is durable."""
    bed.drtool("repository", "info", repository="wal")
    archive = bed.root / "archive"
    archive.mkdir()
    policy = str(bed.root / "wal.yaml")
    with ExitStack() as stack:
        ours = stack.enter_context(
            _running(bed, [DRTOOL, "wal", "receive", "main-db", "--policy", policy, "-q"])
        )
        theirs = stack.enter_context(
            _running(
                bed,
                [bed.peer("pg_receivewal"), "-D", str(archive), "-d", bed.server.dsn(), "-Z", "1"],
            )
        )
        wait_until(lambda: len(_flushed(bed)) == 2, "both receive")
        before = [cpu_seconds_of(ours), cpu_seconds_of(theirs)]
        written = _load(bed, wal_bytes)
        end = bed.server.query("select pg_switch_wal()")[0][0]
        wait_until(lambda: min(_flushed(bed)) >= _position(end), "both are done", seconds=120)
        spent = [cpu_seconds_of(pid) - was for pid, was in zip((ours, theirs), before, strict=True)]
        peaks = [peak_bytes_of(ours), peak_bytes_of(theirs)]

    gigabytes = written / 1e9
    figures = Figures(f"receiving {mib(written)} of WAL", "pg_receivewal -Z 1")
    figures.compare("processor a GB", [spent[0] / gigabytes], [spent[1] / gigabytes], unit="s")
    figures.compare("peak memory", [peaks[0] / 1e6], [peaks[1] / 1e6], unit="MB")
    sizes = [_size(bed, "wal"), _size(bed, "archive")]
    figures.compare("stored", [sizes[0] / 1e6], [sizes[1] / 1e6], unit="MB")
    figures.print()
    bed.forget("wal")
    shutil.rmtree(archive)


@contextmanager
def _running(bed: Bed, command: Sequence[str]) -> Iterator[int]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **bed.environment()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _flushed(bed: Bed) -> list[int]:
    """How far each receiver says it is durable; without a slot pg_receivewal says only what it wrote."""
    rows = bed.server.query(
        "select coalesce(flush_lsn, write_lsn, '0/0') - '0/0'::pg_lsn from pg_stat_replication"
    )
    return [int(position) for (position,) in rows]


def _position(lsn: str) -> int:
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def _load(bed: Bed, wal_bytes: int) -> int:
    begin = _position(bed.server.query("select pg_current_wal_lsn()")[0][0])
    number = 0
    while True:
        for statement in _PASSES:
            bed.server.query(statement.format(number=number % 10))
        number += 1
        now = _position(bed.server.query("select pg_current_wal_lsn()")[0][0])
        if now - begin >= wal_bytes:
            return now - begin


def _size(bed: Bed, name: str) -> int:
    return sum(path.stat().st_size for path in (bed.root / name).rglob("*") if path.is_file())
