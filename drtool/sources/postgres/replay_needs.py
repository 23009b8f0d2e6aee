"""What a replay must find at least as large, or switched on, as the server had it that wrote the WAL.

The control file tells of the settings that PostgreSQL itself checks. Those that it does not, and that
end a recovery or lose data all the same, are recorded with each backup: `facts.RECORDED_SETTINGS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from drtool.sources.postgres.control import ControlFile
from drtool.sources.postgres.facts import Capacities

# Where nobody recorded how many there may be: a state takes some hundred bytes of shared memory.
_ENOUGH_ORIGINS = 1000
_DEFAULT_SLOTS = 10
_FIRST_WITH_SETTING_OF_ORIGINS = 18
# replorigin_checkpoint: a magic number, one ReplicationStateOnDisk each, a CRC (replication/origin.c).
_ORIGINS_FILE = Path("pg_logical") / "replorigin_checkpoint"
_ORIGINS_FRAME_BYTES, _ORIGIN_BYTES = 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayNeeds:
    """Settings that a recovery of one copy needs; `origins` is how many replication origins there may be."""

    capacities: Capacities
    origins: int
    keeps_commit_timestamps: bool

    def settings(self, major: int) -> dict[str, str]:
        """As the server's command line takes them."""
        needed = self.capacities
        # Until 17 the number of slots bounds the origins too; from 18 on they have a setting of their own.
        settings = {"max_replication_slots": str(max(_DEFAULT_SLOTS, self.origins))}
        if major >= _FIRST_WITH_SETTING_OF_ORIGINS:
            settings["max_active_replication_origins"] = settings["max_replication_slots"]
        return settings | {
            "max_connections": str(max(20, needed.max_connections)),
            "max_worker_processes": str(max(8, needed.max_worker_processes)),
            "max_wal_senders": str(max(10, needed.max_wal_senders)),
            "max_prepared_transactions": str(needed.max_prepared_transactions),
            "max_locks_per_transaction": str(max(64, needed.max_locks_per_transaction)),
            # Off, the end of recovery deletes every commit timestamp that the cluster has.
            "track_commit_timestamp": "on" if self.keeps_commit_timestamps else "off",
        }


def replay_needs(
    control: ControlFile,
    recorded: Mapping[str, str],
    *,
    data_directory: Path,
    changes: Iterable[Mapping[str, str]] = (),
) -> ReplayNeeds:
    """The largest of what the copy's control file, its backup's settings, and later changes say.

    `recorded` may lack anything: backups from before settings were recorded have none. `changes` are
    settings that the server was started with later, within the WAL that is to be replayed.
    """
    told = [recorded, *changes]

    def most(name: str, at_least: int) -> int:
        return max([at_least, *(_number(settings.get(name)) for settings in told)])

    known = control.capacities
    slots = "max_replication_slots"
    at_least = _DEFAULT_SLOTS if slots in recorded else _ENOUGH_ORIGINS
    origins = max(most(slots, at_least), most("max_active_replication_origins", 0))
    return ReplayNeeds(
        capacities=Capacities(
            max_connections=most("max_connections", known.max_connections),
            max_worker_processes=most("max_worker_processes", known.max_worker_processes),
            max_wal_senders=most("max_wal_senders", known.max_wal_senders),
            max_prepared_transactions=most(
                "max_prepared_transactions", known.max_prepared_transactions
            ),
            max_locks_per_transaction=most(
                "max_locks_per_transaction", known.max_locks_per_transaction
            ),
        ),
        origins=max(origins, _origins_held(data_directory)),
        keeps_commit_timestamps=control.tracks_commit_timestamps
        or any(settings.get("track_commit_timestamp") == "on" for settings in told),
    )


def _origins_held(data_directory: Path) -> int:
    """How many replication origins the copy's last checkpoint wrote down."""
    try:
        size = (data_directory / _ORIGINS_FILE).stat().st_size
    except FileNotFoundError:
        return 0
    return max(0, size - _ORIGINS_FRAME_BYTES) // _ORIGIN_BYTES


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
