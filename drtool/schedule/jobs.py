"""What a policy has done unattended: jobs that are due again and again, and receivers. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drtool.policy.policy import Policy
from drtool.policy.scalars import CronLine
from drtool.policy.sources import (
    BucketSource,
    FilesSource,
    PostgresSource,
    RedisSource,
    SourcePolicy,
    WalMode,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command of drtool, `words`, that is due whenever `line` says.

    `is_heavy`: it copies a source. Only some of these run at a time, and none is missed: what was due
    while nothing ran is done late, what failed is tried again. A check has its next turn soon.
    """

    source: str
    words: tuple[str, ...]
    line: CronLine
    is_heavy: bool

    @property
    def name(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A command of drtool that runs always, and is started again whenever it has ended."""

    source: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that a policy asks for."""

    jobs: tuple[Job, ...]
    receivers: tuple[Receiver, ...]


def plan_work(policy: Policy) -> Work:
    """The jobs and receivers of every source, in the policy's order."""
    return Work(
        jobs=tuple(
            job for name, source in policy.sources.items() for job in _jobs(str(name), source)
        ),
        receivers=tuple(
            Receiver(source=str(name), words=words)
            for name, source in policy.sources.items()
            if (words := _receives(str(name), source))
        ),
    )


def _jobs(name: str, source: SourcePolicy) -> Iterator[Job]:
    schedule = source.schedule
    if schedule.backup is not None:
        if not isinstance(source, BucketSource):
            yield Job(source=name, words=("backup", name), line=schedule.backup, is_heavy=True)
        if isinstance(source, FilesSource | BucketSource) and source.mirror is not None:
            yield Job(source=name, words=("sync", name), line=schedule.backup, is_heavy=True)
    if schedule.check is not None:
        yield Job(source=name, words=("check", name), line=schedule.check, is_heavy=False)


def _receives(name: str, source: SourcePolicy) -> tuple[str, ...]:
    match source:
        case PostgresSource(wal=wal) if wal.mode is WalMode.STREAM:
            return ("wal", "receive", name)
        case RedisSource(stream=True):
            return ("redis", "receive", name)
    return ()
