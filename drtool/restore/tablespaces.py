"""Tablespaces that a replay creates: a directory of the copy is made before the record is handed over.

Whatever WAL says, no link in pg_tblspc may lead out of the places of the restore: that is looked at
before every segment. What was changed in the WAL for the replay is changed back once it is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drtool.errors import DestinationRefused
from drtool.model.finding import Finding, Severity
from drtool.model.wal import WalSegment
from drtool.restore.destination import Destination, beside, checked_tablespace, make_place
from drtool.sources.postgres.tablespace_records import TurnedInwards, WalChange
from drtool.system.owned_directory import OwnedDirectory

_SEGMENT_NAME = re.compile(r"[0-9A-F]{24}")


class LinkLeadsOutside(DestinationRefused):
    """A link below pg_tblspc leads out of the restore: the replay must not go on."""


@dataclass(frozen=True, slots=True)
class _Made:
    location: str
    path: Path


class ReplayedTablespaces:
    """The tablespaces of one replay. `make` and `require_inside` may be called by any thread."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._of_backup = {place.oid for place in destination.tablespaces}
        self._made: dict[int, _Made] = {}
        self._changes: set[tuple[WalChange, ...]] = set()
        self._had_beside = beside(destination.data).exists()
        self._lock = threading.Lock()

    def make(self, found: TurnedInwards) -> None:
        """Give a tablespace its directory and its link; DestinationRefused if it cannot be."""
        with self._lock:
            self._changes.add(found.changes)
            if found.oid in self._of_backup or found.oid in self._made:
                return
            path = checked_tablespace(
                self._destination,
                found.oid,
                found.location,
                taken=[made.path for made in self._made.values()],
            )
            make_place(path, self._destination.owner)
            self._made[found.oid] = _Made(found.location, path)
            with self._destination.open() as data, contextlib.suppress(FileExistsError):
                # One that is there already is looked at before the segment is handed over.
                data.link_to(path, _link(found.oid))

    def require_inside(self) -> None:
        """LinkLeadsOutside if a link leads anywhere but to the places of this restore."""
        with self._lock:
            places = [self._destination.data, *(one.path for one in self._destination.tablespaces)]
            places += [made.path for made in self._made.values()]
        inside = [os.path.realpath(place) for place in places]
        with self._destination.open() as data:
            names = data.names("pg_tblspc")
        for name in names:
            link = self._destination.data / "pg_tblspc" / name
            target = Path(os.path.realpath(link))
            if not any(target.is_relative_to(place) for place in inside):
                raise LinkLeadsOutside(
                    f"{link} leads to {target}, which is no place of this restore",
                    hint="Look who made it, and whether anything wrote there; restore again.",
                )

    def finish(self, *, segment_bytes: int) -> tuple[Finding, ...]:
        """Once the server has stopped: what the replay did not reach goes, and WAL is as it was written."""
        findings = []
        with self._destination.open() as data:
            for oid, made in self._made.items():
                with OwnedDirectory(made.path, self._destination.owner) as place:
                    is_used = bool(place.names())
                if is_used and data.exists(_link(oid)):
                    findings.append(_told(oid, made))
                    continue
                # Created after the target, or dropped before it.
                data.remove(_link(oid))
                with contextlib.suppress(OSError):
                    made.path.rmdir()
        if self._made and not self._had_beside:
            with contextlib.suppress(OSError):
                beside(self._destination.data).rmdir()
        self._put_back(segment_bytes)
        return tuple(findings)

    def _put_back(self, segment_bytes: int) -> None:
        """A rewritten segment must never come into a repository, as the first of a timeline could."""
        if not self._changes:
            return
        with self._destination.open() as data:
            for name in data.names("pg_wal"):
                if not _SEGMENT_NAME.fullmatch(name):
                    continue
                begin = WalSegment.parse(name, segment_bytes).begin(segment_bytes)
                for changes in self._changes:
                    here = [one for one in changes if begin <= one.lsn < begin + segment_bytes]
                    if here:
                        descriptor = data.open(f"pg_wal/{name}", os.O_RDWR)
                        _restore_bytes(descriptor, [(one.lsn - begin, one) for one in here])


def _link(oid: int) -> str:
    return f"pg_tblspc/{oid}"


def _restore_bytes(descriptor: int, places: Sequence[tuple[int, WalChange]]) -> None:
    """Put the written bytes back where all of the handed ones stand; recycled files hold other WAL.
    The descriptor is closed.
    """
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        for at, change in places:
            file.seek(at)
            if file.read(len(change.handed)) != change.handed:
                return
        for at, change in places:
            file.seek(at)
            file.write(change.written)
        os.fsync(file.fileno())


def _told(oid: int, made: _Made) -> Finding:
    return Finding(
        severity=Severity.NOTE,
        subject=f"tablespace {oid}",
        fact=f"was created after the backup, at {made.location} on the source; the copy has it at"
        f" {made.path}",
    )
