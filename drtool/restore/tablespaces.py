"""Tablespaces that a replay creates: a directory of the copy is made before the record is handed over.

Whatever WAL says, no link in pg_tblspc may lead out of the places of the restore: that is looked at
before every segment. What was changed in the WAL for the replay is changed back once it is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drtool.errors import DestinationRefused
from drtool.model.finding import Finding, Severity
from drtool.model.wal import WalSegment
from drtool.restore.destination import Destination, beside, checked_tablespace, make_place
from drtool.sources.postgres.tablespace_records import TurnedInwards, WalChange
from drtool.system.users import give

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
        self._links = destination.data / "pg_tblspc"
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
            link = self._links / str(found.oid)
            try:
                link.symlink_to(path)
            except FileExistsError:
                return  # looked at before the segment is handed over
            give(link, self._destination.owner)

    def require_inside(self) -> None:
        """LinkLeadsOutside if a link leads anywhere but to the places of this restore."""
        with self._lock:
            places = [self._destination.data, *(one.path for one in self._destination.tablespaces)]
            places += [made.path for made in self._made.values()]
        inside = [os.path.realpath(place) for place in places]
        for entry in os.scandir(self._links):
            target = Path(os.path.realpath(entry.path))
            if not any(target.is_relative_to(place) for place in inside):
                raise LinkLeadsOutside(
                    f"{entry.path} leads to {target}, which is no place of this restore",
                    hint="Look who made it, and whether anything wrote there; restore again.",
                )

    def finish(self, *, segment_bytes: int) -> tuple[Finding, ...]:
        """Once the server has stopped: what the replay did not reach goes, and WAL is as it was written."""
        findings = []
        for oid, made in self._made.items():
            link = self._links / str(oid)
            if link.is_symlink() and any(made.path.iterdir()):
                findings.append(_told(oid, made))
                continue
            # Created after the target, or dropped before it.
            link.unlink(missing_ok=True)
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
        for path in (self._destination.data / "pg_wal").iterdir():
            if _SEGMENT_NAME.fullmatch(path.name):
                begin = WalSegment.parse(path.name, segment_bytes).begin(segment_bytes)
                for changes in self._changes:
                    here = [one for one in changes if begin <= one.lsn < begin + segment_bytes]
                    _restore_bytes(path, [(one.lsn - begin, one) for one in here])


def _restore_bytes(path: Path, places: Iterable[tuple[int, WalChange]]) -> None:
    """Put the written bytes back where all of the handed ones stand; recycled files hold other WAL."""
    places = list(places)
    if not places:
        return
    with path.open("r+b", buffering=0) as file:
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
