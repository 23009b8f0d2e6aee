"""What was asked for on the command line, as values that can only be right."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo

from drtool.model.measure import UTC_ZONE
from drtool.model.target import RecoveryTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """Probe servers and write a starter policy to `path`; never over an existing one.

    `repository` is the url backups shall go to; None means a directory that fits the user.
    """

    path: Path
    stack: str
    timezone: str
    repository: str | None
    is_dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRequest:
    """Take a backup now of each source; none named means every source of the policy.

    `accepts_source`: a source that looks empty or shrunken, or a tree that looks moved or encrypted, is
    as it should be, and so is a source of another stack, machine, path or cluster than before.
    `accepts_unread`: a Redis of a version that drtool does not know is stored as it is.
    `at_once` sources at a time, at least one; each needs the memory of one backup.
    """

    sources: tuple[str, ...]
    is_dry_run: bool
    accepts_source: bool = False
    accepts_unread: bool = False
    at_once: int = 3


class Edge(StrEnum):
    """Which state of a Redis stands for a moment at which nobody knows how far it was."""

    EARLIER = "earlier"
    """What it surely held: writes of the outage may be missing."""
    LATER = "later"
    """All that it may have held: writes after the moment may be there."""


class TtlMode(StrEnum):
    """What becomes of the times at which keys of a restored Redis expire.

    `absolute` leaves them as they were; `shift` moves them by the time since the moment restored to;
    `persist` takes them away.
    """

    ABSOLUTE = "absolute"
    SHIFT = "shift"
    PERSIST = "persist"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """Bring sources back; `into` None means a new directory under the policy's restore root.

    `lost_at` is when the disaster was, for judging the loss. `accepts_gap` goes on to the latest
    moment although WAL behind it is known to be lost. `each_latest`
    brings each source as far as it goes, instead of all to one moment. `is_latest` marks a time target
    that is the newest moment which all sources reach. `timeline` None means the one on which a time
    target happened, else the newest.
    Of trees of files alone: `patterns` name what to restore, none means all; `is_delta` changes what
    differs in a directory that is there.
    `ttl`, `masters` (None: as many as there were) and `edge` (of a moment inside an outage; None: such a
    moment is refused) are for Redis. `accepts_source`: backups of another stack or another tree under
    this name are the right ones.
    Of PostgreSQL alone: `from_backup` is the backup to begin with, else the newest before the target.
    Moments are told in `zone`.
    """

    sources: tuple[str, ...]
    target: RecoveryTarget
    into: Path | None
    report: Path | None
    is_plan: bool
    lost_at: datetime | None = None
    accepts_gap: bool = False
    each_latest: bool = False
    timeline: int | None = None
    is_latest: bool = False
    patterns: tuple[str, ...] = ()
    is_delta: bool = False
    ttl: TtlMode = TtlMode.ABSOLUTE
    masters: int | None = None
    edge: Edge | None = None
    accepts_source: bool = False
    from_backup: str | None = None
    zone: ZoneInfo = UTC_ZONE


class VerifyLevel(StrEnum):
    """How much is read back."""

    QUICK = "quick"
    SAMPLED = "sampled"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """Read back; `percent` counts only for a sample. `repairs`: what others have added is put aside."""

    sources: tuple[str, ...]
    level: VerifyLevel
    percent: float
    is_dry_run: bool
    repairs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest:
    """Bring mirrors up to their sources; none named means every source that has a mirror.

    `max_delete_percent` None means the policy's. `accepts_source` takes another disk, or content
    that looks encrypted, for intended.
    """

    sources: tuple[str, ...]
    is_dry_run: bool
    is_rehash: bool = False
    max_delete_percent: float | None = None
    accepts_source: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRestore:
    """Bring one source back from its mirror; `moment` None means the newest run.

    `accepts_source`: also the mirror of another stack; `accepts_unsigned`: with all rights that its runs
    name, although nobody vouches for them.
    """

    source: str
    moment: datetime | None
    into: Path
    is_plan: bool
    accepts_source: bool = False
    accepts_unsigned: bool = False


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """How things stand, of each source; none named means all."""

    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WalReceive:
    """Stream WAL into the repository until told to stop.

    `accepts_new_system`: the source is another cluster than before (after pg_upgrade).
    """

    source: str
    is_dry_run: bool
    accepts_new_system: bool = False


@dataclass(frozen=True, slots=True)
class WalPush:
    """Hand one segment over: what archive_command asks for."""

    source: str
    path: Path


@dataclass(frozen=True, slots=True)
class WalFetch:
    """Bring one segment or history file back: what restore_command asks for."""

    source: str
    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class WalStatus:
    """What the log of a source holds, and how its receiver does."""

    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WalGaps:
    """What the log of a source lacks."""

    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WalSlot:
    """The replication slot of a source: shown, or dropped."""

    source: str
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RedisReceive:
    """Archive the replication stream of a Redis until told to stop.

    `accepts_source`: the backups under its name are its own, whatever their stack.
    """

    source: str
    is_dry_run: bool
    accepts_source: bool = False


@dataclass(frozen=True, slots=True)
class RedisStatus:
    """What is archived of each source's stream; none named means all of kind redis."""

    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepositoryInit:
    """Create the repository of the policy, after a look at what its store can do."""

    is_dry_run: bool


@dataclass(frozen=True, slots=True)
class RepositoryInspect:
    """What the repository is, and what its store can do."""


@dataclass(frozen=True, slots=True)
class KeyList:
    """The slots that open the repository."""


@dataclass(frozen=True, slots=True)
class KeyAdd:
    """Add a slot; `reference` (env:NAME or file:PATH) is where its passphrase or key is found."""

    reference: str
    is_dry_run: bool


@dataclass(frozen=True, slots=True)
class KeyRemove:
    """Take a slot away, once another one has been opened."""

    slot: str
    is_dry_run: bool


@dataclass(frozen=True, slots=True)
class KeyRotate:
    """Seal from now on under a new master key; what is stored stays readable."""

    is_dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """The whole story on this machine; `keep` leaves its directory behind."""

    directory: Path | None
    report: Path | None
    keep: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """Look whether each source is ready to be protected and brought back; none named means all."""

    sources: tuple[str, ...]
