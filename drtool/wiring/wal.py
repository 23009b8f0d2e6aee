"""`drtool wal`: receive, fetch, and how the log stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from drtool.archiving.base_needed import is_base_needed
from drtool.archiving.lineages import as_archived
from drtool.archiving.preview import ReceivePlan, preview_receive
from drtool.archiving.push import socket_path
from drtool.archiving.pushed import store_pushed
from drtool.archiving.receive import receive_wal
from drtool.archiving.receive_settings import Received, ReceiveSettings
from drtool.archiving.serving import PushServed, PushSite, serve_push
from drtool.archiving.slot_keeping import let_go_at_limit
from drtool.archiving.status import WalStatus
from drtool.archiving.wal_events import PushedEvents
from drtool.check.state import SourceState, Topic
from drtool.errors import (
    DestinationRefused,
    NotAuthentic,
    ObjectMissing,
    RepositoryUnavailable,
    UsageError,
)
from drtool.model.cluster import describe_cluster
from drtool.model.measure import format_size, format_span
from drtool.model.outcome import Fact, FactSheet
from drtool.model.request import WalFetch, WalGaps, WalPush, WalReceive
from drtool.model.request import WalStatus as WalStatusRequest
from drtool.model.wal import WalSegment
from drtool.policy.policy import Policy
from drtool.policy.sources import PostgresSource, WalMode
from drtool.repository.backups import read_manifests
from drtool.repository.extents import PostgresExtent
from drtool.repository.layout import Lineage, history_key, parse_history_name
from drtool.repository.log import read_log_object, read_segment
from drtool.repository.repository import Repository
from drtool.sources.postgres.facts import read_facts
from drtool.system.durable import replace_durably
from drtool.system.users import FALLBACK as SERVER_USER
from drtool.system.users import named_user
from drtool.wiring.commands import command_starter
from drtool.wiring.origins import require_same_source
from drtool.wiring.parts import chosen_sources, dsn_of, opened_repository
from drtool.wiring.redis_base import BaseTaker
from drtool.wiring.state_facts import read_facts_of_state, window_fact
from drtool.wiring.state_postgres import postgres_state, read_log
from drtool.wiring.surroundings import Surroundings


def receive(
    request: WalReceive, policy: Policy, around: Surroundings, *, policy_file: Path | None = None
) -> FactSheet:
    """Stream WAL until `around.stop` is set; what was received, at the end.

    Behind a gap a new base backup is taken at once, by `drtool backup` on the same policy; without
    `policy_file` that is left to the caller.
    """
    source = policy.postgres(request.source)
    settings = ReceiveSettings(
        source=request.source,
        dsn=dsn_of(source.dsn, around),
        wal=source.wal,
        accepts_new_system=request.accepts_new_system,
    )
    stop, clock, emit = around.stop, around.clock, around.emit
    with _repository_or_slot(settings, policy, around, is_dry_run=request.is_dry_run) as repository:
        require_same_source(
            request.source,
            source,
            policy=policy,
            repository=repository,
            around=around,
            is_accepted=request.accepts_new_system,
        )
        if request.is_dry_run:
            return _would_receive(preview_receive(repository, settings))
        with _bases(request.source, repository, around, policy_file=policy_file) as ask_for_base:
            if source.wal.mode is WalMode.PUSH:
                site = replace(_push_site(request.source, source), ask_for_base=ask_for_base)
                served = serve_push(repository, settings, site, stop=stop, clock=clock, emit=emit)
                return _served(request.source, served)
            return _received(
                receive_wal(
                    repository,
                    settings,
                    stop=stop,
                    clock=clock,
                    emit=emit,
                    ask_for_base=ask_for_base,
                )
            )


@contextmanager
def _bases(
    name: str, repository: Repository, around: Surroundings, *, policy_file: Path | None
) -> Iterator[Callable[[], None] | None]:
    """What to call for a new base backup, while the receiver runs."""
    if policy_file is None:
        yield None
        return
    taker = BaseTaker(
        name,
        command_starter(policy_file, around),
        around,
        what="base backup",
        is_needed=partial(is_base_needed, repository, name),
    )
    try:
        taker.ask()  # one that an earlier receiver asked for and did not live to see
        yield taker.ask
    finally:
        taker.close()


@contextmanager
def _repository_or_slot(
    settings: ReceiveSettings, policy: Policy, around: Surroundings, *, is_dry_run: bool
) -> Iterator[Repository]:
    """The repository. While it is away nobody receives: a slot at its limit is let go then."""
    try:
        opened = opened_repository(policy, around)
        repository = opened.__enter__()
    except RepositoryUnavailable:
        if settings.slot is not None and not is_dry_run:
            limit = settings.wal.slot_limit
            let_go_at_limit(settings.dsn, settings.slot, limit_bytes=limit, emit=around.emit)
        raise
    try:
        yield repository
    finally:
        opened.__exit__(None, None, None)


def push(request: WalPush, policy: Policy, around: Surroundings) -> None:
    """Return once the file is durable in the repository.

    Starts Python and opens the repository for each file; `drtool-wal push` hands it to a process that
    has done so already.
    """
    source = policy.postgres(request.source)
    facts = read_facts(dsn_of(source.dsn, around))
    with opened_repository(policy, around) as repository:
        facts = as_archived(repository, request.source, facts, accepts_new=False)
        try:
            with request.path.open("rb") as file:
                store_pushed(
                    repository,
                    request.source,
                    system_id=facts.system_id,
                    name=request.path.name,
                    descriptor=file.fileno(),
                    events=PushedEvents(),
                )
        except OSError as error:
            raise UsageError(
                f"{request.path} cannot be read: {error.strerror}",
                hint="Let archive_command pass %p: 'drtool-wal push --source main-db %p'.",
            ) from error


def _push_site(name: str, source: PostgresSource) -> PushSite:
    """The socket of a source, open to us and to the user that PostgreSQL runs as here."""
    user = named_user(source.restore.run_as or SERVER_USER)
    place = Path(socket_path(name))
    return PushSite(socket=place, user_ids=frozenset({user.uid}) if user else frozenset())


def _served(name: str, served: PushServed) -> FactSheet:
    return FactSheet(
        kind="wal-receive",
        title=f"Took WAL of {name} that was pushed",
        facts=(
            Fact(name="files", value=served.files, label="files taken"),
            Fact(name="refused", value=served.refused),
        ),
    )


def fetch(request: WalFetch, policy: Policy, around: Surroundings) -> None:
    """Put one segment or history file in place, whole or not at all.

    ObjectMissing if the repository surely lacks it; any other error means it could not be asked.
    """
    policy.postgres(request.source)
    with opened_repository(policy, around) as repository:
        manifests, errors = read_manifests(repository, request.source)
        if not manifests:
            damaged = [error for error in errors if not isinstance(error, NotAuthentic)]
            raise damaged[0] if damaged else ObjectMissing(f"backups/{request.source}/")
        content = _wal_file(request.name, repository, request.source, extent=manifests[-1].postgres)
    try:
        replace_durably(request.path.absolute(), content)
    except OSError as error:
        raise DestinationRefused(
            f"{request.path} cannot be written: {error.strerror}",
            hint="Look at the file system of the server's data directory.",
        ) from error


def _wal_file(name: str, repository: Repository, source: str, *, extent: PostgresExtent) -> bytes:
    timeline = parse_history_name(name)
    if timeline is not None:
        key = history_key(source, extent.system_id, timeline)
        return read_log_object(repository, key)
    try:
        segment = WalSegment.parse(name, extent.segment_bytes)
    except ValueError as error:
        raise UsageError(
            str(error), hint="Let restore_command pass %f: `drtool wal fetch main-db %f %p`."
        ) from None
    lineage = Lineage(source, extent.system_id, segment.timeline)
    return read_segment(repository, lineage, segment, segment_bytes=extent.segment_bytes)


def status(request: WalStatusRequest, policy: Policy, around: Surroundings) -> FactSheet:
    """What the log of each source holds, and all that is wrong with it and its receiver."""
    looked = list(_look(request.sources, policy, around))
    topics = Topic.RECEIVER, Topic.LOG, Topic.LOSS
    return FactSheet(
        kind="wal-status",
        title="WAL",
        facts=tuple(fact for one in looked for fact in _status_facts(*one)),
        findings=tuple(finding for state, _ in looked for finding in state.of(*topics)),
    )


def gaps(request: WalGaps, policy: Policy, around: Surroundings) -> FactSheet:
    """What the log of each source lacks, as ranges of positions and of time.

    A gap that a newer backup has left behind is told and fails nothing.
    """
    looked = [state for state, _ in _look(request.sources, policy, around)]
    return FactSheet(
        kind="wal-gaps",
        title="Gaps in the WAL",
        facts=tuple(
            Fact(name=f"{one.source}_gaps", value=len(one.gaps), label=f"gaps of {one.source}")
            for one in looked
        ),
        findings=tuple(finding for state in looked for finding in state.of(Topic.LOG)),
    )


def _look(
    names: tuple[str, ...], policy: Policy, around: Surroundings
) -> Iterator[tuple[SourceState, WalStatus]]:
    sources = chosen_sources(names, policy)
    with opened_repository(policy, around) as repository:
        for name, source in sources.items():
            facts = read_facts_of_state(name, policy, repository, now=around.clock.now())
            log = read_log(facts)
            yield postgres_state(facts, source, log=log), log


def _status_facts(state: SourceState, one: WalStatus) -> Iterator[Fact]:
    name = one.source
    system = None if one.system_id is None else describe_cluster(one.system_id)
    yield Fact(name=f"{name}_system", value=system, label=f"{name}: cluster")
    yield Fact(name=f"{name}_timeline", value=one.timeline, label=f"{name}: timeline")
    end = None if one.end is None else str(one.end.lsn)
    yield Fact(name=f"{name}_end", value=end, label=f"{name}: whole up to")
    latest = one.recoverable_until
    yield Fact(name=f"{name}_recoverable_until", value=latest, label=f"{name}: recoverable until")
    yield window_fact(state)
    rpo = None if one.rpo_now is None else format_span(one.rpo_now)
    yield Fact(name=f"{name}_rpo_now", value=rpo, label=f"{name}: RPO now")
    yield Fact(name=f"{name}_receiver", value=one.receiver or "none", label=f"{name}: receiver")


def _would_receive(plan: ReceivePlan) -> FactSheet:
    slot = "none"
    if plan.slot is not None:
        reserved = "to be made" if plan.slot_position is None else f"from {plan.slot_position}"
        slot = f"{plan.slot}, {reserved}"
    return FactSheet(
        kind="wal-receive-plan",
        title=f"Would receive WAL of {plan.source}; nothing was done",
        facts=(
            Fact(name="server", value=plan.place, label="from"),
            Fact(name="timeline", value=plan.start.timeline, label="timeline"),
            Fact(name="server_at", value=str(plan.server_flushed), label="server is at"),
            Fact(name="begin", value=str(plan.start.begin), label="streams from"),
            Fact(name="after", value=str(plan.start.durable), label="goes on after"),
            Fact(name="slot", value=slot, label="replication slot"),
            Fact(name="synchronous", value=plan.is_synchronous, label="commits wait for it"),
            Fact(name="receiver", value=plan.held_by or "none", label="receiver now"),
        ),
    )


def _received(received: Received) -> FactSheet:
    durable = None if received.durable is None else str(received.durable)
    return FactSheet(
        kind="wal-receive",
        title=f"Received WAL of {received.source}",
        facts=(
            Fact(name="timeline", value=received.timeline, label="timeline"),
            Fact(name="durable", value=durable, label="durable up to"),
            Fact(
                name="received_bytes",
                value=received.received_bytes,
                label="received",
                shown=format_size(received.received_bytes),
            ),
            Fact(name="segments", value=received.segments, label="whole segments put"),
            Fact(name="parts", value=received.parts, label="parts put"),
            Fact(name="marks", value=received.marks, label="marks put"),
            Fact(name="gaps", value=received.gaps, label="gaps recorded"),
        ),
    )
