"""An hour in the life of a Redis of each kind: failovers, kills and snapshots, and any moment restored.

`make soak SOAK_ARGS='-k "hour and cluster" -s'`, or sentinel, or standalone; DRTOOL_SOAK_SECONDS and
DRTOOL_SOAK_RATE (transactions a second and shard) make it shorter or harder.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from drtool.errors import ExitCode
from drtool.model.target import RecoveryTarget, ToLatest, ToTime
from tests.acceptance.redis_groups import GROUPS, Group
from tests.acceptance.redis_story import (
    Backups,
    Story,
    Supervisor,
    Trouble,
    Writer,
    Writes,
    moment_of,
    recorded_holes,
    snapshot_moments,
    stream_bytes,
    wait_archived,
    wait_formed,
    wait_joined,
    write_policy,
)
from tests.acceptance.site import Site, until
from tests.restore.redis_rig import started_by
from tests.servers.ports import free_row
from tests.servers.postgres import server_directory

pytestmark = pytest.mark.redis
SECONDS = float(os.environ.get("DRTOOL_SOAK_SECONDS", "3600"))
RATE = float(os.environ.get("DRTOOL_SOAK_RATE", "150"))
RESTORES = 20
MOST_SERVERS = 6
# No marks are made while a killed receiver's successor begins, servers fail over, or the repository
# is away, which is 20 s at most.
MOST_BEHIND = timedelta(seconds=60)
BETWEEN_TROUBLES = (15.0, 60.0)


@pytest.fixture
def site() -> Iterator[Site]:
    root = server_directory()
    yield Site(root=root)
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.soak
@pytest.mark.parametrize("kind", list(GROUPS))
def test_any_moment_of_an_hour_of_failovers_and_kills_is_restored_right_or_refused(
    site: Site, kind: str
) -> None:
    """Prefix property, for each shard; refused only where a hole was recorded; nothing wrong, ever."""
    seed = int(os.environ.get("DRTOOL_SOAK_SEED", secrets.randbits(32)))
    chance = random.Random(seed)
    print(f"\nseed {seed}, {SECONDS:g} s, {RATE:g} transactions a second and shard", flush=True)
    with ExitStack() as cleaning:
        group: Group = GROUPS[kind]()
        cleaning.callback(group.close)
        for node in group.nodes:
            with node.client() as client:
                client.config_set("repl-backlog-size", "64mb")
                node.settings["repl-backlog-size"] = "64mb"
        write_policy(site, group)
        site.run("repository", "init")
        story, first, writes = lived(site, group, chance)
        final = [final_ledger(group, one) for one in writes]
    for one, held in zip(writes, final, strict=True):
        # An answer may have been late where no failover was: what is there in the end is not lost.
        one.lost.difference_update(held)
    told(site, story, writes)

    wrong, endings = judged(site, writes, final, first=first, chance=chance)

    print(f"restores: {dict(endings)}", flush=True)
    assert wrong == [], "\n".join([f"seed {seed}", *wrong])
    assert endings["right"] >= 1


def lived(site: Site, group: Group, chance: random.Random) -> tuple[Story, float, list[Writes]]:
    """Everything that happens; when the first backup had ended, and what was written."""
    story = Story()
    writers = [Writer(group, shard, rate=RATE) for shard in range(group.shards)]
    receiver = Supervisor(site, ("redis", "receive", "cache", "-q"), story)
    wait_joined(site, group)
    backups = Backups(site, story, pause=SECONDS / 6)
    try:
        until(backups.taken.is_set, "the first backup")
        first = time.time()
        trouble = Trouble(
            group,
            writers=writers,
            receiver=receiver,
            backups=backups,
            repository=site.repository,
            chance=chance,
        )
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(min(chance.uniform(*BETWEEN_TROUBLES), max(0.0, end - time.monotonic())))
            name = trouble.one()
            story.events[name] += 1
            print(f"  {end - time.monotonic():6.0f} s left, after {name}", flush=True)
        for writer in writers:
            writer.stop()
        wait_archived(site, max(writer.writes.acknowledged[-1] for writer in writers))
    finally:
        for writer in writers:
            writer.stop()
        backups.close()
        receiver.close()
    return story, first, [writer.writes for writer in writers]


def final_ledger(group: Group, writes: Writes) -> list[int]:
    """What the surviving master of a shard holds at the end."""
    found = read_ledger([node.client() for node in group.masters()], writes.tag)
    assert found is not None
    return found


def read_ledger(clients: Sequence[redis.Redis], tag: str) -> list[int] | None:
    for client in clients:
        try:
            return [int(one) for one in client.lrange(f"{tag}:ledger", 0, -1)]
        except redis.ResponseError:
            continue  # another shard's
    return None


def told(site: Site, story: Story, writes: Sequence[Writes]) -> None:
    verified = site.run("verify", code=None)
    print(f"events: {dict(story.events)}; exits: {dict(story.codes)}")
    print(
        f"{sum(len(one.begun) for one in writes):,} transactions,"
        f" {sum(len(one.lost) for one in writes)} of them lost by Redis;"
        f" {stream_bytes(site.repository) / 1e6:.0f} MB of stream;"
        f" holes recorded at {[str(hole) for hole in recorded_holes(site.repository)]};"
        f" verify says {verified.code}",
        flush=True,
    )


def judged(
    site: Site,
    writes: Sequence[Writes],
    final: Sequence[list[int]],
    *,
    first: float,
    chance: random.Random,
) -> tuple[list[str], Counter[str]]:
    """Restore to random moments, to the latest, and once from the oldest backup alone."""
    holes, snapshots = recorded_holes(site.repository), snapshot_moments(site.repository)
    last = max(one.begun[-1] for one in writes)
    moments = [moment_of(chance.uniform(first, last)) for _ in range(RESTORES)]
    targets: list[RecoveryTarget] = [*(ToTime(moment) for moment in moments), ToLatest()]
    wrong, endings = [], Counter[str]()
    for target in targets:
        faults = restored(site, target, writes, final)
        if faults is None:
            faults = [*unexplained(target, holes=holes, snapshots=snapshots)]
            endings["wrongly refused" if faults else "refused"] += 1
        else:
            endings["wrong" if faults else "right"] += 1
        wrong += faults
    hide_newer_backups(site.repository)
    began = time.monotonic()
    faults = restored(site, ToLatest(), writes, final, accepts_gap=True)
    if faults is None:
        faults = ["the oldest backup and all the stream up to its first hole were refused"]
    how = "wrong" if faults else "right"
    seconds = time.monotonic() - began
    print(f"from the oldest backup as far as it goes: {how}, {seconds:.1f} s", flush=True)
    return wrong + faults, endings


def unexplained(
    target: RecoveryTarget, *, holes: Sequence[datetime], snapshots: Sequence[datetime]
) -> Iterator[str]:
    """A refusal is right where a hole lies between the snapshot to begin with and the moment."""
    moment = target.moment if isinstance(target, ToTime) else datetime.max.replace(tzinfo=UTC)
    begin = max(taken for taken in snapshots if taken <= moment)
    # A hole is recorded when the stream is taken up again behind it.
    if not any(begin <= hole and hole - MOST_BEHIND <= moment for hole in holes):
        yield f"{target} was refused, from {begin}, without a hole between"


def hide_newer_backups(repository: Path) -> None:
    """As if they had never been taken: all of the stream has to be replayed."""
    _, *newer = sorted((repository / "backups" / "cache").iterdir())
    for path in newer:
        path.unlink()


def restored(
    site: Site,
    target: RecoveryTarget,
    writes: Sequence[Writes],
    final: Sequence[list[int]],
    *,
    accepts_gap: bool = False,
) -> list[str] | None:
    """What is wrong with a restore to `target`; None if it is refused."""
    place = site.root / "policies" / "shop.yaml"
    # An hour after the policy was written its ports may be somebody else's.
    place.write_text(re.sub(r"port: \d+", f"port: {free_row(MOST_SERVERS)}", place.read_text()))
    into = site.root / "copy"
    to = target.moment.isoformat() if isinstance(target, ToTime) else "latest"
    words = ["restore", "cache", "--to", to, "--into", str(into), "--json"]
    ran = site.run(*words, *(["--accept-gap"] if accepts_gap else []), code=None)
    if ran.code == ExitCode.NOT_RECOVERABLE:
        print(f"  refused: {ran.answer['error']}", flush=True)
        shutil.rmtree(into, ignore_errors=True)
        return None
    # The objectives are of a server that fails for good.
    assert ran.code in (ExitCode.DONE, ExitCode.OBJECTIVE_MISSED), str(ran)
    [outcome] = ran.answer["outcomes"]
    faults = [*compared(outcome, target, writes, final)]
    replay = next(phase["seconds"] for phase in outcome["phases"] if phase["name"] == "replay")
    print(
        f"  {to}: {len(faults)} faults; {outcome['wal_bytes'] / 1e6:.1f} MB of stream replayed,"
        f" {replay:.1f} s",
        flush=True,
    )
    shutil.rmtree(into)
    return [f"{to}, from {outcome['backup_id']}: {fault}" for fault in faults]


def compared(
    outcome: dict[str, Any],  # as the report says it in JSON
    target: RecoveryTarget,
    writes: Sequence[Writes],
    final: Sequence[list[int]],
) -> Iterator[str]:
    reached = outcome["reached"]["commit_time"]
    with started_by(outcome["how_to_start"]) as clients:
        wait_formed(clients)
        for one, last in zip(writes, final, strict=True):
            found = read_ledger(clients, one.tag)
            if found is None:
                yield f"{one.tag} is nowhere"
                continue
            yield from (f"{one.tag}: {fault}" for fault in not_a_prefix(found, one, last))
            moment = target.moment if isinstance(target, ToTime) else None
            yield from (
                f"{one.tag}: {fault}"
                for fault in misplaced(
                    found, one, moment, reached=reached and datetime.fromisoformat(reached)
                )
            )
            yield from (f"{one.tag}: {fault}" for fault in half_done(clients, one, found))
    if not all(question["passed"] for question in outcome["questions"]):
        yield f"questions: {outcome['questions']}"


def not_a_prefix(found: list[int], writes: Writes, final: list[int]) -> Iterator[str]:
    """All that is there is what the surviving history began with, but for what Redis lost at its end."""
    kept = [number for number in found if number not in writes.lost]
    if kept != final[: len(kept)]:
        yield f"{len(kept)} writes are no prefix of the {len(final)} that there were"
    # A server that hung for a while may carry out what a writer has given up long ago.
    if not steps_back(found) <= steps_back(final):
        yield "writes are there twice, or out of order, as they never were on the server"


def steps_back(ledger: Sequence[int]) -> set[tuple[int, int]]:
    """Neighbours of which the second is not behind the first."""
    return {(one, other) for one, other in pairwise(ledger) if other <= one}


def misplaced(
    found: list[int], writes: Writes, moment: datetime | None, *, reached: datetime | None
) -> Iterator[str]:
    """`reached` is what the report says: everything acknowledged by then is there."""
    held = set(found)
    end = float("inf") if moment is None else moment.timestamp()
    if reached is None:
        yield "no mark was reached"
        return
    if moment is not None and moment - reached > MOST_BEHIND:
        yield f"asked for {moment}, the report claims no more than {reached}"
    due = reached.timestamp()
    for number, (begun, acknowledged) in enumerate(
        zip(writes.begun, writes.acknowledged, strict=True)
    ):
        if begun > end and number in held:
            yield f"write {number}, begun at {moment_of(begun)}, should not be there"
        if 0 < acknowledged <= due and number not in held and number not in writes.lost:
            yield f"write {number}, acknowledged at {moment_of(acknowledged)}, is missing"


def half_done(clients: Sequence[redis.Redis], writes: Writes, found: list[int]) -> Iterator[str]:
    """Every structure of a transaction is as its last write left it."""
    tag, last = writes.tag, found[-1] if found else None
    for client in clients:
        try:
            value: Any = client.get(f"{tag}:last")
        except redis.ResponseError:
            continue
        counted: Any = client.get(f"{tag}:count")
        newest: Any = client.xrevrange(f"{tag}:stream", count=1)
        scores: Any = client.zrange(f"{tag}:scores", -1, -1, withscores=True)
        if last is None:
            return
        if int(value) != last or int(counted) != len(found):
            yield f"last is {value} and count {counted}; the ledger ends with {last} of {len(found)}"
        if int(newest[0][1][b"n"]) != last or int(scores[0][1]) != last:
            yield f"stream {newest} or scores {scores} are not of write {last}"


def test_the_judge_of_the_hour_sees_a_hole_and_a_write_from_after_the_moment() -> None:
    writes = Writes(tag="t")
    for number in range(4):
        writes.begun.append(float(number))
        writes.acknowledged.append(number + 0.5)

    hole = list(not_a_prefix([0, 2], writes, [0, 1, 2, 3]))
    late = list(misplaced([0, 1, 2], writes, moment_of(1.7), reached=moment_of(1.6)))
    lost = list(misplaced([0], writes, None, reached=moment_of(1.6)))
    modest = list(misplaced([0], writes, moment_of(200), reached=moment_of(0.6)))
    mute = list(misplaced([0], writes, moment_of(200), reached=None))

    assert hole == ["2 writes are no prefix of the 4 that there were"]
    assert late == [f"write 2, begun at {moment_of(2.0)}, should not be there"]
    assert lost == [f"write 1, acknowledged at {moment_of(1.5)}, is missing"]
    assert modest == [
        f"asked for {moment_of(200)}, the report claims no more than {moment_of(0.6)}"
    ]
    assert mute == ["no mark was reached"]


def test_the_judge_of_the_hour_takes_a_refusal_only_for_a_hole_on_the_way() -> None:
    target = ToTime(moment_of(1000))

    def faults(*, hole: float) -> list[str]:
        snapshots = [moment_of(0), moment_of(500), moment_of(2000)]
        return list(unexplained(target, holes=[moment_of(hole)], snapshots=snapshots))

    assert faults(hole=900) == faults(hole=1050) == []
    assert len(faults(hole=400)) == len(faults(hole=1500)) == 1
