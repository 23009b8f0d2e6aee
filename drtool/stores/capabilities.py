"""What a store was measured to do, and what each missing ability means for its user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from drtool.errors import RepositoryUnavailable
from drtool.model.finding import Finding, Severity

LARGEST_SKEW = timedelta(seconds=30)
# A thousand years: more is no clock's.
_MOST_SKEW_SECONDS = 1000 * 366 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """None means "not known": it could not be asked, or the question makes no sense there.

    `creates_atomically`: an existing object is refused by `create`, also when eight race.
    `replaces_if_matching`: compare and swap, for leases. `lists_in_order`: a listing comes in the
    order of the keys' bytes, as S3 promises. `clock_skew`: the store's clock minus this machine's.

    `versioning`, `object_lock` and `outlives_deletion` (what drtool puts, whatever these credentials
    may delete) were found by deleting. `left_behind`: where objects are that could not be
    removed after that; it is not written down. `is_measured` is False where others may have written
    this: then the store is asked for its conditions, and looked at before each put all the same.
    """

    creates_atomically: bool
    replaces_if_matching: bool
    reads_after_write: bool
    ranges: bool
    lists_in_order: bool
    refuses_wrong_checksum: bool | None = None
    versioning: bool | None = None
    object_lock: bool | None = None
    outlives_deletion: bool | None = None
    clock_skew: timedelta | None = None
    left_behind: str | None = None
    is_measured: bool = True

    def unproved(self) -> Capabilities:
        """What may be relied on where nobody vouches for the record: nothing that it says."""
        return Capabilities(
            creates_atomically=True,
            replaces_if_matching=True,
            reads_after_write=True,
            ranges=True,
            lists_in_order=False,
            clock_skew=self.clock_skew,
            is_measured=False,
        )

    def to_json(self) -> dict[str, object]:
        """For `drtool.json` and `--json`; `clock_skew` in seconds."""
        skew = self.clock_skew
        return {
            "creates_atomically": self.creates_atomically,
            "replaces_if_matching": self.replaces_if_matching,
            "reads_after_write": self.reads_after_write,
            "ranges": self.ranges,
            "lists_in_order": self.lists_in_order,
            "refuses_wrong_checksum": self.refuses_wrong_checksum,
            "versioning": self.versioning,
            "object_lock": self.object_lock,
            "outlives_deletion": self.outlives_deletion,
            "clock_skew_seconds": None if skew is None else skew.total_seconds(),
        }

    @classmethod
    def from_json(cls, record: dict[str, object]) -> Capabilities:
        """What `to_json` wrote; RepositoryUnavailable naming the key that cannot be understood.

        Where `outlives_deletion` is missing, an earlier version took `versioning` and `object_lock`
        from the settings: that they are on is then not known to work.
        """
        if "outlives_deletion" not in record:
            unproved = {"versioning", "object_lock"}
            record = {k: None if k in unproved and v is True else v for k, v in record.items()}
        skew = record.get("clock_skew_seconds")
        if skew is not None and (isinstance(skew, bool) or not isinstance(skew, int | float)):
            raise _unreadable("clock_skew_seconds", skew)
        if skew is not None and abs(skew) > _MOST_SKEW_SECONDS:
            raise _unreadable("clock_skew_seconds", skew)
        return cls(
            creates_atomically=_surely(record, "creates_atomically"),
            replaces_if_matching=_surely(record, "replaces_if_matching"),
            reads_after_write=_surely(record, "reads_after_write"),
            ranges=_surely(record, "ranges"),
            lists_in_order=_surely(record, "lists_in_order"),
            refuses_wrong_checksum=_perhaps(record, "refuses_wrong_checksum"),
            versioning=_perhaps(record, "versioning"),
            object_lock=_perhaps(record, "object_lock"),
            outlives_deletion=_perhaps(record, "outlives_deletion"),
            clock_skew=None if skew is None else timedelta(seconds=skew),
        )


def _perhaps(record: dict[str, object], key: str) -> bool | None:
    value = record.get(key)
    if value is None or isinstance(value, bool):
        return value
    raise _unreadable(key, value)


def _surely(record: dict[str, object], key: str) -> bool:
    value = _perhaps(record, key)
    if value is None:
        raise _unreadable(key, value)
    return value


def _unreadable(key: str, value: object) -> RepositoryUnavailable:
    return RepositoryUnavailable(
        f"the recorded abilities of the store have {key} = {repr(value)[:80]}",
        hint="Run `drtool repository info` with the version of drtool that wrote the repository.",
    )


def describe_capabilities(capabilities: Capabilities) -> list[Finding]:
    """What a person must know of the store, the worst first; empty if it does everything."""
    if not capabilities.is_measured:
        return _clock_findings(capabilities)  # that nothing is known is told with the seal
    found = [
        *_writing_findings(capabilities),
        *_reading_findings(capabilities),
        *_protection_findings(capabilities),
        *_clock_findings(capabilities),
    ]
    rank = list(Severity)
    return sorted(found, key=lambda finding: -rank.index(finding.severity))


def _writing_findings(capabilities: Capabilities) -> list[Finding]:
    found = []
    if not capabilities.creates_atomically:
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject="conditional put",
                fact="this store ignores or refuses If-None-Match: two writers could overwrite each"
                " other, so drtool requires a single writer and looks before it puts",
                fix="Run one `drtool` at a time against it, or use a store that honours it.",
            )
        )
    if not capabilities.replaces_if_matching:
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject="compare and swap",
                fact="this store ignores or refuses If-Match: a lease cannot keep two machines from running "
                "the same work",
                fix="Schedule backups and expiry on one machine only.",
            )
        )
    if capabilities.refuses_wrong_checksum is False:
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject="checksum of uploads",
                fact="this store accepts bytes that do not match the checksum sent with them; "
                "damage on the way is found only when the object is read back",
                fix="Run `drtool verify` on a schedule.",
            )
        )
    return found


def _reading_findings(capabilities: Capabilities) -> list[Finding]:
    found = []
    if not capabilities.reads_after_write:
        found.append(
            Finding(
                severity=Severity.PROBLEM,
                subject="read after write",
                fact="this store does not show at once what was put: a backup could be taken for "
                "missing, and one that is needed could be swept",
                fix="Use a store with strong consistency.",
            )
        )
    if not capabilities.ranges:
        found.append(
            Finding(
                severity=Severity.WARNING,
                subject="ranged reads",
                fact="this store does not answer ranged reads as HTTP demands, so whole objects "
                "are read where a part would do: restores and checks take more traffic",
                fix="Use a store that honours the Range header.",
            )
        )
    if not capabilities.lists_in_order:
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject="listing order",
                fact="this store does not list in the order of the keys' bytes, so drtool lists "
                "directory by directory, which takes more requests",
            )
        )
    return found


def _protection_findings(capabilities: Capabilities) -> list[Finding]:
    found = []
    if not capabilities.outlives_deletion:
        fact, fix = _deletable(capabilities)
        found.append(
            Finding(
                severity=Severity.NOTE, subject="protection against deletion", fact=fact, fix=fix
            )
        )
    if capabilities.left_behind is not None:
        found.append(
            Finding(
                severity=Severity.NOTE,
                subject="objects of the probe",
                fact=f"the small objects below {capabilities.left_behind}, by which the store was "
                "measured, could not all be removed, or not all of their versions",
                fix="Delete them once their retention is over; nothing reads them.",
            )
        )
    return found


def _deletable(capabilities: Capabilities) -> tuple[str, str]:
    """Fact and fix where drtool's objects were not found to outlive their deletion."""
    if capabilities.outlives_deletion is None:
        fact = "this store is not known to keep deleted objects, by versioning or object lock"
        fix = "Turn on object lock with a default retention"
    elif capabilities.object_lock:
        fact = "this store locks objects, but not drtool's: its bucket has no default retention"
        fix = "Set one with `aws s3api put-object-lock-configuration`"
    elif capabilities.versioning:
        fact = "this store keeps versions, but these credentials may delete them too"
        fix = "Take s3:DeleteObjectVersion from the credentials, turn on object lock"
    else:
        fact = "this store keeps no deleted objects, neither by versioning nor by object lock"
        fix = "Turn on object lock with a default retention"
    can = "may be able to" if capabilities.outlives_deletion is None else "can"
    return (
        f"{fact}: whoever holds the credentials {can} delete every backup",
        f"{fix}, or keep a second copy elsewhere.",
    )


def _clock_findings(capabilities: Capabilities) -> list[Finding]:
    skew = capabilities.clock_skew
    if skew is None or abs(skew) <= LARGEST_SKEW:
        return []
    direction = "ahead of" if skew > timedelta(0) else "behind"
    return [
        Finding(
            severity=Severity.WARNING,
            subject="clock",
            fact=f"the store's clock is {abs(skew).total_seconds():.0f} s {direction} this "
            "machine's: S3 refuses requests at 15 minutes, and times in reports are off by that",
            fix="Run an NTP client on this machine.",
        )
    ]
