"""Every kind of value comes back from snapshot and stream alike, also those of 100 MB, in bounded memory."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from drtool.config.policy_file import read_policy
from drtool.model.outcome import RestoreOutcome, RestoreReport
from drtool.model.progress import silent
from drtool.model.request import RestoreRequest
from drtool.model.target import ToLatest
from drtool.policy.secrets import Redactor
from drtool.system.clock import SystemClock
from drtool.wiring.restore import restore
from drtool.wiring.surroundings import Surroundings
from tests.acceptance.site import DRTOOL, Site, until
from tests.archiving.redis_rig import attached
from tests.bench.measuring import Cost, peak_bytes_of, run
from tests.redis.filling import LIBRARY, fill, fill_databases
from tests.restore.redis_rig import started
from tests.servers.ports import free_port
from tests.servers.postgres import server_directory
from tests.servers.redis import MakeRedis, RedisServer

pytest_plugins = ["tests.servers.redis"]
pytestmark = [pytest.mark.redis, pytest.mark.slow]
BIG_BYTES = 100 << 20
# Of a source without content no pack is ever begun; each of four takes its 34 MiB when it is used.
PACKS_BYTES = 4 * (34 << 20)
# Backup and receiver have bounds of their own (some 250 MB and 160 MB); a value may add a few chunks.
MORE_BYTES = 32 << 20
RECEIVER_BYTES = 300 << 20
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
    stream: true
    flush: 1s
    restore: {{port: {port}}}
restore_root: {root}/restored
"""


@pytest.fixture
def site() -> Iterator[Site]:
    root = server_directory()
    yield Site(root=root)
    shutil.rmtree(root, ignore_errors=True)


def test_values_of_100_mb_and_all_structures_come_back_in_bounded_memory(
    site: Site, make_redis: MakeRedis
) -> None:
    server = make_redis(
        settings={"repl-backlog-size": "512mb", "client-output-buffer-limit": "replica 0 0 0"}
    )
    text = POLICY.format(root=site.root, address=server.address, port=free_port())
    (site.root / "policies").mkdir()
    (site.root / "policies" / "shop.yaml").write_text(text)
    site.run("repository", "init")
    small = measured(site, "backup", "cache")
    big = os.urandom(BIG_BYTES)
    with server.client() as client:
        client.set("big:before", big)
        with_big = measured(site, "backup", "cache")
        peak = streamed(site, server, big)
        expected = server.digest()

    outcome = restored(site)

    with started(outcome) as [copy]:
        reply: Any = copy.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call] # theirs
        assert reply.decode() == expected
    print(
        f"peak of the backup: {small.peak_bytes >> 20} MiB, {with_big.peak_bytes >> 20} MiB with the"
        f" value; of the receiver {peak >> 20} MiB"
    )
    assert with_big.peak_bytes < small.peak_bytes + PACKS_BYTES + MORE_BYTES
    assert peak < RECEIVER_BYTES


def measured(site: Site, *words: str) -> Cost:
    policy = site.root / "policies" / "shop.yaml"
    return run([DRTOOL, *words, "--policy", str(policy), "-q"], site.env())


def streamed(site: Site, server: RedisServer, big: bytes) -> int:
    """Write every structure, and another large value, while the stream is archived; its peak memory."""
    receiver = site.start("redis", "receive", "cache", "-q")
    try:
        until(lambda: attached(server) or receiver.poll() is not None, "it joins")
        with server.client() as client:
            fill(client)
            fill_databases(client)
            client.set("big:in the stream", big)
            client.append("big:before", "and more")
            client.eval("for i = 1, 100 do redis.call('rpush', KEYS[1], i * i) end", 1, "by script")
            client.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
            with client.pipeline(transaction=True) as pipe:
                pipe.rename("big:in the stream", "big:renamed").set("in one", 1).incr("in one")
                pipe.execute()
            written = int(client.info("replication")["master_repl_offset"])
        until(lambda: durable(site) >= written, "all of it is archived")
        peak = peak_bytes_of(receiver.pid)
    except BaseException:
        receiver.kill()
        receiver.communicate()
        raise
    receiver.send_signal(signal.SIGTERM)
    site.finished(receiver, ("redis", "receive"))
    return peak


def durable(site: Site) -> int:
    names = [path.name for path in site.repository.glob("log/cache/*/[0-9A-F]*-*")]
    return max((int(name.partition("-")[2], 16) for name in names), default=0)


def restored(site: Site) -> RestoreOutcome:
    around = Surroundings(
        environ=site.environ,
        redactor=Redactor(),
        emit=silent,
        clock=SystemClock(),
        stop=threading.Event(),
    )
    request = RestoreRequest(
        sources=("cache",), target=ToLatest(), into=site.root / "copy", report=None, is_plan=False
    )
    report = restore(request, read_policy(site.root / "policies" / "shop.yaml"), around)
    assert isinstance(report, RestoreReport)
    return report.outcomes[0]
