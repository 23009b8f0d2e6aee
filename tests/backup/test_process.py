"""A backup as a process of its own: killed at any moment, and never larger than it says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drtool.repository import layout
from drtool.repository.backups import backup_ids, read_manifests
from tests.backup.reading import assert_holds
from tests.backup.taking import LEASE, SOURCE, attempt_ids, local_repository, take_backup
from tests.servers.postgres import PostgresServer, new_server

pytestmark = pytest.mark.postgres

MIB = 1 << 20
KILLS = 6
MOST_BYTES = 400 * MIB


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    settings = {"autovacuum": "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1d"}
    server = new_server(15, settings=settings)
    try:
        yield server
    finally:
        server.close()


def _noise(server: PostgresServer, number: int, size: int) -> Path:
    """A file like a relation's that does not compress: it fills every buffer there is."""
    path = server.data / "base" / "1" / f"99{number:04}"
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return path


def _start(server: PostgresServer, repository: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.backup.taking", server.dsn(), str(repository)]
    place = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _run(server: PostgresServer, repository: Path) -> dict[str, Any]:  # JSON
    process = _start(server, repository)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()[-3000:]
    figures: dict[str, Any] = json.loads(printed)
    return figures


def test_a_backup_killed_at_any_moment_is_not_listed_and_the_next_one_is_whole(
    server: PostgresServer, tmp_path: Path
) -> None:
    """PITFALLS 32: kill -9 at random points of a real process."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = _noise(server, 1, 48 * MIB)
    try:
        directory = tmp_path / "repository"
        repository = local_repository(directory)
        took = float(_run(server, tmp_path / "another")["seconds"])
        for _ in range(KILLS):
            begun = len(attempt_ids(local_repository(directory)))
            process = _start(server, directory)
            _wait_until_begun(directory, begun, process)
            time.sleep(chance.uniform(0, took))  # the point of death is what is random here
            process.send_signal(signal.SIGKILL)
            process.communicate()

            repository = local_repository(directory)
            manifests, errors = read_manifests(repository, SOURCE)
            assert errors == []
            assert len(manifests) == len(backup_ids(repository, SOURCE))
            for manifest in manifests:
                assert_holds(manifest, repository, server.data)
            # A lease of the dead runs out after a minute, which nobody waits for here.
            repository.store.delete(layout.lease_key(LEASE))

        outcome = take_backup(server.dsn(), repository)

        last = read_manifests(repository, SOURCE)[0][-1]
        assert last.backup_id == outcome.backup_id
        assert_holds(last, repository, server.data)
    finally:
        path.unlink()


def _wait_until_begun(directory: Path, begun: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while len(attempt_ids(local_repository(directory))) == begun:
        assert process.poll() is None, "it ended before it began"
        assert time.monotonic() < deadline, "the backup does not begin"
        time.sleep(0.01)


def test_memory_does_not_grow_with_the_cluster(server: PostgresServer, tmp_path: Path) -> None:
    """DESIGN, section 1: some 250 MB with two workers, whatever the size."""
    small = [_noise(server, 2, 200 * MIB)]
    try:
        first = _run(server, tmp_path / "small")
        small += [_noise(server, number, 200 * MIB) for number in (3, 4, 5)]
        fourfold = _run(server, tmp_path / "large")
        again = _run(server, tmp_path / "large")
    finally:
        for path in small:
            path.unlink()

    assert fourfold["read_bytes"] > first["read_bytes"] * 3
    for figures in (first, fourfold, again):
        assert figures["peak_bytes"] < MOST_BYTES
    # A disk that is quick at first never needed two of the four pack buffers, of 34 MiB each.
    assert fourfold["peak_bytes"] < first["peak_bytes"] + 2 * 34 * MIB + 8 * MIB
    assert again["peak_bytes"] < MOST_BYTES
