"""Outcomes as text for a person: the answer first, then what it rests on.

Plain strings with a little style: `Style` is empty where no colour is wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from drtool.model.checked import CheckChanges, CheckedPart, CheckReport, MirrorStanding, Readiness
from drtool.model.finding import Finding, Severity
from drtool.model.measure import (
    counted,
    format_age,
    format_moment,
    format_promise,
    format_size,
    format_span,
)
from drtool.model.objective import Verdict
from drtool.model.outcome import (
    BackupOutcome,
    Fact,
    FactSheet,
    Failure,
    Judgement,
    Outcome,
    PolicyReport,
    RestoreOutcome,
    RestorePreview,
    RestoreReport,
    StatusReport,
    StatusRow,
    SyncOutcome,
    VerifyOutcome,
)
from drtool.report.changes import changes_text
from drtool.report.printable import printable_outcome
from drtool.report.usage import rescue_pairs, usage_lines
from drtool.report.window_words import uncertain_rows, window_words
from drtool.report.words import (
    LOGS,
    backup_word,
    gap_words,
    key_words,
    measured_words,
    reached_word,
    show_measured,
    with_log,
)

_COLOURS = {
    Verdict.MET: "32;1",
    Verdict.MISSED: "31;1",
    Verdict.UNKNOWN: "33;1",
    Verdict.STALE: "33;1",
}
_READINESS = {Readiness.READY: "32;1", Readiness.UNKNOWN: "33;1", Readiness.NOT_READY: "31;1"}
_MARKS = {True: ("ok", "32"), False: ("NO", "31;1"), None: ("??", "33;1")}
_SEVERITIES = {Severity.NOTE: "36", Severity.WARNING: "33", Severity.PROBLEM: "31;1"}


@dataclass(frozen=True, slots=True)
class Style:
    """How text may look, and the zone in which moments are shown."""

    zone: ZoneInfo
    has_colour: bool = False

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colour else text

    def bold(self, text: str) -> str:
        return self.paint(text, "1")

    def dim(self, text: str) -> str:
        return self.paint(text, "2")

    def verdict(self, verdict: Verdict) -> str:
        return self.paint(f"{verdict:<7}", _COLOURS[verdict])

    def moment(self, moment: datetime | None) -> str:
        return "unknown" if moment is None else format_moment(moment, self.zone)


def render(outcome: Outcome, style: Style) -> str:
    """The text of an outcome, without a final newline; no control character but those of `style`."""
    outcome = printable_outcome(outcome)
    match outcome:
        case RestoreReport():
            hash_line = [f"  {' '.join(one)}" for one in rescue_pairs(outcome.rescue_sha256)]
            return "\n\n".join([*(_restore(one, style) for one in outcome.outcomes), *hash_line])
        case RestorePreview():
            return _preview(outcome, style)
        case BackupOutcome():
            return _backup(outcome, style)
        case StatusReport():
            return _status(outcome, style)
        case VerifyOutcome():
            return _verify(outcome, style)
        case FactSheet():
            return _facts(outcome, style)
        case PolicyReport():
            return _policy(outcome, style)
        case SyncOutcome():
            return _sync(outcome, style)
        case CheckReport():
            return _check(outcome, style)
        case CheckChanges():
            return changes_text(outcome, style.zone)
        case Failure():
            return "\n  ".join([f"drtool: error: {outcome.message}", *filter(None, [outcome.hint])])


def _seconds(seconds: float) -> str:
    return format_span(timedelta(seconds=seconds))


def _pairs(pairs: Iterable[tuple[str, str]], style: Style) -> list[str]:
    """Names in one column, values in the next."""
    lines = list(pairs)
    width = max((len(name) for name, _ in lines), default=0)
    return [f"  {style.dim(name.ljust(width))}  {value}" for name, value in lines]


def _restore(outcome: RestoreOutcome, style: Style) -> str:
    reached = outcome.reached
    position = "unknown" if reached.lsn is None else str(reached.lsn)
    if reached.timeline is not None:
        position += f" on timeline {reached.timeline}"
    lines = [style.bold(f"{outcome.source} is restored in {outcome.destination}")]
    how_far = [(reached_word(outcome.kind), style.moment(reached.commit_time))]
    if outcome.kind == "postgres":
        how_far.append(("position", position))
    lines += _pairs(
        [
            ("asked for", outcome.target),
            *how_far,
            (f"from {backup_word(outcome.kind)}", outcome.backup_id),
            ("restored", with_log(outcome.kind, outcome.bytes_restored, outcome.wal_bytes)),
            *(("keys", words) for words in filter(None, [key_words(outcome)])),
        ],
        style,
    )
    lines += ["", *_phases(outcome, style)]
    lines += ["", *(_judgement(judgement, style) for judgement in outcome.judgements)]
    if outcome.lost_writes is not None:
        ledger = outcome.lost_writes
        lines.append(
            f"  of {ledger.acknowledged:,} acknowledged writes {ledger.recovered:,} are there and"
            f" {ledger.lost:,} are lost; {ledger.unacknowledged_recovered:,} unacknowledged came back"
        )
    for one in outcome.questions:
        lines.append(f"  {style.paint(*_MARKS[one.passed])}  {one.question}: {one.answer}")
    lines += _findings(outcome.findings, style)
    if outcome.changed_settings:
        lines += ["", "Settings that differ from the source:"]
        lines += [f"  {s.name} = {s.value}  ({s.reason})" for s in outcome.changed_settings]
    lines += usage_lines(outcome)
    return "\n".join(lines)


def _phases(outcome: RestoreOutcome, style: Style) -> list[str]:
    rows = [
        (
            phase.title,
            _seconds(phase.seconds),
            "" if phase.size_bytes is None else format_size(phase.size_bytes),
            ""
            if phase.bytes_per_second is None
            else f"{format_size(int(phase.bytes_per_second))}/s",
        )
        for phase in outcome.phases
    ]
    rows.append(("between phases", _seconds(outcome.unaccounted_seconds), "", ""))
    rows.append(("total", _seconds(outcome.total_seconds), "", ""))
    return _table(("phase", "time", "size", "rate"), rows, style)


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], style: Style, *, indent: str = "  "
) -> list[str]:
    """Columns as wide as their widest cell; the last one is not padded."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        return (indent + "  ".join(cells)).rstrip()

    return [style.dim(line(head)), *(line(row) for row in rows)]


