"""Writes that a failover lost: archived of the old master, and never received by the new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from drtool.errors import IntegrityError, NotRecoverable
from drtool.model.finding import Finding, Severity
from drtool.model.measure import counted, format_exact, format_size
from drtool.repository.recovery_findings import Zone, shown
from drtool.repository.repository import Repository
from drtool.repository.streambranch import DeadBranch
from drtool.repository.streampath import newest, read_path
from drtool.sources.redis.commands import WriteCounter

# An old master that was cut off and written to for days is not read whole for the sake of a number.
MOST_COUNTED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LostAtFailover:
    """`count` None: not counted. The last of them had arrived by `until`."""

    branch: DeadBranch
    count: int | None
    until: datetime | None


def count_lost(
    repository: Repository, source: str, branches: Sequence[DeadBranch]
) -> tuple[LostAtFailover, ...]:
    """Count the writes of each branch; its bytes are read, up to MOST_COUNTED_BYTES."""
    return tuple(_count(repository, source, branch) for branch in branches)


def _count(repository: Repository, source: str, branch: DeadBranch) -> LostAtFailover:
    path, count = branch.path, None
    last = newest(repository, source, path)
    if branch.size_bytes <= MOST_COUNTED_BYTES:
        counter = WriteCounter(path.begin)
        try:
            for piece in read_path(repository, source, path, end=path.end):
                counter.feed(piece)
            count = counter.writes
        except (IntegrityError, NotRecoverable):
            count = None  # the number is a courtesy; `drtool verify` tells of the damage
    return LostAtFailover(branch=branch, count=count, until=last.moment if last else None)


def tell_lost(shard: str, lost: Sequence[LostAtFailover], *, zone: Zone) -> list[Finding]:
    """What a restore that follows the new master has to say of the old one."""
    found = []
    for one in lost:
        size = format_size(one.branch.size_bytes)
        what = size if one.count is None else f"{counted(one.count, 'write')}, {size}"
        where = "before that failover"
        if one.until is not None:
            where = f"'{format_exact(one.until, zone)}'"
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject=shard,
                fact=f"the failover seen at {shown(one.branch.at, zone)} lost what the"
                f" new master had not received of the old one ({what}): it is not in this copy",
                fix=f"To look at it, restore --to {where} into another directory.",
            )
        )
    return found
