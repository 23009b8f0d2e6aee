"""The copy's own configuration: refusing while it is half done, harmless once it is whole."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from drtool.errors import IntegrityError, NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import ChangedSetting
from drtool.repository.backups import Manifest
from drtool.restore.destination import Destination
from drtool.restore.ring import REFUSING_COMMAND
from drtool.sources.postgres.binaries import ServerBinaries
from drtool.sources.postgres.recovery_settings import rewrite_auto_conf
from drtool.system.durable import replace_durably

AUTO_CONF = "postgresql.auto.conf"
_LABEL_START = re.compile(rb"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.M)
_REFUSING_LINE = f"restore_command = '{REFUSING_COMMAND}'\n"
_ESCAPED = re.compile(rb"([\n\r\\])")
# What a cluster is given whose configuration lay outside its data directory (PITFALLS 58).
_REPLACEMENTS = {
    "postgresql.conf": b"# Written by drtool: the source keeps its own outside the data directory.\n",
    "pg_hba.conf": b"# Written by drtool: the source keeps its own outside the data directory.\n"
    b"local all all peer\n",
    "pg_ident.conf": b"# Written by drtool: the source keeps its own outside the data directory.\n",
}

CHANGED_SETTINGS = (
    ChangedSetting(
        name="archive_mode", value="off", reason="a copy never archives where its source does"
    ),
    ChangedSetting(
        name="synchronous_standby_names",
        value="''",
        reason="the source's standbys do not follow the copy: its first commit would wait for ever",
    ),
    ChangedSetting(
        name="primary_conninfo", value="''", reason="a copy never connects to its source's servers"
    ),
)


def check_label(manifest: Manifest, destination: Destination) -> None:
    """NotRecoverable unless backup_label is there and is this backup's (PITFALLS 29).

    Without it PostgreSQL would begin at the wrong checkpoint and end up silently corrupt.
    """
    path = destination.data / "backup_label"
    match = _LABEL_START.search(path.read_bytes()) if path.is_file() else None
    start = str(manifest.postgres.start_lsn)
    if match is None or match[1].decode() != start:
        told = "it is not there" if match is None else f"it begins at {match[1].decode()}"
        raise NotRecoverable(
            f"backup {manifest.backup_id} has no backup_label that begins at {start}: {told}",
            hint="Restore from another backup (`drtool status` lists them).",
        )


def prepare_recovery(manifest: Manifest, destination: Destination) -> tuple[Finding, ...]:
    """Leave everything that a recovery reads, durably; a start by hand stops at once from now on."""
    check_label(manifest, destination)
    findings = _replace_missing(destination)
    _write(destination, "tablespace_map", _tablespace_map(destination))
    _write(destination, "recovery.signal", b"")
    text = rewrite_auto_conf(_auto_conf(destination)) + _REFUSING_LINE
    _write(destination, AUTO_CONF, os.fsencode(text))
    return findings


def finish_recovery(destination: Destination) -> None:
    """The copy is whole: what was there to refuse a start goes."""
    _write(destination, AUTO_CONF, os.fsencode(rewrite_auto_conf(_auto_conf(destination))))


def refuse_again(destination: Destination) -> None:
    """After a failure: a copy that was promoted already, and then found wanting, is not started either.

    Without a control file nothing is needed, and with our configuration gone nothing is left to say.
    """
    if not (destination.data / "global" / "pg_control").exists():
        return
    if (destination.data / "recovery.signal").exists():
        return
    try:
        _write(destination, "recovery.signal", b"")
        text = rewrite_auto_conf(_auto_conf(destination)) + _REFUSING_LINE
        _write(destination, AUTO_CONF, os.fsencode(text))
    except OSError:
        # The disk is full or gone. The first error is the one to be told.
        return


def how_to_start(destination: Destination, binaries: ServerBinaries) -> tuple[str, ...]:
    """Command lines that start and stop the copy, to be pasted into a shell."""
    control = [str(binaries.program("pg_ctl")), "-D", str(destination.data)]
    # Inside the copy: its owner may write nowhere else for certain.
    log = str(destination.data / "server.log")
    prefix = [] if destination.owner.is_us else ["sudo", "-u", destination.owner.name]
    return (
        shlex.join([*prefix, *control, "-l", log, "start"]),
        shlex.join([*prefix, *control, "-m", "fast", "stop"]),
    )


def _tablespace_map(destination: Destination) -> bytes:
    """`OID PATH` lines, from which PostgreSQL makes the links at the start of recovery (PITFALLS 25).

    Source: read_tablespace_map in xlogrecovery.c: a backslash quotes a line break or a backslash.
    """
    lines = [
        b"%d %s\n" % (place.oid, _ESCAPED.sub(rb"\\\1", os.fsencode(place.path)))
        for place in destination.tablespaces
    ]
    return b"".join(lines)


def _replace_missing(destination: Destination) -> tuple[Finding, ...]:
    findings = []
    for name, content in _REPLACEMENTS.items():
        if not (destination.data / name).exists():
            _write(destination, name, content)
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


def _auto_conf(destination: Destination) -> str:
    path = destination.data / AUTO_CONF
    return os.fsdecode(path.read_bytes()) if path.is_file() else ""


def _write(destination: Destination, name: str, content: bytes) -> None:
    path: Path = destination.data / name
    if path.is_symlink():
        raise IntegrityError(f"{path} is a symbolic link", hint="Look who writes there meanwhile.")
    if name == "tablespace_map" and not content:
        # Absent means: no links to make. An empty one would do, but the backup had none either.
        path.unlink(missing_ok=True)
        return
    replace_durably(path, content, owner=destination.owner)