def _judgement(judgement: Judgement, style: Style) -> str:
    return (
        f"  {style.verdict(judgement.verdict)} {judgement.objective.upper()}:"
        f" {measured_words(judgement)}, promised {format_promise(judgement.promised)}"
        f" ({judgement.explanation})"
    )


def _findings(findings: Sequence[Finding], style: Style) -> list[str]:
    lines = []
    for finding in findings:
        word = style.paint(finding.severity, _SEVERITIES[finding.severity])
        lines.append(f"  {word}: {finding.subject}: {finding.fact}")
        if finding.fix:
            lines.append(f"    -> {finding.fix}")
    return ["", *lines] if lines else []


def _preview(preview: RestorePreview, style: Style) -> str:
    predicted = "UNKNOWN" if preview.predicted is None else format_span(preview.predicted)
    lines = [style.bold(f"plan: restore {preview.source} to {preview.target}")]
    lines += _pairs(
        [
            ("into", preview.destination),
            (
                f"from {backup_word(preview.kind)}",
                f"{preview.backup_id}, {style.moment(preview.backup_finished)}",
            ),
            ("fetches", with_log(preview.kind, preview.fetch_bytes, preview.wal_bytes)),
            ("window", window_words(preview.windows, style.zone, indent=17) or "unknown"),
            *uncertain_rows(preview.uncertain, style.zone, indent=17),
            ("time it takes", predicted),
            ("loss", "measured back from --lost-at, the disaster; without it, from the target"),
        ],
        style,
    )
    lines += ["", *(f"  {number}. {step}" for number, step in enumerate(preview.steps, start=1))]
    lines += ["", *_pairs(_fact_pairs(preview.changes, style), style)] if preview.changes else []
    lines += _findings(preview.findings, style)
    return "\n".join([*lines, "", "Nothing was done: this is a plan."])


