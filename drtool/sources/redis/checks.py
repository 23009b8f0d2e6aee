"""Whether a Redis is set up so that what it holds survives, and so that drtool's link does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_size
from drtool.policy.sources import RedisTopology
from drtool.sources.redis.connection import RedisConnection, server_moment
from drtool.sources.redis.node_choice import READ_ONLY
from drtool.sources.redis.psync import Position
from drtool.sources.redis.shape import RedisNode, Role, Shape
from drtool.sources.redis.told import moment_of, whole, whole_of, words_of

# The link is lost for good after an outage longer than the backlog lasts.
TOLERATED_OUTAGE = timedelta(minutes=10)
_SMALL_BACKLOG_BYTES = 16 << 20
_SMALL_BUFFER_BYTES = 256 << 20
_OLD_SAVE = timedelta(days=1)
# A replica acknowledges each second, and a master speaks every ten.
_LONGEST_SILENCE_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What one server says of itself: sections of INFO and its settings, as they stand there."""

    address: str
    persistence: Mapping[str, str]
    replication: Mapping[str, str]
    memory: Mapping[str, str]
    settings: Mapping[str, str]
    moment: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogMargin:
    """How far a link may fall behind: `left_bytes` until the server drops what it still needs.

    `seconds` at the rate at which it is written now; None for a server that is not written to.
    """

    left_bytes: int
    backlog_bytes: int
    seconds: float | None


def read_state(connection: RedisConnection) -> ServerState:
    """Everything that the checks below look at; nothing is changed. Errors as `connection.ask`."""
    settings: dict[str, str] = {}
    for name in _LOOKED_AT:
        settings |= connection.settings(name)
    return ServerState(
        address=str(connection.address),
        persistence=connection.info("persistence"),
        replication=connection.info("replication"),
        memory=connection.info("memory"),
        settings=settings,
        moment=server_moment(connection),
    )


def check_server(state: ServerState) -> list[Finding]:
    """Everything that is wrong with one server; an empty list if nothing is."""
    return [
        *_persistence(state),
        *_replication(state),
        *_memory(state),
    ]


def check_node(node: RedisNode, state: ServerState) -> list[Finding]:
    """Everything that is wrong with one server of a shape, as it says itself and as the others do."""
    found = check_server(state)
    is_told = state.replication.get("master_link_status", "up") != "up"
    if node.trouble is not None and not is_told:
        is_master = node.role is Role.MASTER
        severity = Severity.PROBLEM if is_master else Severity.WARNING
        fix = "Look at INFO replication and the log there."
        found.append(_finding(state, severity, fact=node.trouble, fix=fix))
    return found


def check_shape(shape: Shape) -> list[Finding]:
    """What is wrong with how the servers belong together."""
    return [
        Finding(
            severity=Severity.WARNING,
            subject=f"shard {shard.name}",
            fact="it has no replica: its master's loss is the loss of what was not archived",
            fix="Add one with redis-cli --cluster add-node --cluster-slave, or replicaof.",
        )
        for shard in shape.shards
        if not shard.replicas and shape.kind is not RedisTopology.STANDALONE
    ]


def backlog_margin(
    state: ServerState, received: Position, *, bytes_per_second: float | None
) -> BacklogMargin:
    """How far behind its server a link at `received` may still fall."""
    size = whole(state.replication, "repl_backlog_size")
    first = whole(state.replication, "repl_backlog_first_byte_offset")
    written = whole(state.replication, "master_repl_offset")
    # Before the backlog is full nothing is dropped until it is.
    behind = max(0, written - received.offset)
    left = min(size - behind, max(0, received.offset + 1 - first) + size)
    seconds = left / bytes_per_second if bytes_per_second else None
    return BacklogMargin(left_bytes=max(0, left), backlog_bytes=size, seconds=seconds)


def check_margin(shard: str, state: ServerState, margin: BacklogMargin | None) -> list[Finding]:
    """Whether the stream can be gone on with after an outage; `margin` None: it no longer can."""
    subject = f"backlog of {shard} at Redis {state.address}"
    enough = TOLERATED_OUTAGE.total_seconds()
    minutes = TOLERATED_OUTAGE.seconds // 60
    if margin is None:
        return [
            Finding(
                severity=Severity.PROBLEM,
                subject=subject,
                fact="it no longer holds what comes after the archived stream: there will be a gap",
                fix="Start `drtool redis receive`, then take a snapshot with `drtool backup`; raise"
                " repl-backlog-size.",
            )
        ]
    if margin.seconds is None or margin.seconds >= TOLERATED_OUTAGE.total_seconds():
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            subject=subject,
            fact=f"at the present rate it lasts {margin.seconds:.0f} s more"
            f" ({format_size(margin.left_bytes)} of {format_size(margin.backlog_bytes)}): a longer outage"
            " of drtool makes a gap",
            fix="CONFIG SET repl-backlog-size"
            f" {_rounded(margin.left_bytes / margin.seconds * enough)}mb there, which lasts"
            f" {minutes} minutes.",
        )
    ]


