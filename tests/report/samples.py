"""Outcomes to show: one restore that met its promises, one that did not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drtool.model.finding import Finding, Severity
from drtool.model.objective import LossInterval, Verdict
from drtool.model.outcome import (
    ChangedSetting,
    Judgement,
    LogSpan,
    LostWrites,
    Phase,
    Promise,
    Question,
    Reached,
    RestoreOutcome,
    RestoreReport,
)
from drtool.model.wal import Lsn

LOST_AT = datetime(2024, 5, 1, 8, 4, 12, 345000, tzinfo=UTC)


def met() -> RestoreOutcome:
    """A restore of the demo's kind: seconds long, a few seconds of work lost."""
    return RestoreOutcome(
        kind="postgres",
        source="main-db",
        backup_id="20240501T080001Z-3f9a",
        destination="/srv/restore/main-db-20240501T080430Z",
        target="the latest recoverable moment",
        began=LOST_AT + timedelta(seconds=18),
        total_seconds=31.4,
        phases=(
            Phase(name="plan", title="Plan", begin_seconds=0.0, seconds=0.4),
            Phase(
                name="fetch",
                title="Fetch base backup",
                begin_seconds=0.41,
                seconds=9.2,
                size_bytes=1_482_000_000,
            ),
            Phase(
                name="replay",
                title="Replay WAL",
                begin_seconds=9.63,
                seconds=14.8,
                size_bytes=912_000_000,
            ),
            Phase(name="promote", title="Promote", begin_seconds=24.45, seconds=0.7),
            Phase(
                name="verify", title="Verify checksums and catalog", begin_seconds=25.2, seconds=6.1
            ),
        ),
        reached=Reached(
            commit_time=LOST_AT - timedelta(seconds=6.2),
            lsn=Lsn.parse("0/5A3F1B28"),
            timeline=1,
            transaction=88213,
        ),
        bytes_restored=1_482_000_000,
        wal_bytes=912_000_000,
        log=LogSpan(
            backup_start=Lsn.parse("0/24000028"),
            backup_stop=Lsn.parse("0/2C1A0100"),
            repository_end=Lsn.parse("0/5A3F1B28"),
        ),
        lost_at=LOST_AT,
        server_version="PostgreSQL 15.14",
        judgements=(
            Judgement(
                objective=Promise.RPO,
                promised=timedelta(minutes=15),
                measured=LossInterval(timedelta(seconds=4.1), timedelta(seconds=6.2)),
                verdict=Verdict.MET,
                explanation="newest acknowledged write against the newest recovered one, by the ledger",
            ),
            Judgement(
                objective=Promise.RTO,
                promised=timedelta(hours=1),
                measured=timedelta(seconds=31.4),
                verdict=Verdict.MET,
                explanation="from the declaration to the first read and write with all questions answered",
            ),
        ),
        questions=(
            Question("select count(*) > 0 from orders", "true", passed=True),
            Question("select max(id) - count(*) = 0 from ledger", "true", passed=True),
        ),
        findings=(
            Finding(
                severity=Severity.NOTE,
                subject="collation en_US.utf8",
                fact="the C library here is the source's version",
            ),
        ),
        how_to_start=(
            "sudo -u postgres /usr/lib/postgresql/15/bin/pg_ctl start -D /srv/restore/main-db",
        ),
        how_to_stop=(
            "sudo -u postgres /usr/lib/postgresql/15/bin/pg_ctl stop -D /srv/restore/main-db",
        ),
        changed_settings=(
            ChangedSetting(
                name="archive_mode",
                value="off",
                reason="a restored copy never archives into the repository it came from",
            ),
            ChangedSetting(name="listen_addresses", value="''", reason="reached by nobody else"),
        ),
        lost_writes=LostWrites(
            acknowledged=12_408,
            recovered=12_361,
            lost=47,
            unacknowledged_recovered=2,
            is_prefix=True,
        ),
    )


def missed() -> RestoreOutcome:
    """A restore that took too long, with hostile names in it."""
    return RestoreOutcome(
        kind="postgres",
        source="orders-db",
        backup_id="20240430T020000Z-77e1",
        destination="/srv/restore/<script>alert(1)</script>",
        target="time 2024-05-01T10:00:00+02:00",
        began=LOST_AT + timedelta(minutes=9),
        total_seconds=5400.0,
        phases=(
            Phase(
                name="decide",
                title="Decide",
                begin_seconds=0.0,
                seconds=1260.0,
                is_waiting=True,
            ),
            Phase(
                name="fetch",
                title="Fetch base backup",
                begin_seconds=1260.0,
                seconds=2280.0,
                size_bytes=612_000_000_000,
            ),
            Phase(
                name="replay",
                title="Replay WAL",
                begin_seconds=3545.0,
                seconds=1800.0,
                size_bytes=88_000_000_000,
            ),
        ),
        reached=Reached(
            commit_time=LOST_AT - timedelta(minutes=21),
            lsn=Lsn.parse("2A/9F000000"),
            timeline=3,
        ),
        bytes_restored=612_000_000_000,
        wal_bytes=88_000_000_000,
        log=LogSpan(
            backup_start=Lsn.parse("15/20000028"),
            backup_stop=Lsn.parse("15/91000060"),
            repository_end=Lsn.parse("2C/1A000000"),
        ),
        lost_at=LOST_AT,
        judgements=(
            Judgement(
                objective=Promise.RPO,
                promised=timedelta(minutes=15),
                measured=LossInterval(timedelta(minutes=20), timedelta(minutes=21)),
                verdict=Verdict.MISSED,
                explanation="the log has a gap from 2A/A0000000 on",
            ),
            Judgement(
                objective=Promise.RTO,
                promised=timedelta(hours=1),
                measured=timedelta(seconds=5400),
                verdict=Verdict.MISSED,
                explanation="of which 21 minutes were waiting for a decision",
            ),
        ),
        questions=(Question("select count(*) > 0 from orders", "false", passed=False),),
        findings=(
            Finding(
                severity=Severity.PROBLEM,
                subject="base/16384/24601",
                fact="page 118 has a wrong checksum",
                fix="The older backup 20240429T020000Z-19ab holds the page intact.",
            ),
        ),
    )


def report(*outcomes: RestoreOutcome) -> RestoreReport:
    """A report of these outcomes, or of both samples."""
    return RestoreReport(
        stack="stefano",
        timezone="Europe/Warsaw",
        written=LOST_AT + timedelta(minutes=2),
        tool_version="0.1.0",
        outcomes=outcomes or (met(), missed()),
        policy="policies/stefano.yaml",
    )