def _backup(outcome: BackupOutcome, style: Style) -> str:
    changed = "" if outcome.previous is None else f", compared with {outcome.previous}"
    new, old = format_size(outcome.stored_bytes), format_size(outcome.reused_bytes)
    pairs = [
        ("kind", f"{outcome.kind}{changed}"),
        ("read", f"{format_size(outcome.read_bytes)} in {counted(outcome.files, 'file')}"),
        ("stored", f"{new} new; {old} were there already"),
        ("took", f"{_seconds(outcome.seconds)}{_rate(outcome.read_bytes, outcome.seconds)}"),
    ]
    if outcome.start_lsn is not None:
        span = f"{outcome.start_lsn} to {outcome.stop_lsn} on timeline {outcome.timeline}"
        pairs.append(("WAL", f"{span}, in the repository up to {outcome.wal_included_to}"))
    if outcome.files_read is not None:
        size = format_size(outcome.read_bytes)
        pairs[1] = ("files", f"{outcome.files:,} of {size}; {outcome.files_read:,} had to be read")
    if outcome.pages is not None and outcome.pages_changed is not None:
        pairs.insert(3, ("pages", f"{outcome.pages_changed:,} of {outcome.pages:,} changed"))
    pairs += rescue_pairs(outcome.rescue_sha256)
    title = style.bold(f"{outcome.source}: backup {outcome.backup_id} is in the repository")
    return "\n".join([title, *_pairs(pairs, style), *_findings(outcome.findings, style)])


def _sync(outcome: SyncOutcome, style: Style) -> str:
    pairs = [
        ("mirror", outcome.mirror),
        ("files", f"{outcome.files:,}, {format_size(outcome.size_bytes)}"),
        ("read", f"{outcome.read_files:,} that could have changed"),
        ("put", f"{outcome.put_files:,}, {format_size(outcome.put_bytes)}"),
        ("deleted", f"{outcome.deleted_files:,}"),
        ("took", f"{_seconds(outcome.seconds)}{_rate(outcome.put_bytes, outcome.seconds)}"),
        ("run", outcome.run_id),
    ]
    title = style.bold(f"{outcome.source}: the mirror is up to date")
    return "\n".join([title, *_pairs(pairs, style), *_findings(outcome.findings, style)])


def _rate(size_bytes: int, seconds: float) -> str:
    return f", {format_size(int(size_bytes / seconds))}/s" if seconds > 0 else ""


def _status(report: StatusReport, style: Style) -> str:
    title = style.bold(f"stack {report.stack} at {style.moment(report.at)}")
    return "\n\n".join([title, *(_status_row(row, report.at, style) for row in report.rows)])


def _status_row(row: StatusRow, at: datetime, style: Style) -> str:
    backup = "none"
    if row.last_backup is not None:
        backup = row.last_backup
        if row.last_backup_finished is not None:
            backup += f", {format_age(row.last_backup_finished, at)}"
    window = window_words(row.windows, style.zone, indent=17) or "nothing can be recovered"
    # The verdict is that of the RPO alone: an RTO is measured by restores, and by nothing else.
    predicted = "not measured" if row.predicted_rto is None else format_span(row.predicted_rto)
    promise = f"RPO {format_promise(row.objective.rpo)}"
    lines = [f"{style.verdict(row.verdict)} {style.bold(row.source)} ({row.kind}), {promise}"]
    lines += _pairs(
        [
            ("window", window),
            *uncertain_rows(row.uncertain, style.zone, indent=17),
            ("RPO now", "UNKNOWN" if row.rpo_now is None else show_measured(row.rpo_now)),
            ("predicted RTO", f"{predicted}; promised {format_promise(row.objective.rto)}"),
            ("last backup", backup),
            *([("receiver", row.receiver)] if row.kind in LOGS else []),
            *([("mirror", _mirror(row.mirror, at))] if row.mirror is not None else []),
            *(("gap", gap) for gap in gap_words(row.gaps)),
        ],
        style,
    )
    return "\n".join([*lines, *_findings(row.findings, style)])


