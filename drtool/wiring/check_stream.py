"""The checks of what the repository holds of one Redis: snapshots, the stream, its marks, its margin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from drtool.archiving.redis_joining import Backlog
from drtool.archiving.redis_status import StreamStatus
from drtool.backup.shrunken import shrunken
from drtool.check.freshness import check_mark
from drtool.check.run import Seen, attempt, not_looked
from drtool.check.state import Topic, with_refused_backup
from drtool.errors import DrtoolError, NotRecoverable
from drtool.model.checked import Look
from drtool.model.finding import Finding, Severity
from drtool.model.measure import age_of, counted, format_size, format_span
from drtool.policy.sources import RedisSource
from drtool.repository.backups import Manifest
from drtool.repository.extents import RedisExtent
from drtool.repository.held import Held, held_in, shrank
from drtool.repository.layout import ReplicationHistory
from drtool.repository.marks import newest_mark
from drtool.restore.redis_fetch import release_on_way
from drtool.sources.redis.address import NodeAddress
from drtool.sources.redis.checks import BacklogMargin, ServerState, backlog_margin, check_margin
from drtool.sources.redis.connection import connect
from drtool.sources.redis.node_choice import choose_node, join_order
from drtool.sources.redis.psync import Position
from drtool.sources.redis.shape import Shape
from drtool.wiring.checking import Checking
from drtool.wiring.redis import login_of
from drtool.wiring.redis_restorable import programs_for
from drtool.wiring.state_facts import read_facts_of_state
from drtool.wiring.state_redis import read_stream, redis_state, uncertain_words

# Between the two looks from which the rate of writing is told.
SAMPLE_SECONDS = 1.0

# What each server said first, and when on the monotonic clock.
First = Mapping[NodeAddress, tuple[ServerState, float]]


def look_at_stream(
    checking: Checking,
    source: RedisSource,
    shape: Shape | None,
    *,
    first: First,
    keys: int | None,
) -> Iterator[Look]:
    """Snapshots always; the stream where the policy has it.

    `shape` None: nobody could find it. `keys` is how many the source holds now, None if nobody knows.
    """
    try:
        found = read_facts_of_state(
            checking.name, checking.policy, checking.opened(), now=checking.now
        )
        stands = read_stream(found)
        state = redis_state(found, source, stream=stands)
    except DrtoolError as error:
        yield not_looked("repository", error)
        return
    content = None
    if found.newest is not None and keys is not None:
        content = _content(source, found.newest, keys)
    if content is not None and content.findings:
        state = with_refused_backup(state)
    yield checking.backups(state)
    if found.newest is not None:
        seen = _program_seen(source, found.newest.redis, stands)
        yield Look(name="restore", seen=seen, findings=state.of(Topic.RESTORE))
        if content is not None:
            yield content
    if source.stream:
        receiver = state.of(Topic.RECEIVER)
        yield Look(name="receiver", seen=state.receiver or "none", findings=receiver)
        yield Look(name="stream", seen=state.log_seen, findings=state.of(Topic.LOG))
        if state.uncertain:
            yield Look(name="not known", seen=", ".join(uncertain_words(state)))
        if source.heartbeat_key is not None:
            yield attempt("marks", lambda: _marks(checking, source, stands))
        if shape is not None:
            yield attempt(
                "backlog", lambda: _backlogs(checking, source, shape, stands=stands, first=first)
            )
    yield checking.recoverable(state)


def _program_seen(source: RedisSource, extent: RedisExtent, stands: StreamStatus) -> str:
    writer = release_on_way(extent, stands.paths)
    try:
        return f"{programs_for(source, extent, writer=writer).release} loads what {writer} wrote"
    except NotRecoverable:
        return f"what {writer} wrote cannot be loaded here"


def _content(source: RedisSource, newest: Manifest, keys: int) -> Look:
    """Whether the source still holds what it held: a backup that finds it empty is refused."""
    before = held_in(newest)
    findings = []
    if before is not None:
        # How many bytes a snapshot would have now nobody knows before it is taken.
        now = Held(count=keys, noun="keys", size_bytes=before.size_bytes)
        fact = shrank(before, now, max_percent=source.max_delete)
        if fact is not None:
            findings.append(
                Finding(
                    severity=Severity.PROBLEM,
                    subject=f"source {newest.source}",
                    fact=f"most of its keys are gone: it holds {keys:,}, and held {before.count:,} in"
                    f" backup {newest.backup_id}; a backup is refused, and `latest` means the end of"
                    " what was archived before",
                    fix=shrunken(newest, fact).hint,
                )
            )
    return Look(name="content", seen=counted(keys, "key"), findings=tuple(findings))


def _marks(checking: Checking, source: RedisSource, stands: StreamStatus) -> Seen:
    ages: list[str] = []
    findings: list[Finding] = []
    for shard in stands.shards:
        mark = None
        if shard.replication_id is not None and shard.end is not None:
            history = ReplicationHistory(checking.name, shard.replication_id)
            mark = newest_mark(checking.opened(), history, most_lsn=shard.end)
        age = age_of(mark.moment if mark else None, checking.now)
        every = source.heartbeat + source.flush
        findings += check_mark(f"marks of {checking.name}, {shard.name}", age, every=every)
        ages.append(f"{shard.name} {'none' if age is None else format_span(age) + ' ago'}")
    return f"newest: {', '.join(ages) or 'none'}", findings


def _backlogs(
    checking: Checking, source: RedisSource, shape: Shape, *, stands: StreamStatus, first: First
) -> Seen:
    held = {shard.name: shard for shard in stands.shards}
    shown: list[str] = []
    findings: list[Finding] = []
    for shard in shape.shards:
        known = held.get(shard.name)
        if known is None or known.replication_id is None or known.end is None:
            continue
        if known.left is not None:
            shown.append(f"{shard.name} not looked at: its gap is recorded")
            continue
        position = Position(known.replication_id, known.end)
        choose_node(shape, shard)  # it says so where none is well
        looks: list[tuple[ServerState, BacklogMargin | None]] = []
        # Of the others it was said above why they could not be looked at.
        for node in (one for one in join_order(shard) if one.address in first):
            looks.append(_margin(checking, source, node.address, position=position, first=first))
            if looks[-1][1] is not None:
                break  # one server that still has what comes next is enough
        if not looks:
            shown.append(f"{shard.name} not known")
            continue
        state, margin = looks[-1]
        findings += check_margin(shard.name, state, margin)
        shown.append(f"{shard.name} {_margin_seen(margin)}")
    return ", ".join(shown) or "nothing is archived yet", findings


def _margin(
    checking: Checking,
    source: RedisSource,
    address: NodeAddress,
    *,
    position: Position,
    first: First,
) -> tuple[ServerState, BacklogMargin | None]:
    """The second of two samples; what the receiver has had put meanwhile only makes the margin larger."""
    clock = checking.around.clock
    before, at = first[address]
    clock.wait(max(0.0, at + SAMPLE_SECONDS - clock.monotonic()))
    with connect(address, login_of(source, checking.around)) as connection:
        told = connection.info("replication")
    seconds = clock.monotonic() - at
    state = replace(before, replication=told)
    backlog = Backlog.parse(f"Redis at {address}", told)
    if not backlog.grants(position) and not backlog.is_behind(position):
        return state, None
    written = int(told["master_repl_offset"]) - int(before.replication["master_repl_offset"])
    rate = written / seconds if written > 0 else None
    return state, backlog_margin(state, position, bytes_per_second=rate)


def _margin_seen(margin: BacklogMargin | None) -> str:
    if margin is None:
        return "none is left"
    size = f"{format_size(margin.left_bytes)} of {format_size(margin.backlog_bytes)} left"
    return (
        size if margin.seconds is None else f"{size}, {margin.seconds:,.0f} s at the present rate"
    )
