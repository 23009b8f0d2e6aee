"""Which backup, which WAL, or which refusal: planned from repositories that were invented."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from drtool.archiving.removed import record_gap
from drtool.errors import NotRecoverable
from drtool.model.finding import Severity
from drtool.model.objective import Mark
from drtool.model.target import (
    RecoveryTarget,
    ToBackup,
    ToLatest,
    ToLsn,
    ToTime,
)
from drtool.model.wal import Lsn
from drtool.repository import layout
from drtool.repository.layout import Lineage
from drtool.repository.log import put_history
from drtool.repository.logpath import WalSpan
from drtool.repository.marks import put_mark
from drtool.repository.repository import Repository
from drtool.restore.look import look
from drtool.restore.plan import RestorePlan, plan_restore, preview
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import Names
from drtool.system.clock import SystemClock
from tests.repository.building import (
    EXTENT_OF_BACKUP,
    MIB,
    NOW,
    SYSTEM,
    a_tree,
    new_repository,
    put_segments,
    put_tail,
    store_tree,
    tamper,
)

SOURCE = "main"


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


class WatchedStore(MemoryStore):
    """A store in which something happens just before its marks are listed."""

    meanwhile: Callable[[], None] | None = None

    def list_directories(self, prefix: str) -> Names:
        happen, is_due = self.meanwhile, prefix.startswith("marks/")
        if happen is not None and is_due:
            self.meanwhile = None
            happen()
        return super().list_directories(prefix)


class Invented:
    """A repository put together piece by piece. Segments are of 1 MiB; segment n begins at n MiB."""

    def __init__(self, directory: Path) -> None:
        self.store = WatchedStore()
        self.repository: Repository = new_repository(self.store)
        self._tree = a_tree(directory, {})
        self._count = 0

    def backup(
        self, segment: int, *, minutes: float = 0, timeline: int = 1, system: int = SYSTEM
    ) -> str:
        """A backup that needs WAL of one segment, ended at `minutes`."""
        self._count += 1
        backup_id = f"20240501T10000{self._count}Z-00000{self._count}"
        extent = replace(
            EXTENT_OF_BACKUP,
            start_lsn=Lsn(segment * MIB + 40),
            stop_lsn=Lsn(segment * MIB + 400),
            stopped_at=at(minutes),
            timeline=timeline,
            system_id=system,
        )
        store_tree(self.repository, self._tree, extent=extent, backup_id=backup_id)
        return backup_id

    def wal(self, numbers: Iterable[int], *, timeline: int = 1) -> None:
        put_segments(self.repository, numbers, timeline=timeline)

    def mark(self, minutes: float, lsn: int, *, timeline: int = 1) -> None:
        put_mark(
            self.repository, Lineage(SOURCE, SYSTEM, timeline), Mark(at(minutes), lsn, timeline)
        )

    def history(self, timeline: int, *lines: str) -> None:
        content = "".join(f"{line}\tno reason\n" for line in lines).encode()
        put_history(self.repository, SOURCE, SYSTEM, timeline=timeline, content=content)

    def plan(
        self, target: RecoveryTarget, *, accepts_gap: bool = False, timeline: int | None = None
    ) -> RestorePlan:
        facts = look(self.repository, SOURCE, target, timeline=timeline)
        return plan_restore(facts, target, accepts_gap=accepts_gap)


@pytest.fixture
def invented(tmp_path: Path) -> Invented:
    return Invented(tmp_path / "tree")


def lsn(number: float) -> Lsn:
    return Lsn(int(number * MIB))


def test_a_target_before_the_newest_backups_end_takes_the_one_before_it(invented: Invented) -> None:
    """PITFALLS 51: the previous backup is picked; the newest, which ended later, is not."""
    first = invented.backup(2, minutes=0)
    second = invented.backup(5, minutes=30)
    invented.wal(range(2, 8))
    invented.mark(20, lsn(4))
    invented.mark(40, lsn(7))

    before = invented.plan(ToTime(at(15)))
    after = invented.plan(ToTime(at(35)))

    assert before.manifest.backup_id == first
    assert after.manifest.backup_id == second


def test_a_target_before_the_first_backup_is_refused_with_the_earliest_moment(
    invented: Invented,
) -> None:
    """PITFALLS 51: none fits, so the earliest moment is named."""
    invented.backup(2, minutes=10)
    invented.wal(range(2, 5))
    invented.mark(20, lsn(4))

    with pytest.raises(NotRecoverable) as refusal:
        invented.plan(ToTime(at(9)))

    assert "2024-05-01T10:10:00Z" in refusal.value.hint
    assert "2024-05-01T10:19:59.999999Z" in refusal.value.message


def test_a_target_after_the_last_mark_is_refused_with_the_window(invented: Invented) -> None:
    """PITFALLS 52: PostgreSQL would fail at the end of a long replay; we say so before it."""
    invented.backup(2)
    invented.wal(range(2, 5))
    invented.mark(10, lsn(3))
    invented.mark(20, lsn(4))

    with pytest.raises(NotRecoverable) as refusal:
        invented.plan(ToTime(at(21)))

    # Just before the mark: PostgreSQL must come by a later commit to know that it has to stop.
    window = "recoverable from 2024-05-01T10:00:00Z to 2024-05-01T10:19:59.999999Z"
    assert window in refusal.value.message
    assert "--to '2024-05-01T10:19:59.999999Z'" in refusal.value.hint


def test_a_time_target_is_given_wal_up_to_the_mark_that_proves_it(invented: Invented) -> None:
    """PITFALLS 44: WAL is chosen by position and by marks, never by an object's age."""
    invented.backup(2)
    invented.wal(range(2, 20))
    invented.mark(10, lsn(4.5))
    invented.mark(20, lsn(9.5))
    invented.mark(30, lsn(15))

    plan = invented.plan(ToTime(at(15)))

    assert plan.wal_end == lsn(9.5)
    assert plan.spans == (WalSpan(1, lsn(2), lsn(10)),)
    assert plan.segment_count == 8


