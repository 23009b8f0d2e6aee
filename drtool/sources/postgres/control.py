"""What `global/pg_control` says of a data directory, read with the cluster's own pg_controldata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drtool.errors import IntegrityError
from drtool.model.wal import Lsn
from drtool.sources.postgres.binaries import ServerBinaries
from drtool.sources.postgres.facts import Capacities
from drtool.system.process import run_program
from drtool.system.users import RunAs

_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFile:
    """The lines of pg_controldata that matter to us. `state` is `in production`, `shut down`, ..."""

    system_id: int
    state: str
    timeline: int
    checkpoint: Lsn
    redo: Lsn
    min_recovery_point: Lsn
    min_recovery_timeline: int
    backup_start: Lsn
    backup_end_required: bool
    wal_level: str
    segment_bytes: int
    block_bytes: int
    has_checksums: bool
    capacities: Capacities
    tracks_commit_timestamps: bool


def read_control(data_directory: Path, binaries: ServerBinaries, *, run_as: RunAs) -> ControlFile:
    """Read it with the rights of `run_as`, who can execute `binaries`.

    IntegrityError if it is missing, damaged or of another version.

    pg_controldata only warns of a wrong checksum: that warning is an error here.
    """
    done = run_program(
        [str(binaries.program("pg_controldata")), "-D", str(data_directory)],
        timeout_seconds=_SECONDS,
        run_as=run_as,
    )
    if done.code != 0 or "WARNING" in done.output + done.errors:
        told = " ".join((done.errors or done.output).split())[:300]
        raise IntegrityError(
            f"the control file of {data_directory} cannot be read: {told}",
            hint=f"Check that it is a data directory of PostgreSQL {binaries.major}.",
        )
    fields = {}
    for line in done.output.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    try:
        return _parse(fields)
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"pg_controldata of {data_directory} does not print what PostgreSQL"
            f" {binaries.major} prints: {error}"
        ) from error


def _parse(fields: dict[str, str]) -> ControlFile:
    return ControlFile(
        system_id=int(fields["Database system identifier"]),
        state=fields["Database cluster state"],
        timeline=int(fields["Latest checkpoint's TimeLineID"]),
        checkpoint=Lsn.parse(fields["Latest checkpoint location"]),
        redo=Lsn.parse(fields["Latest checkpoint's REDO location"]),
        min_recovery_point=Lsn.parse(fields["Minimum recovery ending location"]),
        min_recovery_timeline=int(fields["Min recovery ending loc's timeline"]),
        backup_start=Lsn.parse(fields["Backup start location"]),
        backup_end_required=fields["End-of-backup record required"] == "yes",
        wal_level=fields["wal_level setting"],
        segment_bytes=int(fields["Bytes per WAL segment"]),
        block_bytes=int(fields["Database block size"]),
        has_checksums=fields["Data page checksum version"] != "0",
        tracks_commit_timestamps=fields["track_commit_timestamp setting"] == "on",
        capacities=Capacities(
            max_connections=int(fields["max_connections setting"]),
            max_worker_processes=int(fields["max_worker_processes setting"]),
            max_wal_senders=int(fields["max_wal_senders setting"]),
            max_prepared_transactions=int(fields["max_prepared_xacts setting"]),
            max_locks_per_transaction=int(fields["max_locks_per_xact setting"]),
        ),
    )
