"""Redis in the commands: its snapshot, its restore, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from drtool.archiving.redis_arrivals import BETWEEN_MOMENTS
from drtool.backup.plan import Accepted, BackupPlan, plan_snapshot
from drtool.backup.redis import RedisServers, run_redis_snapshot
from drtool.drill.judging import Asked, judge_loss, judge_nothing, judge_stream
from drtool.errors import UsageError
from drtool.model.finding import Finding, Severity
from drtool.model.objective import Objective
from drtool.model.origin import Origin
from drtool.model.outcome import (
    BackupOutcome,
    Fact,
    FactSheet,
    Judgement,
    RestoreOutcome,
)
from drtool.model.progress import Emit
from drtool.model.request import BackupRequest, RestoreRequest, TtlMode
from drtool.model.target import ToTime
from drtool.policy.secrets import Secret
from drtool.policy.sources import RedisSource, RedisTopology, SourcePolicy
from drtool.repository.backups import read_manifest
from drtool.repository.extents import RedisExtent
from drtool.repository.repository import Repository
from drtool.restore.copy_ports import CopyPorts
from drtool.restore.destination import check_directory
from drtool.restore.phases import Phases
from drtool.restore.redis import run_redis_restore
from drtool.restore.redis_commands import require_known_commands
from drtool.restore.redis_content import SnapshotFiles
from drtool.restore.redis_fetch import release_of_plan
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_places import (
    RedisSite,
    is_written_anew,
    master_count,
    needed_bytes,
    replica_places,
    server_places,
)
from drtool.restore.redis_plan import RedisPlan, plan_redis_restore, preview_redis
from drtool.restore.redis_settle import config_path
from drtool.sources.redis.address import Login, NodeAddress, TlsSettings
from drtool.sources.redis.binaries import RedisBinaries, server_user
from drtool.sources.redis.capture import CapturedServer
from drtool.sources.redis.clusternodes import BUS_OFFSET
from drtool.sources.redis.node_choice import choose_for_snapshot
from drtool.wiring.earlier import facts_of_store, lease_of_backup, look_back_at_newest
from drtool.wiring.judged import asked_of, judge_ready, judged
from drtool.wiring.planned import Planned, Runner
from drtool.wiring.redis_restorable import check_restorable, programs_for
from drtool.wiring.surroundings import Surroundings


def login_of(source: RedisSource, around: Surroundings) -> Login:
    """Who we are to its servers; the password is hidden from now on."""
    password: Secret | None = None
    if source.password is not None:
        password = around.redactor.resolve(source.password, around.environ)
    tls: TlsSettings | None = None
    if source.tls is not None:
        tls = TlsSettings(
            ca_file=source.tls.ca_file,
            certificate=source.tls.certificate,
            key=source.tls.key,
            check_hostname=source.tls.check_hostname,
        )
    return Login(username=source.username, password=password, tls=tls)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisBackup:
    """The snapshot of one Redis."""

    name: str
    source: RedisSource
    request: BackupRequest
    repository: Repository
    around: Surroundings
    level: int
    origin: Origin

    def preview(self) -> FactSheet:
        """What a snapshot would begin with: the servers are asked."""
        plan, shape = self._plan(), self._servers().look()
        facts = [
            Fact(
                name=shard.name,
                value=str(choose_for_snapshot(shape, shard).node.address),
                label="from",
            )
            for shard in shape.shards
        ]
        return FactSheet(
            kind="backup-plan",
            title=f"Would back up {self.name}; nothing was done",
            facts=(
                *facts,
                *facts_of_store(self.repository, unfinished=len(plan.attempts)),
            ),
        )

    def run(self) -> BackupOutcome:
        """Take it; LeaseHeld if another backup of this source runs."""
        around = self.around
        with lease_of_backup(self.repository, self.name, around) as lease:
            outcome = run_redis_snapshot(
                self._plan(),
                servers=self._servers(),
                repository=self.repository,
                lease=lease,
                clock=around.clock,
                emit=around.emit,
            )
        here = check_restorable(
            self.name, self.source, self._extent(outcome.backup_id), severity=Severity.WARNING
        )
        return replace(outcome, findings=(*outcome.findings, *here))

    def _extent(self, backup_id: str) -> RedisExtent:
        return read_manifest(self.repository, self.name, backup_id).redis

    def _servers(self) -> RedisServers:
        return RedisServers(
            kind=self.source.topology,
            nodes=tuple(NodeAddress.parse(node) for node in self.source.nodes),
            login=login_of(self.source, self.around),
            group=self.source.group,
            stop=self.around.stop,
        )

    def _plan(self) -> BackupPlan:
        earlier = look_back_at_newest(self.repository, self.name, self.around)
        plan = plan_snapshot(
            self.name,
            earlier.next_id,
            kind=RedisExtent.kind,
            manifests=earlier.manifests,
            attempts=earlier.attempts,
            level=self.level,
        )
        accepted = Accepted(
            source=self.request.accepts_source,
            unread=self.request.accepts_unread,
            gone_percent=self.source.max_delete,
        )
        return replace(plan, accepted=accepted, origin=self.origin)


def require_redis(request: RestoreRequest, sources: Mapping[str, SourcePolicy]) -> None:
    """UsageError if what is for Redis alone is told where there is none."""
    options = {
        "--ttl": request.ttl is not TtlMode.ABSOLUTE,
        "--masters": request.masters is not None,
        "--uncertain": request.edge is not None,
    }
    option = next((name for name, is_given in options.items() if is_given), None)
    if option is None:
        return
    if not any(isinstance(source, RedisSource) for source in sources.values()):
        raise UsageError(
            f"{option} is for Redis, and none of {', '.join(sources)} is one",
            hint=f"Name the source: `drtool restore SOURCE {option} ...`.",
        )


def plan_redis_source(
    name: str,
    source: RedisSource,
    request: RestoreRequest,
    *,
    objective: Objective,
    repository: Repository,
    around: Surroundings,
) -> Planned:
    """NotRecoverable, naming what can be reached, if the target cannot be."""
    facts = look_redis(repository, name, request.target, zone=request.zone)
    plan = plan_redis_restore(
        facts, request.target, accepts_gap=request.accepts_gap, edge=request.edge
    )
    require_known_commands(plan, repository)
    job = _Restore(
        # Now, so that a plan says what the run would: that this machine lacks the programs.
        binaries=programs_for(source, plan.manifest.redis, writer=release_of_plan(plan)),
        source=source,
        plan=plan,
        request=request,
        objective=objective,
        repository=repository,
        around=around,
    )
    masters = master_count(plan, request.masters)
    return Planned(
        source=name,
        earliest=plan.earliest,
        latest=plan.latest,
        preview=lambda place: preview_redis(plan, destination=str(place), masters=masters),
        prepare=job.prepare,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Restore:
    binaries: RedisBinaries
    source: RedisSource
    plan: RedisPlan
    request: RestoreRequest
    objective: Objective
    repository: Repository
    around: Surroundings

    def prepare(self, place: Path, ports: CopyPorts) -> Runner:
        """Look at the place, and for the server's program."""
        plan, wanted = self.plan, self.source.restore
        owner = server_user(place, wanted.run_as)
        is_anew = is_written_anew(plan, ttl=self.request.ttl, masters=self.request.masters)
        site = RedisSite(
            destination=check_directory(
                place, owner=owner, needed_bytes=needed_bytes(plan, is_anew=is_anew)
            ),
            binaries=self.binaries,
            modules=wanted.modules,
            ttl=self.request.ttl,
            masters=self.request.masters,
            first_port=wanted.port,
            heartbeat_key=self.source.heartbeat_key,
            gone_percent=self.source.max_delete,
        )
        if site.first_port is None:
            port = _first_port(plan, site, ports, kept=self._ports_of_source())
            site = replace(site, first_port=port)
            return lambda emit: self._run(site, emit)
        site = replace(site, port_reason="as `restore: {port: N}` of the source says")
        told = _as_a_source(site, ports)
        return lambda emit: _with(self._run(site, emit), told)

    def _ports_of_source(self) -> frozenset[int]:
        """Where its servers listened, as far as the policy does not name each of them."""
        if self.source.topology is RedisTopology.STANDALONE:
            return frozenset()
        files = SnapshotFiles(self.plan.manifest, self.repository)
        captured = [
            CapturedServer.from_sealed(files.content(config_path(one.shard)))
            for one in self.plan.shards
        ]
        told = [one.settings.get(name, "") for one in captured for name in ("port", "tls-port")]
        ports = {int(port) for port in told if port.isdigit()}
        is_cluster = self.source.topology is RedisTopology.CLUSTER
        return frozenset(ports | ({port + BUS_OFFSET for port in ports} if is_cluster else set()))

    def _run(self, site: RedisSite, emit: Emit) -> RestoreOutcome:
        phases = Phases(self.around.clock, emit, self.around.stop)
        outcome = run_redis_restore(self.plan, site, repository=self.repository, phases=phases)
        asked = asked_of(self.request, self.plan.target, declared=outcome.began)
        loss = self._loss(outcome, asked)
        return judged(outcome, asked, loss, duration=judge_ready(outcome, self.objective))

    def _loss(self, outcome: RestoreOutcome, asked: Asked) -> Judgement | None:
        if self.plan.missing:
            first = self.plan.missing[0]
            return judge_nothing(self.objective, f"{first.subject}: {first.fact}")
        if isinstance(self.plan.target, ToTime):
            return judge_stream(
                asked,
                self.objective,
                proven_until=outcome.reached.commit_time,
                index_step=max(BETWEEN_MOMENTS, self.plan.missing_span),
            )
        return judge_loss(asked, self.objective, proven_until=self.plan.moment)


