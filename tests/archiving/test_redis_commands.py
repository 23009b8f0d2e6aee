"""`drtool redis` and what verification says of a stream, as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from drtool.model.outcome import VerifyOutcome
from drtool.repository.keys import NO_SECRET
from drtool.repository.layout import ReplicationHistory
from drtool.repository.repository import Repository, open_repository
from drtool.repository.streamlog import (
    StreamBegin,
    StreamIndex,
    StreamMoment,
    put_begin,
    put_stream,
)
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from drtool.verify.depth import Whole
from drtool.verify.repository import verify_repository
from tests.archiving.redis_rig import SOURCE, attached, write
from tests.archiving.rig import new_repository, until
from tests.repository.building import NOW
from tests.servers.redis import MakeRedis

pytest_plugins = ["tests.servers.redis"]
DRTOOL = str(Path(sys.executable).with_name("drtool"))
POLICY = """\
version: 1
stack: shop
timezone: UTC
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: none}}
sources:
  cache:
    kind: redis
    nodes: ["{address}"]
    password: env:CACHE_PASSWORD
    stream: true
    flush: 1s
    heartbeat_key: "drtool:mark"
    heartbeat: 1s
"""
A = "a" * 40


def command(root: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    environ = {**os.environ, "CACHE_PASSWORD": "not-to-be-seen", "HOME": str(root)}
    return [DRTOOL, *words, "--policy", str(root / "policy.yaml"), "--json"], environ


def drtool(root: Path, *words: str) -> dict[str, Any]:
    line, environ = command(root, *words)
    ended = subprocess.run(line, env=environ, capture_output=True, timeout=60, check=False)
    assert b"not-to-be-seen" not in ended.stdout + ended.stderr
    assert b"Traceback" not in ended.stderr, ended.stderr.decode()
    found: dict[str, Any] = json.loads(ended.stdout)
    return {**found, "code": ended.returncode}


def test_the_receiver_is_stopped_by_sigterm_and_its_work_is_seen_by_status_and_verify(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(password="not-to-be-seen")
    (tmp_path / "policy.yaml").write_text(POLICY.format(root=tmp_path, address=server.address))
    (tmp_path / "repository").mkdir()
    assert drtool(tmp_path, "repository", "init")["code"] == 0
    plan = drtool(tmp_path, "redis", "receive", SOURCE, "--dry-run")
    assert server.address in json.dumps(plan)

    line, environ = command(tmp_path, "redis", "receive", SOURCE)
    with subprocess.Popen(
        line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as receiver:
        until(lambda: attached(server), "it joins")
        write(server, 2000)
        until(lambda: list((tmp_path / "repository").glob("marks/cache/*/2*/*")), "a mark is put")
        receiver.send_signal(signal.SIGTERM)
        out, told = receiver.communicate(timeout=60)

    assert receiver.returncode == 0, told.decode()
    assert b"not-to-be-seen" not in out + told
    answer = json.loads(out)
    assert "main_durable" in json.dumps(answer)
    store = LocalStore(tmp_path / "repository", clock=SystemClock())
    assert list(open_repository(store, NO_SECRET).store.list(f"marks/{SOURCE}/"))
    status = drtool(tmp_path, "redis", "status")
    assert status["code"] == 4
    assert "there is no snapshot" in json.dumps(status)
    verified = drtool(tmp_path, "verify", "--whole")
    assert "is not the log of a cluster" not in json.dumps(verified)
    assert "damaged" not in json.dumps(verified)


def test_the_stream_behind_a_snapshot_is_verified_too(
    make_redis: MakeRedis, tmp_path: Path
) -> None:
    server = make_redis(password="not-to-be-seen")
    (tmp_path / "policy.yaml").write_text(POLICY.format(root=tmp_path, address=server.address))
    (tmp_path / "repository").mkdir()
    assert drtool(tmp_path, "repository", "init")["code"] == 0
    assert drtool(tmp_path, "backup", SOURCE)["code"] == 0
    line, environ = command(tmp_path, "redis", "receive", SOURCE)
    with subprocess.Popen(
        line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as receiver:
        until(lambda: attached(server), "it joins")
        write(server, 2000)
        log = tmp_path / "repository/log" / SOURCE
        until(lambda: list(log.glob("*/*-*")), "a segment is put")
        write(server, 2000)
        receiver.send_signal(signal.SIGTERM)
        receiver.communicate(timeout=60)
    whole = drtool(tmp_path, "verify", "--whole")
    first, *_, last = sorted(log.glob("*/*-*"))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)

    damaged = drtool(tmp_path, "verify", "--whole")
    first.unlink()
    cut_off = drtool(tmp_path, "verify")

    assert (whole["code"], whole["findings"]) == (0, [])
    assert damaged["code"] == 7
    assert last.name in json.dumps(damaged["findings"])
    assert cut_off["code"] == 7
    assert "are missing, and nobody recorded that" in json.dumps(cut_off["findings"])
    # However many segments there were: what is damaged still shows that something was before it.
    for segment in log.glob("*/*-*"):
        if segment != last:
            segment.unlink()
    assert "are missing, and nobody recorded that" in json.dumps(
        drtool(tmp_path, "verify")["findings"]
    )


def put(repository: Repository, begin: int, end: int, *, is_recorded: bool = False) -> None:
    index = StreamIndex(begin, end, (StreamMoment(NOW, end),))
    put_stream(repository, ReplicationHistory(SOURCE, A), index, content=[bytes(end - begin)])
    if is_recorded:
        word = StreamBegin(
            replication_id=A, offset=begin, reason="a test", at=NOW, shard="main", previous=(A, 5)
        )
        put_begin(repository, SOURCE, word)


def problems(repository: Repository) -> list[str]:
    outcome: VerifyOutcome = verify_repository(
        repository,
        depth=Whole(),
        sources=[SOURCE],
        emit=lambda _: None,
        clock=SystemClock(),
        seed=1,
    )
    return [f"{finding.subject}: {finding.fact}" for finding in outcome.findings]


def test_a_gap_that_nobody_recorded_and_one_that_was_are_both_told() -> None:
    repository = new_repository()
    put(repository, 0, 10)
    put(repository, 20, 30)
    put(repository, 40, 50, is_recorded=True)

    found = " ".join(problems(repository))

    assert f"bytes 10 to 20 of {A} are missing, and nobody recorded that" in found
    assert "bytes 30 to 40" not in found
    assert "the log begins anew: a test; no snapshot is newer" in found
    assert "is not the log of a cluster" not in found


def test_a_damaged_segment_of_a_stream_is_found() -> None:
    repository = new_repository()
    put(repository, 0, 100)
    key = ReplicationHistory(SOURCE, A).segment_key(0, 100)
    content = bytearray(repository.store.read(key))
    content[-1] ^= 1
    repository.store.delete(key)
    repository.store.create(key, [bytes(content)])

    assert any(one.startswith(key) and "damaged" in one for one in problems(repository))
