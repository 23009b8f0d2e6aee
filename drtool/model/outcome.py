"""What a verb found: the values that `report/` shows as text, JSON and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from drtool.model.checked import CheckChanges, CheckReport, MirrorStanding
from drtool.model.finding import Finding
from drtool.model.objective import DISASTER, LossInterval, Objective, Verdict, worst
from drtool.model.wal import Lsn
from drtool.model.window import LogGap, TimeRange, UncertainSpan

# Reading the clock at the end of one phase and the beginning of the next is not instantaneous.
OVERLAP_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of a run, on the monotonic clock; `begin_seconds` counts from the run's beginning.

    `is_waiting` marks time that passed for a person, not for a machine.
    """

    name: str
    title: str
    begin_seconds: float
    seconds: float
    size_bytes: int | None = None
    is_waiting: bool = False

    @property
    def bytes_per_second(self) -> float | None:
        """The rate; None if no bytes were counted, or no time passed."""
        if self.size_bytes is None or self.seconds <= 0:
            return None
        return self.size_bytes / self.seconds


def unaccounted_seconds(phases: Sequence[Phase], total_seconds: float) -> float:
    """What `total_seconds` holds beside the phases; ValueError if they overlap or exceed it."""
    end = 0.0
    for phase in phases:
        if phase.seconds < 0 or phase.begin_seconds < end - OVERLAP_SECONDS:
            raise ValueError(f"phase {phase.name} begins before the one before it has ended")
        end = phase.begin_seconds + phase.seconds
    if end > total_seconds + OVERLAP_SECONDS:
        raise ValueError(
            f"the phases end after {end:.3f} s, the whole run took {total_seconds:.3f} s"
        )
    return total_seconds - sum(phase.seconds for phase in phases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a replay came, as the restored server itself said; None is what it did not say."""

    commit_time: datetime | None
    lsn: Lsn | None
    timeline: int | None
    transaction: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSpan:
    """The log positions of a restore: the backup's own stretch, and how far the repository reached."""

    backup_start: Lsn
    backup_stop: Lsn
    repository_end: Lsn | None = None


class Promise(StrEnum):
    """Which half of an objective is judged."""

    RPO = "rpo"
    RTO = "rto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A measurement held against a promise: an interval by its upper end, a loss back from `against`."""

    objective: Promise
    promised: timedelta
    measured: LossInterval | timedelta | None
    verdict: Verdict
    explanation: str
    against: str = DISASTER


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the policy, and the copy's answer; `passed` is None where it cannot be asked."""

    question: str
    answer: str
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedSetting:
    """A setting that differs from the source's, and why it had to."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LostWrites:
    """The restored copy against a ledger of acknowledged writes kept outside it.

    `is_prefix` says that what was recovered has no hole: nothing is missing before something present.
    """

    acknowledged: int
    recovered: int
    lost: int
    unacknowledged_recovered: int
    is_prefix: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOutcome:
    """One source, restored. `lost_at` is the moment of the disaster, where one is known.

    For a tree of files `reached.commit_time` is when its snapshot began. Of a Redis, `keys` are those of
    the copy and `snapshot_keys` those of the snapshot it began from, None where they were not counted.
    """

    source: str
    backup_id: str
    destination: str
    target: str
    began: datetime
    total_seconds: float
    phases: tuple[Phase, ...]
    reached: Reached
    bytes_restored: int
    wal_bytes: int
    log: LogSpan | None = None
    lost_at: datetime | None = None
    server_version: str = ""
    judgements: tuple[Judgement, ...] = ()
    questions: tuple[Question, ...] = ()
    findings: tuple[Finding, ...] = ()
    how_to_start: tuple[str, ...] = ()
    how_to_stop: tuple[str, ...] = ()
    changed_settings: tuple[ChangedSetting, ...] = ()
    lost_writes: LostWrites | None = None
    is_writable: bool = True
    keys: int | None = None
    snapshot_keys: int | None = None
    kind: str

    def __post_init__(self) -> None:
        unaccounted_seconds(self.phases, self.total_seconds)

    @property
    def unaccounted_seconds(self) -> float:
        """Time between the phases, so that they add up to the total."""
        return max(0.0, unaccounted_seconds(self.phases, self.total_seconds))

    @property
    def verdict(self) -> Verdict:
        """The worst of its judgements; UNKNOWN if nothing was judged or a question could not be asked,
        MISSED if one failed.
        """
        passed = [question.passed for question in self.questions]
        if False in passed:
            return Verdict.MISSED
        judged = [judgement.verdict for judgement in self.judgements]
        return worst([*judged, Verdict.UNKNOWN] if None in passed else judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """One or more sources, brought back to one moment; with the digest of the repository's rescue.py."""

    stack: str
    timezone: str
    written: datetime
    tool_version: str
    outcomes: tuple[RestoreOutcome, ...]
    title: str = "Restore report"
    policy: str = ""
    rescue_sha256: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its sources."""
        return worst(outcome.verdict for outcome in self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of a fact sheet: `name` is its key in JSON; on a screen `label` (else the name)
    stands before it, and `shown` in place of the value.
    """

    name: str
    value: str | int | float | bool | datetime | tuple[str, ...] | None
    shown: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePreview:
    """What a restore would do, and has not done; `changes`: what of a place would be made, changed, left."""

    source: str
    target: str
    destination: str
    backup_id: str
    backup_finished: datetime
    steps: tuple[str, ...]
    fetch_bytes: int
    wal_bytes: int
    recoverable_from: datetime | None
    recoverable_until: datetime | None
    predicted: timedelta | None = None
    findings: tuple[Finding, ...] = ()
    windows: tuple[TimeRange, ...] = ()
    uncertain: tuple[UncertainSpan, ...] = ()
    changes: tuple[Fact, ...] = ()
    kind: str


class BackupKind(StrEnum):
    """Every backup is full in the catalog; this says what went over the wire."""

    FULL = "full"
    INCREMENTAL = "incremental"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOutcome:
    """One backup, committed. `reused_bytes` were in the repository already.

    Log positions are those of PostgreSQL alone. `files_read` counts the files of a tree that had to
    be read; the others were known to be unchanged.
    """

    source: str
    backup_id: str
    kind: BackupKind
    began: datetime
    seconds: float
    files: int
    read_bytes: int
    stored_bytes: int
    reused_bytes: int
    start_lsn: Lsn | None = None
    stop_lsn: Lsn | None = None
    timeline: int | None = None
    wal_included_to: Lsn | None = None
    files_read: int | None = None
    pages: int | None = None
    pages_changed: int | None = None
    previous: str | None = None
    findings: tuple[Finding, ...] = ()
    rescue_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """One source: from when to when it can be recovered, and whether its promise is kept now."""

    source: str
    kind: str
    objective: Objective
    verdict: Verdict
    earliest: datetime | None = None
    latest: datetime | None = None
    rpo_now: LossInterval | None = None
    last_backup: str | None = None
    last_backup_finished: datetime | None = None
    receiver: str = "unknown"
    gaps: tuple[LogGap, ...] = ()
    findings: tuple[Finding, ...] = ()
    predicted_rto: timedelta | None = None
    mirror: MirrorStanding | None = None
    windows: tuple[TimeRange, ...] = ()
    uncertain: tuple[UncertainSpan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """One screen: how things stand at `at`."""

    stack: str
    timezone: str
    at: datetime
    rows: tuple[StatusRow, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its rows."""
        return worst(row.verdict for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOutcome:
    """What reading back found; `level` is quick, sampled or whole. `foreign` are the keys of objects that
    nobody with the key has put.
    """

    level: str
    sources: tuple[str, ...]
    began: datetime
    seconds: float
    backups: int
    objects: int
    read_bytes: int
    gaps: tuple[LogGap, ...] = ()
    findings: tuple[Finding, ...] = ()
    rescue_sha256: str = ""
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FactSheet:
    """The answer of a small command, `kind` in JSON; `text` is a file that would be written."""

    kind: str
    title: str
    facts: tuple[Fact, ...]
    findings: tuple[Finding, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseRow:
    """Whether a source's schedule can keep its promise; `worst_loss` is None where none is bounded."""

    source: str
    kind: str
    objective: Objective
    worst_loss: timedelta | None
    verdict: Verdict
    explanation: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyReport:
    """What `drtool policy check` says of a valid policy."""

    stack: str
    path: str
    timezone: str
    rows: tuple[PromiseRow, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its rows."""
        return worst(row.verdict for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as a value: what `--json` prints when a command fails."""

    error: str
    message: str
    hint: str
    exit_code: int
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOutcome:
    """The mirror of one source, up to date. `read_files` of its files were read, `put_files` put.

    `keeps_versions` is whether deleted objects can still be read, None where nobody asked or could tell.
    """

    source: str
    mirror: str
    run_id: str
    began: datetime
    seconds: float
    files: int
    size_bytes: int
    read_files: int
    put_files: int
    put_bytes: int
    deleted_files: int
    keeps_versions: bool | None = None
    findings: tuple[Finding, ...] = ()


Outcome = (
    RestoreReport | RestorePreview | BackupOutcome | StatusReport | VerifyOutcome | FactSheet
    | PolicyReport | SyncOutcome | CheckReport | CheckChanges | Failure
)  # fmt: skip
