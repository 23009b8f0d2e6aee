"""What the log lacks is found from what it holds, across segment and log boundaries and timelines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drtool.archiving.begin import held_ends, plan_start
from drtool.archiving.gaps import contiguous_end, find_gaps
from drtool.model.wal import Lsn, TimelineHistory, TimelineSwitch, WalSegment
from drtool.model.window import LogGap
from drtool.repository.layout import Lineage, SegmentPart
from drtool.repository.log import SegmentWriter, put_part
from drtool.repository.log_inventory import LogInventory, LogRun, TimelineLog, take_inventory
from tests.archiving.rig import SOURCE, new_repository

MB = 1 << 20
SYSTEM = 7
ALONE = TimelineHistory(1)


def log_of(*runs: tuple[int, int, int], segment_bytes: int = MB) -> LogInventory:
    """An inventory of runs given as (timeline, begin, end)."""
    timelines = {}
    for timeline in {run[0] for run in runs}:
        timelines[timeline] = TimelineLog(
            lineage=Lineage(SOURCE, SYSTEM, timeline),
            runs=tuple(LogRun(t, Lsn(b), Lsn(e)) for t, b, e in runs if t == timeline),
            gaps=(),
        )
    return LogInventory(
        source=SOURCE,
        system_id=SYSTEM,
        segment_bytes=segment_bytes,
        timelines=timelines,
        histories=frozenset(),
    )


@given(
    size_exponent=st.integers(20, 30),
    first=st.integers(0, 1 << 20),
    count=st.integers(1, 600),
    data=st.data(),
)
def test_a_segment_that_is_missing_is_the_gap_whatever_its_number(
    size_exponent: int, first: int, count: int, data: st.DataObject
) -> None:
    """PITFALLS 16: names of neighbours are neighbours over ..FE, ..FF and the next log."""
    size = 1 << size_exponent
    segments = [WalSegment(1, number) for number in range(first, first + count + 2)]
    names = [segment.name(size) for segment in segments]
    lost = data.draw(st.integers(1, count))

    back = [WalSegment.parse(name, size) for name in names]
    kept = [segment for place, segment in enumerate(back) if place != lost]
    runs = [(1, int(kept[0].begin(size)), int(segments[lost].begin(size)))]
    runs.append((1, int(segments[lost].end(size)), int(kept[-1].end(size))))

    assert back == segments
    assert names == sorted(names)
    assert find_gaps(log_of(*runs, segment_bytes=size), ALONE) == [
        LogGap(timeline=1, begin=segments[lost].begin(size), end=segments[lost].end(size))
    ]


def test_a_segment_dropped_between_two_runs_is_seen_over_the_log_boundary() -> None:
    """PITFALLS 16, 19: 0000000100000000000000FE, then 000000010000000100000000, without ..FF."""
    repository = new_repository()
    lineage = Lineage(SOURCE, SYSTEM, 1)
    size = 16 * MB
    for name in ("0000000100000000000000FE", "000000010000000100000000"):
        writer = SegmentWriter(repository, lineage, name)
        writer.write(bytes(size))
        writer.finish()

    inventory = take_inventory(repository, SOURCE, SYSTEM, segment_bytes=size)

    assert find_gaps(inventory, ALONE) == [
        LogGap(timeline=1, begin=Lsn(0xFF << 24), end=Lsn(1 << 32))
    ]


def test_parts_count_as_far_as_they_go() -> None:
    repository = new_repository()
    lineage = Lineage(SOURCE, SYSTEM, 1)
    for begin, end in ((0, 100), (100, 300), (400, 500)):
        name = "000000010000000000000003"
        put_part(repository, lineage, SegmentPart(name, begin, end), plain=bytes(end - begin))

    inventory = take_inventory(repository, SOURCE, SYSTEM, segment_bytes=MB)

    at = 3 * MB
    assert contiguous_end(inventory, ALONE, timeline=1, begin=Lsn(at)).lsn == at + 300
    assert find_gaps(inventory, ALONE) == [
        LogGap(timeline=1, begin=Lsn(at + 300), end=Lsn(at + 400))
    ]


def test_a_tail_of_the_old_timeline_that_is_missing_is_a_gap_unless_the_new_one_repeats_it() -> (
    None
):
    """PITFALLS 18: the new timeline begins in the segment where the old one ended, with its bytes."""
    path = TimelineHistory(2, (TimelineSwitch(1, Lsn(5 * MB + 500)),))
    whole = log_of((1, 2 * MB, 5 * MB + 500), (2, 5 * MB, 8 * MB))
    repeated = log_of((1, 2 * MB, 5 * MB + 100), (2, 5 * MB, 8 * MB))
    short = log_of((1, 2 * MB, 5 * MB + 100), (2, 6 * MB, 8 * MB))

    assert find_gaps(whole, path) == find_gaps(repeated, path) == []
    assert find_gaps(short, path) == [
        LogGap(timeline=1, begin=Lsn(5 * MB + 100), end=Lsn(5 * MB + 500)),
        LogGap(timeline=2, begin=Lsn(5 * MB), end=Lsn(6 * MB)),
    ]
    assert contiguous_end(whole, path, timeline=1, begin=Lsn(3 * MB)).lsn == 8 * MB
    assert contiguous_end(repeated, path, timeline=1, begin=Lsn(3 * MB)).lsn == 8 * MB
    assert contiguous_end(short, path, timeline=1, begin=Lsn(3 * MB)).lsn == 5 * MB + 100


def test_wal_before_the_oldest_backup_is_no_gap() -> None:
    log = log_of((1, 0, MB), (1, 3 * MB, 4 * MB), (1, 5 * MB, 6 * MB))

    assert len(find_gaps(log, ALONE)) == 2
    assert find_gaps(log, ALONE, since=Lsn(3 * MB)) == [
        LogGap(timeline=1, begin=Lsn(4 * MB), end=Lsn(5 * MB))
    ]


def test_what_the_old_primary_wrote_beyond_the_fork_is_not_gone_on_from() -> None:
    """PITFALLS 18: the log of timeline 1 goes beyond the fork; the path does not."""
    path = TimelineHistory(2, (TimelineSwitch(1, Lsn(5 * MB + 500)),))
    log = log_of((1, 2 * MB, 9 * MB))

    start = plan_start(held_ends(log, path), path, Lsn(0), segment_bytes=MB)

    assert (start.timeline, start.begin, start.durable) == (2, 5 * MB, 5 * MB)


def test_the_old_timeline_is_finished_before_the_new_one_is_begun() -> None:
    """PITFALLS 18."""
    path = TimelineHistory(2, (TimelineSwitch(1, Lsn(5 * MB + 500)),))
    log = log_of((1, 2 * MB, 5 * MB + 100))

    start = plan_start(held_ends(log, path), path, Lsn(0), segment_bytes=MB)

    assert (start.timeline, start.begin, start.durable) == (1, 5 * MB, 5 * MB + 100)
