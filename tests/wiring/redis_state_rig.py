"""An invented past of one Redis in a repository on disk: its failovers, and what the screens show."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path

from drtool.archiving.redis import lease_name
from drtool.cli.verdicts import code_of
from drtool.config.policy_file import parse_policy
from drtool.errors import ExitCode
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import RestorePreview, StatusRow, VerifyOutcome
from drtool.model.progress import silent
from drtool.model.request import CheckRequest, StatusRequest
from drtool.model.target import RecoveryTarget
from drtool.policy.policy import Policy
from drtool.policy.secrets import Redactor
from drtool.repository.backups import BackupSizes, Manifest, commit_backup
from drtool.repository.extents import RedisExtent, RedisShard
from drtool.repository.keys import NO_SECRET
from drtool.repository.layout import ReplicationHistory
from drtool.repository.lease import Lease
from drtool.repository.repository import Repository
from drtool.repository.stream_known import put_reached
from drtool.repository.streamlate import LateStretch, put_late
from drtool.repository.streamlog import (
    StreamBegin,
    StreamIndex,
    StreamLink,
    StreamMoment,
    put_begin,
    put_link,
    put_stream,
)
from drtool.restore.redis_look import look_redis
from drtool.restore.redis_plan import plan_redis_restore, preview_redis
from drtool.stores.local import LocalStore
from drtool.verify.depth import Depth, Quick
from drtool.verify.repository import verify_repository
from drtool.wiring.check import check
from drtool.wiring.status import status
from drtool.wiring.surroundings import Surroundings
from tests.repository.building import new_repository
from tests.servers.ports import free_port
from tests.wiring.state_rig import StillClock

SOURCE = "cache"
A, B, C, D = ("a" * 40, "b" * 40, "c" * 40, "d" * 40)
_POLICY = """\
version: 1
stack: shop
timezone: Europe/Warsaw
objectives: {{default: {{rpo: 15m, rto: 1h}}}}
repository: {{url: "file://{root}/repository", key: none}}
sources:
  cache:
    kind: redis
    topology: standalone
    nodes: ["127.0.0.1:{port}"]
    stream: true
    schedule: {{backup: "0 2 * * *"}}
