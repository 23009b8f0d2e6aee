"""Stops a run whose source is not what it was: empty, unmounted, shrunken, or encrypted by someone.

Pure judgements over a few counts, and the small readers that make them.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from enum import StrEnum

from drtool.errors import SourceUnsuitable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted

ENTROPY_BYTES = 64 << 10
# Below this a file says too little about itself.
_LEAST_ENTROPY_BYTES = 1024
_LEAST_FILES = 20
_SUSPICIOUS_SHARE = 0.5
_ENCRYPTED_SHARE = 0.8


class AlarmKind(StrEnum):
    """What a source can have become."""

    UNMOUNTED = "unmounted"
    OTHER_DEVICE = "other device"
    SENTINEL_MISSING = "sentinel missing"
    EMPTY = "empty"
    SHRUNKEN = "shrunken"
    ENCRYPTED = "encrypted"


@dataclass(frozen=True, slots=True)
class Alarm:
    """A reason to stop before anything is deleted or overwritten."""

    kind: AlarmKind
    fact: str
    fix: str

    def finding(self, source: str) -> Finding:
        """The same as a sentence for a person."""
        return Finding(
            severity=Severity.PROBLEM, subject=f"source {source}", fact=self.fact, fix=self.fix
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceSigns:
    """Where a tree lies: whether its root is a mount point, and on which file system it is.

    `file_system_id` is statvfs's; it outlives a start of the machine on ext4 and XFS, where `device`
    may not. Elsewhere it may be 0, which says nothing.
    """

    is_mount_point: bool
    device: int
    file_system_id: int


def look_at_place(root: int) -> PlaceSigns:
    """The signs of an open root."""
    status = os.fstat(root)
    above = os.stat("..", dir_fd=root)
    is_mount_point = status.st_dev != above.st_dev or status.st_ino == above.st_ino
    return PlaceSigns(
        is_mount_point=is_mount_point,
        device=status.st_dev,
        file_system_id=os.statvfs(root).f_fsid,
    )


def has_sentinel(root: int, name: bytes) -> bool:
    """Whether the file that marks the real source lies in its root. SourceUnsuitable if none can say."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SourceUnsuitable(
            f"sentinel file {name!r} cannot be looked at: {error.strerror}",
            hint="Let the user that runs drtool read the source's root.",
        ) from error


def judge_place(now: PlaceSigns, before: PlaceSigns | None) -> list[Alarm]:
    """Alarms for a root that is no longer where it was. `before` is None for the first run."""
    if before is None or now == before:
        return []
    if before.is_mount_point and not now.is_mount_point:
        return [
            Alarm(
                AlarmKind.UNMOUNTED,
                "its root was a mount point and is none now: the disk is not mounted",
                "Mount it, then run again.",
            )
        ]
    is_same = before.file_system_id == now.file_system_id != 0 or before.device == now.device
    if is_same:
        return []
    return [
        Alarm(
            AlarmKind.OTHER_DEVICE,
            "its root is on another file system than in the last run",
            "See that the right disk is mounted; if it was replaced, accept it with --accept-source.",
        )
    ]


def judge_sentinel(name: bytes, *, is_there: bool) -> list[Alarm]:
    """An alarm if the file that marks the real source is missing."""
    if is_there:
        return []
    shown = name.decode("utf-8", "backslashreplace")
    return [
        Alarm(
            AlarmKind.SENTINEL_MISSING,
            f"its sentinel file {shown} is missing: this may not be the source",
            "Mount the source's disk; if it is mounted, put the file back.",
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCounts:
    """Files of the last run, and what this run found; "random" is what `looks_random` says.

    `known` files of which `known_random` were random; `deleted` of them are gone, but `moved` of these
    are there under another name. `changed` have other content. Of the changed, `changed_random_before`
    were random then, and `turned_random` are now and were not. `new` files, of which `new_random` are
    random. Where only a sample was measured, the caller scales it up.
    """

    known: int
    deleted: int
    moved: int = 0
    known_random: int = 0
    changed: int = 0
    changed_random_before: int = 0
    turned_random: int = 0
    new: int = 0
    new_random: int = 0


def judge_changes(counts: ChangeCounts, *, max_delete_percent: float) -> list[Alarm]:
    """Alarms for a run that would delete too much, or that would store what someone has encrypted.

    An empty source is always an alarm, also with `max_delete_percent` 100 (PITFALLS 86).
    """
    return [*_judge_deletes(counts, max_delete_percent), *_judge_entropy(counts)]


def _judge_deletes(counts: ChangeCounts, max_delete_percent: float) -> list[Alarm]:
    if not counts.known or not counts.deleted:
        return []
    if counts.deleted >= counts.known and not counts.new:
        return [
            Alarm(
                AlarmKind.EMPTY,
                f"it is empty, and held {counted(counts.known, 'file')} in the last run",
                "See that its disk is mounted. If it is meant to be empty, remove the source instead.",
            )
        ]
    lost = max(0, counts.deleted - counts.moved)
    share = 100 * lost / counts.known
    if share <= max_delete_percent:
        return []
    return [
        Alarm(
            AlarmKind.SHRUNKEN,
            f"{lost} of {counts.known} files ({share:.0f} %) are gone,"
            f" and max_delete allows {max_delete_percent:g} %",
            "If they were meant to go, run once with a higher --max-delete.",
        )
    ]


def _judge_entropy(counts: ChangeCounts) -> list[Alarm]:
    touched = counts.changed + counts.new
    if counts.known < _LEAST_FILES or touched < _SUSPICIOUS_SHARE * counts.known:
        return []
    # Archives and encrypted files were random all along and say nothing; of new files as many
    # are expected to be as there were.
    share = counts.known_random / counts.known
    telling = counts.changed - counts.changed_random_before + counts.new * (1 - share)
    turned = counts.turned_random + max(0.0, counts.new_random - counts.new * share)
    if telling < _LEAST_FILES or turned < _ENCRYPTED_SHARE * telling:
        return []
    return [
        Alarm(
            AlarmKind.ENCRYPTED,
            f"{touched} files changed or are new where {counts.known} were known, and"
            f" {counts.turned_random + counts.new_random} of them now look like random bytes:"
            " somebody may have encrypted them",
            "Look at the files. What is stored is untouched; to go on, run with --accept-source.",
        )
    ]


def entropy_bits(data: bytes | bytearray | memoryview) -> float:
    """Shannon entropy of the first 64 KiB, in bits a byte: 0 for nothing, at most 8."""
    import numpy as np  # a run that looks at no content starts without it

    head = np.frombuffer(data, np.uint8, min(len(data), ENTROPY_BYTES))
    if not len(head):
        return 0.0
    counts = np.bincount(head, minlength=256)
    shares = counts[counts > 0] / len(head)
    return abs(float(-(shares * np.log2(shares)).sum()))


def looks_random(entropy: float, size_bytes: int) -> bool:
    """Whether content of this size and entropy could be random bytes, as encrypted ones are.

    A few random bytes cannot reach 8 bits: n of them have about 8 - 255 / (2 n ln 2) (Miller-Madow).
    """
    length = min(size_bytes, ENTROPY_BYTES)
    if length < _LEAST_ENTROPY_BYTES:
        return False
    expected = 8 - 255 / (2 * length * math.log(2))
    # The estimate spreads by about 16.3 / n bits (chi-squared with 255 degrees of freedom).
    return entropy >= expected - 8 * 16.3 / length
