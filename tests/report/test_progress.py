"""Progress in three forms: plain lines, JSON lines, bars."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from drtool.model.progress import Event, Noted, PhaseAdvanced, PhaseBegan, PhaseEnded
from drtool.policy.secrets import Redactor, Secret
from drtool.report.bars import BarsProgress
from drtool.report.progress import JsonProgress, LinesProgress, ProgressView, QuietProgress


class SteppedClock:
    """A clock that stands where a test puts it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float, until: threading.Event | None = None) -> bool:
        self.seconds += seconds
        return until is not None and until.is_set()


def fetch(view: ProgressView, clock: SteppedClock) -> None:
    """A fetch of 10 GB in 100 seconds, told of every second."""
    view(PhaseBegan(phase="fetch", title="Fetch base backup", total=10**10))
    for second in range(1, 101):
        clock.seconds = float(second)
        view(PhaseAdvanced(phase="fetch", done=second * 10**8))
    view(PhaseEnded(phase="fetch", seconds=100.0))


def test_lines_tell_begin_end_and_at_most_one_line_every_five_seconds() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with LinesProgress(stream, clock=clock) as view:
        fetch(view, clock)

    lines = stream.getvalue().splitlines()
    assert lines[0] == "Fetch base backup (10 GB) ..."
    assert lines[-1] == "Fetch base backup: done in 1 min 40 s, 10 GB, 100 MB/s"
    assert 18 <= len(lines) - 2 <= 20
    assert lines[2] == "Fetch base backup: 6%, 600 MB of 10 GB, 100 MB/s, 1 min 34 s left"


def test_wal_is_counted_in_bytes_and_its_position_is_a_detail() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with LinesProgress(stream, clock=clock) as view:
        view(PhaseBegan(phase="replay", title="WAL", total=268_435_456))
        clock.seconds = 5.0
        view(PhaseAdvanced(phase="replay", done=134_217_728, detail="at 1/18000000"))
        view(PhaseEnded(phase="replay", seconds=10.0))

    assert stream.getvalue().splitlines() == [
        "WAL (268 MB) ...",
        "WAL: 50%, 134 MB of 268 MB, 26.8 MB/s, 5.0 s left, at 1/18000000",
        "WAL: done in 10 s, 134 MB, 13.4 MB/s",
    ]


@pytest.mark.parametrize(
    ("seconds", "done", "says"),
    [(0.5, 10**8, False), (5.0, 24, False), (5.0, 10**8, True)],
)
def test_the_time_left_is_told_once_there_is_something_to_tell_it_by(
    seconds: float, done: int, says: bool
) -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with LinesProgress(stream, clock=clock) as view:
        view(PhaseBegan(phase="replay", title="WAL", total=10**9))
        clock.seconds = seconds
        view(PhaseAdvanced(phase="replay", done=done))

    assert ("left" in stream.getvalue()) is says


def test_one_object_is_an_object() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with LinesProgress(stream, clock=clock) as view:
        view(PhaseBegan(phase="copy", title="copying", total=1, unit="objects"))
        view(PhaseAdvanced(phase="copy", done=1))
        view(PhaseEnded(phase="copy", seconds=0.5))

    assert stream.getvalue().splitlines() == [
        "copying (1 object) ...",
        "copying: 100%, 1 of 1 object",
        "copying: done in 0.50 s, 1 object",
    ]


@pytest.mark.parametrize("total", [None, 0])
def test_bars_of_a_phase_that_counted_nothing_show_no_amount(total: int | None) -> None:
    stream = io.StringIO()

    with BarsProgress(stream) as view:
        view(PhaseBegan(phase="provision", title="destination and server", total=total))
        if total is not None:
            view(PhaseAdvanced(phase="provision", done=0, total=total))
        view(PhaseEnded(phase="provision", seconds=1.5))

    last = stream.getvalue().split("destination and server")[-1]
    assert "1.5 s" in last
    assert " B" not in last


def test_bars_count_a_phase_of_one_object_as_one_object() -> None:
    stream = io.StringIO()

    with BarsProgress(stream) as view:
        view(PhaseBegan(phase="copy", title="copying", total=1, unit="objects"))
        view(PhaseAdvanced(phase="copy", done=1, total=1))
        view(PhaseEnded(phase="copy", seconds=1.5))

    assert "1 object " in stream.getvalue().split("copying")[-1]


