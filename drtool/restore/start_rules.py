"""What a copy's configuration must not hold, and what it must: rules on names and values. Nothing is asked.

A rule is here if PostgreSQL could not tell at a start without harm: it would serve another directory,
write outside the copy, reach out, take its source's port, or end at once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from drtool.restore.copy_ports import CHOSEN
from drtool.restore.source_config import PlacedEntry, SourceConfig
from drtool.sources.postgres.config_file import INCLUDES
from drtool.sources.postgres.recovery_settings import CUT_OFF_AFTERWARDS, is_left_over

PORT = 5432
_LONGEST_SOCKET_PATH = 107
_BESIDE_SOURCE = (
    "the copy can be started beside its source, and nobody reaches it before you let them"
)
_OF_ELSEWHERE = {
    "data_directory": "the copy's data is in its own directory",
    "hba_file": "the copy's rules are in its own directory",
    "ident_file": "the copy's user maps are in its own directory",
    "external_pid_file": "the file is the source's",
}
_PATHS = frozenset({"log_directory"})
_TLS_FILES = (
    "ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_crl_dir", "ssl_dh_params_file",
)  # fmt: skip
_BUILT_IN = {
    "max_connections": "100",
    "max_worker_processes": "8",
    "max_wal_senders": "10",
    "max_prepared_transactions": "0",
    "max_locks_per_transaction": "64",
    "max_replication_slots": "10",
    "max_active_replication_origins": "10",
    "track_commit_timestamp": "off",
}
_ON = ("on", "true", "yes", "1", "tru", "tr", "t", "ye", "y")


@dataclass(frozen=True, slots=True)
class Pin:
    """A value in postgresql.auto.conf, which outranks the source's, and why."""

    value: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartNeeds:
    """What a start must find in force: `settings` at least as large, or on, and the source's wal_level."""

    settings: Mapping[str, str]
    wal_level: str


# Told whatever the source had.
PINS = frozenset({*CUT_OFF_AFTERWARDS, "port", "listen_addresses", "unix_socket_directories"})


def out_of_force_rules(config: SourceConfig) -> Iterator[tuple[PlacedEntry, str]]:
    """The entries that must not be in force, each with the reason."""
    for placed in config.entries():
        name, value = placed.entry.name, placed.entry.value
        if name in _OF_ELSEWHERE:
            yield placed, f"{_OF_ELSEWHERE[name]}; the source had {value!r}"
        elif name in INCLUDES and config.leads_outside(placed):
            yield placed, "it is not part of the copy"
        elif name in _PATHS and os.path.isabs(value):
            yield (
                placed,
                f"a copy writes nothing outside its own directory; the source had {value!r}",
            )
        elif is_left_over(name) and name not in CUT_OFF_AFTERWARDS:
            yield placed, "it steers a recovery or an archive of the source"


def pins_for(
    values: Mapping[str, str], needs: StartNeeds, *, data: Path, port: int
) -> dict[str, Pin]:
    """What must be in force, given what the source's files set, and the copy's port."""
    pins = {name: Pin(value, reason) for name, (value, reason) in CUT_OFF_AFTERWARDS.items()}
    pins["listen_addresses"] = Pin("127.0.0.1", _BESIDE_SOURCE)
    pins["port"] = Pin(str(port), CHOSEN)
    pins["unix_socket_directories"] = _sockets(data, port)
    pins |= dict(_conditional(values))
    pins |= dict(_capacities(values, needs.settings))
    if needs.wal_level == "logical" and values.get("wal_level") != "logical":
        pins["wal_level"] = Pin("logical", "the source was started with it")
    return pins


def port_of(values: Mapping[str, str]) -> int:
    """The port that the source's files set, or PostgreSQL's own."""
    told = values.get("port", "")
    return int(told) if told.isdigit() and 0 < int(told) < 65_536 else PORT


def _sockets(data: Path, port: int) -> Pin:
    """The copy's own directory, which only its owner can enter, unless its path is too long."""
    path = os.fsencode(data / f".s.PGSQL.{port}.lock")
    if len(path) > _LONGEST_SOCKET_PATH:
        return Pin(
            tempfile.gettempdir(), "the path of the copy's own directory is too long for a socket"
        )
    quoted = str(data).replace('"', '""')
    return Pin(f'"{quoted}"', _BESIDE_SOURCE)


def _conditional(values: Mapping[str, str]) -> Iterator[tuple[str, Pin]]:
    yield "log_destination", Pin("stderr", "the log goes to the file that the start command names")
    yield "logging_collector", Pin("off", "the log goes to the file that the start command names")
    if values.get("unix_socket_group"):
        yield "unix_socket_group", Pin("", "that group is the source machine's")
    if values.get("huge_pages", "").lower() in _ON:
        yield "huge_pages", Pin("try", "this machine may have none to give")
    if values.get("io_method") == "io_uring":
        yield "io_method", Pin("worker", "this machine may not have io_uring")
    if values.get("bonjour", "").lower() in _ON:
        yield "bonjour", Pin("off", "a copy does not announce itself")
    if values.get("ssl", "").lower() in _ON:
        elsewhere = [name for name in _TLS_FILES if os.path.isabs(values.get(name, ""))]
        if values.get("ssl_passphrase_command"):
            elsewhere.append("ssl_passphrase_command")
        if elsewhere:
            yield "ssl", Pin("off", f"{', '.join(elsewhere)} leads out of the copy")


def _capacities(values: Mapping[str, str], needs: Mapping[str, str]) -> Iterator[tuple[str, Pin]]:
    """What the data needs at every start, where the source's files in the copy say less, or nothing.

    Prepared transactions and replication origins need their room; commit timestamps are deleted by a
    start that does not track them.
    """
    for name, value in needs.items():
        here = values.get(name, _BUILT_IN.get(name, "0")).lower()
        if value.isdigit() and here.isdigit():
            is_enough = int(here) >= int(value)
        else:
            is_enough = value == "off" or here in _ON
        if not is_enough:
            yield (
                name,
                Pin(value, "the source was started with it, or its data needs it at a start"),
            )
