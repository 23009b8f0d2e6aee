"""The settings a restored copy is recovered with: fast to replay, and unable to reach production.

They go on the server's command line, which outranks every file. The source's `postgresql.conf` is not
read at all, and in place of its `postgresql.auto.conf`, which always is, lies one of drtool's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC

from drtool.model.target import (
    RecoveryTarget,
    ToBackup,
    ToLatest,
    ToLsn,
    ToName,
    ToTime,
    ToXid,
)
from drtool.sources.postgres.config_file import config_line, entries_of
from drtool.sources.postgres.control import ControlFile
from drtool.sources.postgres.replay_needs import ReplayNeeds

_MIB = 1 << 20
_SMALLEST_BUFFERS = 32 * _MIB
_LARGEST_BUFFERS = 1024 * _MIB
_TARGETS = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
)
# What makes a copy archive, follow, wait for or run something of the cluster it came from
# (PITFALLS 2, 54, 55; a promoted copy with synchronous_standby_names hangs at its first COMMIT).
_CUT_OFF = {
    "archive_mode": "off",
    "archive_command": "",
    "archive_library": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "restore_command": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "synchronous_standby_names": "",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "max_logical_replication_workers": "0",
    "max_sync_workers_per_subscription": "0",
    "ssl_passphrase_command": "",
}
# Likewise, each with the first version that has it.
_CUT_OFF_SINCE = {
    "event_triggers": ("off", 17),
    "sync_replication_slots": ("off", 17),
    "oauth_validator_libraries": ("", 18),
}
# Settings of the source that would steer a copy started by hand later.
_LEFT_OVER = re.compile(
    r"recovery_(?:target\w*|end_command|min_apply_delay)|restore_command|archive_\w+"
    r"|primary_\w+|promote_trigger_file|standby_mode|synchronous_standby_names|synchronized_standby_slots"
    r"|sync_replication_slots|hot_standby_feedback|wal_receiver_create_temp_slot",
    re.I,
)
_HEADER = "# Left by drtool: a restored copy does not archive, follow or wait for the cluster it came from.\n"
# What a copy keeps after the recovery, each with the reason, until somebody takes it into production.
CUT_OFF_AFTERWARDS = {
    "archive_mode": ("off", "a copy never archives where its source does"),
    "synchronous_standby_names": (
        "",
        "the source's standbys do not follow the copy: its first commit would wait for ever",
    ),
    "primary_conninfo": ("", "a copy never connects to its source's servers"),
    "max_logical_replication_workers": (
        "0",
        "a copy of a subscriber would take its source's rows from the publisher",
    ),
}
_PINNED = {name: value for name, (value, _) in CUT_OFF_AFTERWARDS.items()}


def isolated_settings(
    control: ControlFile,
    needs: ReplayNeeds,
    *,
    major: int,
    memory_bytes: int,
    preload: Sequence[str] = (),
) -> dict[str, str]:
    """Settings for any start of a restored copy, with or without recovery.

    Buffers are modest: an eighth of the memory, at most 1 GiB, whatever production has (PITFALLS 60).
    What a replay needs at least as large as on the primary is in `needs`. fsync
    stays on: what a restore calls done must be durable, and replay hardly syncs between its few
    restart points; the start syncs with one syncfs instead of file by file. Of libraries only `preload`
    are loaded.
    """
    buffers = buffer_bytes(memory_bytes)
    return {
        **_CUT_OFF,
        "shared_preload_libraries": ", ".join(preload),
        **needs.settings(major),
        # No background worker of any library starts. PostgreSQL asks for as many as the primary had of
        # hot standbys alone.
        "max_worker_processes": "0",
        **{name: value for name, (value, since) in _CUT_OFF_SINCE.items() if major >= since},
        "listen_addresses": "",
        "ssl": "off",
        "wal_level": control.wal_level if control.wal_level != "minimal" else "replica",
        "shared_buffers": f"{buffers // _MIB}MB",
        "huge_pages": "off",
        "fsync": "on",
        "recovery_init_sync_method": "syncfs",
        "full_page_writes": "on",
        # The server wants room for two segments, which may be of 1 GiB; 80 MB is its own default.
        "min_wal_size": f"{max(80, 2 * control.segment_bytes // _MIB)}MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "1h",
        "hot_standby": "off",
        "autovacuum": "off",
        "jit": "off",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_min_messages": "log",
        "log_error_verbosity": "default",
        "lc_messages": "C",
        "log_timezone": "UTC",
        "log_startup_progress_interval": "500ms",
        "log_checkpoints": "off",
        "log_connections": "off",
        "log_statement": "none",
        "log_min_duration_statement": "-1",
        "cluster_name": "drtool-restored",
        "dynamic_shared_memory_type": "mmap",
    }


def target_settings(
    target: RecoveryTarget, *, timeline: int, restore_command: str, action: str = "promote"
) -> dict[str, str]:
    """Settings that make a start with recovery.signal stop at `target` on the path to `timeline`.

    `action` is `promote` or `shutdown`. ToLsn stops before the first record that begins at or after
    the position, so one must follow it in the WAL; ToTime before the first commit after the moment.
    """
    settings = dict.fromkeys(_TARGETS, "")
    settings |= {
        "restore_command": restore_command,
        "recovery_target_timeline": str(timeline),
        "recovery_target_action": action,
        "recovery_target_inclusive": "on",
    }
    # The one target that counts comes last: setting another to '' after it is an error to the server.
    match target:
        case ToTime(moment):
            wanted = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
            return _last(settings, "recovery_target_time", wanted)
        case ToLsn(lsn):
            settings["recovery_target_inclusive"] = "off"
            return _last(settings, "recovery_target_lsn", str(lsn))
        case ToXid(xid):
            return _last(settings, "recovery_target_xid", str(xid))
        case ToName(name):
            return _last(settings, "recovery_target_name", name)
        case ToBackup():
            return _last(settings, "recovery_target", "immediate")
        case ToLatest():
            return settings


def rewrite_auto_conf(text: str, pins: Mapping[str, str] = _PINNED) -> str:
    """A `postgresql.auto.conf` without what would send a copy to the old cluster or to an old target.

    A copy started by hand with its old configuration neither archives (this file outranks
    postgresql.conf) nor connects to a primary, nor waits for synchronous standbys, nor recovers to
    where an earlier restore stopped (PITFALLS 54, 55). `pins` stand at its end.
    """
    gone = {
        entry.line for entry in entries_of(text) if is_left_over(entry.name) or entry.name in pins
    }
    kept = [
        line
        for number, line in enumerate(text.split("\n"))
        if number not in gone and f"{line}\n" != _HEADER
    ]
    body = "\n".join(kept)
    if body and not body.endswith("\n"):
        body += "\n"
    return body + _HEADER + "".join(config_line(name, value) for name, value in pins.items())


def is_left_over(name: str) -> bool:
    """Whether a setting steers a recovery, an archive or a replication of the source."""
    return _LEFT_OVER.fullmatch(name) is not None


def buffer_bytes(memory_bytes: int) -> int:
    """An eighth of the memory, within bounds."""
    return min(_LARGEST_BUFFERS, max(_SMALLEST_BUFFERS, memory_bytes // 8))


def _last(settings: dict[str, str], name: str, value: str) -> dict[str, str]:
    del settings[name]
    settings[name] = value
    return settings