def test_json_lines_are_objects_with_a_version() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with JsonProgress(stream, clock=clock) as view:
        fetch(view, clock)
        view(Noted("slow disk", level="warning"))

    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(event["drtool"] == 1 and event["kind"] == "progress" for event in events)
    assert [event["event"] for event in events[:2]] == ["phase-began", "phase-advanced"]
    assert events[1]["total"] == 10**10
    assert events[-1] == {
        "drtool": 1,
        "kind": "progress",
        "event": "noted",
        "text": "slow disk",
        "level": "warning",
    }


def test_quiet_tells_only_warnings_and_that_they_are_over() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with QuietProgress(stream, clock=clock) as view:
        fetch(view, clock)
        view(Noted("all is well"))
        view(Noted("slow disk", level="warning"))
        view(Noted("the disk is quick again", level="recovery"))

    assert stream.getvalue() == "warning: slow disk\nthe disk is quick again\n"


def test_bars_show_bytes_and_rate() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with BarsProgress(stream) as view:
        fetch(view, clock)
        view(PhaseBegan(phase="replay", title="Replay [WAL]", total=200_000_000))
        view(PhaseAdvanced(phase="replay", done=150_000_000))
        view(Noted("a [bold] word", level="warning"))

    shown = stream.getvalue()
    assert "Fetch base backup" in shown
    assert "10 GB" in shown
    assert "Replay [WAL]" in shown
    assert "150 MB of 200 MB" in shown
    assert "a [bold] word" in shown


def test_bars_honour_no_color() -> None:
    stream, clock = io.StringIO(), SteppedClock()

    with BarsProgress(stream, is_plain=True) as view:
        fetch(view, clock)

    assert not any(f"\x1b[{code}m" in stream.getvalue() for code in range(30, 38))


VIEWS: list[Callable[[io.StringIO, Callable[[str], str]], ProgressView]] = [
    lambda stream, redact: LinesProgress(stream, clock=SteppedClock(), redact=redact),
    lambda stream, redact: JsonProgress(stream, clock=SteppedClock(), redact=redact),
    lambda stream, redact: BarsProgress(stream, redact=redact),
]


@pytest.mark.parametrize("make", VIEWS)
def test_no_view_shows_a_secret(
    make: Callable[[io.StringIO, Callable[[str], str]], ProgressView],
) -> None:
    redactor, stream = Redactor(), io.StringIO()
    redactor.learn(Secret("postgresql://ann:hunter22@db/shop"))
    events: list[Event] = [
        PhaseBegan(phase="a", title="connect to postgresql://ann:hunter22@db/shop", total=None),
        PhaseAdvanced(phase="a", done=1, detail="password hunter22"),
        Noted("hunter22 is wrong", level="warning"),
    ]

    with make(stream, redactor.redact) as view:
        for event in events:
            view(event)

    assert "hunter22" not in stream.getvalue()


@pytest.mark.parametrize("make", VIEWS)
def test_events_from_many_threads_are_taken_whole(
    make: Callable[[io.StringIO, Callable[[str], str]], ProgressView],
) -> None:
    stream = io.StringIO()

    with make(stream, str) as view:

        def work(number: int) -> None:
            name = f"p{number}"
            view(PhaseBegan(phase=name, title=name, total=100))
            for done in range(100):
                view(PhaseAdvanced(phase=name, done=done))
            view(PhaseEnded(phase=name, seconds=1.0))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert all(f"p{number}" in stream.getvalue() for number in range(8))


def test_a_watcher_that_went_away_stops_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    with LinesProgress(Gone(), clock=SteppedClock()) as view:
        view(Noted("one"))
        view(Noted("two"))

    assert view is not None


@pytest.mark.parametrize("make", VIEWS)
def test_an_event_of_a_phase_that_never_began_is_ignored(
    make: Callable[[io.StringIO, Callable[[str], str]], ProgressView],
) -> None:
    stream = io.StringIO()

    with make(stream, str) as view:
        view(PhaseAdvanced(phase="nowhere", done=1))
        view(PhaseEnded(phase="nowhere", seconds=1.0))

    assert "Traceback" not in stream.getvalue()