def _rounded(size: float) -> int:
    """Whole megabytes, and a quarter more."""
    return max(1, ceil(size * 1.25 / (1 << 20)))


_LOOKED_AT = (
    "appendonly", "appendfsync", "aof-load-truncated", "save", "maxmemory", "maxmemory-policy",
    "client-output-buffer-limit", "repl-backlog-size", "stop-writes-on-bgsave-error", "rdbchecksum",
    "repl-timeout", "cluster-enabled", "databases", "min-replicas-to-write", "min-replicas-max-lag",
)  # fmt: skip


def _persistence(state: ServerState) -> list[Finding]:
    found = []
    told, settings = state.persistence, state.settings
    if settings.get("appendonly") != "yes":
        found.append(
            _finding(
                state,
                Severity.WARNING,
                fact="appendonly is off: a crash loses every write since the last save",
                fix="Run CONFIG SET appendonly yes there (not by restart: it would start empty), and"
                " write it into redis.conf.",
            )
        )
    elif settings.get("appendfsync") == "no":
        found.append(
            _finding(
                state,
                Severity.WARNING,
                fact="appendfsync is no: a power cut loses what the kernel had not written",
                fix="CONFIG SET appendfsync everysec",
            )
        )
    for name, what in (
        ("aof_last_write_status", "its last write to the AOF"),
        ("aof_last_bgrewrite_status", "its last rewrite of the AOF"),
        ("rdb_last_bgsave_status", "its last save of an RDB"),
    ):
        if told.get(name, "ok") != "ok":
            found.append(
                _finding(
                    state,
                    Severity.PROBLEM,
                    fact=f"{what} failed ({name} is {told[name]})",
                    fix="Look at its log, at the disk's free space, and at vm.overcommit_memory for"
                    " the fork.",
                )
            )
    if settings.get("appendonly") != "yes":
        found += _last_save(state)
    if settings.get("rdbchecksum") == "no":
        found.append(
            _finding(
                state,
                Severity.WARNING,
                fact="rdbchecksum is off: damage in a snapshot cannot be told",
                fix="Set rdbchecksum yes in redis.conf and restart.",
            )
        )
    return found


def _last_save(state: ServerState) -> list[Finding]:
    changes = whole(state.persistence, "rdb_changes_since_last_save")
    saved = whole(state.persistence, "rdb_last_save_time")
    age = state.moment - moment_of(saved)
    if not state.settings.get("save"):
        return [
            _finding(
                state,
                Severity.PROBLEM,
                fact="it saves neither an RDB nor an AOF: a restart leaves it empty",
                fix="CONFIG SET appendonly yes, or CONFIG SET save '3600 1 300 100 60 10000'.",
            )
        ]
    if changes and age > _OLD_SAVE:
        return [
            _finding(
                state,
                Severity.WARNING,
                fact=f"its last RDB is {counted(age.days, 'day')} old, with {counted(changes, 'change')}"
                " since",
                fix="Run BGSAVE there, and look why its save points are not reached.",
            )
        ]
    return []


def _replication(state: ServerState) -> list[Finding]:
    told = state.replication
    found = []
    if told.get("role") == "slave" and told.get("master_link_status") != "up":
        found.append(
            _finding(
                state,
                Severity.PROBLEM,
                fact="it is a replica, and its link to its master is down",
                fix="Look at its log: masterauth, the network, or an output-buffer limit.",
            )
        )
    if told.get("role") == "slave" and told.get("slave_read_only") == "0":
        found.append(
            _finding(
                state,
                Severity.WARNING,
                fact="replica-read-only is no: clients may write keys there that its master does not"
                " have, so no snapshot is taken from it",
                fix=READ_ONLY,
            )
        )
    found += _lag(state)
    found += _quorum(state)
    backlog = whole(state.settings, "repl-backlog-size")
    if backlog < _SMALL_BACKLOG_BYTES:
        found.append(
            _finding(
                state,
                Severity.WARNING,
                fact=f"repl-backlog-size is {backlog} bytes: an outage of drtool that writes more than"
                " that makes a gap",
                fix="CONFIG SET repl-backlog-size to what is written in"
                f" {TOLERATED_OUTAGE.seconds // 60} minutes, 256mb for a start.",
            )
        )
    return found


