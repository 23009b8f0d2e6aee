"""`drtool backup`: one of each source, with what its kind needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from drtool.model.origin import Origin
from drtool.model.outcome import BackupOutcome, FactSheet, Failure
from drtool.model.progress import Emit
from drtool.model.request import BackupRequest
from drtool.policy.policy import Policy, unsupported
from drtool.policy.sources import FilesSource, PostgresSource, RedisSource, SourcePolicy
from drtool.repository.repository import Repository
from drtool.system.access import require_temporary_files
from drtool.wiring.origins import require_same_source
from drtool.wiring.parts import opened_repository, restorable_sources
from drtool.wiring.root_seal import sealed_root
from drtool.wiring.side_by_side import side_by_side, with_failures
from drtool.wiring.surroundings import Surroundings


class BackupJob(Protocol):
    """The backup of one source."""

    def preview(self) -> FactSheet:
        """What a backup would begin with."""

    def run(self) -> BackupOutcome:
        """Take it; LeaseHeld if another backup of this source runs."""


def backup(
    request: BackupRequest, policy: Policy, around: Surroundings
) -> tuple[BackupOutcome | FactSheet | Failure, ...]:
    """Back sources up, `request.at_once` at a time; with `is_dry_run` say what would be done.

    Where there are several, one that fails does not keep the others from being backed up: its
    failure stands in the place of its outcome. Memory is that of one backup for each at a time.
    """
    sources = restorable_sources(request.sources, policy, around)
    require_temporary_files()
    _load(sources.values())
    with opened_repository(policy, around) as repository:
        if not request.is_dry_run:
            repository = sealed_root(repository, around)
        parts = _Parts(request, policy, repository, around)
        jobs = {name: partial(parts.back_up, name, source) for name, source in sources.items()}
        ended = side_by_side(jobs, around.emit, at_once=request.at_once, stop=around.stop)
    return with_failures(ended)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the backup of every source needs."""

    request: BackupRequest
    policy: Policy
    repository: Repository
    around: Surroundings

    def back_up(self, name: str, source: SourcePolicy, emit: Emit) -> BackupOutcome | FactSheet:
        """Any thread may do it; `emit` is told how far it is."""
        around = replace(self.around, emit=emit)
        origin = require_same_source(
            name,
            source,
            policy=self.policy,
            repository=self.repository,
            around=around,
            is_accepted=self.request.accepts_source,
        )
        job = self._job(name, source, around, origin=origin)
        if self.request.is_dry_run:
            return job.preview()
        return replace(job.run(), rescue_sha256=self.repository.seal.rescue_sha256)

    def _job(
        self, name: str, source: SourcePolicy, around: Surroundings, *, origin: Origin
    ) -> BackupJob:
        repository, level = self.repository, self.policy.repository.compression_level
        match source:
            case PostgresSource():
                from drtool.wiring.backup_postgres import PostgresBackup

                return PostgresBackup(
                    name=name,
                    source=source,
                    request=self.request,
                    repository=repository,
                    around=around,
                    level=level,
                    origin=origin,
                )
            case RedisSource():
                from drtool.wiring.redis import RedisBackup

                return RedisBackup(
                    name=name,
                    source=source,
                    request=self.request,
                    repository=repository,
                    around=around,
                    level=level,
                    origin=origin,
                )
            case FilesSource():
                from drtool.wiring.files import FilesBackup

                return FilesBackup(
                    name=name,
                    source=source,
                    request=self.request,
                    repository=repository,
                    around=around,
                    level=level,
                    origin=origin,
                )
            case _:
                raise unsupported(name, source)


def _load(sources: Iterable[SourcePolicy]) -> None:
    """Load what each kind needs: each only where it is met, and while the repository is being opened."""
    for source in sources:
        match source:
            case PostgresSource():
                import drtool.wiring.backup_postgres
            case RedisSource():
                import drtool.wiring.redis  # noqa: F401 - loaded for later
            case FilesSource():
                from drtool.wiring.files import load_backup

                load_backup()
