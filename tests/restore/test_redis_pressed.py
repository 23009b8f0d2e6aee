"""The worst hour of a Redis: a fast writer, a snapshot, and a store that is slow, all at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from drtool.repository.repository import Repository
from drtool.repository.streambranch import find_path
from drtool.stores.protocol import Buffer
from tests.archiving.faults import FaultyStore
from tests.archiving.redis_rig import attached, benchmark, inventory, position_of, wait_held
from tests.archiving.rig import new_repository
from tests.restore.redis_rig import restore, servers_of, started, streamed, take_snapshot
from tests.servers.redis import MakeRedis

PUT_SECONDS = 0.3
WRITES = 600_000
# SET key:000000012345 and 64 bytes, as the protocol has it.
WRITE_BYTES = 110


class SlowStore(FaultyStore):
    """Each put takes a while, as one over a long and narrow line does."""

    def create(self, key: str, parts: Sequence[Buffer]) -> None:
        time.sleep(PUT_SECONDS)
        super().create(key, parts)


def test_a_fast_writer_a_snapshot_and_a_slow_store_together_lose_nothing(
    make_redis: MakeRedis, root: Path
) -> None:
    """A stream of 50,000 writes a second goes on while a snapshot is read, and is whole from it on."""
    server, inner = make_redis(), new_repository()
    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", 100_000, "before", 200)
    repository = Repository(SlowStore(inner.store), inner.ring, inner.root)
    with streamed(repository, server) as running:
        before = position_of(server)
        with benchmark(server, WRITES) as writer:
            outcome = take_snapshot(repository, servers_of(server))
            during = position_of(server).offset - before.offset
            assert writer.wait(120) == 0
            assert writer.stdout is not None
            print(writer.stdout.read().decode().replace("\r", "\n").splitlines()[-2:])
        end = wait_held(repository, server)
        assert len(attached(server)) == 1

    print(
        f"{during / 1e6:.1f} MB of stream while {outcome.read_bytes / 1e6:.1f} MB of snapshot came"
    )
    assert during > 50_000 * WRITE_BYTES
    assert running.result is not None
    assert running.result.shards[0].gaps == 0, running.warnings
    assert running.result.shards[0].links == 0
    assert find_path(inventory(inner), before.replid, begin=before.offset).end >= end.offset
    assert "overcoming of output buffer limits" not in server.log_text()
    restored = restore(inner, root / "copy")
    with started(restored) as [copy]:
        reply = copy.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call] # theirs
        assert isinstance(reply, bytes)
        assert reply.decode() == server.digest()
