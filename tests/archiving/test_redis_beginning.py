"""Where a receiver begins: joined to the newest snapshot wherever the server still has the bytes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from drtool.archiving.redis_joining import Backlog, held_ends, plan_again, plan_start
from drtool.archiving.redis_status import stream_status
from drtool.repository.backups import BackupSizes, Manifest, commit_backup, new_backup_id
from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.layout import ReplicationHistory
from drtool.repository.repository import Repository
from drtool.repository.stream_inventory import take_stream_inventory
from drtool.repository.streambranch import find_path
from drtool.repository.streamlog import (
    StreamBegin,
    StreamIndex,
    StreamMoment,
    put_begin,
    put_stream,
)
from drtool.sources.redis.psync import Position
from tests.archiving.redis_rig import (
    SOURCE,
    attached,
    inventory,
    position_of,
    receiving,
    settings_for,
    wait_held,
    write,
)
from tests.archiving.rig import new_repository, until
from tests.redis.linking import Archive
from tests.servers.redis import MakeRedis, RedisServer

pytest_plugins = ["tests.servers.redis"]
A, B, C = "a" * 40, "b" * 40, "c" * 40
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def shard_at(position: Position, moment: datetime = NOW) -> RedisShard:
    return RedisShard(
        name="main",
        rdb="main.rdb",
        replication_id=position.replid,
        offset=position.offset,
        taken_at=moment,
        keys=(),
    )


def snapshot(repository: Repository, position: Position) -> None:
    """A manifest of a snapshot at `position`, whose content nobody looks at."""
    now = datetime.now(UTC)
    extent = RedisExtent(
        topology="standalone",
        server_version="7.0.0",
        databases=16,
        shards=(shard_at(position, now),),
    )
    manifest = Manifest(
        source=SOURCE,
        backup_id=new_backup_id(now),
        began=now,
        ended=now,
        tool="drtool 0",
        fencing=1,
        extent=extent,
        sizes=BackupSizes(files=0, read_bytes=0, new_bytes=0, stored_bytes=0),
        table=(),
        packs=(),
    )
    commit_backup(repository, manifest)


def backlog(
    replid: str, first: int | None, offset: int, *, former: str = "", former_end: int = -1
) -> Backlog:
    return Backlog(
        place="Redis",
        replid=replid,
        offset=offset,
        first=first,
        histlen=offset - first + 1 if first is not None else 0,
        former_replid=former,
        former_end=former_end,
    )


def hold(repository: Repository, name: str, begin: int, end: int) -> None:
    word = StreamBegin(replication_id=name, offset=begin, reason="x", at=NOW, shard="main")
    put_begin(repository, SOURCE, word)
    index = StreamIndex(begin, end, (StreamMoment(NOW, end),))
    put_stream(repository, ReplicationHistory(SOURCE, name), index, content=[bytes(end - begin)])


@pytest.mark.parametrize(
    ("held", "at", "first", "wanted", "is_new", "is_loss"),
    [
        ([(100, 300)], 200, 150, 300, False, False),  # on from where the log ends
        ([(100, 300)], 400, 150, 300, False, False),  # the log ends before the snapshot: joins both
        ([(100, 300)], 400, 350, 400, True, False),  # begins at the snapshot
        ([], 400, 350, 400, True, False),
        ([], 400, 450, 1000, True, True),  # the snapshot can no longer be carried on from
        ([(100, 300)], 200, 450, 1000, True, True),
        ([(100, 300)], None, 250, 300, False, False),
        ([(100, 300)], None, 450, 1000, True, True),
        ([], None, 450, 1000, True, False),  # nothing was there that could be lost
        ([(100, 300), (500, 600)], 200, 550, 600, False, False),  # the gap is behind us
    ],
)
def test_a_receiver_begins_where_most_is_joined(
    held: list[tuple[int, int]],
    at: int | None,
    first: int,
    wanted: int,
    is_new: bool,
    is_loss: bool,
) -> None:
    repository = new_repository()
    for begin, end in held:
        hold(repository, A, begin, end)
    found = take_stream_inventory(repository, SOURCE)

    start = plan_start(
        backlog(A, first, 1000),
        held_ends(found, "main"),
        inventory=found,
        snapshot=None if at is None else shard_at(Position(A, at)),
    )

    assert start.position == Position(A, wanted)
    assert (start.is_new, start.is_loss) == (is_new, is_loss)


def test_what_a_new_master_never_had_is_left_where_the_histories_part() -> None:
    """Redis has lost it; the log has no gap for that, unless the place itself is out of the backlog."""
    after = backlog(B, 100, 500, former=A, former_end=301)

    assert plan_again(after, Position(A, 300)).position == Position(A, 300)
    ahead = plan_again(after, Position(A, 350))
    assert (ahead.position, ahead.is_new, ahead.is_loss) == (Position(A, 300), False, False)
    overrun = plan_again(backlog(B, 400, 500, former=A, former_end=301), Position(A, 350))
    assert overrun.is_loss
    assert "had not received" in overrun.reason
    assert overrun.position == Position(B, 500)
    assert "another history" in plan_again(after, Position(C, 300)).reason


def test_a_server_that_lags_is_waited_for_and_not_taken_for_a_loss() -> None:
    behind = backlog(A, 100, 500)

    assert not plan_again(behind, Position(A, 600)).is_new
    assert behind.is_behind(Position(A, 600))
    assert plan_again(backlog(A, None, 700), Position(A, 600)).position is None


def test_a_stream_begins_at_the_snapshot_that_was_taken_before_it(make_redis: MakeRedis) -> None:
    server, repository = make_redis(), new_repository()
    write(server, 100)
    taken = Archive()
    taken.take(server)
    assert taken.base is not None
    snapshot(repository, taken.base)
    write(server, 200)

    with receiving(repository, settings_for([server])) as running:
        end = wait_held(repository, server)

    path = find_path(inventory(repository), taken.base.replid, begin=taken.base.offset)
    assert path.end >= end.offset
    assert running.warnings == []
    status = stream_status(repository, SOURCE)
    assert status.shards[0].is_joined
    assert status.recoverable_until is not None


def test_without_a_snapshot_one_is_asked_for_and_a_new_one_heals_a_gap(
    make_redis: MakeRedis,
) -> None:
    server = make_redis(settings={"repl-backlog-size": "20kb"})
    repository = new_repository()
    with receiving(repository, settings_for([server])) as first:
        until(lambda: attached(server), "it joins")
        snapshot(repository, position_of(server))
        wait_held_after_write(repository, server)
    assert first.warned("no snapshot yet")
    write(server, 2000)
    with receiving(repository, settings_for([server])):
        until(lambda: attached(server), "it joins again")
        until(lambda: not stream_status(repository, SOURCE).shards[0].is_joined, "the gap is told")
        snapshot(repository, position_of(server))
        wait_held_after_write(repository, server)

        status = stream_status(repository, SOURCE).shards[0]

    assert status.is_joined
    assert len(status.gaps) == 1


def wait_held_after_write(repository: Repository, server: RedisServer) -> None:
    write(server, 10)
    wait_held(repository, server)