"""


@dataclass(kw_only=True)
class RedisPast:
    """What a receiver and backups of one Redis have put. Seconds count from ten minutes ago."""

    root: Path
    repository: Repository
    clock: StillClock
    began: datetime
    port: int = field(default_factory=free_port)
    count: int = 0

    def at(self, seconds: float) -> datetime:
        return self.began + timedelta(seconds=seconds)

    def snapshot(self, name: str, offset: int, *, seconds: float) -> None:
        """A manifest of a snapshot there, whose content nobody looks at."""
        self.count += 1
        moment = self.at(seconds)
        shard = RedisShard(
            name="main",
            rdb="main.rdb",
            replication_id=name,
            offset=offset,
            taken_at=moment,
            keys=(),
        )
        extent = RedisExtent(
            topology="standalone", server_version="7.0.15", databases=16, shards=(shard,)
        )
        manifest = Manifest(
            source=SOURCE,
            backup_id=f"{moment:%Y%m%dT%H%M%S}.000Z-00000{self.count}",
            began=moment,
            ended=moment,
            tool="drtool 0",
            fencing=self.count,
            extent=extent,
            sizes=BackupSizes(files=0, read_bytes=0, new_bytes=0, stored_bytes=0),
            table=(),
            packs=(),
        )
        commit_backup(self.repository, manifest)

    def held(self, name: str, begin: int, end: int, *, seconds: float) -> None:
        index = StreamIndex(begin, end, (StreamMoment(self.at(seconds), end),))
        history = ReplicationHistory(SOURCE, name)
        put_stream(self.repository, history, index, content=[bytes(end - begin)])

    def link(self, name: str, previous: str, offset: int, *, seconds: float) -> None:
        word = StreamLink(
            replication_id=name, previous=previous, offset=offset, at=self.at(seconds), shard="main"
        )
        put_link(self.repository, SOURCE, word)

    def begin(
        self, name: str, offset: int, *, seconds: float, previous: tuple[str, int] | None = None
    ) -> None:
        word = StreamBegin(
            replication_id=name, offset=offset, reason="it was restarted", at=self.at(seconds),
            shard="main", previous=previous,
        )  # fmt: skip
        put_begin(self.repository, SOURCE, word)

    def late(self, name: str, begin: int, end: int, *, seconds: float) -> None:
        word = LateStretch(
            begin=begin, end=end, since=self.at(seconds - 1), until=self.at(seconds), reason="away"
        )
        put_late(self.repository, ReplicationHistory(SOURCE, name), word)

    def delete(self, pattern: str) -> int:
        """Delete the objects whose keys match; how many there were."""
        found = [key for key in self.keys("") if fnmatch(key, pattern)]
        for key in found:
            self.repository.store.delete(key)
        return len(found)

    def plan(self, target: RecoveryTarget) -> RestorePreview:
        facts = look_redis(self.repository, SOURCE, target)
        plan = plan_redis_restore(facts, target)
        return preview_redis(plan, destination="/nowhere", masters=1)

    def keys(self, under: str = f"log/{SOURCE}/") -> list[str]:
        return [found.key for found in self.repository.store.list(under)]

    @property
    def policy(self) -> Policy:
        return parse_policy(_POLICY.format(root=self.root, port=self.port), "the test's policy")

    @property
    def around(self) -> Surroundings:
        return Surroundings(
            environ={}, redactor=Redactor(), emit=silent, clock=self.clock, stop=threading.Event()
        )

    def receiver(self) -> Lease:
        return Lease(self.repository, lease_name(SOURCE), clock=self.clock)

    def status(self) -> tuple[StatusRow, ExitCode]:
        report = status(StatusRequest(()), self.policy, self.around)
        return report.rows[0], code_of(report)

    def checked(self) -> tuple[Finding, ...]:
        """What `check` says of the stream; the server is away."""
        report = check(CheckRequest(()), self.policy, self.around)
        [part] = [one for one in report.parts if one.name == SOURCE]
        return tuple(
            finding for one in part.looks if one.name == "stream" for finding in one.findings
        )

    def verify(self, depth: Depth = Quick()) -> VerifyOutcome:  # noqa: B008 - frozen
        return verify_repository(
            self.repository, depth=depth, sources=None, emit=silent, clock=self.clock, seed=1
        )


def a_redis_past(root: Path) -> RedisPast:
    """An empty repository of a Redis."""
    clock = StillClock()
    (root / "repository").mkdir()
    repository = new_repository(LocalStore(root / "repository", clock=clock), NO_SECRET)
    began = clock.now().replace(microsecond=0) - timedelta(minutes=10)
    return RedisPast(root=root, repository=repository, clock=clock, began=began)


def over_two_failovers(root: Path) -> RedisPast:
    """A snapshot on A at 100; B takes over at 300, C at 500; what A had alone up to 340 is a dead branch."""
    past = a_redis_past(root)
    past.begin(A, 100, seconds=1)
    past.snapshot(A, 120, seconds=2)
    for begin, end in ((100, 200), (200, 260), (260, 340)):
        past.held(A, begin, end, seconds=begin)
    past.link(B, A, 300, seconds=345)
    past.held(B, 300, 400, seconds=400)
    past.held(B, 400, 500, seconds=500)
    past.link(C, B, 500, seconds=505)
    past.held(C, 500, 550, seconds=550)
    past.late(C, 500, 520, seconds=505)
    past.held(C, 550, 590, seconds=590)
    for name, offset in ((A, 340), (B, 500), (C, 590)):
        history = ReplicationHistory(SOURCE, name)
        put_reached(past.repository, history, offset, at=past.at(offset))
    return past


def problems(findings: tuple[Finding, ...]) -> list[str]:
    return [f"{f.subject}: {f.fact}" for f in findings if f.severity is Severity.PROBLEM]