def _listed_replicas(state: ServerState) -> Iterator[dict[str, str]]:
    """What a master says of each replica that could take over. Port 0: a reader such as drtool itself."""
    for name, value in state.replication.items():
        if name.startswith("slave") and name[5:].isdigit():
            words = words_of(value)
            if whole(words, "port"):
                yield words


def _quorum(state: ServerState) -> list[Finding]:
    """Whether the replicas that `min-replicas-to-write` asks for are replicas, and not drtool's receiver.

    Source: refreshGoodSlavesCount in src/replication.c.
    """
    needed = whole(state.settings, "min-replicas-to-write")
    most_lag = whole(state.settings, "min-replicas-max-lag")
    if state.replication.get("role") != "master" or not needed or not most_lag:
        return []
    good = sum(
        one.get("state") == "online" and whole(one, "lag") <= most_lag
        for one in _listed_replicas(state)
    )
    if good >= needed:
        return []
    accepts = whole(state.replication, "min_slaves_good_slaves") >= needed
    what = (
        "writes are accepted only because readers such as drtool's receiver count, and are refused"
        " (NOREPLICAS) once these stop"
        if accepts
        else "every write is refused (NOREPLICAS)"
    )
    return [
        _finding(
            state,
            Severity.WARNING,
            fact=f"min-replicas-to-write is {needed}, and the replicas that acknowledge within"
            f" {most_lag} s are {good}: {what}",
            fix="Add a replica or bring it back, or run CONFIG SET min-replicas-to-write"
            f" {good} there.",
        )
    ]


def _lag(state: ServerState) -> list[Finding]:
    """Replicas that say nothing although they are linked, as each end sees it."""
    told = state.replication
    found = []
    silent = whole(told, "master_last_io_seconds_ago")
    if told.get("master_link_status") == "up" and silent > _LONGEST_SILENCE_SECONDS:
        found.append(f"it has heard nothing of its master for {silent} s")
    for one in _listed_replicas(state):
        if whole(one, "lag") > _LONGEST_SILENCE_SECONDS:
            found.append(
                f"its replica {one.get('ip')}:{one['port']} has acknowledged nothing for {one['lag']} s"
            )
    fix = "Look at the replica's load and log, and at the network between the two."
    return [_finding(state, Severity.WARNING, fact=fact, fix=fix) for fact in found]


def _memory(state: ServerState) -> list[Finding]:
    found = []
    hard, soft, seconds = replica_buffer_limit(state.settings)
    used = whole(state.memory, "used_memory")
    smallest = min((limit for limit in (hard, soft) if limit), default=0)
    # While a snapshot is sent, all that is written meanwhile waits in that buffer.
    if smallest and smallest < _SMALL_BUFFER_BYTES and used > 4 * smallest:
        found.append(
            _finding(
                state,
                Severity.WARNING,
                fact=f"client-output-buffer-limit replica is {hard} {soft} {seconds}, and {used} bytes"
                " are held: a snapshot under load may be cut off again and again",
                fix="CONFIG SET client-output-buffer-limit 'replica 1gb 512mb 120'",
            )
        )
    limit = whole(state.settings, "maxmemory")
    policy = state.settings.get("maxmemory-policy", "noeviction")
    if limit and policy != "noeviction":
        found.append(
            _finding(
                state,
                Severity.NOTE,
                fact=f"maxmemory-policy is {policy}: keys are dropped when memory is short, and a"
                " backup holds what was left",
                fix="Set noeviction if this is not a cache.",
            )
        )
    if limit and used > limit * 9 // 10:
        found.append(
            _finding(
                state,
                Severity.WARNING,
                fact=f"{used} of {limit} bytes of maxmemory are in use: a link's buffers may not fit",
                fix="Raise maxmemory, or take the backup from a replica.",
            )
        )
    return found


def replica_buffer_limit(settings: Mapping[str, str]) -> tuple[int, int, int]:
    """The hard limit, the soft limit and its seconds of `client-output-buffer-limit replica`."""
    words = settings.get("client-output-buffer-limit", "").split()
    for kind in ("slave", "replica"):
        if kind in words:
            limits = words[words.index(kind) + 1 :][:3]
            hard, soft, seconds = (*(whole_of(one, "buffer limit") for one in limits), 0, 0, 0)[:3]
            return hard, soft, seconds
    return 0, 0, 0


def _finding(state: ServerState, severity: Severity, *, fact: str, fix: str) -> Finding:
    return Finding(severity=severity, subject=f"Redis at {state.address}", fact=fact, fix=fix)