def test_without_marks_only_targets_that_need_none_are_taken(invented: Invented) -> None:
    backup = invented.backup(2)
    invented.wal(range(2, 5))

    with pytest.raises(NotRecoverable, match="has no marks"):
        invented.plan(ToTime(at(5)))

    for target in (ToLatest(), ToLsn(lsn(3)), ToBackup(backup)):
        assert invented.plan(target).manifest.backup_id == backup


def test_a_missing_middle_segment_is_named_and_refused(invented: Invented) -> None:
    """PITFALLS 40: to PostgreSQL it would look like the end of the WAL."""
    invented.backup(2)
    invented.wal([2, 3, 4, 6, 7])
    invented.mark(10, lsn(3.5))
    invented.mark(20, lsn(7.5))

    for target in (ToLatest(), ToTime(at(15)), ToLsn(lsn(7))):
        with pytest.raises(NotRecoverable, match="000000010000000000000005") as refusal:
            invented.plan(target)

        assert "--to '2024-05-01T10:09:59.999999Z'" in refusal.value.hint


def test_a_gap_that_is_accepted_says_what_is_lost(invented: Invented) -> None:
    """PITFALLS 40: only with --accept-gap, and loudly."""
    invented.backup(2)
    invented.wal([2, 3, 4, 6, 7])
    invented.mark(10, lsn(3.5))
    invented.mark(20, lsn(7.5))

    plan = invented.plan(ToLatest(), accepts_gap=True)

    assert plan.wal_end == lsn(5)
    [finding] = plan.findings
    assert finding.severity is Severity.WARNING
    assert "after 0/500000" in finding.fact
    assert "2024-05-01T10:10:00Z" in finding.fact


@pytest.mark.parametrize("evidence", ["mark", "recorded gap"])
def test_wal_that_is_known_to_have_gone_on_is_not_taken_for_ended(
    invented: Invented, evidence: str
) -> None:
    """PITFALLS 40: the newest objects are gone, and only a mark or a record tells of them."""
    invented.backup(2)
    invented.wal([2, 3])
    if evidence == "mark":
        invented.mark(20, lsn(6))
    else:
        record_gap(
            invented.repository,
            Lineage(SOURCE, SYSTEM, 1),
            lsn(4),
            end=lsn(6),
            reason="for a test",
            clock=SystemClock(),
        )

    with pytest.raises(NotRecoverable, match="000000010000000000000004"):
        invented.plan(ToLatest())


def test_a_moment_before_a_hole_can_still_be_reached(invented: Invented) -> None:
    invented.backup(2)
    invented.wal([2, 3, 4, 6, 7])
    invented.mark(10, lsn(3.5))
    invented.mark(20, lsn(7.5))

    plan = invented.plan(ToTime(at(5)))

    assert plan.wal_end == lsn(3.5)