def _mirror(mirror: MirrorStanding, at: datetime) -> str:
    """When it was last brought up to date: a run that failed leaves no word, only an old one before it."""
    running = "" if mirror.holder is None else f"; a run is going on ({mirror.holder})"
    if mirror.trouble is not None:
        return f"UNKNOWN: {mirror.trouble}{running}"
    if mirror.ended is None:
        return f"{mirror.url}: no run has ended there yet{running}"
    one, many = ("entry in all", "entries in all") if mirror.is_whole else ("change", "changes")
    what = f"an unknown number of {many}"
    if mirror.changes is not None:
        what = counted(mirror.changes, one, many)
    age = format_age(mirror.ended, at)
    ended = f"last run ended {age}" if "ago" in age else f"last run is {age}"
    return f"{ended}, {what}{running}"


def _check(report: CheckReport, style: Style) -> str:
    title = style.bold(f"stack {report.stack} at {style.moment(report.at)}")
    parts = [_checked_part(part, style) for part in report.parts]
    return "\n\n".join([title, *parts, _readiness(report.readiness, style)])


def _checked_part(part: CheckedPart, style: Style) -> str:
    title = f"{_readiness(part.readiness, style)} {style.bold(part.name)} ({part.kind})"
    looks = _pairs(((look.name, look.seen) for look in part.looks), style)
    return "\n".join([title, *looks, *_findings(part.findings, style)])


def _readiness(readiness: Readiness, style: Style) -> str:
    return style.paint(readiness, _READINESS[readiness])


def _verify(outcome: VerifyOutcome, style: Style) -> str:
    counts = Counter(finding.severity for finding in outcome.findings)
    told = [one for one in (Severity.PROBLEM, Severity.WARNING) if counts[one]]
    result = ", ".join(counted(counts[one], str(one)) for one in told) or "nothing is wrong"
    lines = [style.bold(f"verified ({outcome.level}): {result}")]
    lines += _pairs(
        [
            ("sources", ", ".join(outcome.sources) or "none"),
            ("backups", f"{outcome.backups:,}"),
            ("objects", f"{outcome.objects:,}, {format_size(outcome.read_bytes)} read back"),
            ("took", f"{_seconds(outcome.seconds)}{_rate(outcome.read_bytes, outcome.seconds)}"),
            *(("gap", gap) for gap in gap_words(outcome.gaps)),
            *rescue_pairs(outcome.rescue_sha256),
        ],
        style,
    )
    return "\n".join([*lines, *_findings(outcome.findings, style)])


def _facts(sheet: FactSheet, style: Style) -> str:
    pairs = _fact_pairs(sheet.facts, style)
    lines = [style.bold(sheet.title), *_pairs(pairs, style), *_findings(sheet.findings, style)]
    return "\n".join([*lines, *(["", sheet.text.rstrip()] if sheet.text else [])])


def _fact_pairs(facts: Sequence[Fact], style: Style) -> list[tuple[str, str]]:
    pairs = []
    for fact in facts:
        value = fact.shown
        if not value and isinstance(fact.value, datetime):
            value = style.moment(fact.value)
        if not value and isinstance(fact.value, tuple):
            value = ", ".join(fact.value) or "none"
        label = fact.label or fact.name.replace("_", " ")
        pairs.append((label, value or _show(fact.value)))
    return pairs


def _show(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _policy(report: PolicyReport, style: Style) -> str:
    lines = [
        style.bold(
            f"policy {report.path} is valid: stack {report.stack}, times in {report.timezone}"
        )
    ]
    for row in report.rows:
        lines += ["", f"{style.verdict(row.verdict)} {style.bold(row.source)} ({row.kind})"]
        lines += [f"  {row.explanation}", *_findings(row.findings, style)[1:]]
    return "\n".join([*lines, *_findings(report.findings, style)])