def _as_a_source(site: RedisSite, ports: CopyPorts) -> tuple[Finding, ...]:
    """A warning if the policy asks for a port by which it reaches a source."""
    if site.first_port not in ports.kept:
        return ()
    return (
        Finding(
            severity=Severity.WARNING,
            subject="ports",
            fact=f"the policy asks for port {site.first_port}, by which it reaches a source: a receiver on"
            " this machine may take the copy for that source",
            fix="Leave `restore: {port: N}` out, or name another; drtool then chooses one.",
        ),
    )


def _with(outcome: RestoreOutcome, findings: tuple[Finding, ...]) -> RestoreOutcome:
    return replace(outcome, findings=(*outcome.findings, *findings))


def _first_port(plan: RedisPlan, site: RedisSite, ports: CopyPorts, *, kept: frozenset[int]) -> int:
    """Where the copy can be started beside whatever runs here, and is taken for nobody else.

    The nodes of a cluster need their buses as well.
    """
    masters = server_places(plan, site)
    places = (*masters, *replica_places(plan, site, masters))
    first = masters[0].address.port
    offsets = [place.address.port - first for place in places]
    if any(place.slots for place in places):
        offsets += [offset + BUS_OFFSET for offset in offsets]
    return ports.choose(first, offsets=offsets, kept=kept)