def test_a_missing_history_of_the_newest_timeline_is_refused_by_name(invented: Invented) -> None:
    """PITFALLS 41: PostgreSQL would stop on the older timeline and call it success."""
    invented.backup(2)
    invented.wal(range(2, 5))
    invented.history(2, "1\t0/480000")
    invented.wal(range(4, 7), timeline=2)
    invented.wal(range(6, 9), timeline=3)

    with pytest.raises(NotRecoverable, match=r"00000003\.history") as refusal:
        invented.plan(ToLatest())

    assert "--timeline 2" in refusal.value.hint
    assert invented.plan(ToLatest(), timeline=2, accepts_gap=True).timeline == 2


def test_a_timeline_that_does_not_descend_from_any_backup_is_refused(invented: Invented) -> None:
    """PITFALLS 42: refused before data is copied."""
    invented.backup(5)
    invented.wal(range(2, 8))
    invented.history(2, "1\t0/480000")
    invented.wal(range(4, 7), timeline=2)

    with pytest.raises(NotRecoverable, match="on the way to timeline 2"):
        invented.plan(ToLatest())

    assert invented.plan(ToLatest(), timeline=1).timeline == 1


def test_a_path_over_a_timeline_switch_takes_the_switch_segment_from_the_new_timeline(
    invented: Invented,
) -> None:
    """PITFALLS 43, 49: WAL of all timelines of the path; junk after the fork is left alone."""
    invented.backup(2)
    invented.wal(range(2, 7))
    invented.history(2, "1\t0/480000")
    invented.wal(range(4, 9), timeline=2)
    invented.mark(30, lsn(8.5), timeline=2)

    plan = invented.plan(ToTime(at(25)))

    assert plan.spans == (WalSpan(1, lsn(2), lsn(4)), WalSpan(2, lsn(4), lsn(9)))
    assert plan.path == (1, 2)


def test_a_switch_whose_new_timeline_is_still_empty_ends_at_the_switch(invented: Invented) -> None:
    invented.backup(2)
    invented.wal(range(2, 7))
    invented.history(2, "1\t0/480000")

    plan = invented.plan(ToLatest())

    assert plan.wal_end == lsn(4.5)
    assert plan.spans == (WalSpan(1, lsn(2), lsn(4.5)),)


def test_a_hole_before_a_timeline_switch_is_a_hole(invented: Invented) -> None:
    """PITFALLS 18, 40: the old timeline's tail is needed up to the switch."""
    invented.backup(2)
    invented.wal([2])
    invented.history(2, "1\t0/480000")
    invented.wal(range(4, 9), timeline=2)

    with pytest.raises(NotRecoverable, match="000000010000000000000003"):
        invented.plan(ToLatest())


def test_marks_of_a_branch_that_was_given_up_prove_nothing(invented: Invented) -> None:
    """PITFALLS 42: an old primary went on after the switch; what it marked lies on no path."""
    invented.backup(2)
    invented.wal(range(2, 9))
    invented.history(2, "1\t0/480000")
    invented.wal(range(4, 9), timeline=2)
    invented.mark(10, lsn(4.2))
    invented.mark(20, lsn(7.5), timeline=1)

    with pytest.raises(NotRecoverable, match="lies after what can be recovered"):
        invented.plan(ToTime(at(15)))


def test_the_growing_tail_counts(invented: Invented) -> None:
    """PITFALLS 24: what was flushed of the last segment is there."""
    invented.backup(2)
    invented.wal([2, 3])
    put_tail(invented.repository, 4, [(0, 1000), (1000, 5000)])

    plan = invented.plan(ToLatest())

    assert plan.wal_end == lsn(4) + 5000
    assert plan.segment_count == 3


def test_a_damaged_newest_manifest_is_said_aloud_and_the_older_backup_used(
    invented: Invented,
) -> None:
    """PITFALLS 32: never a silent choice."""
    older = invented.backup(2)
    newer = invented.backup(4)
    invented.wal(range(2, 7))
    tamper(invented.repository.store, layout.manifest_key(SOURCE, newer), b"nothing")

    plan = invented.plan(ToLatest())

    assert plan.manifest.backup_id == older
    assert any(newer in finding.fact and older in finding.fact for finding in plan.findings)


def test_a_named_backup_without_its_own_wal_is_refused(invented: Invented) -> None:
    """PITFALLS 28: a backup without the WAL up to its end cannot be made consistent."""
    backup = invented.backup(2)
    invented.wal([5])

    with pytest.raises(NotRecoverable, match="000000010000000000000002"):
        invented.plan(ToBackup(backup))


def test_a_source_without_backup_is_refused(invented: Invented) -> None:
    with pytest.raises(NotRecoverable, match="has no backup"):
        invented.plan(ToLatest())


