"""What a copy holds while it is recovered: drtool's own configuration, which refuses a start by hand.

The source's postgresql.conf and postgresql.auto.conf lie beside it meanwhile, and take no part: what
is valid only on the source's machine, or leads to it, cannot disturb a recovery.
"""

from __future__ import annotations

import os
import re
import shlex

from drtool.errors import DestinationRefused, NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.repository.backups import Manifest
from drtool.restore.copy_ports import CopyPorts
from drtool.restore.destination import Destination
from drtool.restore.host_rules import closed_rules
from drtool.restore.ring import REFUSING_COMMAND
from drtool.restore.source_config import AUTO_CONF, CONF, SOURCE_ENDING, SourceConfig
from drtool.restore.start_config import OWN_CONF, HandedOver, StartConfig
from drtool.restore.start_rules import StartNeeds
from drtool.sources.postgres.binaries import ServerBinaries
from drtool.sources.postgres.control import read_control
from drtool.sources.postgres.recovery_settings import rewrite_auto_conf
from drtool.sources.postgres.replay_needs import replay_needs
from drtool.system.users import command_prefix

_LABEL_START = re.compile(rb"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.M)
_REFUSING_LINE = f"restore_command = '{REFUSING_COMMAND}'\n"
_ESCAPED = re.compile(rb"([\n\r\\])")
# A setting that there is not: PostgreSQL refuses to start, promoted already or not. Our own servers
# have a configuration file of their own.
_DURING_RECOVERY = (
    "# Written by drtool: this restore is not finished, and must not be started.\n"
    "drtool_restore_is_not_finished = on\n"
)


def check_label(manifest: Manifest, destination: Destination) -> None:
    """NotRecoverable unless backup_label is there and is this backup's (PITFALLS 29).

    Without it PostgreSQL would begin at the wrong checkpoint and end up silently corrupt.
    """
    with destination.open() as data:
        match = _LABEL_START.search(data.read("backup_label") or b"")
    start = str(manifest.postgres.start_lsn)
    if match is None or match[1].decode() != start:
        told = "it is not there" if match is None else f"it begins at {match[1].decode()}"
        raise NotRecoverable(
            f"backup {manifest.backup_id} has no backup_label that begins at {start}: {told}",
            hint="Restore from another --backup: `drtool repository info` names them.",
        )


def prepare_recovery(manifest: Manifest, destination: Destination) -> tuple[Finding, ...]:
    """Leave everything that a recovery reads, durably; a start by hand stops at once from now on."""
    check_label(manifest, destination)
    findings = _replace_missing(manifest, destination)
    _write(destination, "tablespace_map", _tablespace_map(destination))
    _write(destination, "recovery.signal", b"")
    for name, ours in ((CONF, _DURING_RECOVERY), (AUTO_CONF, _refusing())):
        with destination.open() as data:
            theirs = data.read(name)
        if theirs is not None:
            _write(destination, name + SOURCE_ENDING, theirs)
        _write(destination, name, os.fsencode(ours))
    return findings


def finish_recovery(
    manifest: Manifest,
    destination: Destination,
    binaries: ServerBinaries,
    *,
    memory_bytes: int,
    role: str,
    ports: CopyPorts,
) -> HandedOver:
    """The copy is whole and stopped: it gets the configuration that it is started with from now on.

    `role` is the superuser that its owner logs in as; its port is one of `ports`.
    """
    control = read_control(destination.data, binaries, run_as=destination.owner)
    recorded = dict(manifest.postgres.settings)
    needs = replay_needs(control, recorded, data_directory=destination.data)
    _rename_in_rules(destination, manifest.postgres.bootstrap_role, role)
    conf, auto = _source_text(destination, CONF), _source_text(destination, AUTO_CONF)
    handed = StartConfig(
        destination=destination,
        binaries=binaries,
        needs=StartNeeds(settings=needs.settings(binaries.major), wal_level=control.wal_level),
        role=role,
        memory_bytes=memory_bytes,
        config=SourceConfig(
            destination.data,
            owner=destination.owner,
            conf=OWN_CONF if conf is None else conf,
            auto=auto or "",
        ),
        ports=ports,
    ).make()
    with destination.open() as data:
        for name in (CONF, AUTO_CONF):
            if not handed.is_own:
                data.remove(name + SOURCE_ENDING)
        data.sync()
    return handed


def refuse_again(destination: Destination) -> None:
    """After a failure: a copy that was promoted already, and then found wanting, is not started either.

    Without a control file nothing is needed, and with our configuration gone nothing is left to say.
    """
    try:
        with destination.open() as data:
            if not data.exists("global/pg_control") or data.exists("recovery.signal"):
                return
        _write(destination, "recovery.signal", b"")
        _write(destination, CONF, os.fsencode(_DURING_RECOVERY))
        _write(destination, AUTO_CONF, os.fsencode(_refusing()))
    except (OSError, DestinationRefused):
        # The disk is full or gone, or somebody moved it. The first error is the one to be told.
        return


def how_to_start(destination: Destination, binaries: ServerBinaries) -> tuple[str, ...]:
    """Command lines that start the copy, to be pasted into a shell of the user that we run as."""
    # Inside the copy: its owner may write nowhere else for certain.
    log = str(destination.data / "server.log")
    return (shlex.join([*_control(destination, binaries), "-l", log, "start"]),)


def how_to_stop(destination: Destination, binaries: ServerBinaries) -> tuple[str, ...]:
    """Command lines that stop it again."""
    return (shlex.join([*_control(destination, binaries), "-m", "fast", "stop"]),)


def _control(destination: Destination, binaries: ServerBinaries) -> list[str]:
    program = str(binaries.program("pg_ctl"))
    return [*command_prefix(destination.owner), program, "-D", str(destination.data)]


def _refusing() -> str:
    return rewrite_auto_conf("") + _REFUSING_LINE


def _source_text(destination: Destination, name: str) -> str | None:
    with destination.open() as data:
        content = data.read(name + SOURCE_ENDING)
    return None if content is None else os.fsdecode(content)


def _tablespace_map(destination: Destination) -> bytes:
    """`OID PATH` lines, from which PostgreSQL makes the links at the start of recovery (PITFALLS 25).

    Source: read_tablespace_map in xlogrecovery.c: a backslash quotes a line break or a backslash.
    """
    lines = [
        b"%d %s\n" % (place.oid, _ESCAPED.sub(rb"\\\1", os.fsencode(place.path)))
        for place in destination.tablespaces
    ]
    return b"".join(lines)


def _replace_missing(manifest: Manifest, destination: Destination) -> tuple[Finding, ...]:
    findings = []
    rules = closed_rules(destination, role=manifest.postgres.bootstrap_role)
    for name in (CONF, *rules):
        with destination.open() as data:
            is_missing = not data.exists(name)
        if is_missing:
            if name in rules:
                _write(destination, name, rules[name].encode())
            findings.append(
                Finding(
                    severity=Severity.WARNING,
                    subject=name,
                    fact="is not in the backup, because the source keeps it outside its data directory;"
                    " a minimal one was written",
                    fix=f"Bring the source's {name} along, and look through it before production.",
                )
            )
    return tuple(findings)


def _rename_in_rules(destination: Destination, before: str, role: str) -> None:
    """The closed rules that `_replace_missing` wrote name the role as the backup knew it."""
    ours = closed_rules(destination, role=before)
    for name, content in closed_rules(destination, role=role).items():
        with destination.open() as data:
            is_ours = data.read(name) == ours[name].encode()
        if before != role and is_ours:
            _write(destination, name, content.encode())


def _write(destination: Destination, name: str, content: bytes) -> None:
    with destination.open() as data:
        if name == "tablespace_map" and not content:
            # Absent means: no links to make. An empty one would do, but the backup had none either.
            data.remove(name)
            return
        data.replace(name, content)