def test_segments_across_the_ff_boundary_are_one_run(invented: Invented) -> None:
    """PITFALLS 16: ...FFF is followed by ...000 of the next log."""
    invented.backup(4094)
    invented.wal(range(4094, 4099))

    plan = invented.plan(ToLatest())

    names = [s.name(MIB) for span in plan.spans for s in span.segments(MIB)]
    assert names[1:3] == ["000000010000000000000FFF", "000000010000000100000000"]
    assert plan.segment_count == 5


def test_two_clusters_of_one_source_are_kept_apart(invented: Invented) -> None:
    """PITFALLS 64: after pg_upgrade positions begin anew; the moment decides which is meant."""
    old = invented.backup(9, minutes=0)
    invented.wal(range(9, 12))
    invented.mark(10, lsn(11))
    new = invented.backup(2, minutes=60, system=SYSTEM + 1)

    plan = invented.plan(ToTime(at(5)))

    assert plan.manifest.backup_id == old
    with pytest.raises(NotRecoverable, match=new):
        invented.plan(ToLatest())


def test_a_plan_that_is_shown_names_what_it_would_do(invented: Invented) -> None:
    backup = invented.backup(2)
    invented.wal(range(2, 5))
    invented.mark(20, lsn(4))

    shown = preview(invented.plan(ToLatest()), destination="/there")

    assert shown.backup_id == backup
    assert shown.wal_bytes == 3 * MIB
    assert shown.recoverable_from == NOW
    assert shown.recoverable_until == at(20) - timedelta(microseconds=1)
    assert shown.predicted is None


def test_wal_that_arrives_while_we_look_is_no_hole(invented: Invented) -> None:
    """PITFALLS 40: a receiver that goes on must not make a restore refuse."""
    invented.backup(2)
    invented.wal([2, 3])

    def meanwhile() -> None:
        invented.wal([4, 5])
        invented.mark(20, lsn(5.5))

    invented.store.meanwhile = meanwhile

    plan = invented.plan(ToLatest())

    assert plan.wal_end == lsn(6)


def test_a_moment_of_a_timeline_that_was_left_is_found_on_that_timeline(invented: Invented) -> None:
    """The trial: a restored copy went into production, and --to a moment of the abandoned timeline gave
    the new timeline's state, 300 rows fewer, MET.
    """
    invented.backup(2)
    invented.wal(range(2, 8))
    invented.mark(10, lsn(3.2))
    invented.mark(40, lsn(5.5))
    invented.mark(50, lsn(7.5))
    invented.history(2, "1\t0/380000")
    invented.wal(range(3, 9), timeline=2)
    invented.mark(60, lsn(4.5), timeline=2)
    invented.mark(80, lsn(8.5), timeline=2)

    left, before, after = (invented.plan(ToTime(at(minutes))) for minutes in (45, 5, 70))

    assert (left.timeline, after.timeline) == (1, 2)
    assert left.wal_end == lsn(7.5)
    assert before.wal_end == lsn(3.2)
    assert left.windows == after.windows
    assert [after.windows[0].holds(at(minutes)) for minutes in (45, 55)] == [True, False]
    with pytest.raises(NotRecoverable):
        invented.plan(ToTime(at(55)))
    chosen = invented.plan(ToTime(at(70)), timeline=2)
    assert chosen.witness == Mark(at(60), lsn(4.5), 2)


def test_two_timelines_that_were_written_at_the_same_moment_are_asked_about(
    invented: Invented,
) -> None:
    invented.backup(2)
    invented.wal(range(2, 8))
    invented.mark(10, lsn(3.2))
    invented.mark(40, lsn(5.5))
    invented.mark(90, lsn(7.5))
    invented.history(2, "1\t0/380000")
    invented.wal(range(3, 9), timeline=2)
    invented.mark(35, lsn(4.5), timeline=2)
    invented.mark(80, lsn(8.5), timeline=2)

    with pytest.raises(
        NotRecoverable, match="timelines 1 and 2 of source main were written"
    ) as refusal:
        invented.plan(ToTime(at(60)))

    assert "--timeline 1 or --timeline 2" in refusal.value.hint
    assert invented.plan(ToTime(at(60)), timeline=2).timeline == 2
    invented.history(3, "1\t0/380000")
    invented.wal(range(3, 9), timeline=3)
    invented.mark(38, lsn(4.6), timeline=3)
    invented.mark(85, lsn(8.6), timeline=3)
    with pytest.raises(NotRecoverable, match="timelines 1 and 2 and 3 of source main") as asked:
        invented.plan(ToTime(at(60)))
    assert "--timeline 1 or --timeline 2 or --timeline 3" in asked.value.hint
